"""The words around a table: its heading, what its figures are, which rows are behind them, what is missing or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evar.reporting.rows import summarised
from evar.reporting.table_missing import NO_CARD, Missing
from evar.reporting.tables import Table

COMPARABLE = "paper"
_MOST = 12


@dataclass(frozen=True)
class Words:
    """title: one line; heading: what stands above the table; notes: (section, its lines) below it, commands among them."""

    title: str
    heading: tuple[str, ...]
    notes: tuple[tuple[str, tuple[str, ...]], ...]


def words(table: Table, gaps: Sequence[Missing], results: str, options: Sequence[str] = ()) -> Words:
    """Everything that is said about a table. results: where its rows come from; options: what each command is given."""
    sections = [
        ("How to read it", _legend(table)),
        ("Remarks on published figures", _remarks(table)),
        ("Measured rows", _provenance(table)),
        ("Not measured yet; these commands fill the empty cells", _commands(gaps, options)),
        ("Empty cells without a command", _unfillable(gaps)),
        ("Left out", tuple(summarised(table.left_out))),
    ]
    return Words(table.paper.title, _heading(table, results), tuple((name, lines) for name, lines in sections if lines))


def _heading(table: Table, results: str) -> tuple[str, ...]:
    version = "" if table.protocol_version is None else f" version {table.protocol_version}"
    n_cells = sum(len(variant.scores) for line in table.lines for variant in line.variants)
    cells = "no cell" if not n_cells else "1 cell" if n_cells == 1 else f"{n_cells} cells"
    lines = [f"Published: {table.paper.citation}."] if table.paper.citation else []
    if table.paper.protocol:
        lines.append(
            f"Protocol of the source: {table.paper.protocol}. Nothing measured is put beside it or ranked with it."
        )
        return tuple(lines)
    lines.append(f"Measured: {cells} by protocol {table.protocol}{version}, rows of {results}.")
    if table.has_published and table.protocol != COMPARABLE:
        lines.append(
            f"The protocols differ: the published figures come from one linear layer trained as protocol {COMPARABLE} does"
            f" it, the measured ones from protocol {table.protocol}; a difference is one of protocols, too."
        )
    return tuple(lines)


def _legend(table: Table) -> tuple[str, ...]:
    metrics = sorted({metric for task, metric in table.metrics.items() if task in table.tasks}) or ["accuracy"]
    over = "seeds" if table.protocol == COMPARABLE else "seeds, or over folds where there is one seed"
    stds = [figure.std for line in table.lines for figure in line.figures.values()]
    stds += [score.std for line in table.lines for variant in line.variants for score in variant.scores.values()]
    spread = f"; ± is the standard deviation over {over}" if any(std is not None for std in stds) else ""
    lines = [f"{' or '.join(metrics)} in percent{spread}"]
    if any(figure.ci95 is not None for line in table.lines for figure in line.figures.values()):
        lines.append("lines marked so: ± is a 95 % interval, as their papers give it, and no standard deviation")
    if table.has_published:
        lines.append(
            "a model's own line is as published; what was measured of it stands under it, other encoders at the end"
        )
    if any(line.figures and line.variants for line in table.lines):
        lines.append("difference: points between the printed figures, measured minus published")
    covered = table.paper.average
    if covered:
        over = "all columns" if covered == table.tasks else ", ".join(covered)
        lines.append(f"average: over {over}, of complete lines only")
    return tuple(lines)


def _remarks(table: Table) -> tuple[str, ...]:
    """One line per model and remark, with its tasks; what is not quoted; rows whose protocol is another than most rows'."""
    tasks: dict[tuple[str, str], list[str]] = {}
    protocols: dict[str, list[str]] = {}
    for line in table.lines:
        for task, figure in line.figures.items():
            if figure.remark:
                tasks.setdefault((line.model, figure.remark), []).append(task)
            protocols.setdefault(figure.protocol, []).append(line.model)
    lines = [f"{model} on {', '.join(on)}: {remark}" for (model, remark), on in tasks.items()]
    shown = {line.model for line in table.lines}
    for (model, task), mark in table.paper.marks.items():
        if model in shown and task in table.tasks:
            lines.append(f"{model} on {task}: {mark}: not quoted, its score near zero is no property of the model")
    if len(protocols) > 1:
        lines += [f"{protocol}: {', '.join(dict.fromkeys(models))}" for protocol, models in protocols.items()]
    return tuple(lines)


def _provenance(table: Table) -> tuple[str, ...]:
    lines = []
    for line in table.lines:
        for variant in line.variants:
            parts = [f"layers {variant.layers}", f"pooling {variant.pooling}"]
            if variant.weights_kind in ("trained", "bundled"):
                parts.append(
                    f"weights {variant.weights or variant.weights_kind} (sha256 {variant.weights_sha256[:12]})"
                )
            elif variant.weights_kind == "random":
                parts.append("untrained")
            of = f"{line.model}: " if line.figures else ""
            lines.append(f"{of}{variant.name}: {', '.join(parts)}")
    return _shortened(lines)


def _commands(gaps: Sequence[Missing], options: Sequence[str]) -> tuple[str, ...]:
    lines = []
    for gap in gaps:
        if gap.encoder:
            command = gap.command(options)
            note = f"   # {gap.why}" if gap.why else ""
            if command + note not in lines:
                lines.append(command + note)
    return tuple(lines)


def _unfillable(gaps: Sequence[Missing]) -> tuple[str, ...]:
    """One line per reason; the tasks are named where the reason is the task."""
    models: dict[str, list[str]] = {}
    for gap in gaps:
        if not gap.encoder:
            why = f"{NO_CARD} for {', '.join(gap.tasks)}" if gap.why == NO_CARD else gap.why
            models.setdefault(why, []).append(gap.model)
    return tuple(f"{why}: {', '.join(dict.fromkeys(names))}" for why, names in models.items())


def _shortened(lines: list[str]) -> tuple[str, ...]:
    more = len(lines) - _MOST
    return tuple(lines if more <= 1 else [*lines[:_MOST], f"and {more} more"])
