"""bf16 and torch.compile are asked for, marked, kept apart, and refused in one line where they cannot be had."""

from __future__ import annotations

import functools
import importlib

import pytest
import torch

import evar
from evar.cells import Settings
from evar.compute import Computing
from evar.encoders import arithmetic
from evar.encoders.registry import list_encoders
from evar.errors import EvarError

LENGTHS = [16000, 11000, 15999, 7000]


def built(name, **options):
    entry = list_encoders()[name]
    prefix = "" if entry.weights == "none" else "random:"
    encoder = evar.load_encoder(prefix + name, **(entry.small | options))
    return encoder.with_normalization({"mean": -7.0, "std": 4.0}) if encoder.needs_normalization else encoder


def declaring(attribute, value):
    """Registered encoders, one for each file, whose class says so; none is built."""
    found = {}
    for name, entry in list_encoders().items():
        module = entry.module if entry.untrained and entry.weights != "bundled" else None
        if module and value(getattr(getattr(importlib.import_module(module), entry.class_name), attribute)):
            found.setdefault(module, name)
    return sorted(found.values())


def noise(encoder, lengths=LENGTHS):
    scale = encoder.sample_rate / 16000
    lengths = [round(n * scale) for n in lengths]
    return 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(3)), lengths


@pytest.mark.parametrize("name", declaring("precisions", lambda precisions: "bf16" in precisions))
def test_bf16_is_near_float32_and_comes_out_as_float32(name):
    encoder = built(name)
    half = Computing(precision="bf16").ready(encoder)
    wav, lengths = noise(encoder)
    pairs = encoder.choices("all")
    exact, found = (one.encode_pairs(wav, lengths, pairs) for one in (encoder, half))
    assert all(value.dtype == torch.float32 for value in found.values())
    told = [pair for pair in pairs if exact[pair].any()]  # AST's tokens are zeros before the first block
    changed = [float((found[pair] - exact[pair]).norm() / exact[pair].norm()) for pair in told]
    assert max(changed) < 0.05
    assert max(changed) > 1e-4, "computed in float32 after all"
    again = encoder.encode_pairs(wav, lengths, pairs)
    assert all(torch.equal(again[pair], exact[pair]) for pair in pairs), "the original computes as before"


def test_the_front_end_stays_in_float32():
    encoder = built("byola-v1-512")
    half = Computing(precision="bf16").ready(encoder)
    wav, lengths = noise(encoder)
    assert half.measure_normalization([(wav, lengths)]) == encoder.measure_normalization([(wav, lengths)])
    seen = {}
    for one, key in ((encoder, "fp32"), (half, "bf16")):
        hook = one.front_end.register_forward_hook(lambda _, __, output, key=key: seen.update({key: output[0]}))
        one.encode(wav, lengths)
        hook.remove()
    assert torch.equal(seen["bf16"], seen["fp32"])


def test_settings_name_it():
    assert Computing().arithmetic == "fp32"  # as every row since the first
    assert Computing(precision="bf16").arithmetic == "bf16"
    assert Computing(compiled=True).arithmetic == "fp32-compiled"
    assert Computing(precision="bf16", compiled=True).arithmetic == "bf16-compiled"
    with pytest.raises(EvarError, match="unknown precision 'bf15'; did you mean 'bf16'"):
        Settings.of(precision="bf15")


def test_precisions_have_cells_and_sets_of_their_own(tmp_path, monkeypatch):
    """And the leaderboard does not rank them together; comparisons refuse the pair."""
    from evar.datasets import find_card
    from evar.datasets.mini import make
    from evar.leaderboard import format_leaderboard, rank
    from evar.reporting.pairs import check_alike
    from evar.results import Results

    monkeypatch.chdir(tmp_path)
    task = evar.load_task("fsdd", root=make(find_card("fsdd"), tmp_path / "fsdd")).limited(60)
    rows = [
        evar.run("random:byola-v1-512", task, probe="knn", **options).iloc[0]
        for options in ({}, {"precision": "bf16"}, {"precision": "fp32"})
    ]
    assert [row["precision"] for row in rows] == ["fp32", "bf16", "fp32"]
    assert rows[0]["cell_id"] == rows[2]["cell_id"] != rows[1]["cell_id"]
    assert rows[0]["started_at"] == rows[2]["started_at"], "measured again"
    assert rows[0]["encoder_fingerprint"] == rows[1]["encoder_fingerprint"]
    assert len(list((tmp_path / "embeddings").glob("random*/*/*/meta.json"))) == 2
    board = Results("results").leaderboard()
    assert rank(board)["rank"].tolist() == [1, 1]
    assert "random:byola-v1-512 [limit 60, bf16]" in format_leaderboard(board)
    with pytest.raises(EvarError, match="precision is fp32 and bf16"):
        check_alike(rows[0].to_dict(), rows[1].to_dict())


# ---- refusals --------------------------------------------------------------------------------------------------------


class Own(torch.nn.Module):
    """Foreign code, of whose front end nothing is known."""

    sample_rate = 16000

    def forward(self, wav):
        return torch.stack([wav.mean(1), wav.std(1)], 1)


@pytest.mark.parametrize("encoder", ["logmel", Own])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, r"computes in fp32 only: leave --precision bf16 out"),
        ({"compile": True}, r"no part that is given to torch.compile: leave --compile out"),
    ],
)
def test_what_cannot_be_had_is_one_line_before_any_work(encoder, options, message, sounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvarError, match=message):
        evar.run(encoder, "fsdd", mini=True, limit=60, **options)
    assert not (tmp_path / "embeddings" / "waveforms").exists()


def test_no_compiler_is_one_line(monkeypatch):
    inductor = pytest.importorskip("torch._inductor.config")
    arithmetic._why_not.cache_clear()
    torch._dynamo.reset()
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(
            EvarError, match=r"^--compile: torch.compile does not work on this machine .*install a C\+\+"
        ) as e,
    ):
        Computing(compiled=True).check(built("byola-v1-512"))
    assert "\n" not in str(e.value)
    arithmetic._why_not.cache_clear()


def test_compiling_takes_one_device():
    with pytest.raises(EvarError, match="--compile goes with one device, found 2"):
        Computing(("cpu", "cpu"), compiled=True).check(built("byola-v1-512"))


# ---- torch.compile ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", declaring("compiled_parts", bool))
def test_lengths_are_not_compiled_one_by_one(name, monkeypatch):
    """dynamo's graphs, run without a C++ compiler: what it traces, guards and gives up is the same."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(arithmetic, "_why_not", lambda device: "")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    encoder = built(name)
    compiled = Computing(compiled=True).ready(encoder)
    graphs = []
    for longest in (16000, 9000, 31000, 25000, 23000, 27000, 13000):
        for lengths in ([longest], [longest, longest - 3000]):
            wav, lengths = noise(encoder, lengths)
            found, exact = (one.encode(wav, lengths) for one in (compiled, encoder))
            assert float((found - exact).norm() / exact.norm()) < 1e-5
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    # BYOL-A's tiles have a form for each parity of each halving (8) and for short and long ones. Others follow lengths;
    # torch 2.14 has forms of its own for a clip of one frame and for sizes at which its convolutions change.
    grown = graphs[-1] - graphs[3]
    assert grown == 0 or (name.startswith("byola") and graphs[-1] <= arithmetic.RECOMPILE_LIMIT), graphs
    assert not counters["graph_break"], dict(counters["graph_break"])
    torch._dynamo.reset()
