"""A wall clock that is a year late, a year early, or set back in mid-run: the same rows, no lock stuck, prune sane.

The clock is `clock.c`, loaded before everything else (LD_PRELOAD); times of files are set with `touch`'s means.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import Count, Finished, Options, differences, evar, kill, start, wait

YEAR = 365 * 86400
FIRST = "run logmel esc10 --mini --probe knn"
WHOLE = "run logmel,mfcc esc10 --mini --probe knn,fair"


def drill(options: Options) -> list[Count]:
    """One count of all wrong clocks; a note where there is no compiler, or no such thing as LD_PRELOAD."""
    count = Count("clock changes")
    shim = built(options.scratch)
    if shim is None:
        count.notes.append("skipped: needs Linux and a C compiler")
        return [count]
    clock = Clock(shim, count)
    if not clock.works():
        raise AssertionError("the clock did not change: LD_PRELOAD is ignored here")
    expected = options.scratch / "undisturbed"
    expected.mkdir()
    clock.run(expected, WHOLE)
    for story in STORIES[:2] if options.quick else STORIES:
        folder = options.scratch / story.__name__
        folder.mkdir()
        story(clock, folder)
        lost, wrong = differences(folder / "results", expected / "results")
        count.results_lost += lost
        count.wrong_rows += wrong
        if lost or wrong:
            count.notes.append(f"{story.__name__}: {lost} rows lost, {wrong} wrong")
    return [count]


def built(folder: Path) -> Path | None:
    """The compiled `clock.c`; None where there is no compiler, or no such thing as LD_PRELOAD."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    shim = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    return shim


class Clock:
    """Runs commands under a wrong clock; a command that fails is a lost result."""

    def __init__(self, shim: Path, count: Count) -> None:
        self.shim, self.count = shim, count

    def env(self, offset: int, after: int = 0, jump: int = 0) -> dict[str, str]:
        """offset, jump: seconds; the jump comes `after` seconds of the process."""
        told = {"CLOCK_OFFSET": offset, "CLOCK_AFTER": after, "CLOCK_JUMP": jump}
        return {"LD_PRELOAD": str(self.shim)} | {name: str(value) for name, value in told.items()}

    def works(self) -> bool:
        """Whether Python sees the other time."""
        code = "import datetime, time; print(time.time(), datetime.datetime.now().timestamp())"
        ran = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | self.env(YEAR), capture_output=True, text=True
        )
        return all(abs(float(seen) - time.time() - YEAR) < 60 for seen in ran.stdout.split())

    def run(self, folder: Path, words: str, offset: int = 0, after: int = 0, jump: int = 0) -> Finished:
        """Run a command to its end and count what it shows."""
        ended = evar(
            *words.split(), cwd=folder, timeout=300, **self.env(offset, after, jump)
        )  # a stuck lock would hang
        self.count.faults += bool(offset or jump)
        self.count.saw(ended, words)
        if ended.code != 0:
            self.count.results_lost += 1
            self.count.notes.append(f"{words} at {offset:+} s: exit {ended.code}: {ended.stderr.strip()[-300:]}")
        return ended


def a_year_late_then_right_then_early(clock: Clock, folder: Path) -> None:
    """What was measured in the past and in the future counts like all else."""
    clock.run(folder, FIRST, -YEAR)
    clock.run(folder, FIRST.replace("logmel", "mfcc"), YEAR)
    clock.run(folder, WHOLE)
    clock.run(folder, WHOLE, -2 * YEAR)
    clock.run(folder, "leaderboard", -YEAR)


def set_back_and_forth_in_mid_run(clock: Clock, folder: Path) -> None:
    """The clock jumps while evar decodes, encodes, probes."""
    clock.run(folder, FIRST, 0, 2, -YEAR)
    clock.run(folder, WHOLE, YEAR, 3, -2 * YEAR)


def killed_in_the_future(clock: Clock, folder: Path) -> None:
    """Locks and journals of a killed process that lived a year from now hold up nobody."""
    process = start(WHOLE.split(), folder, **clock.env(YEAR))
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not list(folder.glob("embeddings/*/esc10/*")):
        time.sleep(0.01)
    kill(process)
    wait(process)
    for path in folder.rglob("*"):  # as the disk would have it, too
        os.utime(path, (time.time() + YEAR,) * 2)
    clock.run(folder, WHOLE, -YEAR)


def measured_again_before_it_was_measured(clock: Clock, folder: Path) -> None:
    """Predictions are lost, and the cell is measured again by a clock that shows an earlier time."""
    clock.run(folder, WHOLE, YEAR)
    shutil.rmtree(folder / "results" / "predictions")
    (folder / "results" / "leaderboard.csv").unlink()
    clock.run(folder, WHOLE, -YEAR)
    clock.run(folder, "export -o clips.parquet --predictions")
    with open(folder / "results" / "leaderboard.csv", newline="") as stream:
        kept = {row["cell_id"] for row in csv.DictReader(stream)}
    lost = kept - {path.stem for path in (folder / "results" / "predictions").glob("*.parquet")}
    clock.count.results_lost += len(lost)


def files_of_the_future(clock: Clock, folder: Path) -> None:
    """The disk's own time stamps lie a year ahead: tables are read and grow as ever."""
    clock.run(folder, FIRST)
    for path in (folder / "results").rglob("*"):
        os.utime(path, (time.time() + YEAR,) * 2)
    clock.count.faults += 1
    clock.run(folder, WHOLE)


def pruned_by_age(clock: Clock, folder: Path) -> None:
    """A set of the future is new, not old; one of last year is old, and made anew when it is needed."""
    clock.run(folder, FIRST, YEAR)
    clock.run(folder, "store prune --older 30")
    if not list(folder.glob("embeddings/logmel/*/*/0.f32")):
        clock.count.wrong_rows += 1
        clock.count.notes.append("store prune --older 30 removed a set of the future")
    clock.run(folder, "store prune --older 0")
    clock.run(folder, FIRST.replace("logmel", "mfcc"), -YEAR)
    clock.run(folder, "store prune --older 30")
    if list(folder.glob("embeddings/*/*/*/0.f32")):
        clock.count.wrong_rows += 1
        clock.count.notes.append("store prune --older left sets that were old enough")
    clock.run(folder, WHOLE)


def merged_from_two_times(clock: Clock, folder: Path) -> None:
    """Rows of a machine whose clock is wrong are kept beside those of the others."""
    clock.run(folder, f"{FIRST} --results ahead", YEAR)
    clock.run(folder, f"{WHOLE} --results behind", -YEAR)
    clock.run(folder, "results merge behind --into results", YEAR)
    clock.run(folder, "results merge behind results --into results", -YEAR)


STORIES: tuple[Callable[[Clock, Path], None], ...] = (
    a_year_late_then_right_then_early,
    measured_again_before_it_was_measured,
    set_back_and_forth_in_mid_run,
    killed_in_the_future,
    files_of_the_future,
    pruned_by_age,
    merged_from_two_times,
)
