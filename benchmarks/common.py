"""Shared by the benchmarks: the machine in words, medians of repeated runs, tables, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def machine() -> dict:
    """Processor, cores, threads and library versions, as far as the system tells."""
    import sklearn
    import torch

    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
    }


def median_seconds(work: Callable[[], object], runs: int = 5, warmup: int = 1) -> float:
    """Median wall-clock seconds of `work` over `runs` runs after `warmup` that do not count."""
    for _ in range(warmup):
        work()
    seconds = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def finish(name: str, rows: list[dict]) -> None:
    """Print the rows as a table; with `--json FILE` also write them, with the machine."""
    parser = argparse.ArgumentParser(description=f"benchmark: {name}")
    parser.add_argument("--json", metavar="FILE")
    arguments, _ = parser.parse_known_args()
    header = list(rows[0])
    lines = [header, *[[_text(row.get(key, "")) for key in header] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    print(f"## {name}")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"benchmark": name, "machine": machine(), "rows": rows}, indent=1) + "\n"
        )


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
