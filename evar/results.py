"""Rows, predictions and the leaderboard on disk: `runs.csv` is the truth, everything else can be made from it.

A cell is recorded under a lock in this order: predictions (one file, atomic), its rows in `runs.csv` (one append),
`leaderboard.csv` (rewritten, atomic, then given the time stamp of `runs.csv`). A crash between two steps loses nothing: an
unfinished append is cut off by the next one who comes (and kept in `runs.csv.torn`), and a leaderboard with another time
stamp than `runs.csv` is made anew. What a damaged disk changes is found: predictions hold a digest of themselves, both
tables are sealed (results_seal.py). Schema: docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, out_of_memory, unknown
from evar.files import append_bytes, atomic_write, atomic_writer, lock, make_folder, writing
from evar.predictions import CONTENT, content_digest, is_parquet, to_parquet
from evar.results_files import (
    AT,
    LEADERBOARD_COLUMNS,
    RUN_COLUMNS,
    SCHEMA,
    SINCE_2,
    VOLATILE,
    as_int,
    as_text,
    check_row,
    check_summary,
    columns_of,
    csv_bytes,
    cut_torn_end,
    frame,
    n_expected,
    read_rows,
    whole_columns,
)
from evar.results_seal import check, is_whole, seal, sealed

if TYPE_CHECKING:
    import pandas as pd

RUNS, LEADERBOARD, PREDICTIONS, LOCK = "runs.csv", "leaderboard.csv", "predictions", ".lock"
_STARTED = LEADERBOARD_COLUMNS.index("started_at")
_OF_BOTH = (
    *("encoder", "task_fingerprint", "protocol", "protocol_version", "layers", "pooling", "norm"),
    *("duration", "precision", "seeds", "train_fraction", "shots", "limit"),
)
_SORT = ("synthetic", "partial", "task", "protocol", "encoder", "cell_id")


class Results:
    """The results in one folder. Nothing is created before something is recorded."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._known: tuple[tuple[int, int] | None, dict[str, list[str]]] = (None, {})  # stamp of runs.csv, its cells

    def check_writable(self) -> None:
        """Raise EvarError now rather than after an hour of encoding when rows could not be written here."""
        make_folder(self.folder)
        probe = self.folder / ".writable"
        atomic_write(probe, b"")
        with writing(probe), contextlib.suppress(FileNotFoundError):
            probe.unlink()
        if (self.folder / RUNS).exists():
            check(self.folder / RUNS)
        self._cells()

    def record(self, cell: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], predictions: pd.DataFrame) -> None:
        """Keep one cell: its common columns, one dict per fold × seed (fold, seed, setting, converged, score, macro_f1).

        What a run gives too (n_train, n_valid, n_test) is the run's own in `runs.csv`. A cell that has these very numbers
        already, measured twice at once or again because its predictions were lost, keeps the rows that it has.
        What is recorded last is the newest, whatever the clock says: `started_at` is moved past that of the rows before.
        Raises EvarError for a wrong row, before anything is written, and when the folder cannot be written.
        """
        path = self.folder / RUNS
        rows = []
        for run in runs:
            row = {"schema": SCHEMA, **cell, **run, "run_macro_f1": run["macro_f1"], "macro_f1": cell["macro_f1"]}
            wrong = set(row) ^ set(RUN_COLUMNS)
            if wrong:
                raise EvarError(f"a row of {path} has wrong columns: {', '.join(sorted(wrong))}")
            rows.append([as_text(row[column]) for column in RUN_COLUMNS])
            check_row(rows[-1], f"a row for {path}")
        found = len({(row[AT["fold"]], row[AT["seed"]]) for row in rows})
        if not rows or len(rows) != found or found != n_expected(rows[0]):
            raise EvarError(
                f"cell {cell['cell_id']}: {len(rows)} rows for {cell['n_folds']} folds × {cell['n_seeds']} seeds"
            )
        table = to_parquet(predictions)  # before the lock, for which others may be waiting
        with self._locked():
            known = self._mended()
            atomic_write(self._predictions(cell["cell_id"]), table)
            old = known.get(cell["cell_id"])
            if old is not None:
                if _numbers(old) == _numbers(_summary(rows)):
                    return
                rows = _started_after(rows, old[_STARTED])
            columns, grown_from = columns_of(path), sealed(path)
            self._outdate_leaderboard()
            if columns and set(SINCE_2) - set(columns):
                columns, grown_from = self._widened(columns), None
            append_bytes(path, csv_bytes(_arranged(rows, columns) if columns else [RUN_COLUMNS, *rows]))
            self._write_leaderboard({**known, cell["cell_id"]: _summary(rows)}, grown_from)

    def finished(self, cell_id: str) -> dict[str, Any] | None:
        """The leaderboard row of a cell whose rows and predictions are both there (not torn), else None."""
        row = self._cells().get(cell_id)
        if row is None or not is_parquet(self._predictions(cell_id)):
            return None
        return frame([row], LEADERBOARD_COLUMNS).iloc[0].to_dict()

    def of_v1(self, row: Mapping[str, Any]) -> str | None:
        """The id of a cell that an earlier evar named and that may be this one: `row` has what both schemas know of it."""
        same = [(LEADERBOARD_COLUMNS.index(column), as_text(row[column])) for column in _OF_BOTH]
        at = LEADERBOARD_COLUMNS.index("clips_fingerprint")
        for cell, held in self._cells().items():
            if not held[at] and all(held[i] == text for i, text in same):
                return cell
        return None

    def predictions(self, cell_id: str) -> pd.DataFrame:
        """Per-clip predictions of a cell (schema: docs/architecture.md); EvarError when they are absent or damaged."""
        import pandas as pd
        import pyarrow.parquet as pq

        path = self._predictions(cell_id)
        try:
            read, about = pd.read_parquet(path), pq.read_schema(path).metadata or {}
            if about.get(CONTENT, b"").decode() not in ("", content_digest(read)):
                raise ValueError("other content than was written")
        except FileNotFoundError:
            raise EvarError(f"{path} is missing: run the cell again, it will be measured anew") from None
        except Exception as error:
            if out_of_memory(error):
                raise
            if getattr(error, "errno", None):
                raise EvarError(f"cannot read {path}: {error.strerror}") from None
            raise EvarError(f"{path} is damaged ({type(error).__name__}): remove it and run the cell again") from None
        return read

    def runs(self) -> pd.DataFrame:
        """All rows, one per fold × seed, in the order recorded; typed (ids are text, `limit` and the like nullable)."""
        shared: dict[str, str] = {}  # most texts come again and again
        rows = [[shared.setdefault(text, text) for text in row] for row, *_ in read_rows(self.folder / RUNS)]
        return frame(rows, RUN_COLUMNS)

    def leaderboard(self, canonical: bool = False, **equal: Any) -> pd.DataFrame:
        """One row per cell, its newest whole recording, sorted; canonical: without the volatile columns.

        equal: column=value keeps the rows that have it. n_train and n_valid are those of the first fold, n_test is the
        number of clips tested over all folds. EvarError for an unknown column and for a runs.csv that cannot be read.
        """
        rows = frame(sorted(self._cells().values(), key=_sort_key), LEADERBOARD_COLUMNS)
        for column, value in equal.items():
            if column not in LEADERBOARD_COLUMNS:
                raise unknown("column", column, LEADERBOARD_COLUMNS)
            rows = rows[(rows[column] == value).fillna(False).astype(bool)]
        return rows.drop(columns=VOLATILE if canonical else []).reset_index(drop=True)

    def _predictions(self, cell_id: str) -> Path:
        return self.folder / PREDICTIONS / f"{cell_id}.parquet"

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return lock(self.folder / LOCK)

    def _cells(self) -> dict[str, list[str]]:
        """Leaderboard rows by cell; an outdated leaderboard.csv is made anew, where that can be written."""
        path = self.folder / RUNS
        stamp = _stamp(path)
        if stamp is None:
            return {}
        if self._known[0] != stamp:
            known = self._fresh_leaderboard(stamp)
            self._known = (stamp, known) if known is not None else self._rebuilt()
        return self._known[1]

    def _rebuilt(self) -> tuple[tuple[int, int] | None, dict[str, list[str]]]:
        try:
            with self._locked():
                known = self._mended()
                self._write_leaderboard(known)
        except (
            EvarError
        ):  # a folder that may only be read, a full disk: the rows are there; if they are bad, they say so
            known = self._scan()
        return _stamp(self.folder / RUNS), known

    def _mended(self) -> dict[str, list[str]]:
        """Leaderboard rows by cell, after cutting off a torn end; the caller holds the lock."""
        stamp = _stamp(self.folder / RUNS)
        known = {} if stamp is None else self._fresh_leaderboard(stamp)
        if known is None:
            cut_torn_end(self.folder / RUNS)
            known = self._scan()
        return known

    def _fresh_leaderboard(self, stamp: tuple[int, int]) -> dict[str, list[str]] | None:
        """leaderboard.csv by cell, when it was made from this very runs.csv; then runs.csv is whole, too."""
        path, runs = self.folder / LEADERBOARD, self.folder / RUNS
        made = _stamp(path)
        if made is None or made[1] != stamp[1]:
            return None
        broken = (EvarError, OSError, ValueError, csv.Error)
        with contextlib.suppress(OSError):
            if sealed(runs) and not is_whole(path):
                return None
        with contextlib.suppress(*broken), open(path, encoding="utf-8", newline="") as stream:
            header, *rows = csv.reader(stream, strict=True)
            if header == LEADERBOARD_COLUMNS and all(len(row) == len(header) for row in rows):
                for row in rows:
                    check_summary(row, str(path))
                return {row[AT["cell_id"]]: row for row in rows}
        return None

    def _scan(self) -> dict[str, list[str]]:
        """Leaderboard rows by cell from runs.csv, one row at a time: a million rows need little memory."""
        newest: dict[str, tuple[str, list[str]]] = {}  # cell -> when it was started, its leaderboard row
        parts: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = {}  # recordings of which rows are missing yet
        for row, *_ in read_rows(self.folder / RUNS):
            cell, started = row[AT["cell_id"]], row[AT["started_at"]]
            part = parts.setdefault((cell, started), {})
            part[row[AT["fold"]], row[AT["seed"]]] = row
            if len(part) >= n_expected(row):
                rows = list(parts.pop((cell, started)).values())
                if cell not in newest or newest[cell][0] <= started:
                    newest[cell] = started, _summary(rows)
        return {cell: row for cell, (_, row) in newest.items()}

    def _outdate_leaderboard(self) -> None:
        """Before runs.csv changes: whatever happens now, the leaderboard on the disk is not taken for fresh."""
        path = self.folder / LEADERBOARD
        if path.exists():
            with writing(path):
                os.utime(path, (0, 0))

    def _widened(self, columns: list[str]) -> list[str]:
        """runs.csv of schema 1 gets the columns that came since, empty; the caller holds the lock."""
        path, wider = self.folder / RUNS, whole_columns(columns)
        held = (dict(zip(columns, fields, strict=True)) for *_, fields in read_rows(path))
        rows = [[one.get(column, "") for column in wider] for one in held]
        atomic_write(path, csv_bytes([wider, *rows]))
        return wider

    def _write_leaderboard(self, known: dict[str, list[str]], grown_from: tuple[int, int] | None = None) -> None:
        path, stamp = self.folder / LEADERBOARD, _stamp(self.folder / RUNS)
        atomic_write(path, csv_bytes([LEADERBOARD_COLUMNS, *sorted(known.values(), key=_sort_key)]))
        with writing(path):
            os.utime(path, ns=(stamp[1], stamp[1]))
        seal(self.folder / RUNS, path, grown_from=grown_from)
        self._known = stamp, known


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
    """Bring the rows and predictions of `folders` into `into`; rows of one cell, fold, seed and start are kept once.

    Columns beyond the schema come along. Raises EvarError when a folder has no runs.csv, or one that cannot be read; then
    nothing is changed.
    """
    target, sources = Results(into), []
    for source in map(Results, folders):
        path = source.folder / RUNS
        if not path.exists():
            raise EvarError(f"{source.folder} holds no {RUNS}: is it a results folder?")
        sources.append((source, columns_of(path), [(row, fields) for row, _, fields in read_rows(path)]))
    path = make_folder(target.folder) / RUNS
    with target._locked():
        cut_torn_end(path)
        columns = columns_of(path) or RUN_COLUMNS
        kept = [(row, dict(zip(columns, fields, strict=True))) for row, _, fields in read_rows(path)]
        n_before, seen = len(kept), {_identity(row) for row, _ in kept}
        rows = [row for row, _ in kept]
        newest = _last_start(rows)
        for source, names, theirs in sources:
            rows += [row for row, _ in theirs]
            for row, fields in theirs:
                if _identity(row) not in seen:
                    seen.add(_identity(row))
                    kept.append((row, dict(zip(names, fields, strict=True))))
            columns = [*columns, *(name for name in names if name not in columns)]
            for cell, started in _last_start([row for row, _ in theirs]).items():
                copy, own = source._predictions(cell), target._predictions(cell)
                if copy.exists() and (not own.exists() or started > newest.get(cell, "")):
                    with open(copy, "rb") as stream, atomic_writer(own) as written:
                        shutil.copyfileobj(stream, written)
                    newest[cell] = started
        kept[n_before:] = sorted(kept[n_before:], key=lambda one: (one[0][AT["started_at"]], one[0][AT["cell_id"]]))
        target._outdate_leaderboard()
        whole = ([fields.get(column, "") for column in columns] for _, fields in kept)
        with atomic_writer(path) as stream:
            stream.write(csv_bytes([columns]))
            stream.writelines(csv_bytes([row]) for row in whole)
        known = target._scan()
        target._write_leaderboard(known)
    return Merged(target.folder, len(kept), len(known), len(kept) - n_before, _conflicts(rows))


