"""`kill -9` and SIGTERM of `evar pretrain` itself: resumed, it ends with the very weights of an undisturbed run."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from safetensors import safe_open


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Two dozen sounds of 0.4 to 2 s."""
    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for i in range(24):
        t = np.arange(int(16000 * random.uniform(0.4, 2.0))) / 16000
        wave = 0.3 * np.sin(2 * np.pi * random.uniform(80, 4000) * t) + random.normal(0, 0.02, len(t))
        soundfile.write(folder / f"{i:02}.wav", wave, 16000)
    return folder


# Loads the libraries once, then forks a child per command: the kill hits work, not imports.
TEMPLATE = """
import os, sys
import torch, soundfile, soxr, safetensors.torch
import evar.pretraining.pretrain, evar.pretraining.byol, evar.embed, evar.cli.pretrain, evar.cli.progress
from evar.cli import main
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    folder, *words = line.split()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        out = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        main(words)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory, sounds):
    """`command(out, *words, signal_after=(text, number))`: the exit code and what was printed."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    folder = tmp_path_factory.mktemp("command")
    process = subprocess.Popen(
        [sys.executable, "-c", TEMPLATE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready\n"

    def call(out, *words, when=None, number=None):
        words = ["pretrain", "byola", "--audio", sounds, "--preset", "v1-512", "--batch", 4, "--out", out, *words]
        words += ["--augment", "bank=10", "--device", "cpu", "--steps", 12]
        process.stdin.write(" ".join(map(str, [folder, *words])) + "\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        if when is not None:
            until = time.monotonic() + 200
            while not when(folder / out) and time.monotonic() < until:
                time.sleep(0.005)
            os.kill(child, number)
        return int(process.stdout.readline()), (folder / "output.txt").read_text()

    call.folder = folder
    yield call
    process.stdin.close()
    process.wait(timeout=60)


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
