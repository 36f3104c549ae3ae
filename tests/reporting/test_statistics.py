"""The statistics of `evar compare` against scipy and statsmodels, and where they could mislead."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from evar.reporting.statistics import average_ranks, discordant, holm, interval_of, mcnemar, paired_bootstrap

COUNTS = [(0, 0), (1, 0), (0, 6), (5, 5), (7, 6), (12, 3), (3, 12), (40, 60), (210, 180), (0, 1000)]


@pytest.mark.parametrize(("wins", "losses"), COUNTS)
def test_exact_mcnemar_is_that_of_statsmodels_and_scipy(wins, losses):
    sm = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is not installed")
    exact, _ = mcnemar(wins, losses)
    table = [[100, wins], [losses, 50]]
    assert exact == pytest.approx(min(sm.mcnemar(table, exact=True).pvalue, 1.0), abs=1e-12)
    if wins + losses:
        assert exact == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, abs=1e-12)


@pytest.mark.parametrize(("wins", "losses"), COUNTS)
def test_mid_p_counts_half_of_what_was_seen(wins, losses):
    """By its definition: all outcomes that are less likely count whole, the observed one and its mirror half."""
    n = wins + losses
    chances = stats.binom.pmf(np.arange(n + 1), n, 0.5)
    gap = np.abs(2 * np.arange(n + 1) - n)
    seen = abs(wins - losses)
    expected = chances[gap > seen].sum() + chances[gap == seen].sum() / 2
    _, mid = mcnemar(wins, losses)
    assert mid == pytest.approx(1.0 if n == 0 else expected, abs=1e-12)


def test_mcnemar_takes_arrays_and_does_not_care_who_is_first():
    wins, losses = np.array(COUNTS).T
    for there, back in zip(mcnemar(wins, losses), mcnemar(losses, wins), strict=True):
        assert there.shape == wins.shape
        np.testing.assert_array_equal(there, back)
        assert ((there >= 0) & (there <= 1)).all()


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_that_of_statsmodels(seed):
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p = np.random.default_rng(seed).beta(0.3, 1, size=24)
    p[3] = p[7]
    np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1], atol=1e-12)


def test_holm_leaves_out_what_could_not_be_tested():
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.04])), [0.02, np.nan, 0.04])
    assert len(holm(np.array([]))) == 0


@pytest.mark.parametrize("method", ["percentile", "BCa"])
@pytest.mark.parametrize("outcomes", [(60, 30), (25, 25), (120, 60)])
def test_clip_bootstrap_agrees_with_scipy(method, outcomes):
    wins, losses = outcomes
    difference = np.repeat([1.0, -1.0, 0.0], [wins, losses, 500 - wins - losses])
    ours = paired_bootstrap(difference, resamples=20_000)
    theirs = stats.bootstrap(
        (difference,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1), batch=500
    )
    noise = 0.05 * theirs.standard_error + 1 / 500  # of two sets of resamples, and the step of the grid
    assert ours.estimate == pytest.approx(difference.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=noise)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=noise)


def test_group_bootstrap_agrees_with_scipy_on_group_sums():
    random = np.random.default_rng(0)
    groups = random.integers(0, 60, 900)
    difference = random.integers(-1, 2, 900) + 0.3 * random.normal(size=60)[groups]
    sums, sizes = np.bincount(groups, difference), np.bincount(groups)
    ours = paired_bootstrap(difference, groups=groups, resamples=20_000)
    theirs = stats.bootstrap(
        (sums, sizes),
        lambda a, n, axis: a.sum(axis) / n.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    # ours is wider by what 60 groups ask for: t with 59 degrees of freedom, 59 of 60 drawn
    wider = stats.t.ppf(0.975, 59) / stats.norm.ppf(0.975) * np.sqrt(60 / 59)
    low, high = theirs.confidence_interval
    middle, half = (low + high) / 2, (high - low) / 2 * wider
    assert (ours.low, ours.high) == pytest.approx((middle - half, middle + half), abs=0.1 * theirs.standard_error)
    assert ours.n_groups == 60


def test_groups_make_the_interval_wider_when_their_clips_err_together():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 25)
    difference = np.sign(random.normal(size=40))[groups]
    naive, grouped = paired_bootstrap(difference), paired_bootstrap(difference, groups=groups)
    assert grouped.high - grouped.low > 4 * (naive.high - naive.low)
    assert grouped.p > naive.p


def test_folds_count_the_same_whatever_their_size():
    strata = np.repeat([1, 2], [100, 300])
    difference = np.concatenate([np.tile([1.0, 0.0], 50), np.zeros(300)])
    assert paired_bootstrap(difference, strata).estimate == pytest.approx(0.25)
    # one speaker a fold: nothing to draw within a fold, so folds are drawn together and still count the same
    speakers = paired_bootstrap(difference, strata, groups=strata)
    assert speakers.estimate == pytest.approx(0.25)
    assert (speakers.n_groups, speakers.df) == (2, 1)
    assert speakers.p > 0.1


def test_two_speakers_a_fold_are_not_taken_for_more():
    """Drawing two of two halves the variance: the interval would miss the truth in one of seven cases."""
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(1000):
        effect = random.normal(0, 0.2, size=(5, 2))
        difference = np.repeat(effect.ravel(), 20) + random.normal(0, 0.3, size=200)
        found = paired_bootstrap(difference, np.repeat(np.arange(5), 40), np.repeat(np.arange(10), 20), resamples=300)
        missed += not found.low <= 0 <= found.high
    assert 0.03 < missed / 1000 < 0.08


@pytest.mark.parametrize("n", [2, 30, 400])
def test_identical_encoders_differ_by_nothing(n):
    same = paired_bootstrap(np.zeros(n))
    assert (same.estimate, same.p) == (0, 1)
    u = 1 - 0.025 ** (1 / n)  # so many groups at most could differ, unseen
    assert (same.low, same.high) == pytest.approx((-u, u))


def test_one_group_gives_no_interval_rather_than_a_wrong_one():
    alone = paired_bootstrap(np.ones(50), groups=np.zeros(50))
    assert alone.estimate == 1
    assert np.isnan([alone.low, alone.high, alone.p]).all()


def test_three_clips_prove_nothing():
    assert paired_bootstrap(np.ones(3)).p > 0.05


def test_p_goes_below_what_the_resamples_resolve():
    strong = paired_bootstrap(np.repeat([1.0, 0.0], [150, 250]), resamples=1000)
    assert strong.p < 1e-8
    assert strong.low > 0.3


def test_interval_and_p_tell_the_same_story():
    random = np.random.default_rng(0)
    for _ in range(200):
        drawn = random.normal(random.normal(0, 2), 1, size=2000)
        found = interval_of(float(drawn.mean()), drawn, n_groups=60, df=59)
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high) or abs(found.p - 0.05) < 0.003


def test_the_same_seed_gives_the_same_numbers():
    difference = np.random.default_rng(0).integers(-1, 2, 300)
    assert paired_bootstrap(difference, seed=3) == paired_bootstrap(difference, seed=3)
    assert paired_bootstrap(difference, seed=3) != paired_bootstrap(difference, seed=4)


def test_effect_on_discordant_clips():
    effect = discordant(30, 10)
    assert (effect.g, effect.odds) == (0.25, 3.0)
    share = stats.binomtest(30, 40).proportion_ci(0.95, method="exact")
    assert effect.odds_low == pytest.approx(share.low / (1 - share.low))
    assert effect.odds_high == pytest.approx(share.high / (1 - share.high))
    assert discordant(5, 0).odds == float("inf")
    assert discordant(5, 0).odds_high == float("inf")
    assert discordant(0, 5).odds == 0
    assert np.isnan(discordant(0, 0).odds)


def test_average_ranks_share_ties():
    scores = np.array([[0.9, 0.5], [0.9 + 1e-12, 0.7], [0.1, 0.6]])
    np.testing.assert_allclose(average_ranks(scores), [2.25, 1.25, 2.5])


@pytest.mark.parametrize("n", [3, 6, 40])
def test_the_same_difference_on_every_group_has_an_exact_bound_that_p_inverts(n):
    found = paired_bootstrap(np.ones(2 * n), groups=np.repeat(np.arange(n), 2))
    assert found.low < found.high == 1
    assert found.low == pytest.approx(2 * binomtest(n, n).proportion_ci(method="exact").low - 1)
    assert found.p == pytest.approx(binomtest(n, n).pvalue)
    assert (found.p < 0.05) == (found.low > 0)
