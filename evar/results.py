"""Rows, predictions and the leaderboard on disk: `runs.csv` is the truth, everything else can be made from it.

A cell is recorded under a lock in this order: predictions (one file, atomic), its rows in `runs.csv` (one append),
`leaderboard.csv` (rewritten, atomic). A crash between two steps loses nothing: an unfinished append is cut off by the next
writer (and kept in `runs.csv.torn`), a stale leaderboard is rebuilt. Schema: docs/architecture.md.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError
from evar.files import append_bytes, atomic_write, atomic_writer, digest, lock, make_folder, writing

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
RUNS, LEADERBOARD, PREDICTIONS, LOCK = "runs.csv", "leaderboard.csv", "predictions", ".lock"

# fmt: off
_CELL = [
    "schema", "cell_id", "encoder", "encoder_fingerprint", "weights", "weights_sha256", "weights_kind", "task",
    "task_version", "task_fingerprint", "protocol", "protocol_version", "layers", "pooling", "norm", "duration",
    "precision", "metric",
]
_RUN = [
    "fold", "seed", "setting", "converged", "score", "run_macro_f1",
]
_SCORES = [
    "mean", "std", "ci95_low", "ci95_high", "macro_f1", "n_folds", "n_seeds", "seeds", "train_fraction", "shots",
    "n_train", "n_valid", "n_test", "synthetic", "partial", "limit", "skipped", "contaminated",
]
VOLATILE = [
    "seconds_encode", "seconds_probe", "started_at", "host", "device", "evar_version", "torch_version", "git_commit",
]
LEADERBOARD_COLUMNS = [*_CELL, *_SCORES, *VOLATILE]
RUN_COLUMNS = [*_CELL, *_RUN, *_SCORES, *VOLATILE]

_FLOATS = [
    "score", "run_macro_f1", "mean", "std", "ci95_low", "ci95_high", "macro_f1", "train_fraction", "seconds_encode",
    "seconds_probe",
]
_INTEGERS = [
    "schema", "task_version", "protocol_version", "fold", "seed", "n_folds", "n_seeds", "shots", "n_train", "n_valid",
    "n_test", "limit", "skipped",
]
_BOOLEANS = [
    "converged", "synthetic", "partial", "contaminated",
]
_SORT = [
    "synthetic", "partial", "task", "protocol", "encoder", "cell_id",
]
# fmt: on


def cell_id(settings: Mapping[str, Any]) -> str:
    """16 hex digits that stand for everything a cell's numbers depend on (JSON values)."""
    return digest(dict(settings))[:16]


