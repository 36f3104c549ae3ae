"""Odd data: few clips, absent classes, constant features, bad input, protocols of one's own."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from probe_data import embeddings, folds, ids, parts
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from evar.errors import EvarError
from evar.probes import evaluate, get_protocol, list_protocols
from evar.probes.bootstrap import interval, weighted_maps
from evar.probes.features import Features
from evar.probes.knn import neighbours


@pytest.mark.parametrize("name", ["fair", "knn", "paper"])
def test_absent_classes_one_clip_classes_and_constant_features(name):
    X, targets = embeddings(120, 12, 3)
    X[:, 3] = 7.5
    fold = folds(120, 3)
    X[fold != 2, 4] = -1.0  # constant in the training part of fold 2 only
    targets = targets.copy()
    targets[np.flatnonzero(fold == 1)[:5]] = 3  # a class of fold 1 alone
    targets[np.flatnonzero(fold == 2)[0]] = 4  # one clip
    found = evaluate(name, X, targets, list("abcdef"), fold=fold, clip_ids=ids(120), seeds=[0], lr=1e-2)
    assert not (found.runs[0].predicted >= 5).any()
    assert not (found.runs[0].predicted == 3).any()
    assert all(np.isfinite(run.scores).all() for run in found.runs)
    assert any("without a training clip" in warning and "d" in warning for warning in found.warnings)


@pytest.mark.parametrize("name", ["fair", "knn", "paper", "mlp"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_one_class_in_training_predicts_that_class_and_warns(name, n_classes):
    X, _ = embeddings(60, 8, 3)
    split = np.array(["train", "valid", "test"])[np.arange(60) // 20]
    targets = np.where(split == "test", np.arange(60) % n_classes, 1)
    found = evaluate(name, X, targets, range(n_classes), split=split, clip_ids=ids(60), seeds=[0])
    assert set(found.runs[0].predicted) == {1}
    assert any("one class only" in warning for warning in found.warnings)


def test_fewer_clips_than_classes():
    X, targets = embeddings(18, 50, 9)
    found = evaluate("fair", X, targets, range(12), fold=folds(18, 2), clip_ids=ids(18))
    assert 0 <= found.mean <= 1
    assert found.warnings


def test_ties_go_to_the_smaller_strength():
    X, targets = embeddings(100, 10, 2, signal=50)
    protocol = dataclasses.replace(get_protocol("fair"), name="x", strengths=(10.0, 0.1, 1.0))
    found = evaluate(protocol, X, targets, range(2), split=parts(100), clip_ids=ids(100))
    assert found.mean == 1.0
    assert found.runs[0].setting == "C=0.1"


@pytest.mark.parametrize("n_classes", [2, 6])
def test_separable_classes_under_a_weak_penalty_saturate_nothing(n_classes):
    X, targets = embeddings(200, 300, n_classes, signal=5)
    protocol = dataclasses.replace(get_protocol("fair"), name="x", strengths=(10.0, 1e3))
    found = evaluate(protocol, X, targets, range(n_classes), split=parts(200), clip_ids=ids(200))
    assert found.mean > 0.95
    assert np.isfinite(found.runs[0].scores).all()
    assert found.runs[0].converged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "f1"}, "unknown metric"),
        ({"targets": np.zeros(9, int)}, "targets has 9"),
        ({"targets": np.full(30, 3)}, "0 to 2"),
        ({"split": np.array(["train"] * 30)}, "0 test clips"),
        ({"split": np.array(["dev"] * 30)}, "dev"),
        ({"split": None}, "either a split"),
        ({"X": np.full((30, 4), np.nan, np.float32)}, "NaN"),
        ({"shots": 0}, "shots"),
        ({"shots": 1_000_000}, "no class has 1000000 clips"),
        ({"train_fraction": 1.5}, "train_fraction"),
        ({"seeds": []}, "seeds"),
        ({"protocol": "fare"}, "did you mean 'fair'"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    X, targets = embeddings(30, 4, 3)
    given = {
        "protocol": "fair",
        "X": X,
        "targets": targets,
        "split": np.array(["train", "test"] * 15),
        "metric": "accuracy",
    }
    given |= change
    with pytest.raises(EvarError, match=message):
        evaluate(given.pop("protocol"), given.pop("X"), given.pop("targets"), range(3), clip_ids=ids(30), **given)


def test_knn_agrees_with_sklearn():
    X, targets = embeddings(200, 20, 5)
    train, test = np.arange(150), np.arange(150, 200)
    scaler = StandardScaler().fit(X[train])
    model = KNeighborsClassifier(10, metric="cosine").fit(scaler.transform(X[train]), targets[train])
    expected = model.kneighbors(scaler.transform(X[test]), return_distance=False)
    found = neighbours(Features(X, train), train, test, 10)
    assert np.mean(found == expected) > 0.99
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))


@pytest.mark.parametrize("with_valid", [True, False])
def test_knn_predicts_what_sklearns_classifier_does_end_to_end(with_valid):
    X, targets = embeddings(400, 24, 5, signal=1.0)
    split = parts(400)
    split = split if with_valid else np.where(split == "valid", "train", split)
    found = evaluate("knn", X, targets, range(5), split=split, clip_ids=ids(400))
    train, k = split == "train", int(found.runs[0].setting.split("=")[1])
    scaler = StandardScaler().fit(X[train])
    model = KNeighborsClassifier(k, metric="cosine").fit(scaler.transform(X[train]), targets[train])
    shares = model.predict_proba(scaler.transform(X[split == "test"]))
    top = np.sort(shares, axis=1)
    clear = top[:, -1] > top[:, -2]  # of tied classes scikit-learn takes the first by name, we the nearest neighbour's
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(found.runs[0].predicted[clear], shares.argmax(1)[clear])
    np.testing.assert_allclose(np.round(found.runs[0].scores * k) / k, shares, atol=1e-6)


def test_equal_distances_keep_the_table_order():
    X = np.tile(np.array([[1.0, 0], [0, 1]], np.float32), (6, 1))
    found = neighbours(Features(X, np.arange(10)), np.arange(10), np.array([10]), 5)
    np.testing.assert_array_equal(found, [[0, 2, 4, 6, 8]])


def test_weighted_average_precision_is_sklearns():
    random = np.random.default_rng(0)
    hot, score = random.random((60, 3)) < 0.3, np.round(random.random((60, 3)), 1).astype(np.float32)
    draws = random.multinomial(60, np.full(60, 1 / 60), size=4)
    found = weighted_maps(hot, score, draws, np.arange(60))
    for draw, value in zip(draws, found, strict=True):
        assert value == pytest.approx(average_precision_score(hot, score, sample_weight=draw), abs=1e-6)


def test_intervals_cover_and_widen_with_groups():
    random = np.random.default_rng(0)
    covered, widths = [], []
    for _ in range(150):
        ability = np.repeat(random.beta(8, 2, 60), 10)  # a speaker's clips share their difficulty
        right = random.random(600) < ability
        scores = np.stack([right, ~right], 1).astype(np.float32)
        truth = np.zeros(600, int)
        found = interval("accuracy", [truth], [scores], [np.repeat(np.arange(60), 10)])
        alone = interval("accuracy", [truth], [scores], [np.arange(600)])
        covered.append(found.low <= 0.8 <= found.high)
        widths.append((found.high - found.low) / (alone.high - alone.low))
    assert (found.n_groups, found.how) == (60, "within folds")
    assert 0.88 <= np.mean(covered) <= 0.99
    assert np.mean(widths) > 1.1


def test_few_groups_warn():
    X, targets = embeddings(100, 10, 2)
    group = np.arange(100) % 8
    found = evaluate("fair", X, targets, range(2), fold=group % 4 + 1, group=group, clip_ids=ids(100))
    assert any("2 groups" in warning for warning in found.warnings)


def test_a_protocol_of_ones_own(tmp_path):
    path = tmp_path / "coarse.yaml"
    path.write_text("base: fair\nstrengths: [1, 1e-2]\n")
    mine = get_protocol(path)
    assert (mine.name.split("#")[0], mine.strengths, mine.probe) == ("coarse", (0.01, 1.0), "logistic")
    assert mine.fingerprint() != list_protocols()["fair"].fingerprint()
    for text, message in (
        ("base: fair\nstrength: [1]\n", "did you mean 'strengths'"),
        ("base: fair\nmax_epochs: many\n", "expected a number"),
        ("strengths: [1]\n", "base"),
        ("base: fair\nname: paper\n", "taken"),
        ("base: [", "not valid YAML"),
    ):
        path.write_text(text)
        with pytest.raises(EvarError, match=message):
            get_protocol(path)


def test_importing_the_protocols_is_instant():
    code = "import sys, evar.probes, evar.probes.protocol; assert not {'torch', 'sklearn', 'pandas', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_function_is_not_hidden_by_a_module():
    import evar.probes.evaluation  # noqa: F401
    from evar.probes import evaluate as found

    assert callable(found)
