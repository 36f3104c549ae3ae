"""kill -9 of every stage, at random moments and before chosen steps on the disk, and the same command again.

Random moments lie between a command's first step on the disk and its end. Steps are what `hooks/sitecustomize.py` counts:
files opened for writing, renamed, removed, synced, written to at a place; those of a command are spread over its kills,
so that every stage of it is hit, also those that last a millisecond.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import Count, Finished, Options, differences, evar, kill, start, wait

HOOKS = Path(__file__).parent / "hooks"
SEEDED = "random:byola-v1-512"


@dataclass(frozen=True)
class Case:
    """A command, what is run before it, how many kills it gets, and the files that must be equal, byte by byte.

    resume: what is added to the command when it is run again. results: the folder whose CSVs must agree.
    """

    name: str
    words: str
    kills: int
    before: tuple[str, ...] = ()
    equal: tuple[str, ...] = ()
    resume: str = ""
    results: str | None = None


STORED = (
    "embeddings/**/*.f32",
    "embeddings/**/clips.i16",
    "embeddings/normalization/*.json",
    "results/predictions/*.parquet",
)
MEASURED = "run logmel,mfcc esc10 --mini --probe fair,knn -q"
CASES = (
    Case("run", f"run logmel,mfcc,{SEEDED} esc10 --mini --probe fair,knn", 16, equal=STORED, results="results"),
    Case("layers", f"run {SEEDED} esc10 --mini --layers all --probe knn", 7, equal=STORED, results="results"),
    Case("parts", "run logmel spcv2 --mini --duration native --probe paper", 5, equal=STORED, results="results"),
    Case("npz", f"encode {SEEDED} sounds --norm -7,4 --layers all -o out.npz", 2, equal=("out.*",)),
    Case("npy", "encode logmel sounds --norm -7,4 --frames -o out.npy", 2, equal=("out.*",)),
    Case("parquet", "encode logmel sounds --norm -7,4 --frames -o out.parquet", 2, equal=("out.*",)),
    Case("mini", "data mini nsynth --to minis", 2, equal=("minis/**/*.*",)),
    Case(
        "merge",
        "results merge results other --into all",
        3,
        (MEASURED, "run mfcc esc10 --mini --probe fair,mlp -q --results other"),
        ("all/predictions/*.parquet",),
        results="all",
    ),
    Case("report", "report -o report.html", 2, (MEASURED,), ("report.html",)),
    Case("plot", "plot heatmap --synthetic -o heatmap.svg", 1, (MEASURED,), ("heatmap.svg",)),
    Case("export", "export -o clips.parquet --predictions", 2, (MEASURED,), ("clips.parquet",)),
    Case(
        "pretrain",
        "pretrain byola --audio sounds --preset v1-512 --batch 4 --steps 12 --augment bank=10 --out trained "
        "--checkpoint-every 3 --device cpu",
        4,
        equal=("trained/*.safetensors",),
        resume="--resume",
    ),
    Case("weights", "weights add byola-v1-1024 own.pt", 2, equal=("cache/weights/byola-v1-1024/*",)),
)


def drill(options: Options) -> list[Count]:
    """Fifty kills (about ten with `quick`) over all cases, and what they left."""
    chosen = CASES if not options.quick else tuple(case for case in CASES if case.name in ("run", "npz", "merge"))
    kills = {case.name: case.kills if not options.quick else min(case.kills, 3) for case in chosen}
    sources = options.scratch / "sources"
    write_sources(sources)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda case: kill_case(case, kills[case.name], sources, options), chosen))


def kill_case(case: Case, kills: int, sources: Path, options: Options) -> Count:
    """All kills of one case: chains of one to three in a folder, each chain ended by an undisturbed command."""
    count, chance = Count(f"kill -9: {case.name}"), random.Random(f"{options.seed} {case.name}")
    folder = options.scratch / case.name
    here, template, expected = (folder / name for name in ("here", "template", "undisturbed"))
    shutil.copytree(sources, here)  # always the same path: the names of waveform caches depend on it
    for words in case.before:
        must_work(evar(*words.split(), cwd=here, **own(here)), words)
    shutil.copytree(here, template)
    must_work(evar(*case.words.split(), cwd=here, **own(here), **hooks(here, folder / "steps")), case.words)
    moments = [float(line.split()[0]) for line in (folder / "steps").read_text().splitlines()]
    here.rename(expected)
    at_steps, by_time, left, chain = spread(len(moments), kills, chance), True, kills, 0
    while left:
        chain += 1
        shutil.copytree(template, here)
        for number in range(min(left, 1 + chain % 3)):
            at_step = None if by_time and (number + chain) % 2 else next(at_steps)
            died = killed(case, here, at_step, chance.random() * (moments[-1] - moments[0]), count)
            by_time = died if at_step is None else by_time  # a moment may come too late; a step never does
            count.faults += died
            left -= died
        again = evar(*again_words(case, here), cwd=here, **own(here))
        count.saw(again, f"{case.name}, chain {chain}")
        if again.code != 0:
            count.results_lost += 1
            count.notes.append(f"exit {again.code}: {again.stderr.strip()[-300:]}")
        compare(case, here, expected, count)
        shutil.rmtree(here)
    shutil.rmtree(folder)
    return count


def killed(case: Case, folder: Path, at_step: int | None, after: float, count: Count) -> bool:
    """Start the command, or go on with it, and kill it before a step, or `after` seconds past its first; whether it died."""
    log = folder.with_name("steps")
    log.unlink(missing_ok=True)
    env = own(folder) | hooks(folder, log) | ({"DRILL_DIE": str(at_step)} if at_step else {})
    process = start(again_words(case, folder), folder, **env)
    if at_step is None:
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.002)
        deadline = time.monotonic() + after
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        kill(process)
    ended = wait(process)
    count.saw(ended, f"{case.name}, killed")
    return ended.code < 0


def compare(case: Case, found: Path, expected: Path, count: Count) -> None:
    """Count what is lost, wrong or left over in `found`."""
    if case.results:
        lost, wrong = differences(found / case.results, expected / case.results)
        count.results_lost += lost
        count.wrong_rows += wrong
    wanted, there = content(expected, case.equal), content(found, case.equal)
    if not wanted:
        raise AssertionError(f"{case.name}: nothing to compare, {case.equal} names no file")
    for name in wanted.keys() | there.keys():
        if wanted.get(name) != there.get(name):
            count.results_lost += name not in there
            count.wrong_rows += name in there
            count.notes.append(f"{name}: {'missing' if name not in there else 'differs'}")
    strays = {file.relative_to(found).as_posix() for file in found.rglob("*")}
    strays -= {file.relative_to(expected).as_posix() for file in expected.rglob("*")}
    if strays:
        count.notes.append(f"left behind: {', '.join(sorted(strays)[:4])}")


def content(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Path -> digest of all files that the patterns name; temporary files of killed processes apart."""
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    names = {file.relative_to(folder).as_posix(): file for file in files if not file.name.startswith(".")}
    return {name: hashlib.sha256(said(file)).hexdigest() for name, file in names.items()}


