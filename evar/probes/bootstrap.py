"""95 % intervals of the mean score, by resampling groups of test clips; never of zero width.

Where each fold tests two groups (speakers, sources) or more, groups are drawn within folds. Where a fold tests one group
only (leave one speaker out) that draw would always be the same: the groups are drawn over all folds. Where every group gave
the same score (all right, all wrong) no draw can differ: the interval is the exact bound on that many groups. One group
alone tells nothing of others: there is no interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evar.probes.metrics import one_hot, score

RESAMPLES = 2000
RESAMPLES_MAP = 200  # an average precision needs a pass over the clips for every resample and class
FEW_GROUPS = 20  # under this an interval is rough
SAME = 1e-9  # scores that differ by rounding alone
NAN = float("nan")
Sums = tuple[np.ndarray, np.ndarray]  # of groups: float64 [m] each, sums over their clips and numbers of clips


@dataclass(frozen=True)
class Interval:
    """low, high: fractions, NaN where there is no honest interval. fewest: groups in the smallest test part.

    n_groups: independent units in all. how: `within folds` or `over folds` (where groups were drawn), `exact` (every group
    gave the same score) or `none`.
    """

    low: float
    high: float
    fewest: int
    n_groups: int
    how: str


def interval(
    metric: str,
    targets: list[np.ndarray],
    scores: list[np.ndarray],
    groups: list[np.ndarray],
    seed: int = 0,
) -> Interval:
    """The 95 % interval of the mean over folds, for the choice of test clips (not of training clips).

    One entry per fold: targets (int64 [n] or multi-hot [n, C]), scores float32 [n, C] or, with several seeds, [seeds, n, C],
    and the clips' group names [n]. Whole groups (speaker, source) are drawn with replacement, because the clips of a group err
    together; the same draw serves all seeds of a fold.
    """
    random = np.random.default_rng(seed)
    scores = [one if one.ndim == 3 else one[None] for one in scores]
    named = [np.unique(np.asarray(names).astype(str), return_inverse=True) for names in groups]
    fewest, n_groups = min(len(unique) for unique, _ in named), sum(len(unique) for unique, _ in named)
    members = [member for _, member in named]
    if metric == "accuracy":
        parts = [_hits(*fold) for fold in zip(targets, scores, members, strict=True)]
        mean = float(np.mean([hits.sum() / sizes.sum() for hits, sizes in parts]))
        units, drawable = n_groups, pooled(parts)
    else:
        values = [np.mean([score("mAP", truth, s) for s in some]) for truth, some in zip(targets, scores, strict=True)]
        mean = float(np.mean(values))
        # a label is known to be right on the groups that carry it, and a mean over labels on the fewest of those
        units = min(n_groups, _fewest_carriers(targets, scores, members))
        drawable = [(np.array(values), np.ones(len(values)))]
    if fewest > 1:
        drawn = _accuracies(parts, random) if metric == "accuracy" else _maps(targets, scores, members, random)
        if np.ptp(drawn) > SAME:
            low, high = np.percentile(drawn, [2.5, 97.5])
            return Interval(float(low), float(high), fewest, n_groups, "within folds")
    elif (df := len(drawable[0][0]) - 1) >= 1:
        drawn = resampled_means(drawable, RESAMPLES, random)
        if np.ptp(drawn) > SAME:
            low, high = widened(mean, drawn, df, 0.95)
            return Interval(max(low, 0.0), min(high, 1.0), fewest, df + 1, "over folds")
    if units < 2:
        return Interval(NAN, NAN, fewest, n_groups, "none")
    return Interval(*bound(mean, units, 0.95, 0.0, 1.0), fewest, units, "exact")


def bound(value: float, n: int, level: float, least: float, most: float) -> tuple[float, float]:
    """Interval of a mean of which n independent groups all gave `value`, between `least` and `most`.

    At most u = 1 - ((1 - level) / 2) ** (1 / n) of all groups give something else (Clopper and Pearson's exact bound at n of
    n), at worst `least` or `most`. For a score of 100 % this is their interval.
    """
    u = 1 - ((1 - level) / 2) ** (1 / n)
    return float(value - u * (value - least)), float(value + u * (most - value))


def pooled(parts: list[Sums]) -> list[Sums]:
    """The groups of all folds as one, their clips weighted so that every fold still counts the same."""
    total = sum(sizes.sum() for _, sizes in parts)
    weights = [total / (len(parts) * sizes.sum()) for _, sizes in parts]
    weighted = [(sums * w, sizes * w) for (sums, sizes), w in zip(parts, weights, strict=True)]
    return [tuple(np.concatenate([part[i] for part in weighted]) for i in (0, 1))]


def resampled_means(parts: list[Sums], resamples: int, random: np.random.Generator) -> np.ndarray:
    """The mean of every resample, float64 [resamples]; parts: per stratum the groups' sums and numbers of clips.

    Of m groups m - 1 are drawn, with replacement: drawing m makes the variance too small by (m - 1) / m, half of it with
    two speakers in a fold (P. J. McCarthy, C. B. Snowden, Vital and Health Statistics 2(95), 1985; J. N. K. Rao,
    C. F. J. Wu, Journal of the American Statistical Association 83, 1988).
    """
    means = np.zeros(resamples)
    for sums, sizes in parts:
        # groups of the same (sum, size) are alike: drawing how often each kind comes is the same, and far cheaper
        kinds, count = np.unique(np.round(sums, 9) + 1j * np.round(sizes, 9), return_counts=True)  # sorts pairs fast
        draws = random.multinomial(len(sums) - 1, count / len(sums), size=resamples)
        means += (draws @ kinds.real) / (draws @ kinds.imag)
    return means / len(parts)


def widened(estimate: float, drawn: np.ndarray, df: int, level: float) -> tuple[float, float]:
    """Interval from resamples, float64 [resamples], of groups with `df` degrees of freedom.

    Percentiles at levels widened by Student's t (T. C. Hesterberg, The American Statistician 69, 2015); of many groups this is
    the plain percentile interval. Under FEW_GROUPS the resamples are too few different ones for percentiles: there it is
    the estimate ± t times their standard deviation.
    """
    from scipy.special import ndtr, stdtrit  # the normal's distribution function, Student's inverse

    wide = stdtrit(df, (1 + level) / 2)
    if df < FEW_GROUPS - 1:
        half = wide * drawn.std(ddof=1)
        return float(estimate - half), float(estimate + half)
    low, high = np.quantile(drawn, [ndtr(-wide), ndtr(wide)])
    return float(low), float(high)


def _hits(truth: np.ndarray, scores: np.ndarray, member: np.ndarray) -> Sums:
    right = (scores.argmax(2) == truth).mean(0)
    return np.bincount(member, right), np.bincount(member).astype(float)


def _accuracies(parts: list[Sums], random: np.random.Generator) -> np.ndarray:
    """Mean accuracy of every resample within folds, float64 [RESAMPLES]."""
    means = np.zeros(RESAMPLES)
    for hits, sizes in parts:
        # groups of the same (hits, size) are alike: drawing how often each kind comes is the same, and far cheaper
        kinds, count = np.unique(np.stack([hits, sizes]), axis=1, return_counts=True)
        draws = random.multinomial(len(hits), count / len(hits), size=RESAMPLES)
        means += (draws @ kinds[0]) / (draws @ kinds[1])
    return means / len(parts)


def _maps(
    targets: list[np.ndarray], scores: list[np.ndarray], members: list[np.ndarray], random: np.random.Generator
) -> np.ndarray:
    """Mean mAP of every resample within folds, float64 [RESAMPLES_MAP]."""
    means = np.zeros(RESAMPLES_MAP)
    for truth, some, member in zip(targets, scores, members, strict=True):
        m = int(member.max()) + 1
        draws = random.multinomial(m, np.full(m, 1 / m), size=RESAMPLES_MAP)
        hot = one_hot(truth, some.shape[2])
        means += np.mean([weighted_maps(hot, one, draws, member) for one in some], axis=0)
    return means / len(targets)


def _fewest_carriers(targets: list[np.ndarray], scores: list[np.ndarray], members: list[np.ndarray]) -> int:
    """Groups, over all folds, with a clip of the label that has the fewest; 0 where no clip has a label."""
    carriers = 0
    for truth, some, member in zip(targets, scores, members, strict=True):
        hot = one_hot(truth, some.shape[2])
        carriers = carriers + np.stack([np.bincount(member, column) > 0 for column in hot.T]).sum(1)
    return int(min((n for n in carriers if n), default=0))


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
