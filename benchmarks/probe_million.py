"""A million clips x 128 streamed from the store through `fair`: peak anonymous memory (RssAnon; mapped pages do not count).

Takes 0.5 GB of disk and minutes; the matrix is never in memory, because the limit for that is set to 0.25 GiB here.
"""

from __future__ import annotations

import tempfile
import time

import common
import numpy as np
from memory import Peak, rss_anon, stored

TARGETS = {"peak": {"what": "a million clips through `fair`: peak RssAnon", "most": 3, "unit": "GiB"}}


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--clips", type=int, default=1_000_000)
    words.add_argument("--dim", type=int, default=128)
    words.add_argument("--classes", type=int, default=10)
    arguments = words.parse_args()
    n, dim, classes = (20_000 if arguments.quick else arguments.clips), arguments.dim, arguments.classes

    from evar.probes import evaluate, features

    features.RESIDENT_BYTES = min(1 << 28, n * dim * 4 // 2)
    with tempfile.TemporaryDirectory() as folder:
        source, y, split = stored(folder, n, dim, classes, 0.3)
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
