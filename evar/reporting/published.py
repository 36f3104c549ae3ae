"""Published figures as data: those that ship with evar, and a CSV of the user's own that extends or overrides them."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from evar.errors import EvarError, nearest, unknown

COLUMNS = (
    "table",
    "protocol",
    "model",
    "evar_name",
    "weights",
    "pooling",
    "sample_rate",
    "task",
    "metric",
    "mean",
    "std",
    "spread",
    "remark",
)
SPREADS = ("std", "ci95")
METRICS = ("accuracy", "mAP")
REQUIRED = ("table", "model", "task", "mean")
_WEIGHTS = (".pth", ".pt", ".safetensors", ".bin", ".ckpt")


@dataclass(frozen=True)
class Figure:
    """One published number. mean, std, ci95: percent; "" where something is not known.

    std: the deviation over seeds, ci95: half of a 95 % interval; None where it was not published, so never both.
    remark: why the figure is doubtful, or where it is quoted from.
    """

    table: str
    model: str
    task: str
    mean: float
    std: float | None = None
    protocol: str = ""
    evar_name: str = ""
    weights: str = ""
    pooling: str = ""
    sample_rate: int | None = None
    metric: str = "accuracy"
    ci95: float | None = None
    remark: str = ""

    @property
    def spread(self) -> float | None:
        """What stands after the ±, a deviation or half of an interval."""
        return self.std if self.ci95 is None else self.ci95

    @property
    def weights_file(self) -> str:
        """The name of the published weights file, "" where it is not known."""
        first = self.weights.split(" ")[0]
        return first if first.endswith(_WEIGHTS) else ""


@dataclass(frozen=True)
class PaperTable:
    """What a published table is. tasks: columns in order; average: the tasks that its average covers (none: it has none).

    protocol: in words where it is another one than that of the linear tables: nothing measured stands beside such figures.
    marks: (model, task) -> what stands in place of a number that is not quoted.
    """

    name: str
    source: str
    title: str
    citation: str
    tasks: tuple[str, ...]
    average: tuple[str, ...]
    quoted: Mapping[str, float] = field(default_factory=dict)
    protocol: str = ""
    marks: Mapping[tuple[str, str], str] = field(default_factory=dict)


def figures(own: str | Path | None = None) -> list[Figure]:
    """The shipped figures in their order; those of the CSV file `own` replace them (same table, model, task) or follow.

    `own` has the columns of docs/tables.md; in `table` the short name of a shipped table (`byola-v2`) will do.
    Raises EvarError, one line that names file and line, for whatever cannot be taken as it stands.
    """
    found = {_key(figure): figure for figure in _shipped()}
    if own is not None:
        aliases = {table.name: table.source for table in paper_tables().values()}
        found |= {_key(figure): figure for figure in read_figures(own, aliases)}
    return list(found.values())


@functools.cache
def paper_tables() -> dict[str, PaperTable]:
    """The tables that ship, by the name that `evar table` takes."""
    stated = _yaml("tables.yaml")
    return {
        name: PaperTable(
            name,
            keys["source"],
            keys["title"],
            keys["citation"],
            tuple(keys["tasks"]) or tuple(dict.fromkeys(one.task for one in _shipped() if one.table == keys["source"])),
            tuple(keys.get("average", ())),
            keys.get("quoted", {}),
            keys.get("protocol", ""),
            {(model, task): UNIT_ERROR for model, tasks in keys.get("unit_errors", {}).items() for task in tasks},
        )
        for name, keys in stated.items()
    }


UNIT_ERROR = "unit error"
"""In place of scores near zero that come from seconds where milliseconds are asked; they say nothing of the models."""


def comparable(found: Iterable[Figure]) -> list[Figure]:
    """The figures that a measured number may be held to without more ado: not those of tables of another protocol."""
    apart = {table.source for table in paper_tables().values() if table.protocol}
    return [figure for figure in found if figure.table not in apart]


def own_tables(found: Iterable[Figure]) -> dict[str, PaperTable]:
    """The tables of figures that ship with no description: tasks in order of appearance, the average over all of them."""
    shipped = {table.source for table in paper_tables().values()}
    tasks: dict[str, dict[str, None]] = {}
    for figure in found:
        if figure.table not in shipped:
            tasks.setdefault(figure.table, {})[figure.task] = None
    return {
        name: PaperTable(name, name, name, "", tuple(columns), tuple(columns) if len(columns) > 1 else ())
        for name, columns in tasks.items()
    }


def extended(paper: PaperTable, found: Iterable[Figure]) -> PaperTable:
    """The table with further columns for tasks that the user's own figures add; the average stays the paper's."""
    tasks = [figure.task for figure in found if figure.table == paper.source]
    return replace(paper, tasks=tuple(dict.fromkeys([*paper.tasks, *tasks])))


@functools.cache
def reproduction() -> dict[str, Any]:
    """What is known of how the figures were made: `seconds` by task, `caveats` by encoder glob, `pooled_inside`."""
    return _yaml("reproduction.yaml")


def read_figures(path: str | Path, aliases: Mapping[str, str] | None = None) -> list[Figure]:
    """The figures of a CSV file with at least the columns REQUIRED; EvarError names the line that cannot be taken.

    aliases: names of tables -> what stands in their `table` column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            return _parsed(csv.reader(stream, strict=True), str(path), aliases or {})
    except OSError as error:
        raise EvarError(
            f"cannot read {path}: {error.strerror}; give a CSV with the columns {', '.join(REQUIRED)}"
        ) from None
    except UnicodeDecodeError:
        raise EvarError(f"{path} is not UTF-8: save it as CSV, UTF-8") from None
    except csv.Error as error:
        raise EvarError(f"{path} is not CSV: {error}") from None


