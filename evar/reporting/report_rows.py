"""Which rows a report shows and how they stand beside each other: boards (protocols), columns (tasks), lines (encoders)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, unknown
from evar.leaderboard import RANKED_APART, rank
from evar.reporting.rows import filtered
from evar.results import RUNS, Results
from evar.results_files import AT, read_rows

if TYPE_CHECKING:
    import pandas as pd

MOST_CELLS = 10_000  # a page beyond this is no longer something to look at
_BOARD = ["synthetic", "protocol", "protocol_version"]
_LINE = ["board", "encoder"]
_COLUMN = [name for name in RANKED_APART if name not in _BOARD]  # rows of one board and column compete
# What tells two rows of one encoder in one column apart, in the order in which it is tried.
_VARIANTS = ("layers", "pooling", "norm", "weights", "task_version", "seeds", "encoder_fingerprint", "cell_id")


def select(
    results: Results, tasks: str | None = None, encoders: str | None = None, protocol: str | None = None
) -> pd.DataFrame:
    """The leaderboard rows whose task, encoder and protocol are among those named, with `rank`, `column`, `line` and `variant`.

    `column` (int) numbers what competes within a board, `line` (int) an encoder in one configuration, `variant` (str)
    says which one where there are several. EvarError: --results is no folder, no row of it matches, or there are more than
    MOST_CELLS rows.
    """
    if results.folder.exists() and not results.folder.is_dir():
        raise EvarError(f"--results {results.folder} is not a folder")
    rows = filtered(results.leaderboard(), results.folder, tasks, encoders, protocol)
    if len(rows) > MOST_CELLS:
        raise EvarError(
            f"{results.folder} holds {len(rows):,} cells, a page shows {MOST_CELLS:,} at most: "
            "choose some with --tasks NAMES, --encoders NAMES or --probe NAME"
        )
    return arranged(rows)


def arranged(rows: pd.DataFrame) -> pd.DataFrame:
    """Leaderboard rows with `rank`, `column`, `line` and `variant` (see `select`), best first within a column."""
    rows = rank(rows).reset_index(drop=True)
    column = rows.groupby(_BOARD + _COLUMN, dropna=False, sort=False).ngroup()
    variant = _variants(rows.assign(column=column))
    line = rows.assign(variant=variant).groupby([*_BOARD, "encoder", "variant"], sort=False).ngroup()
    return rows.assign(column=column, line=line, variant=variant)


def _variants(rows: pd.DataFrame) -> pd.Series:
    import pandas as pd

    variant = pd.Series("", index=rows.index, dtype="str")
    board = rows.groupby(_BOARD).ngroup()
    for name in _VARIANTS:
        key = rows.assign(variant=variant, board=board)
        line = [*_LINE, "variant"]
        clash = key.duplicated([*line, "column"], keep=False)
        if not clash.any():
            break
        if name == "cell_id":  # the last resort names single cells, not lines
            named = clash
        else:
            differs = key[clash].groupby([*line, "column"])[name].nunique() > 1
            split = differs[differs].index.droplevel("column").unique()
            named = pd.Series(pd.MultiIndex.from_frame(key[line]).isin(split), index=rows.index)
        texts = rows[name].astype(str).str.slice(0, 12 if name in ("encoder_fingerprint", "cell_id") else None)
        texts = texts.where(texts != "", "none")
        variant = variant.where(~named, (variant + " · " + texts).str.removeprefix(" · "))
    return variant


def boards(rows: pd.DataFrame) -> list[dict]:
    """One per protocol, real before synthetic: protocol, version, synthetic, columns [{id, task, note, metric}], lines."""
    made = []
    names = column_names(rows)
    for (synthetic, protocol, version), part in rows.groupby(_BOARD, sort=True):
        columns = part.drop_duplicates("column").sort_values(["task", "column"])
        lines = part.drop_duplicates("line").sort_values(["encoder", "variant"])
        made.append(
            {
                "protocol": str(protocol),
                "version": int(version),
                "synthetic": bool(synthetic),
                "columns": [
                    {"id": int(row.column), "task": row.task, "note": names[row.column][1], "metric": row.metric}
                    for row in columns.itertuples()
                ],
                "lines": [
                    {"id": int(row.line), "encoder": row.encoder, "variant": row.variant} for row in lines.itertuples()
                ],
            }
        )
    return made


def column_names(rows: pd.DataFrame) -> dict[int, tuple[str, str]]:
    """column -> (task, note): what was changed about the task, and what else tells two columns of a board apart."""
    names: dict[int, tuple[str, str]] = {}
    for _, part in rows.drop_duplicates("column").groupby(_BOARD):
        notes = {row["column"]: _note(row) for _, row in part.iterrows()}
        for extra in ("task_version", "task_fingerprint"):
            taken = [(row["task"], notes[row["column"]]) for _, row in part.iterrows()]
            for _, row in part.iterrows():
                if taken.count((row["task"], notes[row["column"]])) > 1:
                    told = f"version {row[extra]}" if extra == "task_version" else f"data {row[extra][:6]}"
                    notes[row["column"]] = ", ".join(filter(None, [notes[row["column"]], told]))
        names |= {row["column"]: (row["task"], notes[row["column"]]) for _, row in part.iterrows()}
    return names


def _note(row: pd.Series) -> str:
    import pandas as pd

    parts = [] if row["metric"] == "accuracy" else [str(row["metric"])]
    parts += ["partial"] if row["partial"] else []
    for name, text in (("limit", "{} clips"), ("shots", "{} shots"), ("train_fraction", "{:.0%} of train")):
        if not pd.isna(row[name]):
            parts.append(text.format(row[name]))
    parts += ["native length"] if row["duration"] == "native" else []
    return ", ".join(parts)


def choose(rows: pd.DataFrame, encoder: str, task: str, **equal: Any) -> pd.Series:
    """The one row of an encoder (its leaderboard label) and a task that also has column == value for `equal`.

    None in `equal` means any; where several rows fit, protocol `fair` and real rows are preferred, in this order.
    EvarError when nothing fits (naming what is there) or several do (naming what tells them apart).
    """
    for kind, wanted in (("encoder", encoder), ("task", task)):
        if wanted not in set(rows[kind]):
            raise unknown(kind, wanted, set(rows[kind]), "(labels as 'evar leaderboard' shows them)")
    found = rows[(rows["encoder"] == encoder) & (rows["task"] == task)]
    if not len(found):
        raise EvarError(f"nothing measured for {encoder} on {task}: evar run {_quoted(encoder)} {_quoted(task)}")
    for name, value in equal.items():
        if value is not None:
            kept = found[found[name].astype(str) == str(value)]
            if not len(kept):
                raise unknown(name, str(value), set(found[name].astype(str)), f"(for {encoder} on {task})")
            found = kept
    for name, value in (("synthetic", False), ("protocol", "fair")):
        if (found[name] == value).any():
            found = found[found[name] == value]
    if len(found) > 1:
        by = [name for name in (*_VARIANTS[:3], "protocol", *_COLUMN[1:]) if found[name].nunique(dropna=False) > 1]
        told = "; ".join(f"{name}: {', '.join(sorted(set(found[name].astype(str))))}" for name in by) or "cell_id"
        raise EvarError(
            f"{len(found)} rows for {encoder} on {task}, which differ in {told}: choose with --probe, --layers, "
            "--pooling or --cell"
        )
    return found.iloc[0]


def runs_of(results: Results, rows: pd.DataFrame) -> dict[str, list[list]]:
    """cell_id -> its newest recording's runs [fold, seed, score or None, setting], read row by row."""
    newest = dict(zip(rows["cell_id"], rows["started_at"], strict=True))
    found: dict[str, dict[tuple[str, str], list]] = {}
    for row, *_ in read_rows(results.folder / RUNS) if newest else ():
        cell = row[AT["cell_id"]]
        if newest.get(cell) == row[AT["started_at"]]:
            score = float(row[AT["score"]] or "nan")
            run = [row[AT["fold"]], row[AT["seed"]], score if score == score else None, row[AT["setting"]]]
            found.setdefault(cell, {})[run[0], run[1]] = run
    return {cell: list(runs.values()) for cell, runs in found.items()}


