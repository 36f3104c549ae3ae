"""Shared by the benchmarks: timing side by side, the machine and its limits, tables, targets, JSON.

A benchmark is a file of this folder with a `main()`; run_all.py finds it. It takes `--json FILE` and `--quick` (a short
round that only shows that it works), and ends with `finish`. What it should reach stands beside its code, as a literal:

    TARGETS = {"search": {"what": "fair search against scikit-learn", "least": 5, "unit": "x"}}     # or "most"
    finish("probe search", rows, TARGETS, {"search": ratio})

Import this module before torch: OpenMP reads once, when it is loaded, how its threads wait.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the `evar` command does

GEMM_SIZES = (1024, 2048, 3072)
COPY_BYTES = 1 << 28


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, and how far they lie apart."""

    median: float
    least: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        if self.runs == 1:
            return _number(self.median)
        return f"{_number(self.median)} ({_number(self.least)}-{_number(self.most)})"


def plain_linears(network):
    """A copy of a network whose linear layers multiply by PyTorch's own choice of library, as anybody's do."""
    from torch import nn

    plain = copy.deepcopy(network)
    for layer in plain.modules():
        if isinstance(layer, nn.Linear):
            layer.__class__ = nn.Linear
    return plain


def side_by_side(works: Mapping[str, Callable[[], object]], runs: int = 5, warmup: int = 1) -> dict[str, list[float]]:
    """Wall-clock seconds of each work in each round; rounds go forth and back, so that a drifting machine hits all alike."""
    for _ in range(warmup):
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run in range(runs):
        for name in list(works)[:: -1 if run % 2 else 1]:
            begun = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, one work's seconds over another's."""
    return [a / b for a, b in zip(above, below, strict=True)]


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    return Spread.of(ratios(above, below))


def rate(n: float, seconds: Sequence[float]) -> Spread:
    """`n` things per second."""
    return Spread.of([n / value for value in seconds])


def median_seconds(work: Callable[[], object], runs: int = 5, warmup: int = 1) -> float:
    """Median wall-clock seconds of `work` over `runs` runs after `warmup` that do not count."""
    return statistics.median(side_by_side({"": work}, runs, warmup)[""])


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
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
    }


@functools.cache
def limits(device: str = "cpu") -> dict[str, float]:
    """What this machine's arithmetic and memory allow: the best of a few seconds' tries (fewer with `--quick`), all threads.

    gemm_gflops: float32 products of square matrices by the faster of the libraries that torch carries (`torch.mm`, oneDNN),
    10^9 operations/s, TF32 off. copy_gb_s: 10^9 bytes read and written per second by a copy from one block of memory to
    another, both larger than the caches.
    """
    import torch

    from evar.products import product

    def best(work: Callable[[], object], tries: int) -> float:
        taken = []
        for _ in range(tries + 1):  # the first touches memory and starts threads
            begun = time.perf_counter()
            work()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - begun)
        return min(taken[1:])

    quick = "--quick" in sys.argv
    tries, gflops = 2 if quick else 8, []
    for size in GEMM_SIZES[: 1 if quick else None]:
        a, b, out = (torch.rand(size, size, device=device) for _ in range(3))
        for multiply in (lambda a=a, b=b, out=out: torch.mm(a, b, out=out), lambda a=a, b=b: product(a, b)):
            gflops.append(2e-9 * size**3 / best(multiply, tries))
    source = torch.ones(COPY_BYTES // 4, device=device)
    goal = torch.zeros_like(source)
    return {"gemm_gflops": max(gflops), "copy_gb_s": 2e-9 * COPY_BYTES / best(lambda: goal.copy_(source), tries)}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; `doc` is the module's docstring."""
    words = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--quick", action="store_true", help="a short round: shows that it works, numbers mean nothing")
    words.add_argument("--json", metavar="FILE", help="also write rows, targets, machine and its limits")
    return words


def finish(
    name: str,
    rows: list[dict],
    targets: Mapping[str, dict] | None = None,
    measured: Mapping[str, float | Spread] | None = None,
    more: Mapping[str, list[dict]] | None = None,
    audio: str | None = None,
) -> None:
    """Print the rows (and `more` tables, by title) and the targets; with `--json FILE` also write them.

    targets: key -> {"what", "least" or "most", "unit"}; a key that `measured` lacks was not measured in this run.
    audio: what was heard (`synthetic`, or the folder's name), where the benchmark hears anything.
    """
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--json", metavar="FILE")
    path = options.parse_known_args()[0].json
    judged = [judge(target, (measured or {}).get(key)) for key, target in (targets or {}).items()]
    print(f"## {name}" + (f" (audio: {audio})" if audio else "") + f"\n\n{markdown(rows)}")
    for title, table in (more or {}).items():
        print(f"\n### {title}\n\n{markdown(table)}")
    if judged:
        print(f"\n{summary(judged)}")
    if path:
        found = {"benchmark": name, "audio": audio, "machine": machine(), "limits": limits(), "rows": rows}
        found |= {"more": more or {}, "targets": judged}
        Path(path).write_text(json.dumps(found, indent=1, default=_plain) + "\n")


def judge(target: dict, value: float | Spread | None) -> dict:
    """A target with what was measured: adds `measured` (the median) and `met` (None where nothing was measured)."""
    middle = value.median if isinstance(value, Spread) else value
    met = None if middle is None else middle >= target["least"] if "least" in target else middle <= target["most"]
    spread = asdict(value) if isinstance(value, Spread) else None
    return {**target, "measured": middle, "spread": spread, "met": None if met is None else bool(met)}


def summary(judged: Sequence[dict]) -> str:
    """what | target | measured | met?, as Markdown."""
    rows = []
    for one in judged:
        unit = one.get("unit", "")
        unit = unit if unit in ("", "x", "%") else f" {unit}"
        bound = f"at least {one['least']}" if "least" in one else f"at most {one['most']}"
        value = "not measured" if one["measured"] is None else f"**{_number(one['measured'])}{unit}**"
        if one["spread"] and one["spread"]["runs"] > 1:
            value += f" ({_number(one['spread']['least'])}-{_number(one['spread']['most'])})"
        met = {True: "yes", False: "no", None: ""}[one["met"]]
        rows.append({"what": one["what"], "target": bound + unit, "measured": value, "met?": met})
    return markdown(rows)


def markdown(rows: Sequence[dict]) -> str:
    """Rows of any keys as one Markdown table, padded so that it reads well in a terminal too."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    lines = [header, *[[_text(row.get(key, "")) for key in header] for row in rows]]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def _text(value: object) -> str:
    return "" if value is None else _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """Three digits, and no exponent where people read none: 0.0123, 12.3, 12345."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(value: object) -> object:
    """What JSON does not know: spreads, NumPy's numbers."""
    return asdict(value) if isinstance(value, Spread) else value.item()
