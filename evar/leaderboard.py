"""The leaderboard as a table for people: encoders × tasks in percent, one table per protocol, synthetic rows apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Rows that differ in one of these are never ranked together.
RANKED_APART = [
    "synthetic",
    "partial",
    "task",
    "task_fingerprint",
    "protocol",
    "protocol_version",
    "metric",
    "limit",
    "train_fraction",
    "shots",
    "duration",
    "precision",
]
_WIDTH = 132  # characters, before a table is continued below
_VARIANTS = ["layers", "pooling", "norm", "weights", "task_version", "protocol_version", "seeds", "cell_id"]


def format_leaderboard(rows: pd.DataFrame) -> str:
    """Rows of the leaderboard (schema: docs/architecture.md) as text.

    A cell shows the score in percent and half the width of its 95 % interval, or the interval itself where that half would
    lead beyond 0 or 100; `*` marks the best of a column where there are several rows to compare. Notes under a table
    explain every other mark.
    """
    if rows.empty:
        return "no rows"
    sections = []
    for (synthetic, protocol, version), part in rows.groupby(["synthetic", "protocol", "protocol_version"], sort=True):
        title = f"protocol {protocol} (version {version})"
        if synthetic:
            title += ", synthetic stand-ins: these numbers say nothing about the real tasks"
        sections.append(f"{title}\n{_matrix(part)}")
    return "\n\n".join([*sections, "percent ± half of the 95 % interval; *: the best of those that compare"])


def rank(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the leaderboard with a column `rank` (1 is best, equal means share a rank, NaN has none), best first.

    Only rows of the same task data, protocol, metric and training clips compete; synthetic, partial and limited rows among
    themselves.
    """
    ranks = rows.groupby(RANKED_APART, dropna=False)["mean"].rank(ascending=False, method="min").astype("Int64")
    return rows.assign(rank=ranks).sort_values([*RANKED_APART, "rank"], kind="stable")


def _matrix(part: pd.DataFrame) -> str:
    part = part.assign(line=_lines(part))
    tasks = list(dict.fromkeys(part["task"]))
    best = _best(part)
    notes: dict[str, str] = {}
    cells: dict[tuple[str, str], str] = {}
    for index, row in part.iterrows():
        text = f"{100 * row['mean']:.1f}" if row["mean"] == row["mean"] else "no score"
        text += _interval(row, notes)
        marks = _marks(row, notes)
        cells[row["line"], row["task"]] = text + marks + ("*" if index in best else " ")
    header = ["", *[f"{task} ({metric})" if metric != "accuracy" else task for task, metric in _metrics(part, tasks)]]
    lines = [[line, *[cells.get((line, task), "").rstrip() for task in tasks]] for line in dict.fromkeys(part["line"])]
    if len(tasks) > 1 and part["metric"].nunique() == 1:
        header.append("average")
        means = part.set_index(["line", "task"])["mean"]
        for line in lines:  # of complete lines only: an average over other tasks compares nothing
            whole = all((line[0], task) in means for task in tasks)
            average = 100 * means[line[0]].mean(skipna=False) if whole else float("nan")
            line.append(f"{average:.1f}" if average == average else "")
    text = _columns([header, *lines])
    return "\n".join(text + [f"{mark}: {note}" for mark, note in notes.items()])


def _interval(row: pd.Series, notes: dict[str, str]) -> str:
    mean, low, high = row["mean"], row["ci95_low"], row["ci95_high"]
    if mean != mean:
        return ""
    if not high > low:  # NaN too
        notes["n/a"] = "no 95 % interval: too few independent groups of test clips"
        return " n/a"
    half = (high - low) / 2
    if mean + half > 1 + 5e-4 or mean - half < -5e-4:
        return f" [{100 * low:.1f}, {100 * high:.1f}]"
    return " ±<0.1" if half < 5e-4 else f" ±{100 * half:.1f}"


def _columns(table: list[list[str]]) -> list[str]:
    """Aligned lines under a ruled header; columns that do not fit beside the others follow below, under the same names."""
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    text: list[str] = []
    start = 1
    while start < len(widths):
        stop = start + 1
        while stop < len(widths) and sum(widths[start : stop + 1]) + 2 * (stop + 1 - start) + widths[0] <= _WIDTH:
            stop += 1
        chosen = [0, *range(start, stop)]
        block = ["  ".join(line[i].ljust(widths[i]) for i in chosen).rstrip() for line in table]
        block.insert(1, "  ".join("-" * widths[i] for i in chosen))
        text += ["", *block] if text else block
        start = stop
    return text


def _lines(part: pd.DataFrame) -> list[str]:
    """A line's name: the encoder, what was changed from the defaults, and what tells two rows of one task apart."""
    import pandas as pd

    names = []
    for _, row in part.iterrows():
        changed = [
            text.format(row[column])
            for column, text in (("limit", "limit {}"), ("shots", "{} shots"), ("train_fraction", "{:g} of train"))
            if not pd.isna(row[column])
        ]
        changed += ["native"] if row["duration"] == "native" else []
        changed += [row["precision"]] if row["precision"] != "fp32" else []
        names.append(row["encoder"] + (f" [{', '.join(changed)}]" if changed else ""))
    part = part.assign(line=names)
    for variant in _VARIANTS:
        clash = part.duplicated(["line", "task"], keep=False)
        if not clash.any():
            break
        for _, group in part[clash].groupby(["line", "task"]):
            if group[variant].nunique() > 1:
                part.loc[group.index, "line"] += " {" + group[variant].astype(str) + "}"
    return list(part["line"])


def _best(part: pd.DataFrame) -> set:
    """The index of every first of several."""
    ranked = rank(part)
    competing = ranked.groupby(RANKED_APART, dropna=False)["rank"].transform("count") > 1
    return set(ranked.index[competing & (ranked["rank"] == 1).fillna(False).astype(bool)])


def _marks(row: pd.Series, notes: dict[str, str]) -> str:
    marks = ""
    for mark, wanted, note in (
        ("p", row["partial"], "partial: official clips are missing"),
        ("c", row["contaminated"], "contaminated: the encoder was pre-trained on this task's data"),
        ("s", str(row["skipped"]) not in ("0", "<NA>"), "clips that cannot be decoded were skipped"),
    ):
        if wanted:
            marks += mark
            notes[mark] = note
    return f" {marks}" if marks else ""


def _metrics(part: pd.DataFrame, tasks: list[str]) -> list[tuple[str, str]]:
    return [(task, part.loc[part["task"] == task, "metric"].iloc[0]) for task in tasks]
