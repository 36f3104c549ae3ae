"""`kill -9` at random moments of a whole run: the same command again gives what an undisturbed run gives."""

from __future__ import annotations

import random
import signal
import time

IMPORTS = """
import torch, pandas, pyarrow.parquet, sklearn.metrics, soundfile, soxr
import evar.runner, evar.results, evar.probes.evaluation, evar.encoders.byola, evar.audio.cache, evar.datasets.mini
"""
RUN = "run logmel,random:byola-v1-512 esc10 --mini --probe fair,knn"


def run(forked, folder, kill_after=None):
    """The exit code and the output of one run; with `kill_after` seconds it is killed then, if it still runs."""
    end = time.monotonic() + (kill_after or 0)
    code, output = forked(folder, RUN, None if kill_after is None else lambda: time.monotonic() >= end)
    assert "Traceback" not in output
    return code, output


def canonical(forked, folder):
    code, output = forked(folder, "leaderboard --canonical")
    assert code == 0, output
    return output


def test_ten_kills_at_random_moments(forked, tmp_path):
    reference = tmp_path / "undisturbed"
    reference.mkdir()
    begun = time.monotonic()
    code, output = run(forked, reference)
    assert code == 0, output
    whole = time.monotonic() - begun
    expected = canonical(forked, reference)
    assert expected.count("\n") == 5

    moments = random.Random(7)
    killed = tried = 0
    while killed < 10 and tried < 30:
        folder = tmp_path / f"killed{tried}"
        folder.mkdir()
        tried += 1
        code, _ = run(forked, folder, moments.uniform(0.02, whole))
        killed += code == -signal.SIGKILL
        if code != -signal.SIGKILL:  # it was through by then: the machine has become faster since `whole` was taken
            whole = max(0.05, 0.7 * whole)
        code, output = run(forked, folder)
        assert code == 0, output
        assert canonical(forked, folder) == expected
    assert killed == 10, "the kills came too late to mean anything"
