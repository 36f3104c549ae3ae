"""A paper's table made again: published figures, what was measured beside them, and the cells that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from evar.reporting.published import Figure, PaperTable, reproduction
from evar.reporting.rows import Measured, matches

if TYPE_CHECKING:
    import pandas as pd

    from evar.probes.protocol import Protocol

# One encoder measured in one way; norm counts by kind, because fold1 and train are the same choice for two kinds of task.
_VARIANT = ["encoder", "weights_sha256", "layers", "pooling", "norm_kind", "seeds", "precision"]
_TOLD = {"layers": "{}", "pooling": "{}", "norm_kind": "norm {}", "weights_sha256": "weights {:.8}", "precision": "{}"}


@dataclass(frozen=True)
class Wanted:
    """An encoder as the user named it (`word`): its leaderboard label, registry name ("" for others), weights file name."""

    word: str
    label: str
    name: str = ""
    weights: str = ""


@dataclass(frozen=True)
class Score:
    """A measured number in percent; std over seeds or folds, None where there is none."""

    mean: Decimal
    std: Decimal | None
    cell_id: str = ""


@dataclass(frozen=True)
class Variant:
    """One encoder measured in one way. note: what tells it from the others of its label; scores by task."""

    label: str
    note: str
    scores: Mapping[str, Score]
    layers: str
    pooling: str
    weights: str
    weights_sha256: str
    weights_kind: str

    @property
    def name(self) -> str:
        return f"{self.label} {{{self.note}}}" if self.note else self.label


@dataclass(frozen=True)
class Line:
    """One model: what was published of it (by task) and what was measured of it. A model of one's own has no figures."""

    model: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    wanted: Wanted | None = None

    @property
    def first(self) -> Figure | None:
        return next(iter(self.figures.values()), None)


@dataclass(frozen=True)
class Table:
    """A whole table. metrics: by task, where known. left_out: rows that do not enter (columns: evar.reporting.rows.Measured)."""

    paper: PaperTable
    protocol: str
    protocol_version: int | None
    metrics: Mapping[str, str]
    lines: tuple[Line, ...]
    left_out: pd.DataFrame

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.paper.tasks

    @property
    def has_published(self) -> bool:
        return any(line.figures for line in self.lines)


def build(
    paper: PaperTable,
    figures: Iterable[Figure],
    found: Measured,
    protocol: Protocol,
    wanted: Sequence[Wanted] = (),
) -> Table:
    """Put measured rows (of one version of one protocol, and of the table's tasks) beside the figures of a table.

    paper.source names the figures' `table`. wanted: the encoders to show, none for all; one that nothing is known of gets
    an empty line. Rows that depart from the protocol (own seeds, other normalisation), of another metric or of other clips
    than most are left out, and so is all but the newest row of a cell.
    """
    mine = [figure for figure in figures if figure.table == paper.source]
    models: dict[str, dict[str, Figure]] = {}
    for figure in mine:
        if figure.task in paper.tasks:
            models.setdefault(figure.model, {})[figure.task] = figure
    rows, left_out = _entering(found, protocol, {figure.task: figure.metric for figure in mine})
    variants = _variants(rows)
    metrics = {figure.task: figure.metric for figure in mine} | dict(zip(rows["task"], rows["metric"], strict=True))
    lines, placed = [], set()
    for model, by_task in models.items():
        first = next(iter(by_task.values()))
        beside = tuple(variant for variant in variants if _is_of(variant, first))
        placed |= {id(variant) for variant in beside}
        named = [one for one in wanted if _names_model(one, first)]
        exact = [one for one in named if _takes_weights(one, first)]
        if not wanted or named or any(_names_label(one, variant.label) for one in wanted for variant in beside):
            lines.append(Line(model, by_task, beside, exact[0] if exact else None))
    for variant in variants:
        if id(variant) not in placed:
            named = [one for one in wanted if _names_label(one, variant.label)]
            if not wanted or named:
                exact = [one for one in named if one.label == variant.label]
                lines.append(Line(variant.name, {}, (variant,), exact[0] if exact else None))
    shown = {variant.label for line in lines for variant in line.variants}
    filled = {line.wanted for line in lines}
    for one in wanted:
        taken = one in filled or any(matches(label, one.label) for label in shown)
        model_only = not one.weights and any(line.first and _names_model(one, line.first) for line in lines)
        if not taken and not model_only and not any(mark in one.word for mark in "*?["):
            lines.append(Line(one.label, wanted=one))
    if wanted:
        names = {line.first.evar_name for line in lines if line.first}
        kept = {label for label in left_out["encoder"].unique() if any(_names_label(one, label) for one in wanted)}
        kept |= {label for label in left_out["encoder"].unique() if label.partition("@")[0] in names}
        left_out = left_out[left_out["encoder"].isin(kept)].reset_index(drop=True)
    version = int(rows["protocol_version"].max()) if len(rows) else None
    return Table(paper, protocol.name, version, metrics, tuple(lines), left_out)


def names_anything(one: Wanted, figures: Iterable[Figure], labels: Iterable[str]) -> bool:
    """Whether a word of `--encoders` names a published model or a measured label."""
    return any(_names_model(one, figure) for figure in figures) or any(_names_label(one, label) for label in labels)


