"""The commands that the drills disturb: what each starts from, and what it must leave behind."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.util
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import evar

from evar.results_files import VOLATILE

CARD = """\
name: beeps
version: 1
title: Tones and noises of half a second
asks: which of four sounds it is
seconds: 0.5
metric: accuracy
split: parts
layout: csv_columns
split_file: clips.csv
folders: [beeps]
classes: 4
"""
RUN = ("--tasks-dir", "cards", "--data", "data", "--device", "cpu")
Products = dict[str, str]
_MAKING = threading.Lock()


@dataclass(frozen=True)
class Scene:
    """A command, run in a folder that `before` has prepared; `products` are what counts in that folder, by name.

    `without` are files that were lost in between. A product is a digest of everything but volatile columns and times, so
    equal products are equal results.
    """

    name: str
    command: tuple[str, ...]
    products: Callable[[Path], Products]
    before: tuple[tuple[str, ...], ...] = ()
    weight: int = 1
    without: tuple[str, ...] = ()

    def again(self, folder: Path) -> tuple[str, ...]:
        """The same command for the second time: only pre-training wants to be told that it is one."""
        resumes = self.command[0] == "pretrain" and (folder / "trained" / "checkpoint.pt").exists()
        return (*self.command, "--resume") if resumes and "--resume" not in self.command else self.command


def make_world(folder: Path) -> Path:
    """Sounds, a task card for them, and what all scenes start from."""
    import numpy as np
    import soundfile

    random = np.random.default_rng(0)
    sounds = folder / "data" / "beeps"
    sounds.mkdir(parents=True)
    lines = ["path,label,split"]
    for i in range(48):
        kind, t = i % 4, np.arange(8000) / 16000
        tone = np.sin(2 * np.pi * (300 * (kind + 1) + 40 * random.standard_normal()) * t)
        soundfile.write(sounds / f"{i:02}.wav", 0.2 * tone + 0.1 * random.standard_normal(len(t)), 16000)
        lines.append(f"{i:02}.wav,kind{kind},{'train' if i < 24 else 'valid' if i < 32 else 'test'}")
    (sounds / "clips.csv").write_text("\n".join(lines) + "\n")
    (folder / "cards").mkdir()
    (folder / "cards" / "beeps.yaml").write_text(CARD)
    return folder


def scenes() -> list[Scene]:
    """All of them. `weight` is their share of the faults."""
    measured = ("run", "logmel", "beeps", *RUN)
    other = ("run", "mfcc", "beeps", *RUN, "--results", "other")
    two = (measured, ("run", "mfcc", "beeps", *RUN))
    train = ("pretrain", "byola", "--audio", "data/beeps", "--preset", "v1-512", "--batch", "4", "--device", "cpu")
    train = (*train, "--checkpoint-every", "1", "-o", "trained", "--steps")
    tensorboard = ("--tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    large = tuple("v1-1024" if word == "v1-512" else word for word in (*train, "1"))
    encode = ("encode", "mfcc", "data/beeps", "--device", "cpu", "-o")
    return [
        Scene(
            "run",
            (*measured[:1], "logmel,random:byola-v1-512", *measured[2:], "--probe", "fair,knn"),
            results,
            (measured,),
            4,
        ),
        Scene("run on nothing", measured, results, (), 3),
        Scene("encode npz", (*encode, "out.npz"), files("out.npz")),
        Scene("encode npy", (*encode, "out.npy", "--frames"), files("out.npy", "out.times.csv"), (), 2),
        Scene("encode parquet", (*encode, "out.parquet", "--frames"), files("out.parquet")),
        Scene("data mini", ("data", "mini", "esc10", "--to", "minis"), tree("minis"), (), 2),
        Scene("pretrain", (*train, "3", *tensorboard), trained, (), 2),
        Scene("pretrain on", (*train, "3", "--resume"), trained, ((*train, "2"),)),
        Scene("merge", ("results", "merge", "other"), results, (measured, other), 2),
        Scene("leaderboard", ("leaderboard",), results, (measured,), 1, ("results/leaderboard.csv",)),
        Scene("compare", ("compare", "logmel", "mfcc", "--no-run", "-o", "c.md"), files("c.md"), two),
        Scene("report", ("report",), files("report.html"), two),
        Scene("plot", ("plot", "heatmap", "-o", "heat.svg"), files("heat.svg"), two),
        Scene("export", ("export", "-o", "all.parquet"), files("all.parquet"), two),
        Scene(
            "table", ("table", "beeps", "--tasks-dir", "cards", "--protocol", "fair", "-o", "t.md"), files("t.md"), two
        ),
        Scene("weights add", ("weights", "add", "byola-v1-1024", "trained"), tree("cache"), (large,)),
    ]


def prepared(scene: Scene, world: Path, folder: Path, in_place: bool = False) -> Path:
    """A fresh folder in the state from which the scene's command starts.

    That state is made once, beside `world`, and copied. in_place: it is made in `folder` itself, where decoded waveforms
    are known by the paths of their files.
    """
    state = (
        folder if in_place else world.with_name(f"state-{_digest(repr((scene.before, scene.without)).encode())[:12]}")
    )
    with contextlib.nullcontext() if in_place else _MAKING:
        if not state.exists():
            shutil.copytree(world, state)
            for command in scene.before:
                done = evar(*command, cwd=state, EVAR_CACHE=str(state / "cache"))
                if done.code:
                    raise RuntimeError(f"{scene.name}: {' '.join(command)} failed: {done.stderr}")
            for name in scene.without:
                (state / name).unlink()
    return folder if in_place else Path(shutil.copytree(state, folder))


def results(folder: Path) -> Products:
    """Each cell of ./results as a user gets it from there: its rows without the volatile columns, and its predictions."""
    from evar.results import Results

    kept = Results(folder / "results")
    if not (kept.folder / "runs.csv").exists():
        return {}
    whole = Results(_copy_of(kept.folder))  # asking may mend, and what was left behind is to stay as it is
    try:
        rows, board = whole.runs(), whole.leaderboard(canonical=True)
        made = {}
        for cell in board["cell_id"]:
            runs = rows[rows["cell_id"] == cell].drop(columns=list(VOLATILE))
            text = runs.to_csv(index=False) + board[board["cell_id"] == cell].to_csv(index=False)
            made[str(cell)] = _digest((text + whole.predictions(cell).to_csv(index=False)).encode())
        return made
    finally:
        shutil.rmtree(whole.folder)


def files(*names: str) -> Callable[[Path], Products]:
    """These files, byte for byte."""
    return lambda folder: {name: _digest((folder / name).read_bytes()) for name in names if (folder / name).exists()}


def tree(name: str) -> Callable[[Path], Products]:
    """A folder that is there whole or not at all, under names that are not hidden."""

    def products(folder: Path) -> Products:
        made = {}
        for top in sorted((folder / name).glob("*")) if (folder / name).exists() else []:
            if top.name.startswith("."):
                continue
            inside = [path for path in sorted(top.rglob("*")) if path.is_file() and ".lock" not in path.name]
            listed = [(str(path.relative_to(top)), _digest(_without_times(path))) for path in inside]
            if listed:
                made[top.name] = _digest(json.dumps(listed).encode())
        return made

    return products


def trained(folder: Path) -> Products:
    """The weights (their tensors) and the log (without times) of a run."""
    from safetensors import safe_open

    made, run = {}, folder / "trained"
    if (path := run / "trained.safetensors").exists():
        with safe_open(path, "np") as stream:
            names = sorted(stream.keys())
            made["weights"] = _digest(b"".join(name.encode() + stream.get_tensor(name).tobytes() for name in names))
    if made:  # before that the log grows
        with open(run / "log.csv", newline="") as stream:
            lines = [
                [v for k, v in row.items() if k not in ("seconds", "samples_per_s")] for row in csv.DictReader(stream)
            ]
        made["log"] = _digest(json.dumps(lines).encode())
    return made


def left_over(folder: Path, names: Sequence[str] = (".tmp", ".part")) -> list[Path]:
    """Temporary files that a command which ended by itself should have removed."""
    return [path for path in folder.rglob("*") if path.suffix in names]


def _without_times(path: Path) -> bytes:
    if path.suffix != ".json":
        return path.read_bytes()
    content = json.loads(path.read_bytes())
    return json.dumps({k: v for k, v in content.items() if k not in ("stamp", "from")}, sort_keys=True).encode()


def _copy_of(folder: Path) -> Path:
    copy = folder.with_name(f"{folder.name}-read")
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(folder, copy))  # with the time stamps, by which a leaderboard is known to be fresh


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
