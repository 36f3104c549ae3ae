"""Do the tests reject as often as they say, do the intervals cover as often as they say? 10,000 experiments, fixed seed.

An experiment is n clips on which two encoders are right or wrong; what counts is on how many only the first is right, and
on how many only the second, so experiments are drawn as multinomial counts. The bootstrap is a function of these counts
under a fixed seed: each distinct pair of counts is resampled once, by the function that `evar compare` calls, with its own
number of resamples and seed. (Fewer would not do: one seed serves all experiments, and with 1,000 resamples its noise moves
their common level between 3.7 and 5.5 %; with 10,000 between 4.7 and 5.0 %.)
"""

from __future__ import annotations

import numpy as np
import pytest

from evar.reporting.statistics import mcnemar, paired_bootstrap

EXPERIMENTS = 10_000
NULL = [(400, 0.5), (400, 0.7), (400, 0.9), (1000, 0.8)]


def draw(n: int, first: float, second: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts (only the first right, only the second right) of all experiments, each [EXPERIMENTS].

    The encoders err together: half way between independent errors and the most common errors there can be.
    """
    both = (first * second + min(first, second)) / 2
    chances = [first - both, second - both, 1 - first - second + 2 * both]
    counts = np.random.default_rng(seed).multinomial(n, chances, size=EXPERIMENTS)
    return counts[:, 0], counts[:, 1]


def bootstrap(n: int, wins: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(p, low, high) of every experiment."""
    distinct, back = np.unique(np.stack([wins, losses], 1), axis=0, return_inverse=True)
    found = []
    for won, lost in distinct:
        difference = np.zeros(n)
        difference[:won], difference[won : won + lost] = 1, -1
        one = paired_bootstrap(difference)
        found.append((one.p, one.low, one.high))
    return tuple(np.array(found)[back.ravel()].T)


@pytest.mark.parametrize(("n", "accuracy"), NULL)
def test_no_difference_is_found_where_there_is_none(n, accuracy):
    wins, losses = draw(n, accuracy, accuracy, seed=n + int(100 * accuracy))
    exact, mid = mcnemar(wins, losses)
    p, low, high = bootstrap(n, wins, losses)
    assert 0.04 <= np.mean(mid <= 0.05) <= 0.06
    assert 0.04 <= np.mean(p <= 0.05) <= 0.06
    assert np.mean(exact <= 0.05) <= 0.055
    assert 0.935 <= np.mean((low <= 0) & (high >= 0)) <= 0.965


@pytest.mark.parametrize(("n", "first", "second"), [(400, 0.55, 0.5), (400, 0.9, 0.85), (1000, 0.75, 0.72)])
def test_intervals_cover_a_true_difference(n, first, second):
    wins, losses = draw(n, first, second, seed=n)
    _, low, high = bootstrap(n, wins, losses)
    assert 0.935 <= np.mean((low <= first - second) & (high >= first - second)) <= 0.965


@pytest.mark.parametrize("n_groups", [24, 60])
def test_clips_of_a_speaker_are_not_independent(n_groups):
    """Speakers whom one encoder suits better: the tests over clips reject in a fifth of cases and more, groups hold."""
    random = np.random.default_rng(n_groups)
    clips, experiments = 25, 2000
    groups = np.repeat(np.arange(n_groups), clips)
    lean = np.clip(random.normal(0.5, 0.25, size=(experiments, n_groups)), 0, 1)  # how often the first wins a clip
    wins = random.binomial(1, 0.4, size=(experiments, len(groups)))  # discordant clips
    sign = 2 * random.binomial(1, lean[:, groups]) - 1
    difference = wins * sign
    mid = mcnemar((difference > 0).sum(1), (difference < 0).sum(1))[1]
    naive = [paired_bootstrap(one, resamples=400, seed=i) for i, one in enumerate(difference)]
    grouped = [paired_bootstrap(one, groups=groups, resamples=400, seed=i) for i, one in enumerate(difference)]
    rejected = np.mean([one.p <= 0.05 for one in grouped])
    assert np.mean(mid <= 0.05) > 0.15
    assert np.mean([one.p <= 0.05 for one in naive]) > 0.15
    assert np.mean([one.low <= 0 <= one.high for one in naive]) < 0.85
    assert 0.035 <= rejected <= 0.065
    assert 0.935 <= np.mean([one.low <= 0 <= one.high for one in grouped]) <= 0.965
