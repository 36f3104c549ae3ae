"""A million clips x 128 streamed from the store through `fair`: peak anonymous memory (RssAnon; mapped pages do not count).

Takes 0.5 GB of disk and minutes; the matrix is never in memory, because the limit for that is set to 0.25 GiB here.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import common
import numpy as np
from memory import Peak, rss_anon

TARGETS = {"peak": {"what": "a million clips through `fair`: peak RssAnon", "most": 3, "unit": "GiB"}}


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--clips", type=int, default=1_000_000)
    words.add_argument("--dim", type=int, default=128)
    words.add_argument("--classes", type=int, default=10)
    arguments = words.parse_args()
    n, dim, classes = (20_000 if arguments.quick else arguments.clips), arguments.dim, arguments.classes

    from evar.probes import evaluate, features
    from evar.store import Store

    features.RESIDENT_BYTES = min(1 << 28, n * dim * 4 // 2)
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    centres = rng.normal(0, 0.3, (classes, dim)).astype(np.float32)
    split = np.array(["train", "valid", "test"])[np.searchsorted([0.8, 0.9], rng.random(n))]
    settings = {"encoder_fingerprint": "bench", "clips_fingerprint": f"{n}", "duration": "card", "precision": "fp32"}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        with store.writer(settings, [("out", "mean", dim)], n, "bench", "bench") as writer:
            for start in range(0, n, 8192):
                rows = np.arange(start, min(start + 8192, n))
                block = rng.standard_normal((len(rows), dim), dtype=np.float32) + centres[y[rows]]
                writer.write(rows, {("out", "mean"): block})
            writer.finish()
        source = store.find(settings, [("out", "mean")]).source("out", "mean")
        names = np.array([f"{i:07d}" for i in range(n)])
        before, peak = rss_anon(), Peak()
        peak.start()
        begun, own = time.perf_counter(), time.process_time()
        found = evaluate("fair", source, y, range(classes), split=split, clip_ids=names)
        probed, own = time.perf_counter() - begun, time.process_time() - own
        peak.running = False
    row = {
        "clips": n,
        "dim": dim,
        "classes": classes,
        "matrix, GiB": n * dim * 4 / 2**30,
        "probe, s": probed,
        "own s": own,
        "accuracy": found.mean,
        "C": found.runs[0].setting[2:],
        "RssAnon before, GiB": before / 2**30,
        "peak RssAnon, GiB": peak.highest / 2**30,
    }
    common.finish("a million clips through `fair`", [row], TARGETS, {"peak": peak.highest / 2**30})


if __name__ == "__main__":
    main()