def said(file: Path) -> bytes:
    """The bytes of a file; of weights the tensors alone, for their header also tells how long training took."""
    data = file.read_bytes()
    if file.suffix != ".safetensors":
        return data
    head = 8 + int.from_bytes(data[:8], "little")
    shapes = {name: one for name, one in json.loads(data[8:head]).items() if name != "__metadata__"}
    return json.dumps(shapes, sort_keys=True).encode() + data[head:]


def again_words(case: Case, folder: Path) -> list[str]:
    """The command, and what resumes it where there is something to be resumed."""
    begun = case.resume and (folder / "trained" / "checkpoint.pt").exists()
    return [*case.words.split(), *([case.resume] if begun else [])]


def spread(steps: int, kills: int, chance: random.Random) -> Iterator[int]:
    """Numbers of steps, one at random in each of `kills` equal parts of all of them, in a random order; again and again."""
    while True:
        parts = [1 + int((i + chance.random()) * steps / kills) for i in range(kills)]
        yield from chance.sample(parts, kills)


def own(folder: Path) -> dict[str, str]:
    """evar's own cache lies in the folder too."""
    return {"EVAR_CACHE": str(folder / "cache")}


def hooks(folder: Path, log: Path) -> dict[str, str]:
    """What makes `hooks/sitecustomize.py` count the steps of a command."""
    path = os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "DRILL_UNDER": str(folder.resolve()), "DRILL_STEPS": str(log)}


def must_work(finished: Finished, words: str) -> None:
    """The undisturbed command itself: without it there is nothing to compare with."""
    if finished.code != 0:
        raise AssertionError(f"evar {words}: exit {finished.code}: {finished.stderr[-2000:]}")


def write_sources(folder: Path) -> None:
    """Sounds to encode and to train on, and weights to add."""
    code = """
import numpy as np, soundfile, sys, torch
from pathlib import Path
from evar.encoders.registry import load_encoder
random = np.random.default_rng(0)
folder = Path(sys.argv[1])
(folder / "sounds").mkdir(parents=True)
for i in range(24):
    t = np.arange(int(16000 * random.uniform(0.5, 1.5))) / 16000
    wave = 0.3 * np.sin(2 * np.pi * random.uniform(80, 4000) * t) + random.normal(0, 0.02, len(t))
    soundfile.write(folder / "sounds" / f"{i:02}.wav", wave, 16000)
weights = load_encoder("random:byola-v1-1024").state_dict()
torch.save({name: value for name, value in weights.items() if name.startswith(("features.", "fc."))}, folder / "own.pt")
"""
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
