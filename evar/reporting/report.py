"""One self-contained HTML page of all that was measured: data as JSON, drawn by the page's own script, no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evar
from evar.errors import EvarError
from evar.files import atomic_write
from evar.reporting.report_confusion import MOST_ENTRIES, confusion, pack, together
from evar.reporting.report_embeddings import Points, labelled, with_costs
from evar.reporting.report_rows import boards, command_of, natural, runs_of, select
from evar.reporting.report_training import CURVES, Training, read_training
from evar.results import Results
from evar.results_files import LEADERBOARD_COLUMNS
from evar.store_format import set_folders

if TYPE_CHECKING:
    import pandas as pd

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("base.js", "tables.js", "provenance.js", "charts.js", "classes.js", "figures.js", "page.js")
_MOST_RUNS, _ALL_RUNS = 60, 100_000  # fold × seed scores shown per cell and per page
EXAMPLE = "evar run logmel,random:byola-v2 esc50 --mini"


@dataclass(frozen=True)
class Options:
    """What goes into a report.

    tasks, encoders: globs. projections: how many cells are shown as points. parameters: counts, by encoder label.
    """

    results: str = "results"
    embeddings: str = "embeddings"
    training: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    tasks_dir: str | None = None
    tasks: str | None = None
    encoders: str | None = None
    protocol: str | None = None
    projections: int = 6
    umap: bool = False
    title: str = "What was measured"
    parameters: Mapping[str, int] = field(default_factory=dict)


def write_report(path: str | Path, options: Options, warn: Callable[[str], None] = lambda _: None) -> dict[str, int]:
    """Write the page; returns {cells, bytes}. What is left out (a damaged file of predictions) is told through `warn`.

    EvarError: a results folder that cannot be read, too many cells for a page, a training folder without a log, or a
    place that cannot be written.
    """
    data = collect(options, warn)
    page = render(data).encode("utf-8", "backslashreplace")
    atomic_write(path, page)
    return {"cells": len(data["rows"]), "bytes": len(page)}


def collect(options: Options, warn: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """All that the page shows, as JSON values; equal results give equal values (no dates of now)."""
    results = Results(options.results)
    rows = select(results, options.tasks, options.encoders, options.protocol)
    trainings = [read_training(folder) for folder in options.training]
    data: dict[str, Any] = {
        "title": options.title,
        "version": evar.__version__,
        "example": EXAMPLE,
        "results": str(options.results),
        "columns": LEADERBOARD_COLUMNS,
        "rows": [],
        "boards": [],
        "confusion": {},
        "projections": [],
        "layers": [],
        "training": [_training(one) for one in trainings],
    }
    if len(rows):
        runs = runs_of(results, rows)
        rows = with_costs(rows, options.embeddings, options.parameters)
        most = min(_MOST_RUNS, _ALL_RUNS // len(rows))
        runs = {cell: own for cell, own in runs.items() if len(own) <= most}  # more than that is no strip of points
        data["rows"] = [_row(row, runs.get(row["cell_id"], [])) for _, row in rows.iterrows()]
        data["boards"] = boards(rows)
        data["confusion"] = _confusions(results, rows, warn)
        data["layers"] = natural(rows["layers"])
        data["projections"] = _projections(results, rows, options, warn)
    return data


def render(data: dict[str, Any]) -> str:
    """The page as text. Data are embedded as JSON that no `</script>` can end; a policy in the page forbids all network."""
    script = "(() => {\n'use strict';\n" + "".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS) + "})();\n"
    style = (ASSETS / "report.css").read_text("utf-8")
    parts = {
        "title": html.escape(data["title"]),
        "policy": f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_sha256(script)}'; img-src data:",
        "style": style,
        "data": embedded(data),
        "script": script,
    }
    page = (ASSETS / "report.html").read_text("utf-8")
    for name in parts:  # in one pass each, and data last but one: a title cannot smuggle a placeholder in
        head, found, tail = page.partition(f"<!--{name}-->")
        assert found, name
        parts[name] = head + parts[name]
        page = tail
    return "".join(parts.values()) + page


def embedded(value: Any) -> str:
    """JSON that is safe inside a script element: no `<`, `>` or `&`, and no line separators that end a string."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _row(row: pd.Series, runs: list[list]) -> dict[str, Any]:
    return {
        "v": [_plain(row[name]) for name in LEADERBOARD_COLUMNS],
        "rank": _plain(row["rank"]),
        "col": int(row["column"]),
        "line": int(row["line"]),
        "speed": _plain(row["speed"], 4),
        "dim": _plain(row["dim"]),
        "params": _plain(row["params"]),
        "cmd": command_of(row),
        "runs": runs,
    }