def average(values: Mapping[str, Decimal], tasks: Sequence[str]) -> Decimal | None:
    """The mean over exactly these tasks; None where there are none or one is missing: another average compares nothing."""
    if not tasks or not all(task in values for task in tasks):
        return None
    return sum((values[task] for task in tasks), Decimal(0)) / len(tasks)


def percent(fraction: float) -> Decimal:
    """A fraction as percent."""
    return Decimal(repr(100 * float(fraction)))


def rounded(value: Decimal) -> Decimal:
    """To one decimal as Python, numpy and pandas print it, so that a row reads the same here and in the leaderboard."""
    return Decimal(f"{float(value):.1f}")


def published_values(line: Line) -> dict[str, Decimal]:
    """task -> published mean in percent."""
    return {task: Decimal(repr(figure.mean)) for task, figure in line.figures.items()}


def differences(line: Line, variant: Variant, tasks: Sequence[str]) -> dict[str, Decimal]:
    """task -> points between the printed figures, measured minus published; `average` too where both sides have it."""
    theirs, ours = published_values(line), {task: score.mean for task, score in variant.scores.items()}
    for values in (theirs, ours):
        mean = average(values, tasks)
        if mean is not None:
            values["average"] = mean
    return {task: rounded(ours[task]) - rounded(theirs[task]) for task in theirs if task in ours}


def _entering(found: Measured, protocol: Protocol, metrics: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that enter the table, at most one per variant and task, and all that do not."""
    import pandas as pd

    rows = found.rows.assign(norm_kind=found.rows["norm"].replace({"fold1": "task", "train": "task"}))
    reason = pd.Series("", index=rows.index, dtype=object)
    seeds = " ".join(map(str, protocol.seeds[:1] if protocol.deterministic else protocol.seeds))
    told = rows["seeds"].astype(object)
    reason = reason.mask(rows["seeds"] != seeds, "seeds " + told + f", the protocol has {seeds}")
    if protocol.norm == "task":
        other = (reason == "") & (rows["norm_kind"] == "weights")
        reason = reason.mask(other, "normalised by the statistics of the weights, the protocol takes the task's")
    published = rows["task"].map(metrics)
    other = (reason == "") & published.notna() & (published != rows["metric"])
    reason = reason.mask(other, "metric " + rows["metric"].astype(object) + ", another one is published")
    for task, part in rows[reason == ""].groupby("task"):
        counts = part.groupby("task_fingerprint").agg(n=("cell_id", "size"), last=("started_at", "max"))
        kept = counts.assign(version=part.groupby("task_fingerprint")["task_version"].max())
        kept = kept.sort_values(["version", "n", "last"]).index[-1]
        other = (reason == "") & (rows["task"] == task) & (rows["task_fingerprint"] != kept)
        reason = reason.mask(other, "measured on other clips or splits of the task than the rows shown")
    order = rows[reason == ""].sort_values("started_at", kind="stable")
    older = order.index[order.duplicated([*_VARIANT, "task"], keep="last")]
    reason.loc[older] = "measured again later"
    left = rows.assign(reason=reason)[reason != ""][list(found.left_out.columns)]
    return rows[reason == ""], pd.concat([found.left_out, left], ignore_index=True) if len(left) else found.left_out


def _variants(rows: pd.DataFrame) -> list[Variant]:
    variants = []
    for label, part in rows.groupby("encoder", sort=True):
        told = [column for column in _TOLD if part[column].nunique() > 1]
        for _, group in part.groupby(_VARIANT[1:], sort=True):
            first = group.iloc[0]
            scores = {
                row["task"]: Score(
                    percent(row["mean"]), None if row["std"] != row["std"] else percent(row["std"]), row["cell_id"]
                )
                for _, row in group.iterrows()
            }
            note = ", ".join(_TOLD[column].format(first[column]) for column in told)
            kept = {
                name: str(first[name]) for name in ("layers", "pooling", "weights", "weights_sha256", "weights_kind")
            }
            variants.append(Variant(str(label), note, scores, **kept))
    return variants


def _is_of(variant: Variant, figure: Figure) -> bool:
    """Whether a variant measures a published model: its weights where the file is known, else an encoder of its name."""
    if not figure.evar_name or variant.weights_kind == "random":
        return False
    inside = figure.evar_name in reproduction()["pooled_inside"]
    if figure.pooling and figure.pooling != variant.pooling and not inside:
        return False
    if figure.weights_file:
        return Path(variant.weights).stem == Path(figure.weights_file).stem
    return variant.label.partition("@")[0] == figure.evar_name


def _names_model(one: Wanted, figure: Figure) -> bool:
    word = one.word.casefold()
    names = [name.casefold() for name in (figure.model, figure.evar_name) if name]
    if any(mark in word for mark in "*?["):
        return any(fnmatchcase(name, word) for name in names)
    return word in names or (bool(one.name) and one.name == figure.evar_name)


def _takes_weights(one: Wanted, figure: Figure) -> bool:
    """Whether the user's word brings the published weights (or those are not known)."""
    if one.name != figure.evar_name or not one.weights:
        return False
    return not figure.weights_file or Path(one.weights).stem == Path(figure.weights_file).stem


def _names_label(one: Wanted, label: str) -> bool:
    return matches(label, one.label) or matches(label, one.word) or label.partition("@")[0] == one.word
