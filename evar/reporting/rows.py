"""Which leaderboard rows may stand in a table that is shown to others, and why the rest is left out."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evar.errors import EvarError, unknown
from evar.results import Results
from evar.words import split_words

if TYPE_CHECKING:
    import pandas as pd

    from evar.probes.protocol import Protocol

# What keeps a row out unless it is asked for (`allow`), in the order in which the reason is named.
REASONS = {
    "synthetic": "measured on a synthetic stand-in",
    "partial": "official clips were missing",
    "limited": "measured on a subset of the clips",
    "subset": "trained on a part of the training clips",
    "skipped": "clips that cannot be decoded were skipped",
    "contaminated": "the encoder was pre-trained on this task's data",
    "native": "clips were not cut or padded to the card's seconds",
    "no score": "no score, or one that is no fraction",
}
_LEFT_OUT = ["encoder", "task", "protocol", "reason", "cell_id"]


@dataclass(frozen=True)
class Measured:
    """rows: leaderboard rows (schema: docs/architecture.md). left_out: encoder, task, protocol, reason, cell_id of the others."""

    rows: pd.DataFrame
    left_out: pd.DataFrame


def measured(
    results: Results,
    *,
    protocol: Protocol | None = None,
    encoders: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    allow: Collection[str] = (),
) -> Measured:
    """The rows of a results folder that may be published, and those left out with the first reason that holds.

    encoders: labels or globs over labels, tasks: names; rows beyond them are neither kept nor named. protocol: rows of
    another one, or of another version of it, are left out. allow: keys of REASONS that keep no row out.
    Raises EvarError when --results is no folder or holds a file that is no runs.csv of this schema, and for an unknown
    key in `allow`.
    """
    import pandas as pd

    if results.folder.exists() and not results.folder.is_dir():
        raise EvarError(f"--results {results.folder} is not a folder")
    for key in allow:
        if key not in REASONS:
            raise unknown("reason", key, REASONS)
    rows = results.leaderboard()
    if encoders is not None:
        named = {label for label in rows["encoder"].unique() if any(matches(label, word) for word in encoders)}
        rows = rows[rows["encoder"].isin(named)]
    if tasks is not None:
        rows = rows[rows["task"].isin(list(tasks))]
    reason = pd.Series("", index=rows.index, dtype=object)
    for key, holds in _tests(rows).items():
        if key not in allow:
            reason = reason.mask((reason == "") & holds, REASONS[key])
    if protocol is not None:
        other = (reason == "") & (rows["protocol"] != protocol.name)
        reason = reason.mask(other, "protocol " + rows["protocol"].astype(object) + f", not {protocol.name}")
        other = (reason == "") & (rows["protocol_version"] != protocol.version)
        told = "version " + rows["protocol_version"].astype(str).astype(object)
        reason = reason.mask(other, told + f" of the protocol, this evar has {protocol.version}")
    kept = reason == ""
    left_out = rows.assign(reason=reason)[~kept][_LEFT_OUT]
    return Measured(rows[kept].reset_index(drop=True), left_out.reset_index(drop=True))


def matches(label: str, word: str) -> bool:
    """Whether a word of the command line (a label, or a glob over labels) names a label."""
    return label == word or (any(mark in word for mark in "*?[") and fnmatch.fnmatchcase(label, word))


def filtered(
    rows: pd.DataFrame, folder: object, tasks: str | None, encoders: str | None, protocol: str | None
) -> pd.DataFrame:
    """The leaderboard rows whose task, encoder and protocol are among those named: names and globs, by commas.

    folder: where the rows are from, for the EvarError where there are rows and none is left.
    """
    given = {"task": tasks, "encoder": encoders, "protocol": protocol}
    for name, words in given.items():
        if not words or not len(rows):
            continue
        there = set(rows[name])
        wanted = split_words(words, there.__contains__)
        rows = rows[[any(matches(value, word) for word in wanted) for value in rows[name]]]
        if not len(rows):
            asked = ", ".join(f"{name} {words}" for name, words in given.items() if words)
            found = ", ".join(sorted(there)[:8]) + (", ..." if len(there) > 8 else "")
            raise EvarError(f"no row of {folder} matches {asked}; its {name}s are: {found}")
    return rows


def summarised(left_out: pd.DataFrame, most: int = 4) -> list[str]:
    """One line per reason, the most frequent first: how many rows, and the first few as `encoder × task`."""
    lines = []
    groups = sorted(left_out.groupby("reason", sort=False), key=lambda group: -len(group[1]))
    for reason, rows in groups:
        names = [f"{encoder} × {task}" for encoder, task in zip(rows["encoder"], rows["task"], strict=True)]
        names = list(dict.fromkeys(names))
        more = f", and {len(names) - most} more" if len(names) > most else ""
        count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
        lines.append(f"{count}: {reason} ({', '.join(names[:most])}{more})")
    return lines


def _tests(rows: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        "synthetic": rows["synthetic"],
        "partial": rows["partial"],
        "limited": rows["limit"].notna(),
        "subset": rows["train_fraction"].notna() | rows["shots"].notna(),
        "skipped": (rows["skipped"].fillna(0) > 0).astype(bool),
        "contaminated": rows["contaminated"],
        "native": rows["duration"] == "native",
        "no score": ~rows["mean"].between(0.0, 1.0),
    }
