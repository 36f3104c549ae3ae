"""What a module that says nothing about itself gives: its layers, their hops and its shortest clip, measured on noise.

TensorFlow Hub's modules declare neither dimensions nor frame rates. The number of frames is a staircase over the number
of samples, so the hop is the distance between two of its steps, exact to the sample.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from evar.encoders.catalog import cache_folder
from evar.encoders.tf_client import ModelError, SavedModel
from evar.errors import EvarError
from evar.files import atomic_write, digest

VERSION = 1
"""Of what is measured here and remembered."""
SECONDS = (1.0, 2.0, 5.0, 30.0)
"""Lengths that are tried, until there are STEPS more frames than for the first. One frame at all of them is a clip."""
STEPS = 3

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Measured:
    """layers: dimension of each output; hops: samples between the frames of those that have frames; min_samples: the
    fewest samples for which every output is there; left_out: outputs that are no features, and why."""

    layers: dict[str, int]
    hops: dict[str, float]
    min_samples: int
    left_out: dict[str, str]


def noise(n_samples: int) -> np.ndarray:
    """White noise, float32 [n_samples], the same every time: a longer one begins with the shorter."""
    return (0.1 * np.random.default_rng(0).standard_normal(n_samples, np.float32)).clip(-1.0, 1.0)


def measure(run: Run, rate: int, label: str) -> Measured:
    """Measure `run`, which takes wav float32 [1, N] and gives {name: float32 [1, D] or [1, T, D]}.

    Raises EvarError: no output for noise of any length of SECONDS, NaN, no output of constant size.
    """
    probe = _Probe(run, label)
    lengths = [round(seconds * rate) for seconds in SECONDS]
    first = next((n for n in lengths if probe.frames(n)), None)
    if first is None:
        raise EvarError(f"{label} gives nothing for noise of {SECONDS[-1]:g} s at {rate} Hz: {probe.refusal}")
    longer = [n for n in lengths if n > first] or [2 * first]
    layers, hops, left_out = {}, {}, {}
    known: dict[tuple[int, ...], float] = {}  # outputs with the same frames at every length have one hop
    for name, dim in probe.dims(first).items():
        start, counts = probe.frames(first)[name], []
        end = first
        for end in longer:
            found = probe.frames(end)
            if found.get(name, 0) == 0 or probe.dims(end).get(name) != dim:
                left_out[name] = f"it has another size for {end / rate:g} s than for {first / rate:g} s"
                break
            counts.append(found[name])
            if counts[-1] >= start + STEPS:
                break
        if name in left_out:
            continue
        if counts[-1] == start == 1:
            layers[name] = dim  # one vector per clip
        elif counts[-1] <= start:
            left_out[name] = f"it has {start} frames for any length"
        else:
            key = (start, *counts)
            if key not in known:
                known[key] = probe.hop(name, first, end)
            layers[name], hops[name] = dim, known[key]
    if not layers:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise EvarError(f"{label} has no output that is features of a clip or of frames: {reasons}")
    return Measured(layers, hops, probe.shortest(set(layers), first), left_out)


def remembered(model: SavedModel, kind: str, find: Callable[[], Measured]) -> Measured:
    """What `find` measures of a module, and the way to call it: from evar's cache, where it is known by content.

    So TensorFlow does not start where nothing has to be encoded. kind: which way of measuring. A record that is not as
    it was written, or of another TensorFlow, is made anew; where the cache takes no files it is made every time.
    """
    key = digest([VERSION, kind, model.sha256, model.rate, _tensorflow()])
    path = cache_folder() / "tensorflow" / "measured" / f"{key[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated.pop("digest") == digest(stated):
            way, found = stated.pop("way"), Measured(**stated)
            model.way = way
            return found
    found = find()
    stated = asdict(found) | {"way": model.way}
    with contextlib.suppress(EvarError):
        atomic_write(path, json.dumps(stated | {"digest": digest(stated)}))  # in this order: a layer may be the first
    return found


def _tensorflow() -> str:
    """The version of TensorFlow, which is not imported, under the names that it is installed by."""
    for name in ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tf-nightly"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""


class _Probe:
    """Runs on noise, remembered by length."""

    def __init__(self, run: Run, label: str) -> None:
        self.run, self.label, self.refusal = run, label, "no output is floating-point features"
        self._shapes: dict[int, dict[str, tuple[int, ...]]] = {}

    def frames(self, n_samples: int) -> dict[str, int]:
        """Frames of each output, 1 for a vector; {} where the module refuses so few samples or gives no frames."""
        shapes = self._run(n_samples)
        found = {name: shape[0] if len(shape) == 2 else 1 for name, shape in shapes.items()}
        return found if all(found.values()) else {}

    def dims(self, n_samples: int) -> dict[str, int]:
        return {name: shape[-1] for name, shape in self._run(n_samples).items()}

    def hop(self, name: str, first: int, end: int) -> float:
        """Samples between frames, from the step after `first` samples to the one after `end`."""
        a, b = self.frames(first)[name], self.frames(end)[name]
        reach = 1 + round(1.5 * (end - first) / (b - a))  # a step is within reach of any length
        low = self._step(name, a + 1, first, reach)
        return (self._step(name, b + 1, end, reach) - low) / (b - a)

    def shortest(self, names: set[str], works: int) -> int:
        """The fewest samples, at most `works`, for which the outputs `names` are there."""
        fails = 0
        while works - fails > 1:
            middle = (fails + works) // 2
            fails, works = (fails, middle) if names <= set(self.frames(middle)) else (middle, works)
        return works

    def _step(self, name: str, count: int, below: int, reach: int) -> int:
        """The fewest samples above `below` that give `count` frames of `name`."""
        start, above = below, below + reach
        while self.frames(above).get(name, 0) < count:
            below, above = above, above + reach
            if above > start + 10 * reach:
                raise EvarError(
                    f"{self.label}: the frames of its output {name!r} do not rise with the length of the clip:"
                    f" {self.frames(start)[name]} for {start} samples, {self.frames(above).get(name, 0)} for {above}"
                )
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (below, middle) if self.frames(middle).get(name, 0) >= count else (middle, above)
        return above

    def _run(self, n_samples: int) -> dict[str, tuple[int, ...]]:
        if n_samples not in self._shapes:
            try:
                outputs = self.run(noise(n_samples)[None])
            except ModelError as error:
                self.refusal, outputs = error.why, {}
            outputs = {name: array for name, array in outputs.items() if array.ndim in (2, 3) and array.shape[-1]}
            if broken := [name for name, array in outputs.items() if not np.isfinite(array).all()]:
                self.refusal, outputs = f"its output {broken[0]!r} holds NaN or infinity", {}
            self._shapes[n_samples] = {name: array.shape[1:] for name, array in outputs.items()}
        return self._shapes[n_samples]
