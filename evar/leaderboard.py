"""The leaderboard as a table for people: encoders × tasks in percent, one table per protocol, synthetic rows apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# What makes two rows of one task incomparable: they never compete for the mark of the best.
_CLASS = ["task_fingerprint", "train_fraction", "shots", "limit", "partial", "duration", "metric"]
_VARIANTS = ["pooling", "layers", "norm", "weights", "task_version", "protocol_version", "seeds", "cell_id"]


def format_leaderboard(rows: pd.DataFrame) -> str:
    """Rows of the leaderboard (schema: docs/architecture.md) as text.

    A cell shows the score in percent and half the width of its 95 % interval; `*` marks the best of a column where there
    are several rows to compare. Notes under a table explain every other mark.
    """
    if rows.empty:
        return "no rows"
    sections = []
    for (synthetic, protocol, version), part in rows.groupby(["synthetic", "protocol", "protocol_version"], sort=True):
        title = f"protocol {protocol} (version {version})"
        if synthetic:
            title += ", synthetic stand-ins: these numbers say nothing about the real tasks"
        sections.append(f"{title}\n{_matrix(part)}")
    return "\n\n".join(sections)


def _matrix(part: pd.DataFrame) -> str:
    part = part.assign(line=_lines(part))
    tasks = list(dict.fromkeys(part["task"]))
    best = _best(part)
    notes: dict[str, str] = {}
    cells: dict[tuple[str, str], str] = {}
    for index, row in part.iterrows():
        half = (row["ci95_high"] - row["ci95_low"]) / 2
        text = f"{100 * row['mean']:.1f} ±{100 * half:.1f}" if half == half else f"{100 * row['mean']:.1f}"
        marks = _marks(row, notes)
        cells[row["line"], row["task"]] = text + marks + ("*" if index in best else " ")
    header = ["", *[f"{task} ({metric})" if metric != "accuracy" else task for task, metric in _metrics(part, tasks)]]
    lines = [[line, *[cells.get((line, task), "").rstrip() for task in tasks]] for line in dict.fromkeys(part["line"])]
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [header, *lines]
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    text += [f"{mark}: {note}" for mark, note in notes.items()]
    return "\n".join(text)


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
    best = set()
    for _, group in part.groupby(["task", *_CLASS], dropna=False):
        if len(group) > 1:
            best |= set(group.index[group["mean"] == group["mean"].max()])
    return best


def _marks(row: pd.Series, notes: dict[str, str]) -> str:
    marks = ""
    for mark, wanted, note in (
        ("p", row["partial"], "partial: official clips are missing"),
        ("c", row["contaminated"], "contaminated: the encoder was pre-trained on this task's data"),
        ("s", row["skipped"] > 0, "clips that cannot be decoded were skipped"),
    ):
        if wanted:
            marks += mark
            notes[mark] = note
    return f" {marks}" if marks else ""


def _metrics(part: pd.DataFrame, tasks: list[str]) -> list[tuple[str, str]]:
    return [(task, part.loc[part["task"] == task, "metric"].iloc[0]) for task in tasks]
