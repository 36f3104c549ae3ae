"""A comparison as text, markdown, CSV and JSON."""

from __future__ import annotations

import html
import json
from dataclasses import asdict, fields
from typing import Any

from evar.errors import printable, unknown
from evar.reporting.compare import Comparison, Pair
from evar.results_files import no_formula

FORMATS = ("text", "markdown", "csv", "json")
Table = tuple[list[str], list[list[str]], int]  # header, rows, how many columns align left


def format_comparison(comparison: Comparison, form: str = "text") -> str:
    """The comparison in one of FORMATS, ending in a line break.

    Text and markdown give percent and points. CSV has one line per pair and task (the fields of `Pair`); CSV and JSON
    give fractions. Raises EvarError for another format.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if form == "csv":
        return _csv(comparison)
    if form == "json":
        return json.dumps(_plain(_as_dict(comparison)), indent=2, ensure_ascii=False) + "\n"
    markdown = form == "markdown"
    draw = _markdown if markdown else _text
    section = "### {}" if markdown else "{}"
    blocks = [("## {}" if markdown else "{}").format(_title(comparison))]
    blocks.append(draw(_score_table(comparison, "**{}**" if markdown else "{}*")))
    best = "bold: the best of a column" if markdown else "*: the best of a column"
    if comparison.ranks:
        over = "all tasks" if comparison.shared == comparison.tasks else ", ".join(comparison.shared)
        best += f"; average rank over {over}: 1 is best, equal scores share their mean rank"
    blocks.append(best)
    warnings = [note for note in comparison.notes if note.startswith("warning: ")]
    if warnings:
        blocks.append("\n".join(f"- {note}" if markdown else note for note in warnings))
    for task in comparison.tasks:
        mine = [pair for pair in comparison.pairs if pair.task == task]
        if mine:
            blocks += [
                section.format(_task_title(comparison, task, mine[0])),
                draw(_pair_table(mine, comparison.alpha)),
            ]
    if len(comparison.tasks) > 1:
        blocks += [section.format(f"Over the {len(comparison.tasks)} tasks"), draw(_tally_table(comparison))]
    blocks += [section.format("How to read this"), "\n".join(f"- {note}" for note in _legend(comparison))]
    return "\n\n".join(blocks) + "\n"


def _title(comparison: Comparison) -> str:
    against = f"each against {comparison.baseline}" if comparison.baseline else "every pair"
    tasks = "1 task" if len(comparison.tasks) == 1 else f"{len(comparison.tasks)} tasks"
    return f"{len(comparison.encoders)} encoders on {tasks}, {against}; protocol {comparison.protocol}"


def _score_table(comparison: Comparison, best: str) -> Table:
    """Encoders × tasks in percent, the best of each task marked."""
    rows = []
    for encoder in comparison.encoders:
        row = [encoder]
        for task in comparison.tasks:
            mine = {label: round(score, 9) for label, score in comparison.scores[task].items()}
            score = mine.get(encoder)
            text = "" if score is None else f"{100 * score:.1f}"
            row.append(best.format(text) if score is not None and score == max(mine.values()) else text)
        if comparison.ranks:
            rank = comparison.ranks[encoder]
            row.append(best.format(f"{rank:.2f}") if rank == min(comparison.ranks.values()) else f"{rank:.2f}")
        rows.append(row)
    if best == "{}*":  # digits stay below digits
        rows = [
            [cell if i == 0 or not cell or cell.endswith("*") else cell + " " for i, cell in enumerate(r)] for r in rows
        ]
    metrics = {task: fact["metric"] for task, fact in comparison.facts.items()}
    header = [
        "percent",
        *[task if metrics[task] == "accuracy" else f"{task} ({metrics[task]})" for task in comparison.tasks],
    ]
    return [*header, *(["average rank"] if comparison.ranks else [])], rows, 1


def _task_title(comparison: Comparison, task: str, pair: Pair) -> str:
    """`esc10: accuracy, 400 test clips of 304 groups (source recording) in 5 folds; decided by ...`."""
    fact = comparison.facts[task]
    text = f"{task}: {fact['metric']}, {fact['clips']:,} test clips"
    text += f" of {fact['groups']:,} groups" if fact["groups"] else ""
    text += f" ({fact['group']})" if fact["group"] else ""
    text += f" in {fact['folds']} folds" if fact["folds"] > 1 else ""
    text += f", {fact['seeds']} seeds" if fact["seeds"] > 1 else ""
    text += ", synthetic" if fact["synthetic"] else ""
    text += ", partial" if fact["partial"] else ""
    text += ", native length" if fact["duration"] == "native" else ""
    for key, called in (("limit", "limit {}"), ("train_fraction", "{} of train"), ("shots", "{} shots")):
        text += f", {called.format(fact[key])}" if fact[key] != "none" else ""
    return f"{text}; decided by {pair.test}"


def _pair_table(pairs: list[Pair], alpha: float) -> Table:
    header = ["A", "B", "A - B", f"{100 * (1 - alpha):g} % interval", "p", "Holm p", "verdict"]
    counted = any(pair.wins is not None for pair in pairs)
    by_bootstrap = any(pair.test.startswith("bootstrap") for pair in pairs)
    if counted:
        header += ["alone right A : B", "odds ratio"]
        header += ["McNemar p"] if by_bootstrap else ["bootstrap p"]
    rows = []
    for pair in pairs:
        low, high = _points(pair.low), _points(pair.high)
        interval = f"[{low}, {high}]" if pair.low == pair.low else "none"
        verdict = {pair.first: "A better", pair.second: "B better"}.get(pair.verdict, "not shown")
        row = [pair.first, pair.second, _points(pair.difference), interval, _p(pair.p), _p(pair.p_holm), verdict]
        if counted:
            row += [f"{pair.wins} : {pair.losses}", _odds(pair.odds_ratio)]
            row.append(_p(pair.p_mcnemar if by_bootstrap else pair.p_bootstrap))
        rows.append(row)
    return header, rows, 2


def _tally_table(comparison: Comparison) -> Table:
    rows = []
    for (first, second), (won, tied, lost) in comparison.tally.items():
        mine = [100 * p.difference for p in comparison.pairs if (p.first, p.second) == (first, second)]
        if mine:
            ahead = sum(difference > 0 for difference in mine)
            rows.append([first, second, f"{won} / {tied} / {lost}", f"{ahead} of {len(mine)}"])
    return ["A", "B", "A better / not shown / B better", "A ahead on"], rows, 2


def _legend(comparison: Comparison) -> list[str]:
    notes = ["A - B is the difference in points (hundredths), clip by clip on the same test clips"]
    if any(pair.wins is not None for pair in comparison.pairs):
        notes.append("alone right: clips that only A, and only B, gets right; odds ratio: the one divided by the other")
    return [*notes, *(note for note in comparison.notes if not note.startswith("warning: "))]


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _p(value: float) -> str:
    if value != value:
        return "none"
    return "<0.001" if value < 0.0005 else f"{value:.3f}"


def _odds(value: float) -> str:
    if value != value:
        return "none"
    return "inf" if value == float("inf") else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _text(table: Table) -> str:
    header, rows, left = table
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    left_too = {i for i, name in enumerate(header) if i < left or name == "verdict"}

    def form(line: list[str]) -> str:
        cells = (c.ljust(w) if i in left_too else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        return "  ".join(cells).rstrip()

    return "\n".join([form(header), "  ".join("-" * width for width in widths), *map(form, rows)])


def _markdown(table: Table) -> str:
    header, rows, left = table
    ruler = [":--" if i < left else "--:" for i in range(len(header))]
    escaped = [
        [html.escape(printable(cell).replace("|", "\\|").strip(), quote=False) for cell in line]
        for line in (header, ruler, *rows)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def _csv(comparison: Comparison) -> str:
    import csv
    import io

    stream = io.StringIO()
    names = [field.name for field in fields(Pair)]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["protocol", *names])
    for pair in comparison.pairs:
        values = ["" if v is None or v != v else v for v in (getattr(pair, name) for name in names)]
        writer.writerow([comparison.protocol, *[no_formula(v) if isinstance(v, str) else v for v in values]])
    return stream.getvalue()


def _as_dict(comparison: Comparison) -> dict[str, Any]:
    made = asdict(comparison)
    made["tally"] = [
        {"first": first, "second": second, "won": won, "tied": tied, "lost": lost}
        for (first, second), (won, tied, lost) in comparison.tally.items()
    ]
    return made


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: NaN is null, infinity the text `inf`."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, float) and abs(value) == float("inf"):
        return "inf" if value > 0 else "-inf"
    return value
