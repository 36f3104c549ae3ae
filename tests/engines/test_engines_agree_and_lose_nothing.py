"""The same grid on every engine gives the same rows, also when a worker is killed midway. Real processes, real kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

import evar
from evar import extras
from evar.engines import list_engines
from evar.errors import EvarError
from evar.results_files import VOLATILE
from evar.runner import Reporter

ENCODERS, TASKS = ["logmel", "random:byola-v1-512"], ["fsdd"]
needs = {"local": "", "ray": "cluster", "submitit": "cluster"}


class Killer(Reporter):
    """Kills, with -9, the first `kills` workers of these jobs that say they are at work; keeps what the run says."""

    def __init__(self, folder: Path, kills: int = 1, jobs: str = "") -> None:
        self.folder, self.kills, self.jobs = folder, kills, jobs
        self.killed, self.lines, self.done = [], [], []

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = say

    @contextlib.contextmanager
    def grid(self, jobs: int):
        def show(done: int, working: list[str]) -> None:
            self.done.append(done)
            for path in sorted(self.folder.glob(f".jobs/*/{self.jobs}*.json")):
                with contextlib.suppress(ValueError, FileNotFoundError):
                    status = json.loads(path.read_text())
                    if status["state"] == "working" and path.name not in self.killed and len(self.killed) < self.kills:
                        os.kill(status["pid"], signal.SIGKILL)
                        self.killed.append(path.name)

        yield show


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Minis, waveforms and the rows of a plain run, made once."""
    folder = tmp_path_factory.mktemp("engines")
    options = {"mini": True, "limit": 40, "embeddings": folder / "embeddings", "device": "cpu"}
    rows = evar.run(ENCODERS, TASKS, results=folder / "plain", **options)
    return folder, options, rows


def still(rows):
    return rows.drop(columns=VOLATILE).to_csv(index=False).splitlines()


def test_engines_are_found_by_their_files():
    assert set(list_engines()) >= set(needs)


@pytest.mark.parametrize("engine", list_engines())
def test_rows_are_those_of_a_plain_run_with_one_worker_killed(engine, shared, tmp_path):
    if needs.get(engine) and extras.missing(needs[engine]):
        pytest.skip(f"needs the extra {needs[engine]}")
    _, options, expected = shared
    options = options | {"embeddings": tmp_path / "embeddings", "results": tmp_path / "results"}
    options["embeddings"].mkdir()
    (options["embeddings"] / "minis").symlink_to(shared[1]["embeddings"] / "minis")
    killer = Killer(tmp_path / "results")
    rows = evar.run(ENCODERS, TASKS, engine=engine, workers=2, reporter=killer, **options)
    assert still(rows) == still(expected)
    assert len(killer.killed) == 1
    assert sum("started again (1 of 3)" in line for line in killer.lines) == 1
    assert killer.done[-1] == 2
    assert killer.done == sorted(killer.done)
    assert sum("accuracy" in line for line in killer.lines) >= 2
    assert not (tmp_path / "results" / ".jobs").exists()
    again = evar.run(
        ENCODERS[:1], TASKS[:1], engine=engine, workers=1 + (engine == "local"), reporter=killer, **options
    )
    assert still(again) == still(expected)[:2]  # the header and one row
    assert "logmel × fsdd (fair): already measured, nothing to do" in killer.lines


def test_a_worker_that_dies_every_time_is_given_up_and_the_others_go_on(shared, tmp_path):
    _, options, _ = shared
    killer = Killer(tmp_path / "results", kills=2, jobs="0000.")
    options = options | {"results": tmp_path / "results"}
    with pytest.raises(
        EvarError, match=r"1 of 2 jobs failed .*logmel × fsdd: its process was ended by signal 9, 2 times"
    ):
        evar.run(ENCODERS, TASKS, workers=2, retries=1, reporter=killer, **options)
    assert list((tmp_path / "results" / ".jobs").glob("*/0000.1.log")), "logs stay for whoever asks why"
    from evar.results import Results

    assert Results(tmp_path / "results").leaderboard()["encoder"].tolist() == ENCODERS[1:]


@pytest.mark.skipif(bool(extras.missing("cluster")), reason="needs the extra cluster")
def test_a_job_that_slurm_sends_away_is_queued_again_and_continues(shared, tmp_path):
    """Regression: the exit by which submitit leaves a node was taken for an error of the encoder at work."""
    psutil = pytest.importorskip("psutil")
    _, options, expected = shared

    class Preempting(Killer):
        @contextlib.contextmanager
        def grid(self, jobs: int):
            def show(done: int, working: list[str]) -> None:
                for path in sorted(self.folder.glob(".jobs/*/0000.0.json")):
                    with contextlib.suppress(ValueError, FileNotFoundError, psutil.NoSuchProcess):
                        status = json.loads(path.read_text())
                        if status["state"] == "working" and not self.killed:
                            self.killed.append(status["pid"])
                            os.kill(psutil.Process(status["pid"]).ppid(), signal.SIGUSR2)

            yield show

    reporter = Preempting(tmp_path / "results")
    options = options | {"results": tmp_path / "results", "reporter": reporter}
    rows = evar.run("logmel", TASKS, engine="submitit", workers=1, engine_options={"cluster": "local"}, **options)
    assert still(rows) == still(expected)[:2]
    assert len(reporter.killed) == 1
    assert not any("started again" in line for line in reporter.lines), "it is submitit that queues it again"
