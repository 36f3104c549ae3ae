"""`evar check`: a line for each promise, exit code 1 when one is broken, one line when it cannot begin."""

from __future__ import annotations

import json

from evar.encoders.contract import CHECKS

SOUND = """
import torch
from evar import Encoder, Frames

class Energy(Encoder):
    name, version, sample_rate, min_samples = "energy", 1, 8000, 80
    layers, hop_ms = {"energy": 1}, {"energy": 10.0}
    default_layers, default_pooling = ("energy",), "mean"

    def _frames(self, wav, lengths):
        blocks = wav[:, : wav.shape[1] // 80 * 80].reshape(len(wav), -1, 80)
        features = blocks.square().mean(2, keepdim=True)
        return {"energy": Frames(features, torch.arange(blocks.shape[1]) * 10.0, lengths // 80)}

class Deaf(Energy):
    def _frames(self, wav, lengths):
        return super()._frames(wav + 0.01 * torch.randn_like(wav), lengths)
"""


def test_a_sound_encoder(evar, tmp_path):
    (tmp_path / "sound_one.py").write_text(SOUND)
    ran = evar("check", "py:sound_one:Energy")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert [line.startswith("ok    ") for line in lines] == [True] * len(CHECKS) + [False]
    assert lines[-1] == f"py:sound_one:Energy: {len(CHECKS)} of {len(CHECKS)} checks passed"


def test_a_broken_one(evar, tmp_path):
    (tmp_path / "broken_one.py").write_text(SOUND)
    ran = evar("check", "py:broken_one:Deaf", "--only", "deterministic,silence")
    assert ran.code == 1
    assert [line.split()[:2] for line in ran.out.splitlines()[:2]] == [["FAIL", "deterministic"], ["ok", "silence"]]
    assert "two calls differ by" in ran.out
    assert ran.out.endswith("1 of 2 checks passed\n")
    ran = evar("check", "py:broken_one:Deaf", "--only", "deterministic", "-o", "json")
    assert ran.code == 1
    (result,) = json.loads(ran.out)
    assert (result["name"], result["ok"]) == ("deterministic", False)


def test_unknown_checks_and_encoders_are_one_line(evar):
    assert "did you mean 'silence'?" in evar("check", "logmel", "--only", "silense").one_line_error()
    assert "no check named" in evar("check", "logmel", "--only", ",").one_line_error()
    assert "unknown encoder 'logmell'" in evar("check", "logmell").one_line_error()
