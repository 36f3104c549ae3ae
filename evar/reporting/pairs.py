"""Stored predictions of several cells, aligned clip by clip; refuses what was not measured alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evar.errors import EvarError

if TYPE_CHECKING:
    import pandas as pd

    from evar.results import Results

_NEEDED = {
    "accuracy": ("clip_id", "group", "fold", "seed", "target", "predicted"),
    "mAP": ("clip_id", "group", "fold", "seed", "targets", "scores"),
}
# column, what it is called, how a value reads; in this order, so that the cause is named before its consequence
_ALIKE = (
    ("task", "task", str),
    ("synthetic", "audio", lambda value: "synthetic" if value else "real"),
    ("protocol", "protocol", str),
    ("protocol_version", "protocol version", str),
    ("metric", "metric", str),
    ("partial", "clips", lambda value: "partial" if value else "whole"),
    ("limit", "limit", str),
    ("train_fraction", "train_fraction", str),
    ("shots", "shots", str),
    ("duration", "duration", str),
    ("precision", "precision", str),
    ("skipped", "clips skipped as undecodable", str),
    ("n_folds", "folds", str),
    ("n_seeds", "number of seeds", str),
    ("task_version", "task version", str),
    ("task_fingerprint", "task fingerprint", lambda value: str(value)[:12]),
)


@dataclass(frozen=True)
class Outcomes:
    """The test clips of one cell, ordered by fold and clip.

    clip, fold, group: [N]. right: float64 [N], the share of seeds that were right (accuracy only). For mAP: truth bool
    [N, C] and scores float32 [seeds, N, C]. score: the mean over folds and seeds, a fraction.
    """

    encoder: str
    task: str
    metric: str
    score: float
    clip: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    n_seeds: int
    right: np.ndarray | None = None
    truth: np.ndarray | None = None
    target: np.ndarray | None = None
    scores: np.ndarray | None = None

    @property
    def grouped(self) -> bool:
        """Whether the clips have groups of which they are members, rather than each being its own."""
        return bool(np.any(self.group != self.clip))


def check_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Raise EvarError, naming both values, unless two rows of the leaderboard were measured in the same way."""
    for column, called, form in _ALIKE:
        values = [text_of(row[column], form) for row in (first, second)]
        if values[0] != values[1]:
            raise EvarError(
                f"{first['task']}: {first['encoder']} and {second['encoder']} were not measured alike: {called} is"
                f" {values[0]} and {values[1]}; measure both in the same way, or leave this task out with --tasks"
            )


def alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether `check_alike` has nothing to say."""
    return all(text_of(first[column], form) == text_of(second[column], form) for column, _, form in _ALIKE)


def text_of(value: Any, form: Callable[[Any], str] = str) -> str:
    """A value of a row for people; `none` for a missing one."""
    return "none" if value is None or str(value) == "<NA>" or value != value else form(value)


def load_outcomes(
    results: Results, row: Mapping[str, Any], again: str, classes: Sequence[str] | None = None
) -> Outcomes:
    """The stored predictions of one row of the leaderboard.

    again: the command that measures the cell again, for the error when its predictions are missing. classes: the
    task's classes in order, where they are known; needed for mAP only when some have no test clip.
    Raises EvarError for predictions that are missing, damaged, or do not give the score that stands in the row.
    """
    name = f"{row['encoder']} × {row['task']}"
    where = f"the predictions of {name} ({row['cell_id']})"
    metric = str(row["metric"])
    if metric not in _NEEDED:
        raise EvarError(f"{name}: cannot compare the metric {metric!r}; expected accuracy or mAP")
    if results.finished(row["cell_id"]) is None:
        raise EvarError(f"{where} are not in {results.folder}, or torn: '{again}' makes them again")
    kept = results.predictions(row["cell_id"])
    missing = [column for column in _NEEDED[metric] if column not in kept.columns]
    if missing:
        raise EvarError(f"{where} lack {', '.join(missing)}: remove {row['cell_id']}.parquet, then '{again}'")
    known = classes or kept.attrs.get("classes")
    kept = kept.astype({"clip_id": str, "group": str}).sort_values(["seed", "fold", "clip_id"], ignore_index=True)
    seeds = kept["seed"].unique()
    keys = kept[["fold", "clip_id"]].to_numpy()
    n = len(kept) // max(len(seeds), 1)
    if kept.empty or kept[list(_NEEDED[metric])].isna().any(axis=None):
        raise EvarError(f"{where} are empty or have gaps: remove {row['cell_id']}.parquet, then '{again}'")
    tested = keys[:n]
    once = len(set(tested[:, 1])) == n and all(
        np.array_equal(keys[i * n : (i + 1) * n], tested) for i in range(len(seeds))
    )
    if not once or len(keys) != n * len(seeds):
        raise EvarError(f"{where} do not test each clip once per seed: remove {row['cell_id']}.parquet, then '{again}'")
    common = {
        "encoder": row["encoder"],
        "task": row["task"],
        "metric": metric,
        "clip": kept["clip_id"].to_numpy(dtype=object)[:n],
        "fold": kept["fold"].to_numpy()[:n],
        "group": kept["group"].to_numpy(dtype=object)[:n],
        "n_seeds": len(seeds),
    }
    made = _right(kept, common, n) if metric == "accuracy" else _ranked(kept, common, n, where, known)
    if not abs(made.score - float(row["mean"])) <= 1e-6:  # NaN too
        raise EvarError(
            f"{where} give {made.score:.4f}, {results.folder}/leaderboard.csv says {row['mean']:.4f}: they do not belong"
            f" together; remove {row['cell_id']}.parquet, then '{again}'"
        )
    return made


def check_aligned(first: Outcomes, second: Outcomes) -> None:
    """Raise EvarError unless both were tested on the same clips, in the same folds and groups, with the same labels."""
    names = f"{first.task}: {first.encoder} and {second.encoder}"
    if not np.array_equal(first.clip, second.clip):
        only = [sorted(set(one.clip) - set(other.clip)) for one, other in ((first, second), (second, first))]
        owner, clips = (first, only[0]) if only[0] else (second, only[1])
        if clips:
            raise EvarError(
                f"{names} were tested on other clips: {len(first.clip)} and {len(second.clip)}, {clips[0]!r} only by"
                f" {owner.encoder}; measure both on the same folder"
            )
    order = np.argsort(first.clip), np.argsort(second.clip)
    for what in ("fold", "group", "target", "truth"):
        ours, theirs = getattr(first, what), getattr(second, what)
        if ours is None:
            continue
        ours, theirs = ours[order[0]], theirs[order[1]]
        if ours.shape != theirs.shape:
            raise EvarError(f"{names}: {ours.shape[1]} and {theirs.shape[1]} classes; measure both again")
        differs = np.flatnonzero((ours != theirs).reshape(len(ours), -1).any(1))
        if len(differs):
            clip, i = first.clip[order[0]][differs[0]], differs[0]
            called = {"fold": "fold", "group": "group"}.get(what, "label")
            values = f"{ours[i]} and {theirs[i]}" if what != "truth" else "not the same"
            raise EvarError(f"{names}: the {called} of clip {clip!r} is {values}; measure both on the same folder")


def map_draws(outcomes: Outcomes, resamples: int, seed: int) -> tuple[np.ndarray, int, int]:
    """mAP of every resample of groups within folds, float64 [resamples], the units drawn and their degrees of freedom.

    Where a fold has one group only, whole folds are drawn; the draws are NaN where there is one fold. The same seed draws
    the same for every encoder, so two results may be subtracted.
    """
    from evar.probes.bootstrap import weighted_maps
    from evar.probes.metrics import score

    random = np.random.default_rng(seed)
    parts = [np.flatnonzero(outcomes.fold == fold) for fold in np.unique(outcomes.fold)]
    named = [np.unique(outcomes.group[mine].astype(str), return_inverse=True) for mine in parts]
    if min(len(unique) for unique, _ in named) < 2:
        k = len(parts)
        if k < 2:
            return np.full(resamples, np.nan), 1, 0
        values = [np.mean([score("mAP", outcomes.truth[mine], one[mine]) for one in outcomes.scores]) for mine in parts]
        return _drawn_folds(np.array(values), resamples, random), k, k - 1
    means = np.zeros(resamples)
    for mine, (unique, member) in zip(parts, named, strict=True):
        m = len(unique)
        for start in range(0, resamples, 100):  # a weight for every clip and resample: in pieces
            rows = slice(start, min(start + 100, resamples))
            draws = random.multinomial(m - 1, np.full(m, 1 / m), size=rows.stop - rows.start)
            maps = [weighted_maps(outcomes.truth[mine], one[mine], draws, member) for one in outcomes.scores]
            means[rows] += np.mean(maps, axis=0)
    units = sum(len(unique) for unique, _ in named)
    return means / len(parts), units, units - len(parts)


def _drawn_folds(values: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    k = len(values)
    return random.multinomial(k - 1, np.full(k, 1 / k), size=resamples) @ values / (k - 1)


def _right(kept: pd.DataFrame, common: dict, n: int) -> Outcomes:
    right = (kept["target"].to_numpy(dtype=object) == kept["predicted"].to_numpy(dtype=object)).astype(float)
    right = right.reshape(-1, n).mean(0)
    score = float(np.mean([right[common["fold"] == fold].mean() for fold in np.unique(common["fold"])]))
    return Outcomes(**common, score=score, right=right, target=kept["target"].to_numpy(dtype=object)[:n])


def _ranked(kept: pd.DataFrame, common: dict, n: int, where: str, known: Sequence[str] | None) -> Outcomes:
    from evar.probes.metrics import score

    lengths = {len(one) for one in kept["scores"]}
    if len(lengths) != 1:
        raise EvarError(f"{where} have scores of different lengths: measure the cell again")
    labels = kept["targets"].tolist()[:n]
    found = sorted({str(label) for clip in labels for label in clip})
    classes = list(known or found)
    if len(classes) != next(iter(lengths)) or set(found) - set(classes):
        raise EvarError(
            f"{where} have {next(iter(lengths))} scores per clip and {len(found)} labels in the test part: which score is"
            " whose cannot be known without the dataset; leave --no-run out and give --data DIR"
        )
    truth = np.zeros((n, len(classes)), dtype=bool)
    index = {name: i for i, name in enumerate(classes)}
    for i, clip in enumerate(labels):
        truth[i, [index[str(label)] for label in clip]] = True
    scores = np.stack(kept["scores"].to_list()).reshape(-1, n, len(classes)).astype(np.float32)
    parts = [np.flatnonzero(common["fold"] == fold) for fold in np.unique(common["fold"])]
    mean = float(np.mean([score("mAP", truth[part], one[part]) for part in parts for one in scores]))
    return Outcomes(**common, score=mean, truth=truth, scores=scores)
