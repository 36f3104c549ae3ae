"""95 % percentile intervals of the mean score, by resampling groups within each fold's test part."""

from __future__ import annotations

import numpy as np

from evar.probes.metrics import one_hot

RESAMPLES = 2000
RESAMPLES_MAP = 200  # an average precision needs a pass over the clips for every resample and class
FEW_GROUPS = 20


def interval(
    metric: str,
    targets: list[np.ndarray],
    scores: list[np.ndarray],
    groups: list[np.ndarray],
    seed: int = 0,
) -> tuple[float, float, int]:
    """(low, high, smallest number of groups in a fold): 2.5th and 97.5th percentile of the mean over folds.

    One entry per fold: targets (int64 [n] or multi-hot [n, C]), scores float32 [n, C] or, with several seeds, [seeds, n, C],
    and the clips' group names [n]. Whole groups (speaker, source) are drawn with replacement, because the clips of a group err
    together; the same draw serves all seeds of a fold. The interval covers the choice of test clips, not of training clips.
    """
    random = np.random.default_rng(seed)
    n_resamples = RESAMPLES if metric == "accuracy" else RESAMPLES_MAP
    means, fewest = np.zeros(n_resamples), []
    for truth, score, names in zip(targets, scores, groups, strict=True):
        unique, member = np.unique(np.asarray(names).astype(str), return_inverse=True)
        fewest.append(len(unique))
        score = score if score.ndim == 3 else score[None]
        if metric == "accuracy":
            means += _accuracies(truth, score, member, len(unique), n_resamples, random)
        else:
            draws = random.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=n_resamples)
            hot = one_hot(truth, score.shape[2])
            means += np.mean([weighted_maps(hot, one, draws, member) for one in score], axis=0)
    low, high = np.percentile(means / len(targets), [2.5, 97.5])
    return float(low), float(high), min(fewest)


def _accuracies(
    truth: np.ndarray,
    score: np.ndarray,
    member: np.ndarray,
    n_groups: int,
    n_resamples: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Accuracy of every resample, float64 [n_resamples]."""
    right = (score.argmax(2) == truth).mean(0)
    hits, sizes = np.bincount(member, right, n_groups), np.bincount(member, minlength=n_groups).astype(float)
    # groups of the same (hits, size) are alike: drawing how often each kind comes is the same, and far cheaper
    kinds, count = np.unique(np.stack([hits, sizes]), axis=1, return_counts=True)
    draws = random.multinomial(n_groups, count / n_groups, size=n_resamples)
    return (draws @ kinds[0]) / (draws @ kinds[1])


def weighted_maps(hot: np.ndarray, score: np.ndarray, draws: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Macro average precision of every resample, as weights on the clips (equal scores count as one threshold)."""
    present = np.flatnonzero(hot.any(0))
    total, drawn = np.zeros(len(draws)), np.zeros(len(draws))
    for label in present:
        order = np.argsort(-score[:, label], kind="stable")
        weight = draws[:, member[order]].astype(np.float32)
        last = np.append(np.flatnonzero(np.diff(score[order, label])), len(order) - 1)
        true = np.cumsum(weight * hot[order, label], axis=1, dtype=np.float64)[:, last]
        precision = true / np.maximum(np.cumsum(weight, axis=1, dtype=np.float64)[:, last], 1)
        gained = np.diff(true, axis=1, prepend=0)
        positives = true[:, -1]
        total += np.where(positives > 0, (gained * precision).sum(1) / np.maximum(positives, 1), 0)
        drawn += positives > 0
    return total / np.maximum(drawn, 1)
