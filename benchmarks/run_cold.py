"""`evar run random:byola-v1-512 pack-fsdd` (1,200 real clips) cold, then warm (a new protocol on stored embeddings), after imports.

Without ../shared/data the mini of `fsdd` stands in, and the table says so. Each run is a process of its own; seconds are
of work after imports.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from common import SHARED, finish

CODE = """
import sys, time, warnings
import torch, pandas, sklearn.metrics, sklearn.linear_model, scipy.fft, pyarrow.parquet, soundfile, soxr, tqdm
import evar.runner, evar.results, evar.store, evar.probes.evaluation, evar.audio.cache, evar.encoders.byola
words = dict(results="results", embeddings="embeddings", probe=sys.argv[1])
words |= dict(data=[sys.argv[2]], tasks_dir=sys.argv[3]) if sys.argv[2] else dict(mini=True)
begun = time.perf_counter()
rows = evar.runner.run("random:byola-v1-512", "pack-fsdd" if sys.argv[2] else "fsdd", **words)
print(time.perf_counter() - begun, rows["mean"].iloc[0], rows["n_train"].iloc[0] + rows["n_valid"].iloc[0] + rows["n_test"].iloc[0])
"""


def main() -> None:
    cards = str(Path(__file__).resolve().parents[1] / "tests" / "cards")
    data = str(SHARED) if SHARED.is_dir() else ""
    rows = []
    for run in range(3):
        with tempfile.TemporaryDirectory() as folder:
            for state, probe in (("cold", "fair"), ("warm, knn", "knn"), ("warm, paper", "paper")):
                done = subprocess.run(
                    [sys.executable, "-c", CODE, probe, data, cards],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                seconds, accuracy, clips = map(float, done.stdout.split())
                rows.append(
                    {
                        "run": run + 1,
                        "state": state,
                        "clips": int(clips),
                        "seconds of work": seconds,
                        "accuracy": accuracy,
                        "audio": "real" if data else "synthetic mini",
                    }
                )
    finish(
        "evar run random:byola-v1-512 pack-fsdd, cold and warm",
        sorted(rows, key=lambda row: (row["state"], row["run"])),
    )


if __name__ == "__main__":
    main()
