"""Regressions: what is stored is found again only under the very settings that it depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import evar
from evar.datasets.mini import make


@pytest.fixture(scope="module")
def fsdd(tmp_path_factory):
    from evar.datasets import find_card

    return make(find_card("fsdd"), tmp_path_factory.mktemp("mini") / "fsdd")


def test_cards_of_other_seconds_do_not_share_embeddings(fsdd, tmp_path, monkeypatch):
    """Clips shorter than both cuts have equal waveforms and unequal padding."""
    monkeypatch.chdir(tmp_path)
    task = evar.load_task("fsdd", root=fsdd).limited(60)
    from dataclasses import replace

    longer = replace(task, name="long", card=replace(task.card, seconds=3.0), fingerprint="0" * 64)
    together = evar.run("random:byola-v1-512", [task, longer], embeddings="one", results="one")
    alone = evar.run("random:byola-v1-512", longer, embeddings="two", results="two")
    assert together["mean"].iloc[1] == alone["mean"].iloc[0]
    assert len({path.parent for path in (tmp_path / "one").glob("random*/*/*/meta.json")}) == 2


def test_two_subsets_of_one_task_keep_their_own_audio(fsdd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = evar.load_task("fsdd", root=fsdd)
    subsets = [whole.limited(80, seed=seed) for seed in (0, 1)]
    together = evar.run("logmel", subsets, embeddings="one", results="one")
    alone = evar.run("logmel", subsets[1], embeddings="two", results="two")
    assert together["mean"].iloc[1] == alone["mean"].iloc[0]


def test_a_skip_bad_run_that_was_interrupted_goes_on(fsdd, tmp_path, monkeypatch):
    """The skipped rows were committed before the kill: an empty write must not fail."""
    monkeypatch.chdir(tmp_path)
    import shutil

    shutil.copytree(fsdd, tmp_path / "fsdd")
    victim = sorted((tmp_path / "fsdd" / "recordings").iterdir())[0]
    victim.write_text("no audio")
    task = evar.load_task("fsdd", root=tmp_path / "fsdd")

    class Stops(evar.Encoder):
        name, version, sample_rate = "stops", 1, 16000
        layers, hop_ms = {"out": 2}, {}
        default_layers, default_pooling = ("out",), "clip"
        calls = 0

        def _clip(self, wav, lengths):
            Stops.calls += 1
            if Stops.calls == 3:
                raise KeyboardInterrupt
            return {"out": torch.stack([wav.mean(1), wav.std(1)], 1)}

    with pytest.raises(KeyboardInterrupt):
        evar.run(Stops(), task, skip_bad=True)
    rows = evar.run(Stops(), task, skip_bad=True)
    assert rows["skipped"].iloc[0] == 1


def encoder_like(**attributes):
    class Own(evar.Encoder):
        name, version, sample_rate = "own", 1, 16000
        layers, hop_ms = {"out": 1}, {}
        default_layers, default_pooling = ("out",), "clip"

        def __init__(self):
            super().__init__()
            for name, value in attributes.items():
                setattr(self, name, value)

        def _clip(self, wav, lengths):
            return {"out": wav.mean(1, keepdim=True)}

    return Own()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), (3, 4)),
        ({"a": 1}, {"a": 2}),
        (np.zeros(3), np.ones(3)),
        (torch.zeros(3), torch.ones(3)),
        (0.1, 0.2),
        ([torch.zeros(1)], [torch.ones(1)]),
    ],
)
@pytest.mark.parametrize("name", ["setting", "_setting"])
def test_attributes_are_in_the_fingerprint(name, one, other):
    first, same, second = (encoder_like(**{name: value}).fingerprint() for value in (one, one, other))
    assert first == same
    assert first != second


def test_a_class_typed_at_a_prompt_is_known_by_its_code():
    source = (
        "import evar\nclass Own(evar.Encoder):\n    name, version, sample_rate = 'own', 1, 16000\n"
        "    layers, hop_ms = {'out': 1}, {}\n    default_layers, default_pooling = ('out',), 'clip'\n"
        "    def _clip(self, wav, lengths):\n        return {'out': wav.mean(1, keepdim=True) * FACTOR}\n"
    )
    made = []
    for factor in ("1", "1", "2"):
        names = {"__name__": "prompt"}
        exec(source.replace("FACTOR", factor), names)
        made.append(names["Own"]().fingerprint())
    assert made[0] == made[1] != made[2]


def test_an_edited_protocol_is_another_protocol(tmp_path):
    from evar.probes import get_protocol

    path = tmp_path / "mine.yaml"
    names = []
    for strengths in ("[0.1]", "[1.0]", "[0.1]"):
        path.write_text(f"base: fair\nstrengths: {strengths}\n")
        names.append(get_protocol(path).name)
    assert names[0] == names[2] != names[1]
