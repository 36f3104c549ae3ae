"""Tests and intervals for two encoders on the same clips: arrays in, numbers out.

Everything here is paired: clip i of the one against clip i of the other. The clips of a group (speaker, source recording)
err together, so whole groups are drawn; with every clip its own group this is the plain paired bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evar.probes.bootstrap import FEW_GROUPS, Sums, bound, pooled, resampled_means, widened

_EPS = 1e-9  # differences of shares (thirds, over three seeds) are equal when they differ by rounding alone


@dataclass(frozen=True)
class Difference:
    """A paired difference (fractions: 0.01 is one point), its interval and two-sided p.

    n_groups: independent units drawn; df: n_groups minus the strata they are drawn in. low, high and p are NaN where df is 0.
    """

    estimate: float
    low: float
    high: float
    p: float
    n_groups: int
    df: int


@dataclass(frozen=True)
class Discordant:
    """The clips on which two encoders differ: `wins` (only the first is right), `losses` (only the second).

    g: Cohen's g, wins / (wins + losses) - 0.5, from -0.5 to 0.5. odds: wins / losses with its exact (Clopper-Pearson)
    interval; NaN where there is no such clip, infinite where there are no losses.
    """

    wins: int
    losses: int
    g: float
    odds: float
    odds_low: float
    odds_high: float


def mcnemar(wins: np.ndarray | int, losses: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """(exact, mid-p) two-sided p of McNemar's test, for counts of any one shape; both 1 where no clip is discordant.

    mid-p counts half of the probability of what was observed (M. W. Fagerland, S. Lydersen, P. Laake, BMC Medical Research
    Methodology 13:91, 2013): unlike the exact test it holds its level, and unlike the chi-squared one it does so with
    few discordant clips. It takes clips as independent.
    """
    from scipy.stats import binom

    wins, losses = np.asarray(wins), np.asarray(losses)
    n, fewer = wins + losses, np.minimum(wins, losses)
    below, at = binom.cdf(fewer, n, 0.5), binom.pmf(fewer, n, 0.5)
    even = wins == losses
    exact = np.where(even, 1.0, np.minimum(2 * below, 1.0))
    mid = np.where(even, 1 - at / 2, 2 * below - at)
    return exact, np.where(n == 0, 1.0, mid)


def discordant(wins: int, losses: int, level: float = 0.95) -> Discordant:
    """Effect sizes on the discordant clips (counts), which take clips as independent."""
    from scipy.stats import binomtest

    n, nan = wins + losses, float("nan")
    if n == 0:
        return Discordant(0, 0, nan, nan, nan, nan)
    share = binomtest(wins, n).proportion_ci(level, method="exact")
    odds = [part / (1 - part) if part < 1 else float("inf") for part in (wins / n, share.low, share.high)]
    return Discordant(wins, losses, wins / n - 0.5, *map(float, odds))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p of all comparisons made, [K] (S. Holm, Scandinavian Journal of Statistics 6, 1979).

    NaN (no test was possible) stays NaN and does not count.
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """Mean rank over tasks of each encoder, [E]; scores [E, T], higher is better, 1 is best, ties share their mean rank."""
    from scipy.stats import rankdata

    return rankdata(-np.round(scores, 9), method="average", axis=0).mean(axis=1)


def paired_bootstrap(
    difference: np.ndarray,
    strata: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Bootstrap of the mean paired difference over groups of clips; the mean is taken within strata (folds) first.

    difference: float [N], what the first encoder has more than the second on each clip (-1, 0, 1; shares over several
    seeds); strata, groups: names [N], default one stratum and every clip its own group.
    """
    difference = np.asarray(difference, dtype=float)
    strata = np.zeros(len(difference), dtype=int) if strata is None else np.asarray(strata)
    groups = np.arange(len(difference)) if groups is None else np.asarray(groups)
    parts = _group_sums(difference, strata, groups)
    estimate = float(np.mean([sums.sum() / sizes.sum() for sums, sizes in parts]))
    n_groups = sum(len(sums) for sums, _ in parts)
    df = n_groups - len(parts)
    drawn = resampled_means(parts, resamples, np.random.default_rng(seed)) if df else np.zeros(0)
    return interval_of(estimate, drawn, n_groups, df, level)


def interval_of(estimate: float, drawn: np.ndarray, n_groups: int, df: int, level: float = 0.95) -> Difference:
    """Interval and p from resampled differences, float64 [resamples]; NaN where df is 0.

    The interval is `widened`, and p inverts it; p counts resamples at zero half. Beyond what the number of resamples
    resolves, p goes on with the normal tail. Where the difference is the same on every group no resample differs: then
    both come from the exact bound on n_groups.
    """
    from scipy.special import ndtri, stdtr  # the normal's inverse, Student's distribution function

    if df < 1:
        return Difference(estimate, float("nan"), float("nan"), float("nan"), n_groups, df)
    spread = drawn.std(ddof=1)
    if spread <= _EPS:
        estimate = 0.0 if abs(estimate) < _EPS else estimate
        low, high = bound(estimate, n_groups, level, -1.0, 1.0)
        return Difference(estimate, low, high, min(2.0 * (1 + abs(estimate)) ** -n_groups, 1.0), n_groups, df)
    low, high = widened(estimate, drawn, df, level)
    tail, resolved = abs(estimate) / spread, -ndtri(1 / (len(drawn) + 1))
    if df < FEW_GROUPS - 1:
        z = tail
    else:
        below = np.mean(drawn < -_EPS) + np.mean(np.abs(drawn) <= _EPS) / 2
        across = min(below if estimate > 0 else 1 - below, 1.0)
        z = -ndtri(across) if across > 1 / (len(drawn) + 1) else max(resolved, tail)
    return Difference(estimate, low, high, float(min(2 * stdtr(df, -z), 1.0)), n_groups, df)


def _group_sums(difference: np.ndarray, strata: np.ndarray, groups: np.ndarray) -> list[Sums]:
    """Per stratum the sum of the differences and the number of clips of each group.

    A stratum of one group says nothing about the spread: then all groups are drawn together, each clip weighted so that
    every stratum still counts the same.
    """
    parts = []
    for name in np.unique(strata):
        mine = strata == name
        member = np.unique(groups[mine], return_inverse=True)[1]
        parts.append((np.bincount(member, difference[mine]), np.bincount(member).astype(float)))
    return pooled(parts) if len(parts) > 1 and min(len(sums) for sums, _ in parts) < 2 else parts
