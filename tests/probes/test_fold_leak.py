"""Nothing of the test part, and no group of it, may reach the fit or the choice of the setting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from probe_data import embeddings, folds, ids, parts

from evar.probes import evaluate, get_protocol
from evar.probes.splits import plan_folds, set_aside

QUICK = {
    "fair": get_protocol("fair"),
    "knn": get_protocol("knn"),
    "paper": dataclasses.replace(get_protocol("paper"), name="q", max_epochs=8, learning_rate=1e-2, seeds=(0,)),
}


@pytest.mark.parametrize("name", QUICK)
def test_test_labels_change_no_prediction(name):
    X, targets = embeddings(240, 24, 4)
    split = parts(240)
    test = np.flatnonzero(split == "test")
    shuffled = targets.copy()
    shuffled[test] = np.random.default_rng(5).permutation(targets[test])
    a, b = (evaluate(QUICK[name], X, y, range(4), split=split, clip_ids=ids(240)).runs[0] for y in (targets, shuffled))
    assert a.setting == b.setting
    np.testing.assert_array_equal(a.scores, b.scores)
    assert a.score != b.score


@pytest.mark.parametrize("name", QUICK)
def test_statistics_come_from_training_rows_only(name):
    X, targets = embeddings(240, 24, 4)
    split = parts(240)
    test = np.flatnonzero(split == "test")
    changed = X.copy()
    changed[test[1:]] *= 1e4
    a, b = (evaluate(QUICK[name], x, targets, range(4), split=split, clip_ids=ids(240)).runs[0] for x in (X, changed))
    assert a.setting == b.setting
    np.testing.assert_allclose(a.scores[0], b.scores[0], atol=1e-5)


def test_a_test_fold_of_wild_values_leaves_its_own_fit_alone():
    X, targets = embeddings(200, 16, 4)
    fold = folds(200, 4)
    changed = X.copy()
    wild = np.flatnonzero(fold == 2)[1:]
    changed[wild] = changed[wild] * 20 + 7
    a, b = (evaluate("fair", x, targets, range(4), fold=fold, clip_ids=ids(200)).runs[1] for x in (X, changed))
    assert a.setting == b.setting
    np.testing.assert_allclose(a.scores[0], b.scores[0], atol=5e-3)


@pytest.mark.parametrize("name", ["fair", "knn"])
def test_groups_never_straddle(name):
    n = 300
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, n)
    group = np.array([f"speaker {i}" for i in random.integers(0, 40, n)])
    split = np.where(random.random(n) < 0.7, "train", "test")
    (plan,), warnings = plan_folds(
        get_protocol(name), targets, split=split, fold=None, group=group, clip_ids=ids(n), seed=7
    )
    assert not set(group[plan.fit]) & set(group[plan.valid])
    assert set(targets[plan.fit]) == set(targets[split == "train"])
    assert 0.07 < len(plan.valid) / (split == "train").sum() < 0.2
    assert not set(plan.test) & (set(plan.fit) | set(plan.valid))
    assert not warnings


def test_drawn_validation_differs_by_seed_and_sha1_order_does_not():
    targets, everything = np.arange(100) % 4, np.arange(100)
    drawn = [set_aside(everything, targets, ids(100), ids(100), 0.1, salt)[1] for salt in ("42 ", "43 ", "", "")]
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[2], drawn[3])
    assert len(drawn[2]) == 10


@pytest.mark.parametrize("group", [np.array(["one"] * 40), np.arange(40) % 4], ids=["one group", "group is the class"])
def test_groups_that_cannot_be_set_aside_fall_back_to_clips_and_say_so(group):
    fit, valid, warning = set_aside(np.arange(40), np.arange(40) % 4, group, ids(40), 0.1)
    assert len(valid) == 4
    assert len(fit) == 36
    assert "single clips" in warning


def test_folds_take_the_next_one_for_validation():
    fold = np.repeat([1, 2, 3], 20)
    plans, _ = plan_folds(
        get_protocol("fair"), np.arange(60) % 2, split=None, fold=fold, group=ids(60), clip_ids=ids(60), seed=0
    )
    assert [set(fold[plan.valid]) for plan in plans] == [{2}, {3}, {1}]
    assert [set(fold[plan.fit]) for plan in plans] == [{3}, {1}, {2}]
    assert [set(fold[plan.refit]) for plan in plans] == [{2, 3}, {1, 3}, {1, 2}]


def test_a_class_that_has_fewer_clips_than_shots_is_told():
    """Regression: a row said `shots` 20 where a class had 12."""
    X, targets = embeddings(300, 16, 3)
    split = parts(300)
    rare = np.flatnonzero((targets == 2) & (split == "train"))
    split[rare[12:]] = "test"
    found = evaluate("knn", X, targets, range(3), split=split, clip_ids=ids(300), shots=20)
    assert found.runs[0].n_train == 52
    assert "some classes have fewer than 20 training clips: all of theirs are taken" in found.warnings


def test_shots_and_fractions_are_drawn_by_class_and_seed():
    X, targets = embeddings(300, 16, 3)
    split = parts(300)
    few = evaluate("fair", X, targets, range(3), split=split, clip_ids=ids(300), shots=5, seeds=[1, 2])
    assert [run.n_train for run in few.runs] == [15, 15]
    assert few.runs[0].n_valid == (split == "valid").sum()
    assert not np.array_equal(few.runs[0].scores, few.runs[1].scores)
    assert not any("fewer than" in warning for warning in few.warnings)
    half = evaluate("knn", X, targets, range(3), split=split, clip_ids=ids(300), train_fraction=0.5)
    assert abs(half.runs[0].n_train - (split == "train").sum() / 2) <= 2