class Results:
    """The results in one folder. Reading never writes; `record` and `merge` hold the folder's lock."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._newest: tuple[Any, pd.DataFrame] | None = None  # (size and time of runs.csv, its newest cells)

    def check_writable(self) -> None:
        """Raise EvarError now rather than after an hour of encoding when rows could not be written here."""
        make_folder(self.folder)
        probe = self.folder / ".writable"
        atomic_write(probe, b"")
        with writing(probe):
            probe.unlink()
        self._check_header()

    def record(self, cell: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], predictions: pd.DataFrame) -> None:
        """Keep one cell: its common columns, one dict per fold × seed (fold, seed, setting, converged, score, macro_f1).

        Raises EvarError for an unknown or missing column, and when the folder cannot be written.
        """
        rows = []
        for run in runs:
            row = {"schema": SCHEMA, **cell, **run, "run_macro_f1": run["macro_f1"], "macro_f1": cell["macro_f1"]}
            wrong = set(row) ^ set(RUN_COLUMNS)
            if wrong:
                raise EvarError(f"a row of {self.folder / RUNS} has wrong columns: {', '.join(sorted(wrong))}")
            rows.append([_text(row[column]) for column in RUN_COLUMNS])
        with self._locked():
            with atomic_writer(self._predictions(cell["cell_id"])) as stream:
                predictions.to_parquet(stream, index=False)
            self._append(rows)
            self._rebuild()

    def finished(self, cell_id: str) -> dict[str, Any] | None:
        """The leaderboard row of a cell whose rows and predictions are both there, else None."""
        if not self._predictions(cell_id).exists():
            return None
        rows = self.leaderboard()
        rows = rows[rows["cell_id"] == cell_id]
        return None if rows.empty else rows.iloc[0].to_dict()

    def predictions(self, cell_id: str) -> pd.DataFrame:
        """Per-clip predictions of a cell (schema: docs/architecture.md); EvarError when they are absent or damaged."""
        import pandas as pd

        path = self._predictions(cell_id)
        try:
            return pd.read_parquet(path)
        except FileNotFoundError:
            raise EvarError(f"{path} is missing: run the cell again with another --results, then merge") from None
        except Exception as error:
            raise EvarError(f"{path} is damaged ({type(error).__name__}): remove it and run the cell again") from None

    def runs(self) -> pd.DataFrame:
        """All rows, one per fold × seed, in the order recorded; typed (ids are text, `limit` and the like nullable)."""
        return _frame(_read(self.folder / RUNS), RUN_COLUMNS)

    def leaderboard(self, canonical: bool = False) -> pd.DataFrame:
        """The newest row per cell, sorted; canonical: without the volatile columns and what was superseded."""
        path = self.folder / RUNS
        state = (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None
        if self._newest is None or self._newest[0] != state:
            self._newest = state, newest_cells(self.runs())
        frame = self._newest[1]
        return frame.drop(columns=VOLATILE) if canonical else frame.copy()

    def _predictions(self, cell_id: str) -> Path:
        return self.folder / PREDICTIONS / f"{cell_id}.parquet"

    def _locked(self) -> Any:
        return lock(self.folder / LOCK)

    def _check_header(self) -> None:
        path = self.folder / RUNS
        if path.exists() and path.stat().st_size:
            with open(path, "rb") as stream:
                _check_columns(path, stream.readline().decode("utf-8-sig", "replace"))

    def _append(self, rows: list[list[str]]) -> None:
        path = self.folder / RUNS
        start = _whole_bytes(path)
        header = [] if start else [RUN_COLUMNS]
        if path.exists() and path.stat().st_size > start:
            with open(path, "rb") as stream:
                stream.seek(start)
                torn = stream.read()
            append_bytes(path.with_name(f"{RUNS}.torn"), torn + b"\n")
            with writing(path), open(path, "r+b") as stream:
                stream.truncate(start)
        self._check_header()
        append_bytes(path, _csv_bytes([*header, *rows]))

    def _rebuild(self) -> None:
        frame = self.leaderboard()
        rows = [[_text(value) for value in row] for row in frame.itertuples(index=False)]
        atomic_write(self.folder / LEADERBOARD, _csv_bytes([LEADERBOARD_COLUMNS, *rows]))


@dataclass(frozen=True)
class Merged:
    """What `merge` did: rows and cells that the target has now, how many rows came in, cells whose scores disagreed."""

    into: Path
    rows: int
    cells: int
    added: int
    conflicts: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.into}: {self.cells} cells, {self.rows} rows, {self.added} of them new"
        if self.conflicts:
            text += f"; measured twice with different scores (the newest ranks): {', '.join(self.conflicts)}"
        return text


def merge(folders: Iterable[str | Path], into: str | Path) -> Merged:
    """Bring the rows and predictions of `folders` into `into`; equal rows are kept once, nothing is lost.

    Raises EvarError when a folder has no runs.csv or one of another schema; then nothing is changed.
    """
    sources = [Results(folder) for folder in folders]
    target = Results(into)
    incoming = []
    for source in sources:
        if not (source.folder / RUNS).exists():
            raise EvarError(f"{source.folder} holds no {RUNS}: is it a results folder?")
        incoming.append((source, _read(source.folder / RUNS)))
    make_folder(target.folder)
    with target._locked():
        have = {_identity(row): row for row in _read(target.folder / RUNS)}
        newest = {key[0]: max(k[3] for k in have if k[0] == key[0]) for key in have}
        added = []
        for source, rows in incoming:
            for row in rows:
                key = _identity(row)
                if key not in have:
                    have[key] = row
                    added.append([row[RUN_COLUMNS.index(column)] for column in RUN_COLUMNS])
            for cell, started in {(row[1], _identity(row)[3]) for row in rows}:
                theirs, ours = source._predictions(cell), target._predictions(cell)
                if theirs.exists() and (not ours.exists() or started > newest.get(cell, "")):
                    atomic_write(ours, theirs.read_bytes())
                    newest[cell] = started
        added.sort(key=lambda row: _identity(row)[3])
        if added:
            target._append(added)
        target._rebuild()
    runs = target.runs()
    scores = (
        runs.assign(score=runs["score"].round(6)).groupby(["cell_id", "fold", "seed"], dropna=False)["score"].nunique()
    )
    conflicts = sorted(set(scores[scores > 1].index.get_level_values(0)))
    cells = runs["cell_id"].nunique()
    return Merged(target.folder, len(runs), cells, len(added), tuple(conflicts))


def newest_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell_id, that of the newest `started_at`, with the leaderboard's columns, in a stable order.

    n_train and n_valid are those of the first fold, n_test is the number of clips tested over all folds.
    """
    newest = runs.groupby("cell_id")["started_at"].transform("max")
    runs = runs[runs["started_at"] == newest].sort_values(["cell_id", "fold", "seed"], kind="stable")
    tested = runs.drop_duplicates(["cell_id", "fold"]).groupby("cell_id")["n_test"].sum()
    frame = runs.drop_duplicates("cell_id")[LEADERBOARD_COLUMNS].copy()
    frame["n_test"] = frame["cell_id"].map(tested).astype("Int64")
    return frame.sort_values(_SORT, kind="stable").reset_index(drop=True)


