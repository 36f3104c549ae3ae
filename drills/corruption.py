"""Every kind of stored thing with a flipped bit, cut off, emptied or gone: found, and the same rows again.

A world is measured in part, harmed in several places at once, and a larger command is run in it that reads them all. It
may say in one line what is damaged and stop; then what the line says is done. The rows in the end must be those of a
world that nobody harmed. A flip leaves size and time stamp as they were: a disk that rots does no less.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Count, Options, differences, evar
from kill import content

from evar.results import Results
from evar.store import Store
from evar.store_format import read_meta

SEEDED = "random:byola-v1-512"
FIRST = f"run logmel,{SEEDED} esc10 --mini --probe knn"
BEGUN = f"run mfcc,{SEEDED} esc10 --mini --probe knn --duration native --batch 8"
WHOLE = (f"run logmel,mfcc,{SEEDED} esc10 --mini --probe knn,fair", BEGUN)
EQUAL = ("embeddings/**/*.f32", "embeddings/minis/**/*.wav")
# What is harmed together, by group: a mini that is made anew has new time stamps, which would hide harm to its waveforms.
GROUPS = {
    "embeddings": (
        f"embeddings/{SEEDED.replace(':', '_')}/esc10/*/0.f32",
        "embeddings/logmel/esc10/*/meta.json",
        "embeddings/waveforms/*/clips.i16",
        "embeddings/normalization/*.json",
        "results/leaderboard.csv",
        "embeddings/.locks/*.lock",
    ),
    "sets that were begun": (
        "embeddings/*/esc10/*/journal",
        "embeddings/waveforms/*/journal",
        "results/predictions/*.parquet",
        "results/.seal",
        "results/.lock",
    ),
    "more of them": (
        "embeddings/*/esc10/*/rows.i64",
        "embeddings/waveforms/*/meta.json",
        "results/commands/*.yaml",
        "embeddings/waveforms/*/lock",
    ),
    "tables": ("results/runs.csv",),
    "minis": ("embeddings/minis/esc10-mini/audio/*.wav", "embeddings/minis/esc10-mini/EVAR_SYNTHETIC.json"),
}
Harm = Callable[[Path, random.Random], None]


def flip(path: Path, chance: random.Random) -> None:
    """One bit, and no new time stamp."""
    before, data = path.stat(), bytearray(path.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path, chance: random.Random) -> None:
    """A part of the file is left."""
    os.truncate(path, int(path.stat().st_size * chance.random()))


def empty(path: Path, chance: random.Random) -> None:
    """What a crash leaves of a file that was not synced."""
    os.truncate(path, 0)


def remove(path: Path, chance: random.Random) -> None:
    """Gone."""
    path.unlink()


HARMS: tuple[Harm, ...] = (flip, cut, empty, remove)


def drill(options: Options) -> list[Count]:
    """One count per kind of harm."""
    template, expected = options.scratch / "template", options.scratch / "undisturbed"
    world = options.scratch / "world" / "here"
    make_template(world, template)
    for words in WHOLE:
        must_work(world, words)
    world.rename(expected)
    harms = HARMS[:1] if options.quick else HARMS
    groups = dict(list(GROUPS.items())[:1]) if options.quick else GROUPS
    counts = {harm: Count(f"corruption: {harm.__name__}") for harm in harms}
    rounds = 1 if options.quick else 2  # a second flip elsewhere
    for harm in harms:
        for group, patterns in groups.items():
            for number in range(rounds if harm is flip else 1):
                chance = random.Random(f"{options.seed} {harm.__name__} {group} {number}")
                shutil.copytree(template, world)
                harmed = [path for pattern in patterns for path in pick(world, pattern, chance)]
                for path in harmed:
                    harm(path, chance)
                counts[harm].faults += len(harmed)
                mend(world, harmed, template, counts[harm])
                compare(world, expected, counts[harm], group)
                shutil.rmtree(world)
    return list(counts.values())


def make_template(world: Path, template: Path) -> None:
    """A world that is measured in part, with a set of embeddings as a killed process leaves it: half of its rows written."""
    world.mkdir(parents=True)
    must_work(world, FIRST)
    must_work(world, f"{BEGUN} --results elsewhere")
    shutil.rmtree(world / "elsewhere")
    (half,) = (Path(one["path"]) for one in Store(world / "embeddings").list_sets() if is_half(one))
    meta = read_meta(half)
    matrices = [(matrix.layer, matrix.pooling, matrix.dim) for matrix in meta.matrices]
    held = Store(world / "embeddings").find(meta.settings, [pair[:2] for pair in matrices])
    rows = {pair[:2]: held.rows(*pair[:2]) for pair in matrices}
    shutil.rmtree(half)
    with Store(world / "embeddings").writer(meta.settings, matrices, meta.n_clips, meta.label, meta.task) as writer:
        for part in np.array_split(np.arange(meta.n_clips // 2), 6):
            writer.write(part, {pair: values[part] for pair, values in rows.items()})
    shutil.copytree(world, template)


def is_half(one: dict) -> bool:
    """Whether this is the set that only `BEGUN` made: mfcc of clips in their own length."""
    return one["encoder"] == "mfcc"


def pick(world: Path, pattern: str, chance: random.Random) -> list[Path]:
    """One of the files that a pattern names."""
    found = sorted(world.glob(pattern))
    if not found:
        raise AssertionError(f"{pattern} names no file")
    return [chance.choice(found)]


def mend(world: Path, harmed: list[Path], template: Path, count: Count) -> None:
    """Run the command, do what its one line says where it stops, and see that all results can be read."""
    commands = [*WHOLE, "export -o runs.csv --runs", "export -o clips.parquet --predictions"]
    for _ in range(1 + len(harmed)):
        for words in commands:
            ended = evar(*words.split(), cwd=world)
            count.saw(ended, words)
            if ended.code != 0:
                break
        else:
            return
        named = [path for path in harmed if str(path.relative_to(world)) in ended.stderr.splitlines()[-1]]
        named += [path.parent for path in harmed if "minis" in path.parts and "esc10-mini" in ended.stderr]
        if not ended.is_one_line_error or not named:
            count.notes.append(f"{words}: exit {ended.code}: {ended.stderr.strip()[-300:]}")
            break
        for path in named:
            remedy(path, template / path.relative_to(world))
    count.results_lost += 1


def remedy(path: Path, whole: Path) -> None:
    """What the line says: a table is restored from a copy, anything else is removed."""
    if path.suffix == ".csv":
        shutil.copyfile(whole, path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def compare(world: Path, expected: Path, count: Count, group: str) -> None:
    """Rows by their columns, predictions by what they say, embeddings and minis byte by byte."""
    lost, wrong = differences(world / "results", expected / "results")
    wanted, there = content(expected, EQUAL) | predictions(expected), content(world, EQUAL) | predictions(world)
    there = {name: digest for name, digest in there.items() if ".damaged/" not in name}
    lost += len(wanted.keys() - there.keys())
    other = sorted(name for name, digest in there.items() if wanted.get(name) != digest)
    wrong += len(other)
    count.results_lost += lost
    count.wrong_rows += wrong
    if lost or wrong:
        count.notes.append(
            f"{group}: {lost} lost, {wrong} wrong: {', '.join([*sorted(wanted.keys() - there.keys()), *other][:3])}"
        )


def predictions(folder: Path) -> dict[str, str]:
    """What the tables of predictions say: a flip may lie where nothing is said."""
    results = Results(folder / "results")
    cells = [path.stem for path in (folder / "results" / "predictions").glob("*.parquet")]
    return {cell: results.predictions(cell).to_json(orient="split", double_precision=15) for cell in cells}


def must_work(folder: Path, words: str) -> None:
    """A command that nothing disturbs."""
    ended = evar(*words.split(), cwd=folder)
    if ended.code != 0:
        raise AssertionError(f"evar {words}: exit {ended.code}: {ended.stderr[-2000:]}")
