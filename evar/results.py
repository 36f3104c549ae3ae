"""Rows, predictions and the leaderboard on disk: `runs.csv` is the truth, everything else can be made from it.

A cell is recorded under a lock in this order: predictions (one file, atomic), its rows in `runs.csv` (one append),
`leaderboard.csv` (rewritten, atomic, then given the time stamp of `runs.csv`). A crash between two steps loses nothing: an
unfinished append is cut off by the next one who comes (and kept in `runs.csv.torn`), and a leaderboard with another time
stamp than `runs.csv` is made anew. Schema: docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, unknown
from evar.files import append_bytes, atomic_write, atomic_writer, digest, lock, make_folder, writing
from evar.results_files import (
    AT,
    LEADERBOARD_COLUMNS,
    RUN_COLUMNS,
    SCHEMA,
    VOLATILE,
    as_int,
    as_text,
    check_row,
    columns_of,
    csv_bytes,
    cut_torn_end,
    frame,
    n_expected,
    read_rows,
)

if TYPE_CHECKING:
    import pandas as pd

RUNS, LEADERBOARD, PREDICTIONS, LOCK = "runs.csv", "leaderboard.csv", "predictions", ".lock"
_SORT = ("synthetic", "partial", "task", "protocol", "encoder", "cell_id")


def cell_id(settings: Mapping[str, Any]) -> str:
    """16 hex digits that stand for everything a cell's numbers depend on (JSON values)."""
    return digest(dict(settings))[:16]


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
        self._cells()

    def record(self, cell: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], predictions: pd.DataFrame) -> None:
        """Keep one cell: its common columns, one dict per fold × seed (fold, seed, setting, converged, score, macro_f1).

        What a run gives too (n_train, n_valid, n_test) is the run's own in `runs.csv`.
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
        with self._locked():
            known = self._mended()
            with atomic_writer(self._predictions(cell["cell_id"])) as stream:
                predictions.to_parquet(stream, index=False)
            columns = columns_of(path)
            self._outdate_leaderboard()
            append_bytes(path, csv_bytes(_arranged(rows, columns) if columns else [RUN_COLUMNS, *rows]))
            old = known.get(cell["cell_id"])
            if old is None or old[LEADERBOARD_COLUMNS.index("started_at")] < rows[0][AT["started_at"]]:
                known = {**known, cell["cell_id"]: _summary(rows)}
            else:  # the clock went back: let all rows decide
                known = self._scan()
            self._write_leaderboard(known)

    def finished(self, cell_id: str) -> dict[str, Any] | None:
        """The leaderboard row of a cell whose rows and predictions are both there, else None."""
        row = self._cells().get(cell_id)
        if row is None or not self._predictions(cell_id).exists():
            return None
        return frame([row], LEADERBOARD_COLUMNS).iloc[0].to_dict()

    def predictions(self, cell_id: str) -> pd.DataFrame:
        """Per-clip predictions of a cell (schema: docs/architecture.md); EvarError when they are absent or damaged."""
        import pandas as pd

        path = self._predictions(cell_id)
        try:
            return pd.read_parquet(path)
        except FileNotFoundError:
            raise EvarError(f"{path} is missing: run the cell again, it will be measured anew") from None
        except Exception as error:
            raise EvarError(f"{path} is damaged ({type(error).__name__}): remove it and run the cell again") from None

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
        with contextlib.ExitStack() as stack, contextlib.suppress(_CannotWrite):
            with _only_reading():
                stack.enter_context(self._locked())  # no writer is in the middle of a row then
            with _only_reading():
                return self._known
        return _stamp(self.folder / RUNS), self._scan()