def _plain(value: Any, digits: int | None = None) -> Any:
    """A JSON value: missing, NaN and infinity as None, text without lone surrogates."""
    if value is None or str(value) == "<NA>":
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(f"{value:.{digits}g}") if digits else value
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _confusions(results: Results, rows: pd.DataFrame, warn: Callable[[str], None]) -> dict[str, dict]:
    """column -> {classes, cells: {index of the row: packed counts}} for all single-label cells with predictions."""
    columns: dict[int, dict[int, Any]] = {}
    absent, damaged = [], []
    for at, row in enumerate(rows.to_dict("records")):
        if row["metric"] != "accuracy":
            continue
        try:
            one = confusion(results.predictions(row["cell_id"]), f"predictions of {row['cell_id']}")
        except EvarError as error:
            (absent if "is missing" in str(error) else damaged).append(str(error))
            continue
        if one is not None and len(one.classes):
            columns.setdefault(row["column"], {})[at] = one
    for told, what in ((absent, "have no predictions"), (damaged, "have damaged predictions")):
        if told:
            warn(f"{len(told)} of {len(rows)} cells {what}, their confusion matrices are left out: {told[0]}")
    most = MOST_ENTRIES // max(1, sum(map(len, columns.values())))
    made = {}
    for column, cells in columns.items():
        classes, cells = together(cells)
        made[str(column)] = {
            "classes": [_plain(name) for name in classes],
            "cells": {str(at): pack(one, max(most, len(classes))) for at, one in cells.items()},
        }
    return made


def _projections(results: Results, rows: pd.DataFrame, options: Options, warn: Callable[[str], None]) -> list[dict]:
    """Up to `projections` cells as points: the best of each task, then the second best, as far as the store has them."""
    made: list[dict] = []
    if not options.projections or not set_folders(Path(options.embeddings)):
        return made
    ranked = rows[(rows["metric"] == "accuracy") & ~rows["synthetic"]]
    ranked = ranked if len(ranked) else rows[rows["metric"] == "accuracy"]
    ranked = ranked.assign(seen=ranked["encoder_fingerprint"] + ranked["task_fingerprint"] + ranked["layers"])
    ranked = ranked.sort_values(["protocol", "rank"], kind="stable").drop_duplicates("seen")
    turn = ranked.groupby("task").cumcount()
    first = ""
    tried = 0
    for at in turn.sort_values(kind="stable").index:
        if len(made) >= options.projections or tried >= 4 * options.projections:
            break
        tried += 1
        row = rows.loc[at]
        try:
            one = labelled(results, row, options.embeddings, data=options.data, tasks_dir=options.tasks_dir)
            methods = ["tsne", "pca", *(["umap"] if options.umap else [])]
            points = [one.project(method) for method in methods]
        except EvarError as error:
            if "umap" in str(error):
                raise
            first = first or str(error)
            continue
        made.append({"row": int(at), **_points(points)})
    if first and len(made) < options.projections:
        warn(f"some embeddings are not shown as points: {first}")
    return made


def _points(of: Sequence[Points]) -> dict[str, Any]:
    labels = natural(of[0].labels)
    return {
        "classes": labels,
        "label": [labels.index(name) for name in of[0].labels],
        "clip": list(of[0].clip_ids),
        "right": of[0].right.tolist(),
        "total": of[0].n_clips,
        "methods": [
            {
                "name": one.method,
                "xy": _thousandths(one),
                "explained": None if math.isnan(one.explained) else one.explained,
            }
            for one in of
        ],
    }


def _thousandths(one: Points) -> list[int]:
    """x0, y0, x1, y1 ... in whole thousandths of the longer side, the same scale for both axes."""
    low = one.xy.min(axis=0)
    span = float((one.xy.max(axis=0) - low).max()) or 1.0
    return ((one.xy - low) / span * 1000).round().astype(int).ravel().tolist()


def _training(one: Training) -> dict[str, Any]:
    def short(points: tuple[list[float], list[float]]) -> dict[str, list]:
        return {"x": [_plain(x, 7) for x in points[0]], "y": [_plain(y, 5) for y in points[1]]}

    return {
        "name": one.name,
        "skipped": one.skipped,
        "curves": [{"key": key, "title": CURVES[key], **short(points)} for key, points in one.curves.items()],
        "probes": [
            {"encoder": encoder, "task": task, "split": split, **short(points)}
            for (encoder, task, split), points in one.probes.items()
        ],
    }