def _identity(row: list[str]) -> tuple[str, str, str, str]:
    return tuple(row[RUN_COLUMNS.index(column)] for column in ("cell_id", "fold", "seed", "started_at"))


def _text(value: Any) -> str:
    """A value as CSV text: floats by their shortest exact form, missing as nothing."""
    if value is None or str(value) == "<NA>" or value != value:
        return ""
    if hasattr(value, "item"):
        value = value.item()
    return repr(value) if isinstance(value, float) else str(value)


def _csv_bytes(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _whole_bytes(path: Path) -> int:
    """Length of `path` up to the end of its last whole row (a row ends in a newline outside quotes, with all fields)."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    end = len(data) if data.endswith(b"\n") else data.rfind(b"\n") + 1
    while end:  # a cut inside a quoted line break leaves an odd number of quotes
        start = data.rfind(b"\n", 0, end - 1) + 1
        if data.count(b'"', 0, end) % 2 == 0 and _n_fields(data[start:end]) == len(RUN_COLUMNS):
            return end
        if start == 0:  # the only line is no row of ours: leave it to the check of the header
            return end
        end = start
    return end


def _n_fields(line: bytes) -> int:
    return len(next(csv.reader([line.decode("utf-8", "replace")]), []))


def _check_columns(path: Path, line: str) -> list[str]:
    columns = next(csv.reader([line]), [])
    missing = [column for column in RUN_COLUMNS if column not in columns]
    if missing:
        raise EvarError(
            f"{path}: the header lacks {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}: it is of another schema "
            f"(expected {SCHEMA}) or no file of evar; choose another --results"
        )
    return columns


def _read(path: Path) -> list[list[str]]:
    """The rows of runs.csv as text in the order of RUN_COLUMNS; a torn last row is left out. EvarError names path and line."""
    if not path.exists() or path.stat().st_size == 0:
        return []
    try:
        text = path.read_bytes()[: _whole_bytes(path)].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvarError(f"{path} is not UTF-8 (byte {error.start}): restore it, or choose another --results") from None
    except OSError as error:
        raise EvarError(f"cannot read {path}: {error.strerror}") from None
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        columns = next(lines)
        _check_columns(path, ",".join(columns))
        order = [columns.index(column) for column in RUN_COLUMNS]
        rows = []
        for row in lines:
            if not row:
                continue
            if len(row) != len(columns):
                raise EvarError(
                    f"{path} line {lines.line_num}: {len(row)} fields, expected {len(columns)}: mend or remove it"
                )
            row = [row[i] for i in order]
            if row[0] != str(SCHEMA):
                raise EvarError(
                    f"{path} line {lines.line_num}: schema {row[0]!r}, this evar knows {SCHEMA}: update evar"
                )
            rows.append(row)
    except csv.Error as error:
        raise EvarError(f"{path} line {lines.line_num}: not CSV ({error}): mend or remove the line") from None
    return list(dict.fromkeys(map(tuple, rows))) if len(rows) != len(set(map(tuple, rows))) else rows


def _frame(rows: list[list[str]], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=columns, dtype=str)
    for column in columns:
        values = frame[column]
        if column in _FLOATS:
            frame[column] = pd.to_numeric(values.where(values != ""), errors="coerce").astype("float64")
        elif column in _INTEGERS:
            frame[column] = pd.to_numeric(values.where(values != ""), errors="coerce").astype("Int64")
        elif column in _BOOLEANS:
            frame[column] = values == "True"
    return frame