@functools.cache
def _shipped() -> tuple[Figure, ...]:
    data = files("evar.reporting") / "data"
    shipped = [figure for name in ("published.csv", "published_more.csv") for figure in read_figures(str(data / name))]
    return (*shipped, *_hear(str(data / "hear_leaderboard.csv")))


def _hear(path: str) -> list[Figure]:
    """The HEAR leaderboard as figures; its unit errors are no figures (tables.yaml names them)."""
    errors = {(model, task) for model, tasks in _yaml("tables.yaml")[HEAR]["unit_errors"].items() for task in tasks}
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        Figure(HEAR, row["Model"], task, round(100 * float(value), 4), protocol="HEAR 2021", metric="score")
        for row in rows
        for task, value in row.items()
        if task not in ("Model", "URL", "Submission Date") and value and (row["Model"], task) not in errors
    ]


HEAR = "hear-leaderboard"


def _yaml(name: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((files("evar.reporting") / "data" / name).read_text(encoding="utf-8"))


def _key(figure: Figure) -> tuple[str, str, str]:
    return figure.table, figure.model, figure.task


def _parsed(reader: Any, path: str, aliases: Mapping[str, str]) -> list[Figure]:
    header = [name.strip() for name in next(reader, [])]
    _check_header(header, path)
    found: list[Figure] = []
    seen: dict[tuple[str, str, str], int] = {}
    for fields in reader:
        where = f"{path} line {reader.line_num}"
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            raise EvarError(f"{where}: {len(fields)} fields, expected {len(header)}")
        row = {name: value.strip() for name, value in zip(header, fields, strict=True) if name in COLUMNS}
        row["table"] = aliases.get(row["table"], row["table"])
        figure = _figure(row, where)
        key = _key(figure)
        if key in seen:
            raise EvarError(f"{where}: {' / '.join(key)} stands in line {seen[key]} already: remove one of the two")
        seen[key] = reader.line_num
        found.append(figure)
    if not found:
        raise EvarError(f"{path} holds no figure: expected one row per model and task")
    if all(figure.mean <= 1 for figure in found) and any(figure.mean > 0 for figure in found):
        raise EvarError(f"{path}: no mean is above 1; expected percent (83.2), not fractions (0.832)")
    return found


def _check_header(header: list[str], path: str) -> None:
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise EvarError(f"{path} line 1: no column {', '.join(missing)}; expected at least {', '.join(REQUIRED)}")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise EvarError(f"{path} line 1: the column {twice[0]!r} stands there twice")
    for name in header:
        near = nearest(name, COLUMNS) if name not in COLUMNS else None
        if near and near not in header:
            raise unknown(f"column in {path} line 1:", name, COLUMNS)


def _figure(row: Mapping[str, str], where: str) -> Figure:
    for name in ("table", "model", "task"):
        if not row[name]:
            raise EvarError(f"{where}: no {name}")
        if not row[name].isprintable():
            raise EvarError(f"{where}: {name} {row[name][:40]!r} holds a sign that cannot be printed: remove it")
    mean = _percent(row["mean"], "mean", where)
    after = _percent(row["std"], "std", where) if row.get("std") else None
    spread = row.get("spread") or "std"
    if spread not in SPREADS:
        raise EvarError(f"{where}: {unknown('spread', spread, SPREADS)} (what the column std holds)")
    std, ci95 = (after, None) if spread == "std" else (None, after)
    metric = row.get("metric") or "accuracy"
    if metric not in METRICS:
        raise EvarError(f"{where}: {unknown('metric', metric, METRICS)}")
    rate = row.get("sample_rate") or None
    try:
        rate = None if rate is None else int(float(rate))
    except (ValueError, OverflowError):
        raise EvarError(f"{where}: sample_rate is {rate!r}, expected Hz such as 16000") from None
    text = {name: row.get(name, "") for name in ("protocol", "evar_name", "weights", "pooling", "remark")}
    return Figure(
        row["table"], row["model"], row["task"], mean, std, metric=metric, sample_rate=rate, ci95=ci95, **text
    )


def _percent(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 100:
        raise EvarError(f"{where}: {name} is {text[:40]!r}, expected percent from 0 to 100")
    return value
