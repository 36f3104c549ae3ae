"""`kill -9` and SIGTERM of `evar pretrain` itself: resumed, it ends with the very weights of an undisturbed run."""

from __future__ import annotations

import csv
import hashlib
import re
import signal

import pytest
from safetensors import safe_open

IMPORTS = """
import torch, soundfile, soxr, safetensors.torch
import evar.pretraining.pretrain, evar.pretraining.byol, evar.embed, evar.cli.pretrain, evar.cli.progress
"""


@pytest.fixture
def command(forked, sounds, tmp_path):
    """`command(out, *words, when=..., number=...)`: the exit code and what was printed; `when` takes the run's folder."""

    def call(out, *words, when=None, **options):
        words = ["pretrain", "byola", "--audio", sounds, "--preset", "v1-512", "--batch", 4, "--out", out, *words]
        words += ["--augment", "bank=10", "--device", "cpu", "--steps", 12]
        return forked(tmp_path, " ".join(map(str, words)), when and (lambda: when(tmp_path / out)), **options)

    call.folder = tmp_path
    return call


def weights_digest(path):
    with safe_open(path, "pt") as stream:
        found = hashlib.sha256()
        for name in sorted(stream.keys()):
            found.update(name.encode() + stream.get_tensor(name).numpy().tobytes())
    return found.hexdigest()


def test_kill_nine_and_resume_give_the_same_weights(command):
    code, output = command("whole")
    assert code == 0, output
    expected = weights_digest(command.folder / "whole" / "whole.safetensors")

    code, _ = command(
        "killed",
        "--checkpoint-every",
        3,
        when=lambda out: (out / "checkpoint.pt").exists(),
        number=signal.SIGKILL,
    )
    assert code == -signal.SIGKILL, "the kill came too late to mean anything"
    assert not (command.folder / "killed" / "killed.safetensors").exists()
    code, output = command("killed")
    assert code == 2
    assert "holds a run already: give --resume" in output

    code, output = command(
        "killed", "--resume", when=lambda out: (out / "log.csv").read_text().count("\n") == 2, number=signal.SIGTERM
    )
    stopped = code == 128 + signal.SIGTERM
    assert stopped or code == 0, output
    if stopped:
        assert re.search(r"^interrupted after 1[01] steps", output, re.MULTILINE), output
        assert "go on with: the same command and --resume" in output
        assert (command.folder / "killed" / "killed.safetensors").exists()
    code, output = command("killed", "--resume")
    assert code == 0, output
    assert weights_digest(command.folder / "killed" / "killed.safetensors") == expected
    with open(command.folder / "killed" / "log.csv", newline="") as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["10", "12"]
    code, output = command("killed", "--resume")
    assert code == 0
    assert "nothing to do: finished after 12 steps" in output
    assert weights_digest(command.folder / "killed" / "killed.safetensors") == expected
