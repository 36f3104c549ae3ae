"""`kill -9` at random moments of a whole run: the same command again gives what an undisturbed run gives."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

# Loads the libraries once, then forks a child per command: the kill hits work, not imports.
TEMPLATE = """
import os, sys
import torch, pandas, pyarrow.parquet, sklearn.metrics, soundfile, soxr
import evar.runner, evar.results, evar.probes.evaluation, evar.encoders.byola, evar.audio.cache, evar.datasets.mini
from evar.cli import main
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    folder, *words = line.split()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        out = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        main(words)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
RUN = "run logmel,random:byola-v1-512 esc10 --mini --probe fair,knn"


@pytest.fixture(scope="module")
def template():
    process = subprocess.Popen(
        [sys.executable, "-c", TEMPLATE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.wait(timeout=60)


def run(template, folder, words, kill_after=None):
    """The exit code of one command; with `kill_after` seconds it is killed then, if it still runs."""
    template.stdin.write(f"{folder} {words}\n")
    template.stdin.flush()
    child = int(template.stdout.readline())
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(
            child, signal.SIGKILL
        )  # a child that has ended is not reaped before its code is printed: at worst a no-op
    return int(template.stdout.readline())


def canonical(folder):
    return subprocess.run(
        [sys.executable, "-m", "evar", "leaderboard", "--canonical"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ten_kills_at_random_moments(template, tmp_path):
    reference = tmp_path / "undisturbed"
    reference.mkdir()
    begun = time.monotonic()
    assert run(template, reference, RUN) == 0, (reference / "log.txt").read_text()
    whole = time.monotonic() - begun
    expected = canonical(reference)
    assert expected.count("\n") == 5

    moments = random.Random(7)
    killed = tried = 0
    while killed < 10 and tried < 30:
        folder = tmp_path / f"killed{tried}"
        folder.mkdir()
        tried += 1
        try:
            code = run(template, folder, RUN, kill_after=moments.uniform(0.02, whole))
        except ProcessLookupError:
            code = int(template.stdout.readline())
        killed += code == -signal.SIGKILL
        if code != -signal.SIGKILL:  # it was through by then: the machine has become faster since `whole` was taken
            whole = max(0.05, 0.7 * whole)
        assert run(template, folder, RUN) == 0, (folder / "log.txt").read_text()
        assert canonical(folder) == expected
        assert "Traceback" not in (folder / "log.txt").read_text()
    assert killed == 10, "the kills came too late to mean anything"