def _identity(row: list[str]) -> tuple[str, ...]:
    return tuple(row[AT[column]] for column in ("cell_id", "fold", "seed", "started_at"))


def _last_start(rows: list[list[str]]) -> dict[str, str]:
    last: dict[str, str] = {}
    for row in rows:
        cell = row[AT["cell_id"]]
        last[cell] = max(row[AT["started_at"]], last.get(cell, ""))
    return last


def _conflicts(rows: list[list[str]]) -> tuple[str, ...]:
    """Cells of which one fold and seed has different scores (beyond 1e-6: other machines round otherwise)."""
    scores: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        scores.setdefault(_identity(row)[:3], set()).add(f"{float(row[AT['score']] or 'nan'):.6f}")
    return tuple(sorted({key[0] for key, found in scores.items() if len(found) > 1}))


def _summary(rows: list[list[str]]) -> list[str]:
    """The leaderboard row of one recording."""
    rows = sorted(rows, key=lambda row: (as_int(row[AT["fold"]]), as_int(row[AT["seed"]])))
    tested = {row[AT["fold"]]: max(as_int(row[AT["n_test"]]), 0) for row in rows}
    summary = [rows[0][AT[column]] for column in LEADERBOARD_COLUMNS]
    summary[LEADERBOARD_COLUMNS.index("n_test")] = str(sum(tested.values()))
    return summary


