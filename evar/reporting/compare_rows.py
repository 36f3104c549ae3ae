"""Which stored rows a comparison takes, where an encoder was measured in several ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, unknown
from evar.reporting.pairs import alike, check_alike, text_of

if TYPE_CHECKING:
    import pandas as pd

_VARIANTS = ("layers", "pooling", "norm", "seeds")  # another question: never chosen silently


def select(
    board: pd.DataFrame,
    encoders: Sequence[str],
    tasks: Sequence[str],
    protocol: str,
    prefer: Mapping[str, str] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the leaderboard to compare, at most one per encoder (label) and task, and notes on what was passed over.

    prefer: column -> value (as text, `none` for missing) of the rows to take where an encoder has several. Of several
    ways of measuring the one is taken that all encoders of a task share: real before synthetic, whole before partial,
    all clips before a subset; and the newest version of an encoder. A task with fewer than two of the encoders is left out.
    Raises EvarError where no row has a preferred value, where nothing is shared, or where rows of one encoder differ in
    layers, pooling, norm or seeds.
    """
    for column, value in (prefer or {}).items():
        there = {text_of(one) for one in board.loc[board["encoder"].isin(list(encoders)), column]}
        if value not in there:
            raise unknown(f"{column} in --prefer:", value, there)
    chosen: list[dict[str, Any]] = []
    notes: list[str] = []
    for task in tasks:
        rows = board[(board["task"] == task) & (board["protocol"] == protocol)]
        found = {label: rows[rows["encoder"] == label].to_dict("records") for label in encoders}
        found = {label: _preferred(mine, prefer or {}) for label, mine in found.items() if mine}
        if len(found) < 2:
            continue
        first, *others = found.values()
        shared = [row for row in first if all(any(alike(row, other) for other in mine) for mine in others)]
        if not shared:  # say what keeps the best rows apart
            for one, other in combinations(found.values(), 2):
                check_alike(one[0], other[0])
            raise EvarError(f"{task}: no one way of measuring is shared by {', '.join(found)}: measure them together")
        for label, mine in found.items():
            chosen.append(_newest(task, label, [row for row in mine if alike(shared[0], row)], notes))
    return chosen, notes


def _preferred(rows: list[dict[str, Any]], prefer: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of one encoder and task, the plainest way of measuring first, the newest first within it."""
    for column, value in prefer.items():
        rows = [row for row in rows if text_of(row[column]) == value] or rows

    def key(row: dict[str, Any]) -> tuple:
        subset = [text_of(row[column]) != "none" for column in ("limit", "train_fraction", "shots")]
        return row["synthetic"], row["partial"], *subset, row["duration"] == "native", row["precision"] != "fp32"

    return sorted(sorted(rows, key=lambda row: row["started_at"], reverse=True), key=key)


def _newest(task: str, label: str, rows: list[dict[str, Any]], notes: list[str]) -> dict[str, Any]:
    for row in rows[1:]:
        for column in _VARIANTS:
            if row[column] != rows[0][column]:
                raise EvarError(
                    f"{task}: {label} is stored with {column} {rows[0][column]} and {row[column]}: choose with"
                    f" '--prefer {column}={rows[0][column]}', or measure one of them under a label (mine={label})"
                )
    if len(rows) > 1:
        notes.append(f"{task}: {label} was measured {len(rows)} times under this name; the newest is compared")
    return rows[0]
