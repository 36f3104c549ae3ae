"""Everything lies on a slow network folder: late answers, short writes, file sizes of a moment ago, no flock.

All commands must end well, with the products of an undisturbed command. Then three processes at a time share such a
folder, one of them is killed, and the same commands are run again. A command that takes ten times as long as it should is
taken for hanging.
"""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import Count, Options, evar, kill, start, wait
from disk_full import add, undisturbed
from faults import Fault, Shim, Unavailable
from scenes import Scene, make_world, prepared, results, scenes

NO_FLOCK = (0, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
DELAY_US, STALE_MS, SHORT_EVERY = 20_000, 700, 3
LIMIT = 300.0
"""Seconds after which a command hangs: it needs less than 10 where nobody else computes."""
SHARING = ("logmel", "mfcc", "random:byola-v1-512")


def drill(options: Options) -> list[Count]:
    """`slow folder`: one command at a time. `slow shared folder`: three at a time, and a kill."""
    try:
        shim = Shim(options.scratch / "shim")
    except Unavailable as reason:
        print(f"slow_folder is left out: {reason}", file=sys.stderr)
        return []
    world = make_world(options.scratch / "world")
    return [alone(shim, world, options), shared(shim, world, options)]


def slow(flock_error: int, stale_ms: int = STALE_MS) -> Fault:
    """The folder of a bad network."""
    return Fault(delay_us=DELAY_US, short_every=SHORT_EVERY, stale_ms=stale_ms, flock_error=flock_error)


def alone(shim: Shim, world: Path, options: Options) -> Count:
    """Every command that writes, on a slow folder with and without flock."""
    count = Count("slow folder")
    chosen = scenes()
    if options.quick:
        chosen = [scene for scene in chosen if scene.name in ("encode npy", "merge")]

    def one(job: tuple[int, Scene]) -> Count:
        number, scene = job
        made, home = Count("slow folder"), options.scratch / f"slow{number}"
        start = prepared(scene, world, home / "start")
        expected, _ = undisturbed(shim, scene, start, home / "reference")
        for flock_error in (NO_FLOCK[number % 4],) if number % 2 else NO_FLOCK[:2]:
            folder = Path(shutil.copytree(start, home / "work"))
            trap = shim.set(slow(flock_error), folder)
            what = f"{scene.name}, flock {errno.errorcode.get(flock_error, 'works')}"
            made.faults += 1
            try:
                done = evar(*scene.command, cwd=folder, timeout=LIMIT, EVAR_CACHE=str(folder / "cache"), **trap.env)
            except subprocess.TimeoutExpired:
                made.results_lost += 1
                made.notes.append(f"{what}: hangs")
                continue
            made.saw(done, what)
            found, seen = scene.products(folder), trap.seen()
            lost, wrong = set(expected) - set(found), {name for name in found if found[name] != expected.get(name)}
            made.results_lost += len(lost)
            made.wrong_rows += len(wrong)
            if done.code or lost or wrong or not seen.delayed:
                made.notes.append(
                    f"{what}: exit code {done.code}, lost {lost}, wrong {wrong}; {seen}; {done.stderr[-300:]}"
                )
            made.results_lost += done.code != 0 and not lost
            shutil.rmtree(folder)
        shutil.rmtree(home)
        return made

    with ThreadPoolExecutor(2) as pool:
        for made in pool.map(one, enumerate(chosen)):
            add(count, made)
    return count


def shared(shim: Shim, world: Path, options: Options) -> Count:
    """Three commands in one slow folder, a kill -9 of one at a random moment, the same commands again."""
    count = Count("slow shared folder")
    picks = random.Random(f"{options.seed} slow shared folder")
    home = options.scratch / "shared"
    words = [("run", name, "beeps", "--tasks-dir", "cards", "--data", "data", "--device", "cpu") for name in SHARING]
    expected_in = Path(shutil.copytree(world, home / "reference"))
    for command in words:
        evar(*command, cwd=expected_in)
    expected = results(expected_in)
    for flock_error in NO_FLOCK[1:2] if options.quick else NO_FLOCK:
        folder = Path(shutil.copytree(world, home / "work"))
        traps = [shim.set(slow(flock_error), folder) for _ in words]
        what = f"flock {errno.errorcode.get(flock_error, 'works')}"
        running = [start(command, folder, **trap.env) for command, trap in zip(words, traps, strict=True)]
        time.sleep(picks.uniform(2, 8))
        kill(running[picks.randrange(len(words))])
        try:
            ended = [wait(process, LIMIT) for process in running]
            running = [start(command, folder, **trap.env) for command, trap in zip(words, traps, strict=True)]
            ended += [wait(process, LIMIT) for process in running]
        except subprocess.TimeoutExpired:
            for process in running:
                kill(process)
            count.results_lost += 1
            count.notes.append(f"{what}: hangs")
            ended = []
        for done in ended:
            count.saw(done, what)
        found = results(folder)
        lost, wrong = set(expected) - set(found), {name for name in found if found[name] != expected.get(name)}
        count.faults += 1 + sum(trap.seen().delayed > 0 for trap in traps)
        count.results_lost += len(lost) + sum(done.code != 0 for done in ended[len(words) :])
        count.wrong_rows += len(wrong)
        if lost or wrong or any(done.code for done in ended[len(words) :]):
            count.notes.append(f"{what}: lost {lost}, wrong {wrong}; {[done.stderr[-300:] for done in ended]}")
        shutil.rmtree(folder)
    return count