def _sort_key(row: list[str]) -> tuple[str, ...]:
    return tuple(row[LEADERBOARD_COLUMNS.index(column)] for column in _SORT)


def _numbers(row: list[str]) -> list[str]:
    """A leaderboard row without the volatile columns."""
    return row[: -len(VOLATILE)]


def _started_after(rows: list[list[str]], last: str) -> list[list[str]]:
    """Rows that a later recording has, though the clock went back or another one began later and ended earlier."""
    if rows[0][AT["started_at"]] > last:
        return rows
    with contextlib.suppress(ValueError):
        last = (datetime.datetime.fromisoformat(last) + datetime.timedelta(microseconds=1)).isoformat(
            timespec="microseconds"
        )
    return [[last if i == AT["started_at"] else text for i, text in enumerate(row)] for row in rows]


def _arranged(rows: list[list[str]], columns: list[str]) -> list[list[str]]:
    """Rows of the schema in the columns of a file that may have more, or in another order."""
    return [[row[AT[column]] if column in AT else "" for column in columns] for row in rows]


def _stamp(path: Path) -> tuple[int, int] | None:
    """(bytes, modification time in ns), None when there is no such file."""
    try:
        with contextlib.suppress(
            PermissionError
        ):  # a network folder may answer `stat` from memory until the file is opened
            os.close(os.open(path, os.O_RDONLY))
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size, status.st_mtime_ns
