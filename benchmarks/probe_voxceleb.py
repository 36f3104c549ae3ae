"""VoxCeleb1's size, 150,000 clips x 3,072, 1,251 speakers, under `fair`: the estimate, and the same shape made smaller.

First the plan for the full size: slices, memory, operations, and seconds from the rate of one timed product. Then 1,251
classes on [15,000 x 768], three strengths and 20 iterations, in one piece and in slices: same scores, peak memory.
`--iterations N` also runs N iterations of one strength at full size (1.8 GB of disk, under a minute each on two cores).
"""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import time
from pathlib import Path

import common
import numpy as np
from memory import Peak, rss_anon

CLIPS, DIMS, CLASSES, TRAINED = 150_000, 3072, 1251, 138_361


def product_rate(m: int, k: int, n: int) -> float:
    """Operations per second of the second of two products [m, k] @ [k, n]."""
    import torch

    from evar.products import product

    a, b = torch.rand(m, k), torch.rand(n, k)
    for _ in range(2):
        begun = time.perf_counter()
        product(a, b.T)
    return 2.0 * m * k * n / (time.perf_counter() - begun)


def synthetic(n: int, d: int, classes: int, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fills `out` [n, d] chunk by chunk; labels int64 [n] and parts 'train', 'valid', 'test' as in VoxCeleb1."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(n) % classes)
    centres = rng.standard_normal((classes, d), np.float32)
    scale = (np.arange(1, d + 1) ** -0.25).astype(np.float32)
    for start in range(0, n, 4096):
        part = slice(start, min(start + 4096, n))
        out[part] = (0.35 * centres[y[part]] + rng.standard_normal((part.stop - start, d), np.float32)) * scale
    return y, rng.choice(["train", "valid", "test"], n, p=[TRAINED / CLIPS, 0.045, 1 - TRAINED / CLIPS - 0.045])


def reduced(n: int, d: int, classes: int) -> list[dict]:
    """In one piece and in slices: seconds, memory above what was there before, agreement."""
    from evar.probes import evaluate, features, get_protocol, logistic

    X = np.empty((n, d), np.float32)
    y, split = synthetic(n, d, classes, X)
    ids = np.array([f"{i:06d}" for i in range(n)])
    protocol = dataclasses.replace(get_protocol("fair"), name="short", strengths=(1e-3, 1e-2, 0.1), max_iterations=20)
    kept = logistic.WORKING_BYTES, features.RESIDENT_BYTES
    rows, first = [], None
    one = 4 * classes * (2 * int(0.93 * n) + 28 * (d + 1))  # logits and L-BFGS memory of one strength
    for name, working, resident in (
        ("one piece", 4 * one, kept[1]),
        ("one strength at a time", int(1.1 * one), kept[1]),
        ("and streamed, logits computed again", int(0.6 * one), 0),
    ):
        logistic.WORKING_BYTES, features.RESIDENT_BYTES = working, resident
        gc.collect()
        before, peak = rss_anon(), Peak()
        peak.start()
        begun = time.perf_counter()
        found = evaluate(protocol, X, y, range(classes), split=split, clip_ids=ids)
        seconds = time.perf_counter() - begun
        peak.running = False
        first = first or found.runs[0]
        run = found.runs[0]
        rows.append(
            {
                "slices": name,
                "budget, MiB": working / 2**20,
                "peak above start, MiB": (peak.highest - before) / 2**20,
                "seconds": seconds,
                "accuracy": found.mean,
                "setting": run.setting,
                "same predictions, %": 100 * float(np.mean(run.predicted == first.predicted)),
                "largest score difference": float(np.abs(run.scores - first.scores).max()),
            }
        )
    logistic.WORKING_BYTES, features.RESIDENT_BYTES = kept
    return rows


def full(iterations: int) -> dict:
    """A few iterations of one strength at full size, the matrix on disk; at most the first 10 s are reading it in."""
    from evar.probes import evaluate, get_protocol

    with tempfile.TemporaryDirectory() as folder:
        X = np.lib.format.open_memmap(Path(folder) / "x.npy", "w+", np.float32, (CLIPS, DIMS))
        y, split = synthetic(CLIPS, DIMS, CLASSES, X)
        X.flush()
        ids, before, peak = np.array([f"{i:06d}" for i in range(CLIPS)]), rss_anon(), Peak()
        taken = []
        for count in (1, 1 + iterations):
            given = {"name": "few", "strengths": (0.01,), "max_iterations": count}
            protocol = dataclasses.replace(get_protocol("fair"), **given)
            if count > 1:
                peak.start()
            begun, own = time.perf_counter(), time.process_time()
            evaluate(protocol, X, y, range(CLASSES), split=split, clip_ids=ids)
            taken.append((time.perf_counter() - begun, time.process_time() - own))
        peak.running = False
        (short, short_own), (long, long_own) = taken
    return {
        "seconds per iteration": (long - short) / iterations,
        "own seconds per iteration": (long_own - short_own) / iterations,
        "seconds around them": short,
        "peak above start, GiB": (peak.highest - before) / 2**30,
    }


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--iterations", type=int, default=0, metavar="N", help="of one strength at full size")
    arguments = words.parse_args()
    from evar.probes.logistic import WORKING_BYTES
    from evar.probes.slices import ITERATIONS, plan_slices

    plan = plan_slices(TRAINED, DIMS, 1, 7, CLASSES, False, WORKING_BYTES + (1 << 30))
    rate = product_rate(CLASSES, DIMS, 512 if arguments.quick else 5461)
    row = {
        "problem": f"[{CLIPS:,} x {DIMS:,}], {CLASSES:,} classes, 7 strengths",
        "slices": plan.slices,
        "logits held": str(plan.hold),
        "memory of one, GiB": plan.bytes / 2**30,
        "TFLOP per iteration and strength": plan.flops / 7e12,
        "product, GFLOP/s": rate / 1e9,
        "estimated seconds per iteration": plan.flops / 7 / rate,
        f"estimated hours, {ITERATIONS} iterations": plan.seconds(rate) / 3600,
    }
    if arguments.iterations:
        row |= full(arguments.iterations)
    small = (1500, 64, 101) if arguments.quick else (15_000, 768, CLASSES)
    common.finish("VoxCeleb1's size under `fair`", [row], more={"the same, smaller": reduced(*small)})


if __name__ == "__main__":
    main()
