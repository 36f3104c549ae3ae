"""Pre-training: `evar pretrain` against a plain PyTorch script (`pretraining_plain.py`), and against the networks alone.

Both train the same networks from the same front end with the preset's batch, learning rate and augmentations, in equal
precision. The networks alone: forward, backward, optimiser and moving average on one batch of views that is in memory
already; what evar's step takes beyond that is data and augmentation.

    python benchmarks/pretraining.py --audio ../shared/data/unlabeled-pretrain              # samples/s
    python benchmarks/pretraining.py --audio ../shared/data/unlabeled-pretrain --curves     # losses, to benchmarks/out

Without --audio: 120 synthetic clips of 4 s, half Ogg at 16 kHz, half WAV at 44.1 kHz.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import common  # before torch
import numpy as np
import soundfile
import torch
from pretraining_plain import PerClip, PlainByol, plain_batches, plain_training
from torch import Tensor

from evar.encoders.registry import load_encoder
from evar.errors import EvarError
from evar.pretraining.byol import UNIT_SAMPLES, ByolMethod
from evar.pretraining.corpus import Corpus, open_corpus
from evar.pretraining.presets import Preset, get_preset
from evar.pretraining.pretrain import DTYPES, build_method
from evar.pretraining.trainer import Training, train

TARGETS = {
    "v1-512": {"what": "`evar pretrain` against a plain script, float32: v1-512", "least": 2, "unit": "x"},
    "v2": {"what": "... v2", "least": 2, "unit": "x"},
    "data v1-512": {
        "what": "... data and augmentation of v1-512, timed apart: share of a step",
        "most": 6,
        "unit": "%",
    },
}
RATE = 16_000
OUT = Path(__file__).resolve().parent / "out"
WINDOW = 10  # steps that are averaged in the table of --curves


def networks_alone(method: ByolMethod, views: Tensor, steps: int, lr: float, device: str) -> Iterator[Tensor]:
    """What the loop of `evar pretrain` does with a batch of views, and nothing else: the loss after each step."""
    method.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=lr, fused=True)
    views = views.to(device)
    for _ in range(steps):
        loss, _ = method(views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step()
        yield loss.detach()


class Clock:
    """Median seconds of a step over windows of `window` steps, the first of which warms up."""

    def __init__(self, window: int, device: str) -> None:
        self.window, self.on_gpu, self.steps, self.marks = window, device.startswith("cuda"), 0, []

    def tick(self) -> None:
        self.steps += 1
        if self.steps % self.window == 0:
            if self.on_gpu:
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())

    def seconds(self) -> float:
        return statistics.median(b - a for a, b in itertools.pairwise(self.marks)) / self.window


def measure(preset: Preset, precision: str, corpus: Corpus, each: list[Path], options: argparse.Namespace) -> dict:
    """One row: a preset in one precision."""
    batch, device, dtype = options.batch, options.device, DTYPES[precision]
    window = 10 if device.startswith("cuda") else 1  # a GPU must not be waited for after every step
    fresh = build_method(preset, load_encoder(f"random:{preset.encoder}@0"), corpus, 0, dtype)

    def timed(losses: Iterator[Tensor], window: int = window) -> float:
        clock = Clock(window, device)
        for _ in losses:
            clock.tick()
        return clock.seconds()

    def steps(window: int = window) -> int:
        return window * (1 + math.ceil(options.steps / window))

    method, clock = copy.deepcopy(fresh), Clock(window, device)
    after_step = method.after_step

    def after_step_and_tick() -> None:
        after_step()
        clock.tick()

    method.after_step = after_step_and_tick
    with tempfile.TemporaryDirectory() as folder:
        train(method, corpus, Training(batch, steps(), preset.lr), Path(folder), settings={}, device=device)
    ours = clock.seconds()
    del method.after_step  # the class's own again

    numbers, wav = torch.Generator().manual_seed(0), np.random.default_rng(0)
    clips = corpus.order(0, 0)[np.arange(batch) % len(corpus.pieces)]

    def data() -> Tensor:
        views = method.views(torch.from_numpy(corpus.crops(clips, 1, UNIT_SAMPLES, wav)).to(device), numbers)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return views

    preparing, views = common.median_seconds(data, options.steps), data()
    alone = timed(networks_alone(copy.deepcopy(fresh), views, steps(), preset.lr, device))
    same = itertools.repeat(views, steps())
    plain_alone = timed(plain_training(PlainByol(fresh), same, preset.lr, dtype, device))
    plain = {}
    for workers in options.workers:
        # Workers deliver in turn: a window is one batch of each.
        span = max(window, workers)
        source = plain_batches(PerClip(fresh, each), batch, steps(span), workers)
        plain[workers] = timed(plain_training(PlainByol(fresh), source, preset.lr, dtype, device), span)
    best = min(plain.values())
    return {
        "preset": preset.name,
        "precision": precision,
        **{f"plain, {workers} workers, samples/s": batch / seconds for workers, seconds in plain.items()},
        "evar, samples/s": batch / ours,
        "evar / plain": best / ours,
        "networks alone, plain": batch / plain_alone,
        "networks alone, evar": batch / alone,
        "data + augmentation, % of a step": 100 * (1 - alone / ours),
        "the same, timed apart, %": 100 * preparing / ours,
    }


# Loss curves


def curves(preset: Preset, corpus: Corpus, each: list[Path], options: argparse.Namespace) -> list[dict]:
    """Losses of evar (two seeds of its crops and augmentations) and of the plain script, from the same weights."""
    fresh = build_method(preset, load_encoder(f"random:{preset.encoder}@0"), corpus, 0, torch.float32)
    losses: dict[str, list[float]] = {}
    for name, seed in (("evar", 0), ("evar, other draws", 1)):
        found: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            train(
                copy.deepcopy(fresh),
                corpus,
                Training(options.batch, options.steps, preset.lr, seed),
                Path(folder),
                settings={},
                device=options.device,
                log_every=1,
                on_step=lambda step, found=found: found.append(step.loss),
            )
        losses[name] = found
    source = plain_batches(PerClip(fresh, each), options.batch, options.steps, 0)
    training = plain_training(PlainByol(fresh), source, preset.lr, torch.float32, options.device)
    losses["plain"] = [float(loss) for loss in training]
    rows = []
    for first in range(0, options.steps, WINDOW):
        ours, other, plain = (np.array(values[first : first + WINDOW]) for values in losses.values())
        spread = float(np.std(ours - other)) / math.sqrt(2)  # of one step's loss, without the trend that all share
        rows.append(
            {
                "steps": f"{first + 1}-{first + len(ours)}",
                **{name: float(np.mean(values[first : first + WINDOW])) for name, values in losses.items()},
                "spread": spread,
                "|plain - evar| / spread": abs(float(plain.mean() - ours.mean())) / spread,
                "|other draws - evar| / spread": abs(float(other.mean() - ours.mean())) / spread,
            }
        )
    largest = {key: max(row[key] for row in rows) for key in rows[0] if key.endswith("/ spread")}
    rows.append({"steps": "largest", **largest})
    OUT.mkdir(exist_ok=True)
    about = {"preset": preset.name, "batch": options.batch, "lr": preset.lr, "precision": "fp32"}
    found = {"benchmark": "pretraining curves", "machine": common.machine(), **about, "losses": losses, "windows": rows}
    (OUT / "pretraining_curves.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(losses, f"{preset.name}, batch {options.batch}, same initial weights", OUT / "pretraining_curves.png")
    return rows


def plot(losses: dict[str, list[float]], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for (name, values), style in zip(losses.items(), ("-", ":", "--"), strict=True):
        axes.plot(range(1, len(values) + 1), values, style, label=name)
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.legend()
    figure.savefig(path, dpi=120)


def synthetic(folder: Path) -> Path:
    """120 clips of 4 s: a decaying chord in noise, pitch and pace by a fixed seed."""
    rng = np.random.default_rng(0)
    for i in range(120):
        rate, suffix = ((RATE, "ogg"), (44_100, "wav"))[i % 2]
        t = np.arange(4 * rate) / rate
        chord = sum(np.sin(2 * np.pi * rng.uniform(100, 3000) * t) for _ in range(3))
        wav = 0.1 * chord * np.exp(-3 * (t % rng.uniform(0.2, 2))) + rng.normal(0, 10 ** rng.uniform(-4, -1.5), len(t))
        soundfile.write(folder / f"{i:03d}.{suffix}", wav.clip(-1, 1), rate)
    return folder


def main() -> int:
    parser = common.parser(__doc__)
    byol = ["v1-512", "v1-1024", "v1-2048", "v2", "v2-small"]
    parser.add_argument("--audio", metavar="DIR", help="a folder of audio, or a manifest; default: synthetic clips")
    parser.add_argument("--presets", nargs="+", choices=byol, default=["v1-512", "v2"])
    parser.add_argument("--precision", nargs="+", choices=list(DTYPES), default=["fp32"])
    parser.add_argument("--batch", type=int, help="default: 256; with --curves 64; with --quick 16")
    parser.add_argument("--steps", type=int, help="of each measurement, after one to warm up: 3; with --curves 60")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the plain script's DataLoader")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--curves", action="store_true", help="loss curves in float32 (of the first preset) instead")
    options = parser.parse_args()
    options.presets = options.presets[:1] if options.quick else options.presets
    options.batch = options.batch or (16 if options.quick else 64 if options.curves else 256)
    usual = (2 * WINDOW if options.quick else 60) if options.curves else (1 if options.quick else 3)
    options.steps = options.steps or usual
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "audio").mkdir()
        audio = Path(options.audio) if options.audio else synthetic(Path(folder) / "audio")
        try:
            corpus = open_corpus([audio], RATE, Path(folder) / "cache")
        except EvarError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        root = audio if audio.is_dir() else audio.parent
        each = [root / corpus.waves.ids[clip] for clip in corpus.pieces]  # files as often as evar takes them
        about = f"{corpus.clips} clips, {corpus.hours:.2f} h; batch {options.batch}, {options.threads} threads"
        if options.curves:
            preset = get_preset(options.presets[0])
            common.finish(
                f"pre-training, loss of {preset.name}: {about}",
                curves(preset, corpus, each, options),
                audio=options.audio or "synthetic",
            )
            return 0
        rows = []
        for name, precision in itertools.product(options.presets, options.precision):
            rows.append(measure(get_preset(name), precision, corpus, each, options))
            print(f"{name} {precision}: done", file=sys.stderr)
        best = {row["preset"]: row["evar / plain"] for row in rows if row["precision"] == "fp32"}
        data = {f"data {row['preset']}": row["the same, timed apart, %"] for row in rows if row["precision"] == "fp32"}
        common.finish(f"pre-training: {about}", rows, TARGETS, best | data, audio=options.audio or "synthetic")
    return 0


if __name__ == "__main__":
    sys.exit(main())
