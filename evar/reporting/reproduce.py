"""One measured number held to the published one, and in words what differs between the two protocols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, unknown
from evar.reporting.published import Figure, comparable, paper_tables, reproduction
from evar.reporting.rows import measured
from evar.reporting.tables import percent, rounded
from evar.results import RUNS, Results
from evar.results_files import AT, read_rows

if TYPE_CHECKING:
    from evar.probes.protocol import Protocol

LEAST_TOLERANCE = 1.0
_PUBLISHED_SEEDS = "42 43 44"


@dataclass(frozen=True)
class Verdict:
    """measured, difference, tolerance: percent and points, not rounded. same and differs: one sentence each."""

    encoder: str
    figure: Figure
    measured: Decimal
    difference: Decimal
    tolerance: Decimal
    why_tolerance: str
    within: bool
    same: tuple[str, ...]
    differs: tuple[str, ...]
    unknown: tuple[str, ...]
    others: tuple[Figure, ...]
    row: Mapping[str, Any]


def choose(
    figures: Iterable[Figure], name: str, task: str, table: str | None = None
) -> tuple[Figure, tuple[Figure, ...]]:
    """The published figure of an encoder (its name here, or a model's published name) on a task, and the others there are.

    table: a table's name, as `evar table` takes it, or its source. Of several figures the first with a spread over seeds
    is taken, else the first. Raises EvarError when nothing is published, and says what is.
    """
    names = {one.name: one.source for one in paper_tables().values()}
    every = list(figures)
    pool = comparable(every) if table is None else every
    if table is not None:
        sources = {figure.table for figure in pool}
        if names.get(table, table) not in sources:
            raise unknown("table", table, {*names, *sources})
        pool = [figure for figure in pool if figure.table == names.get(table, table)]
    mine = [figure for figure in pool if name.casefold() in (figure.evar_name.casefold(), figure.model.casefold())]
    if not mine:
        known = {figure.evar_name for figure in pool if figure.evar_name} or {figure.model for figure in pool}
        raise unknown("published encoder", name, known, "(--against MODEL holds any encoder to a published model)")
    found = [figure for figure in mine if figure.task == task]
    if not found:
        tasks = ", ".join(dict.fromkeys(figure.task for figure in mine))
        raise EvarError(f"nothing is published for {name} on {task}; published: {tasks}")
    first = next((figure for figure in found if figure.std is not None), found[0])
    return first, tuple(figure for figure in found if figure is not first)


def judge(
    row: Mapping[str, Any],
    figure: Figure,
    *,
    tolerance: float | None = None,
    settings: Sequence[str] = (),
    card: Any = None,
    sample_rate: int | None = None,
    others: Sequence[Figure] = (),
) -> Verdict:
    """Hold a leaderboard row to a figure.

    tolerance: points; None takes twice the published deviation over seeds, at least LEAST_TOLERANCE. settings: the
    `setting` of the row's runs (the learning rate stands there). card: the task's card. sample_rate: the encoder's, in Hz.
    Raises EvarError for another metric, a row without a score and a tolerance that is no number of at least 0.
    """
    if row["metric"] != figure.metric:
        raise EvarError(
            f"{row['encoder']} on {row['task']}: {row['metric']} was measured, {figure.metric} is published"
        )
    if not 0 <= row["mean"] <= 1:
        raise EvarError(f"{row['encoder']} on {row['task']}: the row has no score: run it again")
    check_tolerance(tolerance)
    allowed, why = _tolerance(tolerance, figure)
    value = percent(row["mean"])
    difference = (value - Decimal(repr(figure.mean))).quantize(Decimal("1e-9"))  # 100 * 0.579 is not quite 57.9
    same, differs, not_known = _compared(row, figure, settings, card, sample_rate)
    return Verdict(
        row["encoder"],
        figure,
        value,
        difference,
        allowed,
        why,
        abs(difference) <= allowed,
        tuple(same),
        tuple(differs),
        tuple(not_known),
        tuple(others),
        row,
    )


def check_tolerance(tolerance: float | None) -> None:
    """EvarError for a tolerance (points) that is no number of at least 0; None is the default one."""
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise EvarError(f"--tolerance: expected points of at least 0, found {tolerance:g}")


def format_verdict(verdict: Verdict) -> str:
    """The verdict for people, ending in a line break: the number, the published one, whether it holds, what differs."""
    row, figure = verdict.row, verdict.figure
    spread = "" if figure.spread is None else f" ±{rounded(Decimal(repr(figure.spread)))}"
    spread += "" if figure.ci95 is None else " (a 95 % interval)"
    std = "" if row["std"] != row["std"] else f" ±{rounded(percent(row['std']))}"
    interval = " (no 95 % interval)"
    if row["ci95_high"] > row["ci95_low"]:
        interval = f" (95 % interval {rounded(percent(row['ci95_low']))} to {rounded(percent(row['ci95_high']))})"
    outcome = "within" if verdict.within else "outside"
    lines = [
        f"{verdict.encoder} on {row['task']}: {outcome} the tolerance",
        f"  measured    {rounded(verdict.measured)}{std} %{interval}, protocol {row['protocol']}",
        f"  published   {rounded(Decimal(repr(figure.mean)))}{spread} %, {figure.model}, {_table_name(figure)}"
        + (f" ({figure.protocol})" if figure.protocol else ""),
        f"  difference  {rounded(verdict.difference):+} points",
        f"  tolerance   {verdict.tolerance.normalize():f} ({verdict.why_tolerance})",
    ]
    for title, notes in (("Differs", verdict.differs), ("Not known", verdict.unknown), ("The same", verdict.same)):
        lines += ["", f"{title}:", *(f"  - {note}" for note in notes)] if notes else []
    if verdict.others:
        lines += ["", "Also published:"]
        lines += [
            f"  - {figure.mean:g} % in {_table_name(figure)} (--table {_table_name(figure)})"
            for figure in verdict.others
        ]
    return "\n".join(lines) + "\n"


def as_dict(verdict: Verdict) -> dict[str, Any]:
    """The verdict for programs: percent and points as numbers, the notes as lists."""
    figure = verdict.figure
    return {
        "encoder": verdict.encoder,
        "task": verdict.row["task"],
        "protocol": verdict.row["protocol"],
        "cell_id": verdict.row["cell_id"],
        "measured": float(verdict.measured),
        "published": figure.mean,
        "published_std": figure.std,
        "published_ci95": figure.ci95,
        "remark": figure.remark,
        "table": figure.table,
        "model": figure.model,
        "difference": float(verdict.difference),
        "tolerance": float(verdict.tolerance),
        "within": verdict.within,
        "differs": list(verdict.differs),
        "unknown": list(verdict.unknown),
        "same": list(verdict.same),
    }


def _tolerance(given: float | None, figure: Figure) -> tuple[Decimal, str]:
    if given is not None:
        return Decimal(repr(float(given))), "as given"
    least = Decimal(repr(LEAST_TOLERANCE))
    twice = Decimal(0) if figure.std is None else 2 * Decimal(repr(figure.std))
    if twice > least:
        return twice, "twice the published deviation over seeds"
    if figure.ci95 is not None:
        return least, "what is published is a 95 % interval, no deviation over seeds"
    return least, "no deviation is published" if figure.std is None else "twice the published deviation is not more"


def _table_name(figure: Figure) -> str:
    return next((one.name for one in paper_tables().values() if one.source == figure.table), figure.table)


def _compared(
    row: Mapping[str, Any], figure: Figure, settings: Sequence[str], card: Any, sample_rate: int | None
) -> tuple[list[str], list[str], list[str]]:
    """Sentences on what is the same, what differs and what nobody knows."""
    same: list[str] = []
    differs: list[str] = []
    not_known: list[str] = []
    for known, note in (
        _protocol(row),
        _learning_rate(row, figure, settings, card),
        _seeds(row),
        _pooling(row, figure),
        _seconds(row),
        _norm(row),
        _weights(row, figure),
        _rate(figure, sample_rate),
        _validation(row, card),
    ):
        if note:
            {True: same, False: differs, None: not_known}[known].append(note)
    if figure.remark:
        not_known.append(f"the published figure itself: {figure.remark}")
    apart = next((one.protocol for one in paper_tables().values() if one.source == figure.table), "")
    if apart:
        differs.insert(0, f"protocol: published is another one ({apart})")
    caveats = reproduction()["caveats"]
    not_known += [text for pattern, text in caveats.items() if fnmatchcase(figure.evar_name, pattern)]
    return same, differs, not_known


def _protocol(row: Mapping[str, Any]) -> tuple[bool, str]:
    if row["protocol"] == "paper":
        return True, "probe: one linear layer, Adam, early stop (protocol paper)"
    return False, f"probe: protocol {row['protocol']}; published is one linear layer trained with Adam (protocol paper)"


def _learning_rate(
    row: Mapping[str, Any], figure: Figure, settings: Sequence[str], card: Any
) -> tuple[bool | None, str]:
    if row["protocol"] != "paper":
        return None, ""
    used = sorted(
        {word.removeprefix("lr=") for setting in settings for word in setting.split() if word.startswith("lr=")}
    )
    told = " and ".join(used) or "not recorded"
    published = (card.paper if card is not None else {}).get("lr", {}).get(figure.evar_name)
    if published is None:
        return None, f"learning rate: {told}; none is published for {figure.evar_name or figure.model} on {row['task']}"
    if used == [f"{published:g}"]:
        return True, f"learning rate: {told}"
    return False, f"learning rate: {told}; published is {published:g}"


def _seeds(row: Mapping[str, Any]) -> tuple[bool | None, str]:
    if row["seeds"] == _PUBLISHED_SEEDS:
        return True, "seeds: 42, 43, 44"
    return False, f"seeds: {row['seeds'].replace(' ', ', ')}; published are 42, 43, 44"


def _pooling(row: Mapping[str, Any], figure: Figure) -> tuple[bool | None, str]:
    ours = f"layers {row['layers']}, pooling {row['pooling']}"
    if figure.evar_name in reproduction()["pooled_inside"]:
        return None, f"pooling: {ours}"
    if not figure.pooling:
        return None, f"pooling: {ours}; the published one is the model's own"
    if row["pooling"] == figure.pooling:
        return True, f"pooling: {figure.pooling}"
    return False, f"pooling: {row['pooling']}; published is {figure.pooling}"


def _seconds(row: Mapping[str, Any]) -> tuple[bool | None, str]:
    published = reproduction()["seconds"].get(row["task"])
    if published is None:
        return None, f"length of clips: {row['duration']} s here; the published one is not known"
    if row["duration"] == f"{published:g}":
        return True, f"length of clips: cut or zero-padded to {published:g} s"
    ours = "the clips' own" if row["duration"] == "native" else f"{row['duration']} s"
    return False, f"length of clips: {ours}; published is {published:g} s"


def _norm(row: Mapping[str, Any]) -> tuple[bool | None, str]:
    if row["norm"] == "weights":
        return False, "normalisation: statistics of the weights file; published are those of the task's training clips"
    if row["norm"] in ("train", "fold1"):
        part = "training part" if row["norm"] == "train" else "training clips of fold 1"
        return True, f"normalisation: statistics of the task's {part}"
    return None, ""


def _weights(row: Mapping[str, Any], figure: Figure) -> tuple[bool | None, str]:
    digest = f"sha256 {row['weights_sha256'][:16]}" if row["weights_sha256"] else "no digest"
    if row["weights_kind"] == "random":
        return False, f"weights: untrained ({digest}); published are trained ones"
    if row["weights_kind"] == "none":
        return not figure.weights, "weights: none, there is nothing to train in this encoder"
    ours = f"{row['weights'] or 'those that come with evar'} ({digest})"
    if not figure.weights_file:
        return None, f"weights: {ours}; the published file is not known"
    if row["weights_kind"] == "trained" and Path(row["weights"]).stem == Path(figure.weights_file).stem:
        return True, f"weights: {ours}, by file name; no digest is published"
    return False, f"weights: {ours}; published is {figure.weights_file}"


def _rate(figure: Figure, sample_rate: int | None) -> tuple[bool | None, str]:
    if figure.sample_rate is None or sample_rate is None:
        return None, ""
    if figure.sample_rate == sample_rate:
        return True, f"sample rate: {sample_rate} Hz"
    return False, f"sample rate: {sample_rate} Hz; published is {figure.sample_rate} Hz"


def _validation(row: Mapping[str, Any], card: Any) -> tuple[bool | None, str]:
    if card is None or card.split != "folds" or row["protocol"] != "paper":
        return None, ""
    by = "by group" if card.group else "by seed"
    drawn = f"here 10 % of the training clips, drawn {by}; how the published one was drawn may differ"
    return None, f"validation: {row['task']} has no validation part; {drawn}"


def stored_row(
    results: Results, label: str, task: str, protocol: Protocol, figure: Figure, cell_id: str | None = None
) -> dict[str, Any]:
    """The leaderboard row to judge: that of `cell_id`, or the newest stored one of this label, task and protocol.

    Raises EvarError when there is none, when it may not be published (synthetic, partial, another version of the protocol,
    ...: says why), and when the label was measured in several ways of which none has the published pooling alone.
    """
    found = measured(results, protocol=protocol, encoders=[label], tasks=[task])
    rows, left_out = found.rows, found.left_out
    if cell_id is not None:
        rows, left_out = rows[rows["cell_id"] == cell_id], left_out[left_out["cell_id"] == cell_id]
    if not len(rows):
        reasons = "; ".join(dict.fromkeys(left_out["reason"]))
        why = f"only rows that do not count: {reasons}" if reasons else "no row"
        raise EvarError(
            f"{label} on {task}: {why} by protocol {protocol.name} in {results.folder}; without --no-run it is measured"
        )
    rows = rows.sort_values("started_at", kind="stable")
    for column in ("pooling", "layers", "norm", "seeds", "weights_sha256", "task_fingerprint"):
        if column == "pooling" and (rows["pooling"] == figure.pooling).any():
            rows = rows[rows["pooling"] == figure.pooling]
        values = list(dict.fromkeys(rows[column]))
        if len(values) > 1:
            raise EvarError(
                f"{label} on {task}: {len(rows)} stored rows differ in {column} ({', '.join(str(value)[:12] for value in values)}):"
                " without --no-run the one that is meant is measured or found"
            )
    return rows.iloc[-1].to_dict()


def settings_of(results: Results, row: Mapping[str, Any]) -> list[str]:
    """The `setting` of each run behind a leaderboard row (`lr=0.001 epoch=31`, `C=0.1`), read row by row."""
    found = []
    for fields, *_ in read_rows(results.folder / RUNS):
        if fields[AT["cell_id"]] == row["cell_id"] and fields[AT["started_at"]] == row["started_at"]:
            found.append(fields[AT["setting"]])
    return found
