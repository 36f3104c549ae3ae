"""200,000 synthetic clips × 2048-d through the real store and the `fair` probe: peak anonymous memory under 3 GiB.

RssAnon is what counts: memory-mapped pages are the system's to drop and do not. Takes minutes and 1.7 GB of disk;
`--clips N` makes it smaller.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import common
import numpy as np

TARGETS = {
    "memory": {"what": "200,000 clips x 2048-d through store and `fair`: peak RssAnon", "most": 3, "unit": "GiB"}
}


def rss_anon() -> int:
    """Anonymous resident memory of this process in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("RssAnon is a Linux figure")


class Peak(threading.Thread):
    """Samples RssAnon every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.running = 0, True

    def run(self) -> None:
        while self.running:
            self.highest = max(self.highest, rss_anon())
            time.sleep(0.02)


def stored(folder: str, n: int, dim: int, classes: int, spread: float) -> tuple:
    """(rows that stay on the disk, classes int64 [n], split [n]) of a synthetic set written through the real store."""
    from evar.store import Store

    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    centres = rng.normal(0, spread, (classes, dim)).astype(np.float32)
    split = np.array(["train", "valid", "test"], dtype=object)[np.searchsorted([0.8, 0.9], rng.random(n))]
    settings = {"encoder_fingerprint": "bench", "clips_fingerprint": f"{n}", "duration": "card", "precision": "fp32"}
    store, size = Store(Path(folder)), (1 << 20) // dim
    with store.writer(settings, [("out", "mean", dim)], n, "bench", "bench") as writer:
        for start in range(0, n, size):
            rows = np.arange(start, min(start + size, n))
            block = rng.standard_normal((len(rows), dim), dtype=np.float32) + centres[y[rows]]
            writer.write(rows, {("out", "mean"): block})
        embeddings = writer.finish()
    return embeddings.source("out", "mean"), y, split


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--clips", type=int, help="default: 200,000; with --quick 500")
    parser.add_argument("--dim", type=int, default=2048)
    arguments = parser.parse_args()
    n, dim, classes = arguments.clips or (500 if arguments.quick else 200_000), arguments.dim, 2

    from evar.probes import evaluate, get_protocol

    peak = Peak()
    peak.start()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        source, y, split = stored(folder, n, dim, classes, 0.05)
        written = time.perf_counter() - begun
        begun = time.perf_counter()
        evaluation = evaluate(
            get_protocol("fair"),
            source,
            y,
            tuple(str(c) for c in range(classes)),
            split=split,
            clip_ids=np.array([f"{i:06d}" for i in range(n)], dtype=object),
            group=np.array([f"{i:06d}" for i in range(n)], dtype=object),
            metric="accuracy",
        )
        probed = time.perf_counter() - begun
    peak.running = False
    common.finish(
        "memory: synthetic embeddings through the store and the fair probe",
        [
            {
                "clips": n,
                "dim": dim,
                "store, s": written,
                "probe, s": probed,
                "accuracy": evaluation.mean,
                "peak RssAnon, GiB": peak.highest / 2**30,
            }
        ],
        TARGETS,
        {"memory": peak.highest / 2**30},
    )


if __name__ == "__main__":
    main()
