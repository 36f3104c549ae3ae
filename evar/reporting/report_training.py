"""Pre-training runs as curves: `log.csv` and `probe.csv` of a run folder, whatever columns they hold."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path

from evar.errors import EvarError

LOG, PROBE = "log.csv", "probe.csv"
# What is drawn, in this order, where it is there: column -> title with unit
CURVES = {
    "loss": "loss",
    "embedding_std": "standard deviation of the embedding (0: collapsed)",
    "uniformity": "uniformity (lower: more evenly spread)",
    "lr": "learning rate",
    "samples_per_s": "clips per second",
}
_POINTS = 400  # per curve; longer ones become means of equal stretches


@dataclass(frozen=True)
class Training:
    """One run. curves: column -> ([step], [value]); probes: (encoder, task, split and protocol) -> ([step], [score, 0-1]).

    skipped: lines that are not numbers (a run that is still being written ends in the middle of one).
    """

    name: str
    curves: dict[str, tuple[list[float], list[float]]]
    probes: dict[tuple[str, str, str], tuple[list[float], list[float]]] = field(default_factory=dict)
    skipped: int = 0


def read_training(folder: str | Path) -> Training:
    """Read a pre-training run folder; absent columns are left out, `step` is the row number where it is absent.

    EvarError: no folder, no log.csv in it, not UTF-8 CSV, or a log without a single number to draw.
    """
    folder = Path(folder)
    header, rows = _table(folder / LOG)
    steps = _numbers(rows, header, "step") if "step" in header else [float(i) for i in range(1, len(rows) + 1)]
    skipped = sum(math.isnan(step) for step in steps)
    curves = {}
    for column in CURVES:
        if column in header:
            points = _points(steps, _numbers(rows, header, column))
            if points[0]:
                curves[column] = _thinned(*points)
    probes = _probes(folder / PROBE) if (folder / PROBE).exists() else {}
    if not curves and not probes:
        raise EvarError(
            f"{folder / LOG}: nothing to draw, expected a column of {', '.join(CURVES)}; found {', '.join(header) or 'nothing'}"
        )
    return Training(folder.name or str(folder), curves, probes, skipped)


def _probes(path: Path) -> dict[tuple[str, str, str], tuple[list[float], list[float]]]:
    header, rows = _table(path)
    label = next((name for name in ("encoder", "encoder_label", "label") if name in header), None)
    if "step" not in header or "score" not in header:
        return {}
    found: dict[tuple[str, str, str], tuple[list[float], list[float]]] = {}
    steps, scores = _numbers(rows, header, "step"), _numbers(rows, header, "score")
    for row, step, score in zip(rows, steps, scores, strict=True):
        encoder, task, *how = (
            row[header.index(n)] if n in header else "" for n in (label, "task", "split", "protocol")
        )
        if math.isfinite(step) and math.isfinite(score):
            points = found.setdefault((encoder, task, " ".join(filter(None, how))), ([], []))
            points[0].append(step)
            points[1].append(score)
    return {key: _thinned(*_points(*points)) for key, points in found.items()}


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
    except FileNotFoundError:
        raise EvarError(
            f"{path} is not there: give the folder of a pre-training run ('evar pretrain' writes {LOG})"
        ) from None
    except OSError as error:
        raise EvarError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvarError(f"{path} is not UTF-8 CSV ({error}): mend it, or leave this run out") from None
    return header, [row for row in rows if len(row) == len(header)]


def _numbers(rows: list[list[str]], header: list[str], column: str) -> list[float]:
    at = header.index(column)
    return [_number(row[at]) for row in rows]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _points(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """The finite points in the order of steps; a step written twice (a run that was resumed) keeps its last value."""
    kept = {s: v for s, v in zip(steps, values, strict=True) if math.isfinite(s) and math.isfinite(v)}
    ordered = sorted(kept)
    return ordered, [kept[step] for step in ordered]


def _thinned(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    if len(steps) <= _POINTS:
        return steps, values
    edges = [round(i * len(steps) / _POINTS) for i in range(_POINTS + 1)]
    spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return [sum(steps[s]) / len(steps[s]) for s in spans], [sum(values[s]) / len(values[s]) for s in spans]
