"""Shared by the drills: evar as a user starts it, what must be equal afterwards, and the counts."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from evar.results_files import VOLATILE


@dataclass(frozen=True)
class Options:
    """What `python drills/run_all.py` was asked for: a folder to work in, a seed, and whether a short round will do."""

    scratch: Path
    seed: int = 0
    quick: bool = False


@dataclass
class Count:
    """One line of the table: how often something was broken, and what came of it. All but `faults` must be 0."""

    drill: str
    faults: int = 0
    results_lost: int = 0
    wrong_rows: int = 0
    tracebacks: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """At least one fault, and no harm done."""
        return self.faults > 0 and not (self.results_lost or self.wrong_rows or self.tracebacks)

    def harm(self, what: str, lost: Sequence[str], wrong: Sequence[str], said: str) -> None:
        """Count what a fault cost, and note it with what the command said."""
        self.results_lost += len(lost)
        self.wrong_rows += len(wrong)
        if lost or wrong:
            self.notes.append(f"{what}: lost {list(lost)}, wrong {list(wrong)}; it said: {said.strip()[-300:]}")

    def saw(self, finished: Finished, what: str) -> None:
        """Count the tracebacks that a user would have been shown."""
        if finished.has_traceback:
            self.tracebacks += 1
            last = finished.stderr.strip().splitlines()[-1:] or [f"exit {finished.code}"]
            self.notes.append(f"{what}: traceback: {last[0][:200]}")


@dataclass(frozen=True)
class Finished:
    """How a command ended; `code` is negative when a signal ended it."""

    code: int
    stdout: str
    stderr: str

    @property
    def has_traceback(self) -> bool:
        """Whether Python's own words reached the user, or a signal that was not ours (a crash) ended it."""
        crashed = -self.code in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE)
        return crashed or any(mark in self.stderr + self.stdout for mark in ("Traceback (most recent", "a bug of evar"))

    @property
    def is_one_line_error(self) -> bool:
        """Exit code 2 and a single line that begins with `evar: error:` (warnings may stand before it)."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("evar: error:")]
        return self.code == 2 and len(lines) == 1 and not self.has_traceback


def environment(**more: str) -> dict[str, str]:
    """The environment of a command: one thread, so that rows are the same however many run at once."""
    return os.environ | {"OMP_NUM_THREADS": "1", "EVAR_OFFLINE": "1", "PYTHONFAULTHANDLER": "", **more}


def start(arguments: Sequence[object], cwd: Path, **env: str) -> subprocess.Popen:
    """`evar ARGUMENTS` as a process of its own, in a process group of its own, so that a kill takes its helpers along."""
    command = [sys.executable, "-m", "evar", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    return subprocess.Popen(command, cwd=cwd, env=environment(**env), start_new_session=True, **pipes)


def wait(process: subprocess.Popen, timeout: float = 600) -> Finished:
    """The end of a command of `start`; one that hangs is killed, with its group, and raises TimeoutExpired."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        process.communicate()
        raise
    return Finished(process.returncode, out, err)


def evar(*arguments: object, cwd: Path, timeout: float = 600, **env: str) -> Finished:
    """Run `evar ARGUMENTS` to its end."""
    return wait(start(arguments, cwd, **env), timeout)


def kill(process: subprocess.Popen) -> None:
    """kill -9 of a command of `start` and of what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a runs.csv or leaderboard.csv without the volatile columns, in an order of their own."""
    with open(path, newline="", encoding="utf-8") as stream:
        kept = [{key: value for key, value in row.items() if key not in VOLATILE} for row in csv.DictReader(stream)]
    return sorted(kept, key=lambda row: json.dumps(row, sort_keys=True))


def differences(found: Path, expected: Path) -> tuple[int, int]:
    """(rows that `found` lacks, rows that are wrong) of two results folders: runs.csv and leaderboard.csv, volatile columns
    apart. A row that is there more often than expected is wrong."""
    lost = wrong = 0
    for name in ("runs.csv", "leaderboard.csv"):
        wanted = Counter(json.dumps(row, sort_keys=True) for row in rows(expected / name))
        present = (
            Counter(json.dumps(row, sort_keys=True) for row in rows(found / name))
            if (found / name).exists()
            else Counter()
        )
        lost += (wanted - present).total()
        wrong += (present - wanted).total()
    return lost, wrong


def table(counts: Sequence[Count]) -> str:
    """The counts as a Markdown table, with a last line of sums."""
    header = ["drill", "faults injected", "results lost", "wrong rows", "tracebacks"]
    lines = [[c.drill, c.faults, c.results_lost, c.wrong_rows, c.tracebacks] for c in counts]
    lines.append(["all", *(sum(line[i] for line in lines) for i in range(1, 5))])
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [header, ["---"] * 5, *lines])


def as_json(counts: Sequence[Count]) -> str:
    """The counts and notes as JSON."""
    return json.dumps([asdict(count) | {"passed": count.passed} for count in counts], indent=1) + "\n"
