"""Folders that may only be read: data, finished embeddings and results must serve; what cannot be written is said first.

Each case is run on a read-only mount, where this user may mount, and with a shim that answers as a folder of somebody else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import Count, Finished, Options, evar
from disk_full import add
from faults import Fault, Shim, Unavailable
from scenes import RUN, Products, Scene, make_world, prepared, results, trained

TRAIN = (
    "pretrain",
    "byola",
    "--audio",
    "data/beeps",
    "--preset",
    "v1-512",
    "--batch",
    "4",
    "--device",
    "cpu",
    "--steps",
    "1",
)
MEASURED = ("run", "logmel", "beeps", *RUN)
TWO = (MEASURED, ("run", "mfcc", "beeps", *RUN))
MINI = ("run", "logmel", "esc10", "--mini", "--limit", "40", "--device", "cpu", "--embeddings", "minis")


@dataclass(frozen=True)
class Case:
    """A command with some folders read-only. `serves`: it must do its work, and leave these products; else it must refuse,
    and none of `untouched` (files) and `unsaid` (words) may show that work had begun."""

    command: tuple[str, ...]
    closed: tuple[str, ...]
    serves: bool = True
    before: tuple[tuple[str, ...], ...] = ()
    untouched: tuple[str, ...] = ()
    unsaid: str = ""
    without: tuple[str, ...] = ()


CASES = (
    Case(MEASURED, ("data", "cards")),
    Case(("encode", "mfcc", "data/beeps", "-o", "out.npz"), ("data",)),
    Case((*TRAIN, "-o", "trained"), ("data",)),
    Case(("data", "verify", "beeps", "--tasks-dir", "cards", "--data", "data", "--audio"), ("data", "cards")),
    Case((*MEASURED, "--probe", "knn"), ("data", "embeddings"), before=(MEASURED,)),
    Case((*MINI, "--probe", "knn"), ("minis",), before=(MINI,)),
    Case(("compare", "logmel", "mfcc", "--no-run"), ("data", "embeddings", "results"), before=TWO),
    Case(("compare", "logmel", "mfcc", "--tasks", "beeps", *RUN), ("data", "embeddings"), before=TWO),
    Case(("compare", "logmel", "mfcc", "--tasks", "beeps", *RUN), ("results",), False, TWO),
    Case(("store", "list"), ("embeddings",), before=TWO),
    Case(("store", "verify"), ("embeddings",), before=TWO),
    Case(("store", "prune", "--older", "0", "--dry-run"), ("embeddings",), before=TWO),
    Case(("leaderboard",), ("results",), before=TWO),
    Case(("leaderboard",), ("results",), before=TWO, without=("results/leaderboard.csv",)),
    Case(("table", "beeps", "--tasks-dir", "cards", "--protocol", "fair"), ("results",), before=TWO),
    Case(("report", "--data", "data", "--tasks-dir", "cards"), ("results", "embeddings", "data"), before=TWO),
    Case(("plot", "heatmap", "-o", "heat.svg"), ("results",), before=TWO),
    Case(("export", "--predictions", "-o", "all.csv"), ("results",), before=TWO),
    Case(("results", "merge", "results", "--into", "both"), ("results",), before=TWO),
    Case(MEASURED, ("results",), False, untouched=("embeddings/waveforms",)),
    Case(MEASURED, ("embeddings",), False, untouched=("results/runs.csv",)),
    Case((*MEASURED, "--probe", "knn"), ("results",), False, (MEASURED,)),
    Case(MINI, ("minis",), False),
    Case(("encode", "logmel", "data/beeps", "-o", "away/out.npz"), ("away",), False, unsaid="statistics measured"),
    Case(("encode", "mfcc", "data/beeps", "-o", "away/out.npy", "--frames"), ("away",), False),
    Case(("data", "mini", "esc10", "--to", "away"), ("away",), False),
    Case((*TRAIN, "-o", "away/trained"), ("away",), False, untouched=("embeddings",), unsaid="corpus:"),
    Case((*TRAIN, "-o", "trained"), ("embeddings",), False, untouched=("trained/checkpoint.pt",)),
    Case(("report", "-o", "away/report.html"), ("away",), False, TWO),
    Case(("export", "-o", "away/all.csv"), ("away",), False, TWO),
    Case(("plot", "heatmap", "-o", "away/heat.svg"), ("away",), False, TWO),
    Case(("results", "merge", "results", "--into", "away"), ("away",), False, TWO),
    Case(("store", "prune", "--older", "0"), ("embeddings",), False, TWO),
    Case(("weights", "add", "byola-v1-512", "trained", "--force"), ("cache",), False, ((*TRAIN, "-o", "trained"),)),
)


def drill(options: Options) -> list[Count]:
    """`read-only` by the kernel and `read-only (shim)`, as far as this machine lets us."""
    world = make_world(options.scratch / "world")
    for name in ("away", "cache", "embeddings", "minis", "results"):
        (world / name).mkdir()
    cases = [case for case in CASES if case.command[0] in ("leaderboard", "data", "store")] if options.quick else CASES
    counts = []
    if _may_mount(options.scratch / "may-mount"):
        counts.append(_all("read-only", cases, world, options, lambda folders: _mounted(folders)))
    else:
        print("read_only: the part with mounts is left out: this user may not mount", file=sys.stderr)
    try:
        shim = Shim(options.scratch / "shim")
        refuse = Fault(at_call=1, error=errno.EACCES, removing=1)
        few = [case for i, case in enumerate(cases) if counts == [] or i % 2]  # the mounts have had them all
        shimmed = _all(
            "read-only (shim)", few, world, options, lambda f: contextlib.nullcontext(shim.set(refuse, *f).env)
        )
        counts.append(shimmed)
    except Unavailable as reason:
        print(f"read_only: the part with a shim is left out: {reason}", file=sys.stderr)
    return counts


def _all(name: str, cases: list[Case], world: Path, options: Options, closing: object) -> Count:
    count = Count(name)

    def one(number: int) -> Count:
        case, made = cases[number], Count(name)
        scene = Scene(" ".join(case.command[:2]), case.command, results, case.before, 1, case.without)
        home = options.scratch / f"{name.replace(' ', '')}{number}"
        folder = prepared(scene, world, home / "work", in_place=True)
        before = results(folder)
        with closing([folder / part for part in case.closed]) as env:
            made.faults += 1
            done = evar(*case.command, cwd=folder, **{"EVAR_CACHE": str(folder / "cache")} | env)
        what = f"{' '.join(case.command)} with {', '.join(case.closed)} read-only"
        made.saw(done, what)
        found, wrong = _outcome(folder), [] if done.has_traceback else _complaints(case, folder, done)
        lost = [cell for cell in before if cell not in found]
        if case.serves and done.code == 0:
            shutil.rmtree(home)
            folder = prepared(scene, world, home / "work")
            evar(*case.command, cwd=folder, EVAR_CACHE=str(folder / "cache"))
            expected = _outcome(folder)
            wrong += [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
        made.harm(what, lost, wrong, done.stderr)
        shutil.rmtree(home)
        return made

    with ThreadPoolExecutor(2) as pool:
        for made in pool.map(one, range(len(cases))):
            add(count, made)
    return count


def _complaints(case: Case, folder: Path, done: Finished) -> list[str]:
    """What is wrong with how the command ended."""
    if case.serves:
        return [f"exit code {done.code}"] if done.code else []
    found = [] if done.is_one_line_error else [f"exit code {done.code}, not one line"]
    found += [
        f"{name} was made" for name in case.untouched if any((folder / name).rglob("*")) or (folder / name).is_file()
    ]
    return found + (
        [f"it had begun: {case.unsaid}"] if case.unsaid and case.unsaid in done.stderr + done.stdout else []
    )


def _outcome(folder: Path) -> Products:
    """Rows, weights, and files that a command may have made."""
    made = results(folder) | trained(folder)
    if (folder / "both").exists():
        made["both"] = str((folder / "both" / "runs.csv").stat().st_size)
    return made | {
        name: "there" for name in ("out.npz", "report.html", "heat.svg", "all.csv") if (folder / name).exists()
    }


@contextlib.contextmanager
def _mounted(folders: list[Path]) -> Iterator[dict[str, str]]:
    """Each folder is mounted on itself, to be read only."""
    with contextlib.ExitStack() as stack:
        for folder in folders:
            subprocess.run(["mount", "--bind", folder, folder], check=True)
            stack.callback(subprocess.run, ["umount", "-l", folder], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield {}


def _may_mount(folder: Path) -> bool:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    folder.mkdir(parents=True)
    try:
        with _mounted([folder]):
            return not os.access(folder, os.W_OK)
    except subprocess.CalledProcessError:
        return False
