"""Paired comparison of encoders on stored predictions: which differences are more than the choice of test clips?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from evar.errors import EvarError, unknown
from evar.reporting import statistics
from evar.reporting.pairs import Outcomes, check_aligned, check_alike, load_outcomes, map_draws, text_of

if TYPE_CHECKING:
    from evar.results import Results

EVERY_PAIR = 4  # encoders, up to which every pair is compared
RESAMPLES = 10_000
RESAMPLES_MAP = 1_000  # an average precision needs a pass over the clips for every resample and class


@dataclass(frozen=True)
class Pair:
    """`first` against `second` on one task. Differences are first - second, as fractions (0.01 is one point).

    low, high: interval of the difference (bootstrap), at 1 - alpha. p: of `test`, the one that decides; p_holm: corrected for all
    comparisons made. p_bootstrap, p_mcnemar (mid-p): both, where there are both. verdict: the better one's name or "".
    """

    task: str
    first: str
    second: str
    metric: str
    score_first: float
    score_second: float
    difference: float
    low: float
    high: float
    test: str
    p: float
    p_bootstrap: float
    p_mcnemar: float
    wins: int | None
    losses: int | None
    cohens_g: float
    odds_ratio: float
    odds_low: float
    odds_high: float
    n_clips: int
    n_groups: int
    p_holm: float = float("nan")
    verdict: str = ""


@dataclass(frozen=True)
class Comparison:
    """All that `compare` found. scores[task][encoder]: fractions; ranks: over `shared` tasks, empty where there are none.

    facts[task]: what was measured (metric, clips, groups, what a group is, synthetic, partial, limit, duration).
    resamples: as asked for (None: the defaults).
    tally: per pair (first, second): tasks won, tied (no difference shown) and lost. notes: what a reader must know.
    """

    encoders: list[str]
    tasks: list[str]
    protocol: str
    baseline: str | None
    alpha: float
    resamples: int | None
    seed: int
    scores: dict[str, dict[str, float]]
    facts: dict[str, dict[str, Any]]
    pairs: list[Pair]
    tally: dict[tuple[str, str], tuple[int, int, int]]
    shared: list[str]
    ranks: dict[str, float]
    notes: list[str] = field(default_factory=list)


def compare(
    results: Results,
    rows: Sequence[Mapping[str, Any]],
    *,
    baseline: str | None = None,
    alpha: float = 0.05,
    resamples: int | None = None,
    seed: int = 0,
    again: Callable[[Mapping[str, Any]], str] = lambda row: f"evar run {row['encoder']} {row['task']}",
    groups: Mapping[str, str | None] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare leaderboard rows (one per encoder × task, of one protocol) pair by pair on their stored predictions.

    baseline: compare the others with this encoder only; default: every pair of up to EVERY_PAIR encoders, else with the
    first. resamples: of the bootstrap (default RESAMPLES; RESAMPLES_MAP for mAP). again: the command that measures a row
    again. groups: what a group is called, per task. classes: per multi-label task. Encoders and tasks keep the order of
    `rows`. Raises EvarError where rows or clips do not compare, predictions are missing, or less than two are left.
    """
    if not 0 < alpha < 1:
        raise EvarError(f"alpha: expected a number between 0 and 1, found {alpha}")
    if resamples is not None and resamples < 100:
        raise EvarError(f"resamples: expected at least 100, found {resamples}")
    rows = [dict(row) for row in rows]
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if len(encoders) < 2:
        raise EvarError(f"compare needs two encoders measured on a task, found {', '.join(encoders) or 'none'}")
    if baseline is not None and baseline not in encoders:
        raise unknown("baseline", baseline, encoders)
    if len({(row["protocol"], row["protocol_version"]) for row in rows}) > 1:
        for row in rows[1:]:
            check_alike(rows[0] | {"task": row["task"]}, row)
    if baseline is None and len(encoders) > EVERY_PAIR:
        baseline = encoders[0]
    wanted = [
        pair if baseline is None else (next(one for one in pair if one != baseline), baseline)
        for pair in combinations(encoders, 2)
        if baseline is None or baseline in pair
    ]

    scores: dict[str, dict[str, float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    pairs: list[Pair] = []
    for number, task in enumerate(tasks):
        mine = {row["encoder"]: row for row in rows if row["task"] == task}
        first = next(iter(mine.values()))
        for other in mine.values():
            check_alike(first, other)
        names = (classes or {}).get(task)
        found = {label: load_outcomes(results, row, again(row), names) for label, row in mine.items()}
        for other in found.values():
            check_aligned(found[first["encoder"]], other)
        scores[task] = {label: one.score for label, one in found.items()}
        facts[task] = _facts(mine, found[first["encoder"]], (groups or {}).get(task))
        pairs += _task_pairs(found, wanted, resamples, seed, 1 - alpha)
        if progress:
            progress(number + 1, len(tasks))
    pairs = _decided(pairs, alpha)
    shared = [task for task in tasks if len(scores[task]) == len(encoders)]
    ranks: dict[str, float] = {}
    if shared:
        matrix = np.array([[scores[task][label] for task in shared] for label in encoders])
        ranks = dict(zip(encoders, map(float, statistics.average_ranks(matrix)), strict=True))
    return Comparison(
        encoders=encoders,
        tasks=tasks,
        protocol=f"{rows[0]['protocol']} {rows[0]['protocol_version']}",
        baseline=baseline,
        alpha=alpha,
        resamples=resamples,
        seed=seed,
        scores=scores,
        facts=facts,
        pairs=pairs,
        tally=_tally(pairs, wanted),
        shared=shared,
        ranks=ranks,
        notes=_notes(rows, facts, pairs, alpha, _drawn(resamples, seed, facts)),
    )


def _task_pairs(
    found: dict[str, Outcomes], wanted: list[tuple[str, str]], resamples: int | None, seed: int, level: float
) -> list[Pair]:
    drawn: dict[str, tuple[np.ndarray, int, int]] = {}
    made = []
    for first, second in wanted:
        if first not in found or second not in found:
            continue
        a, b = found[first], found[second]
        if a.metric == "mAP":
            for one in (a, b):
                if one.encoder not in drawn:
                    drawn[one.encoder] = map_draws(one, resamples or RESAMPLES_MAP, seed)
            made.append(_map_pair(a, b, drawn[first], drawn[second], level))
        else:
            made.append(_accuracy_pair(a, b, resamples or RESAMPLES, seed, level))
    return made


def _accuracy_pair(a: Outcomes, b: Outcomes, resamples: int, seed: int, level: float) -> Pair:
    difference = a.right - b.right
    boot = statistics.paired_bootstrap(difference, a.fold, a.group, resamples=resamples, seed=seed, level=level)
    wins, losses = int(np.sum(difference > 1e-9)), int(np.sum(difference < -1e-9))
    effect = statistics.discordant(wins, losses, level)
    mid = float(statistics.mcnemar(wins, losses)[1])
    by_groups = a.grouped or a.n_seeds > 1
    return Pair(
        **_common(a, b, boot),
        test=("bootstrap over groups" if a.grouped else "bootstrap over clips") if by_groups else "McNemar mid-p",
        p=boot.p if by_groups else mid,
        p_mcnemar=mid,
        wins=wins,
        losses=losses,
        cohens_g=effect.g,
        odds_ratio=effect.odds,
        odds_low=effect.odds_low,
        odds_high=effect.odds_high,
    )


def _map_pair(a: Outcomes, b: Outcomes, drawn_a: tuple, drawn_b: tuple, level: float) -> Pair:
    draws, units, df = drawn_a
    boot = statistics.interval_of(a.score - b.score, draws - drawn_b[0], units, df, level)
    nan = float("nan")
    return Pair(
        **_common(a, b, boot),
        test="bootstrap over groups" if a.grouped else "bootstrap over clips",
        p=boot.p,
        p_mcnemar=nan,
        wins=None,
        losses=None,
        cohens_g=nan,
        odds_ratio=nan,
        odds_low=nan,
        odds_high=nan,
    )


def _common(a: Outcomes, b: Outcomes, boot: statistics.Difference) -> dict[str, Any]:
    return {
        "task": a.task,
        "first": a.encoder,
        "second": b.encoder,
        "metric": a.metric,
        "score_first": a.score,
        "score_second": b.score,
        "difference": boot.estimate,
        "low": boot.low,
        "high": boot.high,
        "p_bootstrap": boot.p,
        "n_clips": len(a.clip),
        "n_groups": boot.n_groups,
    }


def _decided(pairs: list[Pair], alpha: float) -> list[Pair]:
    adjusted = statistics.holm(np.array([pair.p for pair in pairs]))
    decided = []
    for pair, p in zip(pairs, map(float, adjusted), strict=True):
        better = pair.first if pair.difference > 0 else pair.second
        decided.append(replace(pair, p_holm=p, verdict=better if p <= alpha and pair.difference != 0 else ""))
    return decided


def _tally(pairs: list[Pair], wanted: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int, int]]:
    tally = {}
    for first, second in wanted:
        mine = [pair.verdict for pair in pairs if (pair.first, pair.second) == (first, second)]
        tally[first, second] = mine.count(first), mine.count(""), mine.count(second)
    return tally


def _facts(mine: dict[str, dict[str, Any]], outcomes: Outcomes, group: str | None) -> dict[str, Any]:
    row = next(iter(mine.values()))
    return {
        "metric": outcomes.metric,
        "clips": len(outcomes.clip),
        "folds": len(np.unique(outcomes.fold)),
        "groups": len(set(zip(outcomes.fold, outcomes.group, strict=True))) if outcomes.grouped else None,
        "group": (group or "") if outcomes.grouped else None,
        "seeds": outcomes.n_seeds,
        "synthetic": bool(row["synthetic"]),
        "partial": bool(row["partial"]),
        "limit": text_of(row["limit"]),
        "train_fraction": text_of(row["train_fraction"]),
        "shots": text_of(row["shots"]),
        "duration": row["duration"],
        "task_fingerprint": row["task_fingerprint"],
        "cells": {label: one["cell_id"] for label, one in mine.items()},
        "contaminated": [label for label, one in mine.items() if one["contaminated"]],
    }


def _drawn(resamples: int | None, seed: int, facts: dict[str, dict[str, Any]]) -> str:
    """`10,000 resamples (seed 0)`, or the numbers for both metrics."""
    metrics = {fact["metric"] for fact in facts.values()}
    if resamples is None and metrics == {"accuracy", "mAP"}:
        return f"{RESAMPLES:,} resamples ({RESAMPLES_MAP:,} for mAP; seed {seed})"
    return f"{resamples or (RESAMPLES_MAP if 'mAP' in metrics else RESAMPLES):,} resamples (seed {seed})"


def _notes(
    rows: list[dict[str, Any]], facts: dict[str, dict[str, Any]], pairs: list[Pair], alpha: float, drawn: str
) -> list[str]:
    """What a reader must know before quoting a number."""
    tested = sum(pair.p == pair.p for pair in pairs)
    level = f"decided at {alpha:g} after Holm's correction for {tested} comparisons"
    notes = [
        f"Holm p: {level}; 'not shown' does not mean equal",
        f"intervals: bootstrap over groups (over clips where there are none) within folds, {drawn}, not corrected",
        "they cover the choice of test clips, not that of training clips, seeds or hyperparameters",
    ]
    grouped = [task for task, fact in facts.items() if fact["groups"]]
    if grouped and any(pair.wins is not None and pair.task in grouped for pair in pairs):
        notes.append(
            f"McNemar's p and the odds ratio take clips as independent; on {', '.join(grouped)} the clips of a group err"
            " together, so there the bootstrap over groups decides"
        )
    for task, fact in facts.items():
        mine = [pair for pair in pairs if pair.task == task]
        units = mine[0].n_groups if mine else statistics.FEW_GROUPS
        kind = f"groups ({fact['group']})" if fact["group"] else "groups" if fact["groups"] else "clips"
        if any(pair.p != pair.p for pair in mine):
            notes.append(f"warning: {task}: too few {kind} in a test part ({units} in all) for any test")
        elif units < statistics.FEW_GROUPS:
            notes.append(
                f"warning: {task}: {units} {kind} in the test part, under {statistics.FEW_GROUPS}: interval and p are rough"
            )
    several = [task for task, fact in facts.items() if fact["seeds"] > 1]
    if several:
        notes.append(
            f"on {', '.join(several)} a clip's correctness is its mean over seeds; McNemar's test is then a sign test"
            " on clips, and the bootstrap decides"
        )
    multilabel = [task for task, fact in facts.items() if fact["metric"] == "mAP"]
    if multilabel:
        notes.append(f"mAP ({', '.join(multilabel)}) has no discordant clips: no McNemar's test, the bootstrap decides")
    for key, text in (
        ("synthetic", "synthetic stand-ins, which say nothing about the real tasks"),
        ("partial", "partial: official clips are missing"),
    ):
        mine = [task for task, fact in facts.items() if fact[key]]
        if mine:
            notes.append(f"warning: {', '.join(mine)}: {text}")
    for row in rows:
        if row["contaminated"]:
            notes.append(f"warning: {row['encoder']} was pre-trained on data of {row['task']}")
    return notes
