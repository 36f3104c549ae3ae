"""No 95 % interval is of zero width by construction, and warnings say what a score or a choice rests on."""

from __future__ import annotations

import numpy as np
import pytest
from probe_data import embeddings, folds, ids
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from evar.probes import evaluate, get_protocol
from evar.probes.bootstrap import interval
from evar.probes.splits import plan_folds


def fold_of(right):
    """Targets and scores of clips of which those `right` are classified well."""
    right = np.asarray(right, bool)
    return np.zeros(len(right), int), np.stack([right, ~right], 1).astype(np.float32)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("k", [1, 3])
def test_all_right_or_all_wrong_has_the_clopper_pearson_bound_on_the_groups(value, k):
    truth, scores = zip(*[fold_of([value] * 40)] * k, strict=True)
    names = [np.array([f"{f} {i // 4}" for i in range(40)]) for f in range(k)]
    found = interval("accuracy", truth, scores, names)
    expected = binomtest(10 * k * value, 10 * k).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.how, found.n_groups) == ("exact", 10 * k)


def test_one_speaker_per_fold_draws_the_speakers_over_folds_and_covers():
    random = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        ability = random.beta(8, 2, 6)
        parts = [fold_of(random.random(40) < a) for a in ability]
        found = interval("accuracy", *zip(*parts, strict=True), [np.full(40, f"s{i}") for i in range(6)])
        assert (found.how, found.n_groups) == ("over folds", 6)
        assert 0 <= found.low < found.high <= 1
        covered.append(found.low <= 0.8 <= found.high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_one_group_in_all_has_no_interval():
    found = interval("accuracy", *[[one] for one in fold_of([1, 1, 0, 1])], [np.full(4, "anna")])
    assert np.isnan([found.low, found.high]).all()


def test_the_same_score_on_every_group_is_no_certainty():
    truth, scores = fold_of([1, 0] * 8)
    found = interval("accuracy", [truth], [scores], [np.arange(16) // 2])
    assert found.low < 0.4
    assert found.high > 0.6


def test_intervals_that_had_a_width_keep_their_numbers():
    random = np.random.default_rng(5)
    parts = [fold_of(random.random(60) < 0.8) for _ in range(3)]
    found = interval("accuracy", *zip(*parts, strict=True), [np.arange(60) // 3 for _ in parts])
    draw, means = np.random.default_rng(0), np.zeros(2000)  # the bootstrap as it always was
    for _, scores in parts:
        hits, sizes = scores[:, 0].reshape(20, 3).sum(1).astype(float), np.full(20, 3.0)
        kinds, count = np.unique(np.stack([hits, sizes]), axis=1, return_counts=True)
        draws = draw.multinomial(20, count / 20, size=2000)
        means += (draws @ kinds[0]) / (draws @ kinds[1])
    assert (found.low, found.high) == tuple(np.percentile(means / 3, [2.5, 97.5]))


@pytest.mark.parametrize("perfect", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_map_likewise(perfect, alone):
    random = np.random.default_rng(1)
    truth, scores, names = [], [], []
    for f in range(4):
        hot = np.eye(2, dtype=np.float32)[np.arange(12) % 2]
        truth.append(hot)
        scores.append(hot if perfect else (hot + random.normal(size=hot.shape)).astype(np.float32))
        names.append(np.full(12, f"{f}") if alone else np.array([f"{f} {i}" for i in range(12)]))
    found = interval("mAP", truth, scores, names)
    assert found.low < found.high
    assert (found.high == 1) or not perfect


@pytest.mark.parametrize("metric", ["accuracy", "mAP"])
def test_classes_without_a_test_clip_are_named(metric):
    X, targets = embeddings(120, 8, 4)
    split = np.where((np.arange(120) % 2 == 0) & (targets < 2), "test", "train")
    found = evaluate("fair", X, targets, list("abcd"), split=split, clip_ids=ids(120), metric=metric)
    assert any(w == "2 of 4 classes have no test clip: c, d: the score is over the others" for w in found.warnings)


def test_classes_that_the_refit_has_seen_are_not_called_unseen():
    X, targets = embeddings(120, 8, 3)
    fold = np.where(targets == 2, np.arange(120) % 2 + 1, np.arange(120) % 3 + 1)  # fold 1: class 2 is in fold 2 only
    found = evaluate("fair", X, targets, range(3), fold=fold, clip_ids=ids(120))
    assert not any("without a training clip" in warning for warning in found.warnings)


def test_a_choice_on_few_clips_is_said():
    X, targets = embeddings(120, 8, 3)
    split = np.where(np.arange(120) % 4 == 0, "test", "train")
    found = evaluate("fair", X, targets, range(3), split=split, clip_ids=ids(120))
    assert any("chosen on 9 validation clip(s) only" in warning for warning in found.warnings)
    many = evaluate("fair", X, targets, range(3), fold=folds(120, 3), clip_ids=ids(120))
    assert not any("chosen on" in warning for warning in many.warnings)


@pytest.mark.parametrize("name", ["fair", "knn"])
@pytest.mark.parametrize("shots", [None, 12])
def test_without_a_valid_part_the_choice_is_fitted_again_on_all_training_clips(name, shots):
    _, targets = embeddings(200, 8, 4)
    split = np.where(np.arange(200) % 4 == 0, "test", "train")
    given = {"fold": None, "group": ids(200), "clip_ids": ids(200), "seed": 0, "shots": shots}
    (plan,), _ = plan_folds(get_protocol(name), targets, split=split, **given)
    assert len(plan.train) == (48 if shots else 150)
    np.testing.assert_array_equal(plan.refit, np.union1d(plan.fit, plan.valid))
    split[np.arange(200) % 4 == 1] = "valid"
    (plan,), _ = plan_folds(get_protocol(name), targets, split=split, **given)
    assert plan.refit is None


@pytest.mark.parametrize("n_classes", [2, 5])
def test_fair_without_a_valid_part_predicts_what_scikit_learn_does_on_all_training_clips(n_classes):
    X, targets = embeddings(300, 24, n_classes, signal=1.0)
    split = np.where(np.arange(300) % 4 == 0, "test", "train")
    (run,) = evaluate("fair", X, targets, range(n_classes), split=split, clip_ids=ids(300)).runs
    train = split == "train"
    scaler = StandardScaler().fit(X[train])
    model = LogisticRegression(C=float(run.setting.split("=")[1]), tol=1e-8, max_iter=5000)
    model.fit(scaler.transform(X[train]), targets[train])
    assert run.n_train == train.sum()
    np.testing.assert_allclose(run.scores, model.predict_proba(scaler.transform(X[~train])), atol=2e-3)
    np.testing.assert_array_equal(run.predicted, model.predict(scaler.transform(X[~train])))
