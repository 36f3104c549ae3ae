"""The identity of a cell: a digest of columns of its own row, so that every reader of a row can tell what it stands for.

And what happens when identities change: `rekey` gives recorded cells others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evar.files import atomic_writer, digest, sha256_file, writing
from evar.results import PREDICTIONS, RUNS, Results
from evar.results_files import AT, as_text, columns_of, csv_bytes, cut_torn_end, read_rows, whole_columns

IDENTITY = (
    "encoder",
    "encoder_fingerprint",
    "clips_fingerprint",
    "task_fingerprint",
    "protocol_fingerprint",
    "learning_rate",
    "layers",
    "pooling",
    "norm",
    "duration",
    "precision",
    "seeds",
    "train_fraction",
    "shots",
    "limit",
)
"""Columns that everything which can move a number is in."""


def cell_id(row: Mapping[str, Any]) -> str:
    """16 hex digits of the digest of a row's IDENTITY columns (values, or text as in the file)."""
    return digest({column: as_text(row[column]) for column in IDENTITY})[:16]


def newest_rows(results: Results) -> Iterable[list[str]]:
    """One row (in the order of RUN_COLUMNS) of each cell, of its last recording."""
    newest: dict[str, list[str]] = {}
    for row, *_ in read_rows(results.folder / RUNS):
        before = newest.get(row[AT["cell_id"]])
        if before is None or before[AT["started_at"]] <= row[AT["started_at"]]:
            newest[row[AT["cell_id"]]] = row
    return newest.values()


def rekey(results: Results, changes: Mapping[str, Mapping[str, str]]) -> None:
    """Change columns of all rows of some cells, by their present id; predictions follow a change of the id.

    In this order, so that a kill loses nothing and the next call goes on: predictions also under the new id, runs.csv in
    one step, the leaderboard, and away with predictions that are there twice.
    """
    path = results.folder / RUNS
    with results._locked():
        if changes:
            cut_torn_end(path)
            known = columns_of(path)
            columns = whole_columns(known)
            for old, changed in changes.items():
                _also_under(results._predictions(old), results._predictions(changed.get("cell_id", old)))
            whole = []
            for row, _, fields in read_rows(path):
                held = dict(zip(known, fields, strict=True)) | changes.get(row[AT["cell_id"]], {})
                whole.append([held.get(column, "") for column in columns])
            results._outdate_leaderboard()
            with atomic_writer(path) as stream:
                stream.write(csv_bytes([columns]))
                stream.writelines(csv_bytes([row]) for row in whole)
            results._write_leaderboard(results._scan())
        _drop_copies(results)


def _also_under(old: Path, new: Path) -> None:
    """The predictions of a cell under a second id, unless newer ones have it."""
    if old == new or new.exists() or not old.exists():
        return
    try:
        os.link(old, new)
    except OSError:  # a file system without hard links
        with open(old, "rb") as stream, atomic_writer(new) as copy:
            shutil.copyfileobj(stream, copy)


def _drop_copies(results: Results) -> None:
    """Remove predictions of which no row has the id and another file has the content: what a re-keying leaves behind."""
    files: dict[int, list[Path]] = {}
    for path in (results.folder / PREDICTIONS).glob("*.parquet"):
        files.setdefault(path.stat().st_size, []).append(path)
    cells = results._scan()
    for same_size in files.values():
        held = [path for path in same_size if path.stem in cells]
        for path in same_size:
            if path.stem not in cells and any(sha256_file(path) == sha256_file(other) for other in held):
                with writing(path), contextlib.suppress(FileNotFoundError):
                    path.unlink()