def command_of(row: pd.Series) -> str:
    """The `evar run` command that makes a row again, given the data (`--data`) and, where there are any, the weights."""
    import pandas as pd

    label, weights = row["encoder"], row["weights"]
    if weights and not label.endswith(f"@{Path(weights).stem}"):
        spec = f"{label}=NAME@{weights}"  # a label of the user's own does not say which encoder it stands for
    else:
        spec = f"{label.removesuffix(Path(weights).stem)}{weights}" if weights else label
    words = ["evar", "run", spec, row["task"], "--probe", row["protocol"].partition("#")[0]]
    words += ["--layers", row["layers"], "--pooling", row["pooling"]]
    words += {"none": [], "weights": ["--norm", "weights"]}.get(row["norm"], ["--norm", "task"])
    words += ["--duration", "native"] if row["duration"] == "native" else []
    words += ["--seeds", row["seeds"].replace(" ", ",")] if row["seeds"] not in ("", "0") else []
    for option, name in (("--train-fraction", "train_fraction"), ("--shots", "shots"), ("--limit", "limit")):
        words += [] if pd.isna(row[name]) else [option, f"{row[name]:g}"]
    flags = {"--mini": row["synthetic"], "--partial": row["partial"], "--skip-bad": row["skipped"] > 0}
    words += [flag for flag, given in flags.items() if given]
    return " ".join(map(_quoted, words))


def clips_encoded(row: pd.Series) -> float:
    """How many clips `seconds_encode` stands for; NaN where the row does not say."""
    import pandas as pd

    if not pd.isna(row["shots"]) or not pd.isna(row["train_fraction"]):
        return float("nan")
    parts = [row["n_test"]] if row["n_folds"] > 1 else [row["n_train"], row["n_valid"], row["n_test"]]
    known = [int(part) for part in parts if not pd.isna(part) and part > 0]
    return float(sum(known)) if known else float("nan")


def clips_per_second(rows: pd.DataFrame) -> pd.Series:
    """Clips encoded per second; a row whose embeddings came from the store has the speed of the row that made them."""
    import pandas as pd

    speeds = [
        clips_encoded(row) / row["seconds_encode"] if row["seconds_encode"] > 0 else float("nan")
        for _, row in rows.iterrows()
    ]
    rows = rows.assign(speed=speeds)
    made_by = ["encoder", "encoder_fingerprint", "task_fingerprint", "layers", "pooling", "duration"]
    return rows["speed"].fillna(rows.groupby(made_by)["speed"].transform("median")).astype(pd.Float64Dtype())


def _quoted(word: str) -> str:
    return shlex.quote(str(word))


def natural(names: Iterable[str]) -> list[str]:
    """Names in the order people count: block2 before block10."""
    import re

    return sorted(
        set(names), key=lambda name: [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name)]
    )
