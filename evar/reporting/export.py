"""All results as one tidy table (CSV, Parquet), or sent to TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, unknown
from evar.extras import require
from evar.files import atomic_write, atomic_writer
from evar.reporting.formats import format_of
from evar.results import Results
from evar.results_files import LEADERBOARD_COLUMNS, SCHEMA, csv_bytes, no_formula
from evar.store_format import readable

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("cells", "runs", "predictions")
SUFFIXES = {".parquet": "parquet", ".csv": "csv"}
KEYS = ["cell_id", "encoder", "task", "protocol"]  # lead each line of the predictions
PREDICTION_COLUMNS = [
    *KEYS, "clip_id", "group", "fold", "seed", "target", "predicted", "score_true", "targets", "scores",
]  # fmt: skip
_CHUNK = 50_000  # rows of CSV text at a time
# where -> (the extra that it needs, what follows the colon)
SINKS = {"tensorboard": ("train", "DIR"), "mlflow": ("mlflow", "URI"), "wandb": ("wandb", "PROJECT")}


def table(results: Results, kind: str, warn: Callable[[str], None] = lambda _: None) -> pd.DataFrame:
    """`cells`: one row per cell. `runs`: per fold × seed. `predictions`: per clip × fold × seed. Schema: docs/results-schema.md.

    EvarError: no folder, nothing measured, rows that cannot be read. Cells without predictions are told through `warn`.
    """
    if kind not in TABLES:
        raise unknown("table", kind, TABLES)
    if results.folder.exists() and not results.folder.is_dir():
        raise EvarError(f"--results {results.folder} is not a folder")
    made = results.runs() if kind == "runs" else results.leaderboard()
    if made.empty:
        raise EvarError(f"nothing measured yet in {results.folder}: try 'evar run logmel,random:byola-v2 esc50 --mini'")
    return _predictions(results, made, warn) if kind == "predictions" else made


def write_table(made: pd.DataFrame, path: str | Path, form: str | None = None) -> str:
    """Write a table as `csv` or `parquet` (by the suffix unless `form` says); returns which. In CSV lists become `a|b`, and what a
    spreadsheet would run stands behind an apostrophe (`no_formula`).

    EvarError: another suffix, a place that cannot be written.
    """
    path = Path(path)
    chosen = format_of(path, form, SUFFIXES)
    if chosen == "parquet":
        made.attrs = {"evar_schema": SCHEMA}
        buffer = io.BytesIO()
        made.to_parquet(buffer, index=False)
        atomic_write(path, buffer.getvalue())
        return chosen
    from evar.results_files import as_text

    with atomic_writer(path) as stream:
        stream.write(csv_bytes([list(made.columns)]))
        for start in range(0, len(made), _CHUNK):
            part = made.iloc[start : start + _CHUNK]
            stream.write(csv_bytes([[_joined(v, as_text) for v in row] for row in part.itertuples(index=False)]))
    return chosen


def _joined(value: Any, as_text: Callable[[Any], str]) -> str:
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0):
        return no_formula("|".join(as_text(item) for item in value))
    return no_formula(as_text(value)) if isinstance(value, str) else as_text(value)


def _predictions(results: Results, cells: pd.DataFrame, warn: Callable[[str], None]) -> pd.DataFrame:
    import pandas as pd

    parts, problems = [], []
    for _, row in cells.iterrows():
        try:
            part = results.predictions(row["cell_id"])
        except EvarError as error:
            problems.append(str(error))
            continue
        part = part.reindex(columns=[name for name in PREDICTION_COLUMNS if name in part])
        for at, name in enumerate(KEYS):
            part.insert(at, name, row[name])
        parts.append(part)
    if problems:
        warn(f"{len(problems)} of {len(cells)} cells have no predictions that can be read: {problems[0]}")
    if not parts:
        raise EvarError(f"no cell of {results.folder} has predictions: {problems[0]}")
    made = pd.concat(parts, ignore_index=True)
    for name in {"targets", "scores"} & set(made):  # NaN where a task is single-label
        made[name] = pd.Series([None if isinstance(value, float) else value for value in made[name]], dtype=object)
    return made[[name for name in PREDICTION_COLUMNS if name in made]]


def send(cells: pd.DataFrame, to: str) -> str:
    """Log the leaderboard to `tensorboard:DIR`, `mlflow:URI` or `wandb:PROJECT`; returns one line about what was done.

    EvarError: an unknown place, or its package is not installed (nothing else of evar needs it).
    """
    kind, _, where = to.partition(":")
    if kind not in SINKS:
        raise unknown(
            "place to log to", kind, SINKS, f"(expected {', '.join(f'{k}:{v[1]}' for k, v in SINKS.items())})"
        )
    extra, wanted = SINKS[kind]
    if not where:
        raise EvarError(f"--to {to}: expected {kind}:{wanted}")
    require(extra, f"--to {kind}")
    {"tensorboard": _to_tensorboard, "mlflow": _to_mlflow, "wandb": _to_wandb}[kind](cells, where)
    return f"{len(cells)} cells logged to {kind} ({where})"


def _scores(row: dict) -> dict[str, float]:
    names = ("mean", "ci95_low", "ci95_high", "macro_f1")
    return {row["metric"] if name == "mean" else name: float(row[name]) for name in names if row[name] == row[name]}


def _settings(row: dict) -> dict[str, str]:
    from evar.results_files import as_text

    measured = {"mean", "std", "ci95_low", "ci95_high", "macro_f1"}
    return {name: as_text(row[name]) for name in LEADERBOARD_COLUMNS if name not in measured}


def _to_tensorboard(cells: pd.DataFrame, where: str) -> None:
    """One run per encoder and configuration; a scalar per protocol, task and score. Step 0: nothing here is a series.

    Sending the same cells again replaces the file.
    """
    import datetime

    from evar.events import EventWriter

    for (encoder, layers, pooling), part in cells.groupby(["encoder", "layers", "pooling"]):
        rows = part.to_dict("records")
        moments = [datetime.datetime.fromisoformat(row["started_at"]).timestamp() for row in rows]
        folder = Path(where) / readable(f"{encoder} {layers} {pooling}")
        with atomic_writer(folder / f"events.out.tfevents.{int(min(moments))}.evar") as stream:
            writer = EventWriter(stream, min(moments))
            for row, moment in zip(rows, moments, strict=True):
                kind = "synthetic " if row["synthetic"] else ""
                scores = {
                    f"{kind}{row['protocol']}/{row['task']}/{name}": score for name, score in _scores(row).items()
                }
                writer.scalars(moment, 0, scores)


def _to_mlflow(cells: pd.DataFrame, where: str) -> None:
    mlflow = importlib.import_module("mlflow")
    mlflow.set_tracking_uri(where)
    mlflow.set_experiment("evar")
    for row in cells.to_dict("records"):
        with mlflow.start_run(run_name=f"{row['encoder']} on {row['task']} ({row['protocol']})"):
            mlflow.log_params(_settings(row))
            mlflow.log_metrics(_scores(row))


def _to_wandb(cells: pd.DataFrame, where: str) -> None:
    wandb = importlib.import_module("wandb")
    for row in cells.to_dict("records"):
        name = f"{row['encoder']} on {row['task']} ({row['protocol']})"
        run = wandb.init(project=where, name=name, config=_settings(row), reinit="finish_previous")
        run.log(_scores(row))
        run.finish()
