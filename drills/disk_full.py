"""The disk fills up, the quota ends, the disk breaks: at any call that needs it, in any command that writes.

Each fault is a command that meets it, then the same command on a sound disk. The first must end in one line and leave what
was finished whole; the second must give what an undisturbed command gives. Faults come from a shim before the C library,
and, where this user may mount, from a real file system of a few megabytes.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from common import Count, Finished, Options, evar
from faults import Fault, Seen, Shim, Unavailable
from scenes import Products, Scene, left_over, make_world, prepared, scenes

ERRORS = (errno.ENOSPC, errno.ENOSPC, errno.EDQUOT, errno.EIO)
PER_WEIGHT = 3
TMPFS_KB = (40, 160, 400, 1100)
"""Sizes of the real file systems, beyond what is on them when the command starts."""


def drill(options: Options) -> list[Count]:
    """`disk full`: faults by the shim; `disk full (tmpfs)`: by the kernel."""
    counts = []
    world = make_world(options.scratch / "world")
    chosen = scenes()
    if options.quick:
        chosen = [scene for scene in chosen if scene.name in ("run on nothing", "encode npz", "merge", "export")]
    try:
        shim = Shim(options.scratch / "shim")
        counts.append(by_shim(shim, chosen, world, options))
    except Unavailable as reason:
        print(f"disk_full: the part with a shim is left out: {reason}", file=sys.stderr)
    small = [scene for scene in chosen if scene.name in ("run on nothing", "pretrain", "encode npz", "report")]
    if _may_mount(options.scratch / "may-mount"):
        counts.append(by_tmpfs(small, world, options))
    else:
        print("disk_full: the part with a tmpfs is left out: this user may not mount", file=sys.stderr)
    return counts


def by_shim(shim: Shim, chosen: list[Scene], world: Path, options: Options) -> Count:
    """Random points of every scene; two scenes at a time."""
    count = Count("disk full")
    per_weight = 1 if options.quick else PER_WEIGHT

    def one(number: int) -> Count:
        scene, made = chosen[number], Count("disk full")
        picks = random.Random(f"{options.seed} {scene.name}")
        home = options.scratch / f"scene{number}"
        start = prepared(scene, world, home / "start")
        before = scene.products(start)
        expected, seen = undisturbed(shim, scene, start, home / "reference")
        for i in range(n := scene.weight * per_weight):
            fault = pick(picks, seen, (i + picks.random()) / n, i)
            folder = _copy(start, home / "work")
            trap = shim.set(fault, folder)
            disturbed = evar(*scene.command, cwd=folder, EVAR_CACHE=str(folder / "cache"), **trap.env)
            if trap.seen().injected:
                what = f"{scene.name}: {fault} of {seen.calls} calls, {seen.bytes} bytes"
                judge(made, scene, folder, disturbed, what, before, expected)
            else:
                shutil.rmtree(folder)
        shutil.rmtree(home)
        return made

    with ThreadPoolExecutor(2) as pool:
        for made in pool.map(one, range(len(chosen))):
            add(count, made)
    return count


def undisturbed(shim: Shim, scene: Scene, start: Path, folder: Path) -> tuple[Products, Seen]:
    """What the command gives on a sound disk, and the calls that could fail. Nothing may be written through a map: that
    would end in SIGBUS, which no program can turn into a line."""
    _copy(start, folder)
    trap = shim.set(Fault(), folder)
    done = evar(*scene.command, cwd=folder, EVAR_CACHE=str(folder / "cache"), **trap.env)
    products, seen = scene.products(folder), trap.seen()
    if done.code or not products or seen.mapped:
        raise RuntimeError(f"{scene.name}: no reference ({seen.mapped} maps are written): {done.stderr}")
    shutil.rmtree(folder)
    return products, seen


def pick(picks: random.Random, seen: Seen, where: float, i: int) -> Fault:
    """A fault at a share `where` (0 to 1) of the command: at a call, or at a byte; for good, or for a few calls."""
    error = picks.choice(ERRORS)
    if i % 2 and seen.bytes:
        return Fault(after_bytes=int(where * seen.bytes), error=errno.ENOSPC if error == errno.EIO else error)
    return Fault(at_call=1 + int(where * seen.calls), error=error, span=picks.choice((0, 0, 1, 3)))


def judge(
    count: Count, scene: Scene, folder: Path, disturbed: Finished, what: str, before: Products, expected: Products
) -> None:
    """One fault: the line, what is left, and the same command again with space; `folder` is removed."""
    count.faults += 1
    count.saw(disturbed, what)
    left = scene.products(folder)
    lost = [name for name in before if name not in left]
    wrong = [name for name, product in left.items() if product not in (before.get(name), expected.get(name))]
    if disturbed.code == 0:  # nothing that mattered failed: then all is there
        lost += [name for name in expected if name not in left]
    elif not disturbed.is_one_line_error and not disturbed.has_traceback:
        wrong.append(f"exit code {disturbed.code}: {disturbed.stderr[-300:]}")
    wrong += [f"left over: {path.name}" for path in left_over(folder)]
    again = evar(*scene.again(folder), cwd=folder, EVAR_CACHE=str(folder / "cache"))
    count.saw(again, f"{what}, again")
    final = scene.products(folder)
    lost += [f"{name} (again: {again.stderr[-200:]})" for name in expected if name not in final]
    wrong += [f"{name} again" for name in final if final[name] != expected.get(name)]
    count.harm(what, lost, wrong, disturbed.stderr)
    shutil.rmtree(folder)


def by_tmpfs(chosen: list[Scene], world: Path, options: Options) -> Count:
    """The kernel itself refuses: the command runs on a tmpfs that is a little larger than what is on it."""
    count = Count("disk full (tmpfs)")
    home = options.scratch / "tmpfs"
    for scene in chosen:
        start = prepared(scene, world, home / "start")
        before = scene.products(start)
        reference = _copy(start, home / "reference")
        evar(*scene.command, cwd=reference, EVAR_CACHE=str(reference / "cache"))
        expected = scene.products(reference)
        for extra in TMPFS_KB[1:2] if options.quick else TMPFS_KB:
            with tmpfs(home / "disk", _kilobytes(start) + extra) as disk:
                folder = disk / "work"
                _copy(start, folder)
                disturbed = evar(*scene.command, cwd=folder, EVAR_CACHE=str(folder / "cache"))
                grown = _copy(folder, home / "grown")  # more space: the same files on a larger disk
                if disturbed.code:
                    judge(count, scene, grown, disturbed, f"{scene.name}: {extra} kB free", before, expected)
                else:
                    shutil.rmtree(grown)
        shutil.rmtree(start)
        shutil.rmtree(reference)
    return count


@contextmanager
def tmpfs(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A real file system of this size, gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "evar-drill", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def add(count: Count, other: Count) -> None:
    """Sum of two parts of one drill."""
    for name in ("faults", "results_lost", "wrong_rows", "tracebacks"):
        setattr(count, name, getattr(count, name) + getattr(other, name))
    count.notes += other.notes


def _may_mount(folder: Path) -> bool:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    folder.mkdir(parents=True)
    may = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "evar-drill", folder], capture_output=True)
    if may.returncode == 0:
        subprocess.run(["umount", "-l", folder], check=True)
    return may.returncode == 0


def _copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to, symlinks=True, dirs_exist_ok=False))  # with the time stamps


def _kilobytes(folder: Path) -> int:
    """What a tmpfs needs for these files: whole pages, and one for each name."""
    return sum(4 + (path.lstat().st_size + 4095) // 4096 * 4 for path in folder.rglob("*"))
