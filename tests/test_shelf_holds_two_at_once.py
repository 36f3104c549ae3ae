"""Encoders that do not fit together: loaded one at a time, and still the encoders that the run was given."""

from __future__ import annotations

import functools
import gc
import weakref

import pandas as pd
import pytest
import torch

import evar
from evar import engines, runner
from evar.compute import Computing
from evar.datasets import find_card, load_task
from evar.datasets.mini import default_root, make
from evar.encoders import registry
from evar.encoders.base import Encoder
from evar.errors import EvarError
from evar.results import VOLATILE
from evar.shelf import Shelf, n_bytes

NAMES = ["random:byola-v1-512@1", "random:byola-v1-512@2"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Two small tasks."""
    folder = tmp_path_factory.mktemp("minis")
    cards = [find_card(name) for name in ("fsdd", "spcv2-12")]
    return [load_task(card.name, root=make(card, default_root(card, folder))).limited(60) for card in cards]


def encoders():
    """All that are alive, copies with their own statistics too."""
    return [one for one in gc.get_objects() if issubclass(type(one), Encoder)]


@pytest.fixture
def loads(monkeypatch):
    """For each encoder that is loaded: its name and how many others are alive, without help of the garbage collector."""
    load, told = registry.load_encoder, []
    gc.collect()
    before = weakref.WeakSet(encoders())

    def counting(name, **options):
        told.append((name, sum(one not in before for one in encoders())))
        return load(name, **options)

    monkeypatch.setattr(registry, "load_encoder", counting)
    gc.disable()
    yield told
    gc.enable()


@pytest.fixture
def no_room(monkeypatch):
    monkeypatch.setattr(runner, "Shelf", functools.partial(Shelf, keep_bytes=0))


def measure(folder, tasks, names=NAMES, **options):
    return evar.run(names, tasks, results=folder / "r", embeddings=folder / "e", device="cpu", probe="knn", **options)


def shelf(names, keep_bytes):
    return Shelf(names, runner.Settings.of(), Computing(("cpu",)), keep_bytes)


def test_rows_are_those_of_a_run_that_keeps_all(tasks, loads, tmp_path, request):
    kept = measure(tmp_path / "kept", tasks)
    assert [name for name, _ in loads] == NAMES
    loads.clear()
    request.getfixturevalue("no_room")
    reloaded = measure(tmp_path / "reloaded", tasks)
    # Once to be checked, then once for each task; the one before is gone.
    assert loads == [(name, 0) for name in NAMES * 3]
    assert len(kept) == 4
    pd.testing.assert_frame_equal(kept.drop(columns=VOLATILE), reloaded.drop(columns=VOLATILE))


def test_a_dry_run_holds_one_at_a_time_too(tasks, loads, no_room, tmp_path):
    """Regression: the estimate held the encoder before while the next one was loaded."""
    assert len(engines.estimate(NAMES, tasks, device="cpu", embeddings=str(tmp_path))) == 4
    assert loads == [(name, 0) for name in NAMES * 3]


def test_what_there_is_room_for_stays(loads):
    size = sum(n_bytes(registry.load_encoder(name)) for name in ("logmel", NAMES[0]))
    loads.clear()
    found = shelf(["logmel", *NAMES], size)
    for _ in range(2):
        assert [encoder.label for encoder in found] == ["logmel", *NAMES]
    assert [name for name, _ in loads] == ["logmel", *NAMES, NAMES[1], NAMES[1]]


def test_an_object_of_the_caller_is_never_built_again(loads):
    mine = registry.load_encoder(NAMES[0])
    loads.clear()
    found = shelf([mine], 0)
    assert all(encoder is mine for _ in range(2) for encoder in found)
    assert len(loads) == 1


def test_weights_that_change_midway_end_the_run_before_a_row_of_them(tasks, no_room, tmp_path):
    file = tmp_path / "w.pth"
    networks = [registry.load_encoder(name).state_dict() for name in NAMES]
    torch.save(networks[0], file)

    class Swap(runner.Reporter):
        def say(self, text):
            torch.save(networks[1], file)

    name = f"byola-v1-512@{file}"
    with pytest.raises(
        EvarError, match=r"byola-v1-512@w: its weights changed while this run was at work: run it again"
    ):
        measure(tmp_path, tasks, [name], reporter=Swap(), norm="task")
    rows = pd.read_csv(tmp_path / "r" / "leaderboard.csv")
    assert list(rows["task"]) == [tasks[0].name]
    again = measure(tmp_path, tasks, [name], norm="task")
    assert list(again["task"]) == [task.name for task in tasks]
    assert again["weights_sha256"].nunique() == 1
    assert set(again["weights_sha256"]) != set(rows["weights_sha256"])


@pytest.mark.parametrize("keep_bytes", [0, 1 << 30])
def test_two_encoders_of_one_label_are_refused(keep_bytes):
    with pytest.raises(EvarError, match=r"two encoders are called 'a': name them apart, as in mine=a"):
        shelf(["a=logmel", "a=mfcc"], keep_bytes)
