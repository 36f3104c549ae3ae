"""Memory ceilings: large inputs stay below them, and a process that may have no more says so in one line.

What is measured is the peak of RssAnon, the memory that the kernel cannot take back: maps of the store and of the waveform
cache are not counted. Limits are set with RLIMIT_DATA on the command.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common import Count, Finished, Options, environment, evar
from scenes import RUN, make_world, prepared, scenes

MB = 1 << 20
PROBE = """
import sys, numpy as np
from evar.probes import evaluate, get_protocol
from evar.store_sets import RowSource
from dataclasses import replace
X = RowSource(np.memmap("X.f32", np.float32, "r", shape=(%(rows)d, %(dim)d)))
y = np.arange(len(X)) %% 4
part = np.array(["train", "valid", "test"])[np.minimum(np.arange(len(X)) * 5 // len(X), 4).clip(2) - 2]
protocol = replace(get_protocol("fair"), strengths=(0.01,), max_iterations=2)
made = evaluate(protocol, X, y, list("abcd"), split=part, clip_ids=np.arange(len(X)).astype(str), metric="accuracy")
assert made.runs
"""


LIBRARIES = (
    "import torch, pandas, pyarrow.parquet, scipy.linalg, scipy.stats, sklearn.metrics, soundfile, soxr, evar.runner"
)
LIMITED = f"""
import resource, sys
{LIBRARIES}
from evar.cli import main
lines = open("/proc/self/status").read().splitlines()
held = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (held + int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""
"""Libraries are loaded before the limit is set: OpenBLAS waits for ever for memory when it is loaded without any."""


@dataclass(frozen=True)
class Case:
    """A command on a large input. ceiling: MB of RssAnon at its peak. make: writes the input into the folder."""

    name: str
    command: tuple[str, ...]
    ceiling: int
    make: Callable[[Path, bool], None]


def drill(options: Options) -> list[Count]:
    """`memory ceilings`: a fault is a large input. `out of memory`: a fault is a limit."""
    if not Path("/proc/self/status").exists():
        print("memory is left out: needs Linux's /proc", file=sys.stderr)
        return []
    return [ceilings(options), limits(options)]


def ceilings(options: Options) -> Count:
    """Each large input once, on one thread."""
    count = Count("memory ceilings")
    cases = [
        case for case in CASES if not options.quick or case.name in ("1,000 cells: leaderboard", "an hour: encode")
    ]
    for case in cases:
        folder = options.scratch / "large"
        make_world(folder)
        case.make(folder, options.quick)
        words = case.command if case.command[0].endswith("python") else (sys.executable, "-m", "evar", *case.command)
        done, peak = measured(words, folder)
        count.faults += 1
        count.saw(done, case.name)
        count.results_lost += done.code != 0
        count.wrong_rows += peak > case.ceiling * MB
        wrong = f" ABOVE; exit code {done.code}: {done.stderr[-300:]}" if done.code or peak > case.ceiling * MB else ""
        count.notes.append(f"{case.name}: peak {peak / MB:.0f} MB, ceiling {case.ceiling} MB{wrong}")
        shutil.rmtree(folder)
    return count


def limits(options: Options) -> Count:
    """A run and an encoding under limits from nearly nothing to nearly enough: one line, and the same rows afterwards."""
    count = Count("out of memory")
    world = make_world(options.scratch / "world")
    chosen = [scene for scene in scenes() if scene.name in ("run", "encode npz", "pretrain")]
    for scene in chosen[1:2] if options.quick else chosen:
        start = prepared(scene, world, options.scratch / "start")
        before = scene.products(start)
        reference = Path(shutil.copytree(start, options.scratch / "reference"))
        needed = data_needed(scene.command, reference)
        expected = scene.products(reference)
        for share in (0.5,) if options.quick else (0.03, 0.1, 0.4, 0.8):
            folder = Path(shutil.copytree(start, options.scratch / "work"))
            what = f"{scene.name} with {share * needed / MB:.0f} of {needed / MB:.0f} MB"
            try:
                done = under(int(share * needed), scene.command, folder)
            except subprocess.TimeoutExpired:
                done = Finished(-1, "", "hangs")
            count.faults += done.code != 0
            count.saw(done, what)
            left = scene.products(folder)
            lost = [name for name in before if name not in left]
            wrong = [name for name in left if left[name] not in (before.get(name), expected.get(name))]
            if done.code and not done.has_traceback and not done.is_one_line_error:
                wrong.append(f"exit code {done.code}: {done.stderr[-300:]}")
            evar(*scene.again(folder), cwd=folder)
            final = scene.products(folder)
            lost += [name for name in expected if name not in final]
            wrong += [f"{name} again" for name in final if final[name] != expected.get(name)]
            count.harm(what, lost, wrong, done.stderr)
            shutil.rmtree(folder)
        shutil.rmtree(start)
        shutil.rmtree(reference)
    return count


def measured(words: tuple[str, ...], folder: Path, key: str = "RssAnon") -> tuple[Finished, int]:
    """Run a command; its end, and the peak of a field of /proc/PID/status in bytes, looked at 50 times a second."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(list(words), cwd=folder, env=environment(), **pipes)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, _status(process.pid, key))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    watcher.join()
    return Finished(process.returncode, out, err), peak


def data_needed(command: tuple[str, ...], folder: Path) -> int:
    """Bytes by which VmData grows over a command, beyond the libraries."""
    loaded = (sys.executable, "-c", f"{LIBRARIES}; import time; time.sleep(0.3)")
    peak = measured((sys.executable, "-c", LIMITED, str(1 << 40), *command), folder, "VmData")[1]
    return max(peak - measured(loaded, folder, "VmData")[1], 0)


def under(extra: int, command: tuple[str, ...], folder: Path) -> Finished:
    """`evar COMMAND` that may have `extra` bytes of data more than its libraries take."""
    words = [sys.executable, "-c", LIMITED, str(extra), *command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment(), timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


def _status(pid: int, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:")), 0)


def _many_clips(folder: Path, quick: bool) -> None:
    """20,000 clips of half a second: one file under many names."""
    sounds = folder / "data" / "beeps"
    with open(sounds / "clips.csv", "w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["path", "label", "split"])
        for i in range(200 if quick else 20_000):
            os.link(sounds / f"{i % 48:02}.wav", sounds / f"n{i}.wav")
            lines.writerow([f"n{i}.wav", f"kind{i % 4}", ("train", "train", "valid", "test")[i // 4 % 4]])


def _long_clips(folder: Path, quick: bool) -> None:
    """24 clips of ten minutes."""
    _long(folder / "data" / "long.flac", 20 if quick else 600)
    sounds = folder / "data" / "beeps"
    with open(sounds / "clips.csv", "w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["path", "label", "split"])
        for i in range(24):
            os.link(folder / "data" / "long.flac", sounds / f"n{i}.flac")
            lines.writerow([f"n{i}.flac", f"kind{i % 4}", ("train", "valid", "test")[i // 4 % 3]])


def _hour(folder: Path, quick: bool) -> None:
    _long(folder / "hour.flac", 60 if quick else 3600)


def _long(path: Path, seconds: int) -> None:
    import numpy as np
    import soundfile

    minute = (np.random.default_rng(0).standard_normal(16000 * 20) * 1000).astype(np.int16)
    with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16", format="FLAC") as stream:
        for _ in range(seconds // 20):
            stream.write(minute)


def _matrix(folder: Path, quick: bool) -> None:
    """A stored matrix of 200,000 x 2,048: 1.6 GB on the disk."""
    import numpy as np

    block = np.random.default_rng(0).standard_normal((1000, 2048)).astype(np.float32)
    with open(folder / "X.f32", "wb") as stream:
        for _ in range(2 if quick else 200):
            stream.write(block.tobytes())


def _cells(folder: Path, quick: bool) -> None:
    """1,000 cells of 192 test clips each, in copies of one that was measured."""
    import pandas as pd

    from evar.results import RUNS, Results
    from evar.results_files import RUN_COLUMNS

    evar("run", "logmel", "beeps", *RUN, cwd=folder)
    kept = Results(folder / "results")
    (row,) = kept.runs().to_dict("records")
    clips = pd.concat([kept.predictions(row["cell_id"])] * 12, ignore_index=True)
    clips["clip_id"] = [f"clip{i}" for i in range(len(clips))]
    with open(kept.folder / RUNS, "a", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        for i in range(50 if quick else 1000):
            mine = row | {"cell_id": f"{i:016x}", "encoder": f"mine{i % 50}", "task": f"task{i // 50}"}
            lines.writerow(["" if pd.isna(mine[column]) else mine[column] for column in RUN_COLUMNS])
            clips.to_parquet(kept.folder / "predictions" / f"{i:016x}.parquet", index=False)


SEEDED = "random:byola-v1-512"
CASES = (
    Case("20,000 clips: run", ("run", "logmel", "beeps", *RUN), 800, _many_clips),
    Case("20,000 clips: pretrain", ("pretrain", "byola", "--audio", "data/beeps", "--preset", "v1-512", "--batch", "16",
         "--device", "cpu", "--steps", "2", "-o", "trained"), 1300, _many_clips),
    Case("24 clips of 10 minutes: run", ("run", "logmel", "beeps", *RUN, "--duration", "native"), 2000, _long_clips),
    Case("200,000 x 2,048: probe", (sys.executable, "-c", PROBE % {"rows": 200_000, "dim": 2048}), 1200, _matrix),
    Case("an hour: encode", ("encode", "mfcc", "hour.flac", "-o", "hour.npz", "--device", "cpu"), 3000, _hour),
    Case("an hour: frames", ("encode", "mfcc", "hour.flac", "-o", "hour.npy", "--frames", "--device", "cpu"), 3000, _hour),
    Case("1,000 cells: leaderboard", ("leaderboard",), 200, _cells),
    Case("1,000 cells: report", ("report",), 250, _cells),
    Case("1,000 cells: compare", ("compare", "mine0", "mine1", "mine2", "--no-run", "--resamples", "1000"), 250, _cells),
    Case("1,000 cells: export", ("export", "--predictions", "-o", "all.parquet"), 300, _cells),
)  # fmt: skip
