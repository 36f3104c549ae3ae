"""`fair` is scikit-learn's logistic regression, only faster."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from probe_data import embeddings, folds, ids, parts
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from evar.probes import evaluate, get_protocol


def one_strength(C, **changes):
    return dataclasses.replace(get_protocol("fair"), name="one", strengths=(C,), **changes)


def reference(X, targets, train, test, C):
    scaler = StandardScaler().fit(X[train].astype(np.float64))
    model = LogisticRegression(C=C, tol=1e-8, max_iter=20000)
    model.fit(scaler.transform(X[train].astype(np.float64)), targets[train])
    return model.predict_proba(scaler.transform(X[test].astype(np.float64)))


@pytest.mark.parametrize(
    ("n", "d", "n_classes", "offset"),
    [(600, 256, 8, 0), (600, 128, 2, 0), (300, 700, 5, 0), (400, 300, 5, 0), (600, 100, 4, 1e3)],
    ids=["multinomial", "two classes", "more features than clips", "a few more features than clips", "large offset"],
)
def test_same_predictions_at_every_strength(n, d, n_classes, offset):
    X, targets = embeddings(n, d, n_classes)
    if offset:
        X = (X / X.std(0) * 1e-2 + offset).astype(np.float32)
    split = parts(n)
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
    same = []
    for C in get_protocol("fair").strengths:
        run = evaluate(
            one_strength(C), X, targets, range(n_classes), split=split, clip_ids=ids(n), metric="accuracy"
        ).runs[0]
        expected = reference(X, targets, train, test, C)
        same.append(run.predicted == expected.argmax(1))
        assert run.converged
        assert np.abs(run.scores - expected).max() < (1e-3 if C <= 0.01 else 0.15)
    assert np.mean(same) >= 0.995
    assert np.mean(same, axis=1).min() >= 0.98


def test_a_tighter_tolerance_reaches_the_very_optimum():
    X, targets = embeddings(400, 64, 6)
    split = parts(400)
    run = evaluate(one_strength(1.0, tolerance=1e-6), X, targets, range(6), split=split, clip_ids=ids(400)).runs[0]
    expected = reference(X, targets, np.flatnonzero(split == "train"), run.test, 1.0)
    np.testing.assert_allclose(run.scores, expected, atol=1e-3)


def test_multi_label_is_one_regression_per_label():
    X, targets = embeddings(500, 40, 6)
    hot = (np.random.default_rng(0).random((500, 6)) < 0.1).astype(np.float32)
    hot[np.arange(500), targets] = 1
    hot[:, 5] = 0  # a label that nobody carries
    split = parts(500)
    run = evaluate(one_strength(0.1), X, hot, range(6), split=split, clip_ids=ids(500), metric="mAP").runs[0]
    train = split == "train"
    scaler = StandardScaler().fit(X[train])
    model = OneVsRestClassifier(LogisticRegression(C=0.1, tol=1e-8)).fit(scaler.transform(X[train]), hot[train, :5])
    np.testing.assert_allclose(run.scores[:, :5], model.predict_proba(scaler.transform(X[run.test])), atol=2e-3)
    assert run.scores[:, 5].max() < 1e-6


def test_cross_validation_chooses_on_the_next_fold_and_refits():
    X, targets = embeddings(400, 32, 5, signal=0.2)
    fold = folds(400, 4)
    found = evaluate("fair", X, targets, range(5), fold=fold, clip_ids=ids(400))
    for run in found.runs:
        following = run.fold % 4 + 1
        fit = np.flatnonzero((fold != run.fold) & (fold != following))
        valid = np.flatnonzero(fold == following)
        scores = [
            np.mean(reference(X, targets, fit, valid, C).argmax(1) == targets[valid])
            for C in get_protocol("fair").strengths
        ]
        best = get_protocol("fair").strengths[int(np.argmax(scores))]
        assert run.setting == f"C={best:g}"
        expected = reference(X, targets, np.flatnonzero(fold != run.fold), run.test, best)
        assert np.mean(run.predicted == expected.argmax(1)) >= 0.99


def test_streaming_gives_the_same_predictions(monkeypatch, tmp_path):
    X, targets = embeddings(500, 48, 4)
    path = tmp_path / "x.npy"
    np.save(path, X)
    for division in ({"split": parts(500)}, {"fold": folds(500, 3)}):
        near = evaluate("fair", X, targets, range(4), clip_ids=ids(500), **division)
        with monkeypatch.context() as patch:
            patch.setattr("evar.probes.features.RESIDENT_BYTES", 0)
            patch.setattr("evar.probes.features.CHUNK_BYTES", 48 * 4 * 37)
            patch.setattr("evar.probes.logistic.WORKING_BYTES", 4 * 4 * 500 * 3 * 5)
            far = evaluate("fair", np.load(path, mmap_mode="r"), targets, range(4), clip_ids=ids(500), **division)
        for a, b in zip(near.runs, far.runs, strict=True):
            assert a.setting == b.setting
            np.testing.assert_array_equal(a.predicted, b.predicted)


def test_two_runs_are_identical():
    X, targets = embeddings(300, 64, 5)
    first, second = (evaluate("fair", X, targets, range(5), fold=folds(300, 3), clip_ids=ids(300)) for _ in range(2))
    assert first.mean == second.mean
    assert (first.ci95_low, first.ci95_high) == (second.ci95_low, second.ci95_high)
    for a, b in zip(first.runs, second.runs, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)


def test_real_audio(shared_data):
    soundfile = pytest.importorskip("soundfile")
    files = sorted((shared_data / "ESC-50" / "audio").glob("*.flac"))
    window, bands = np.hanning(400), 48
    X = []
    for path in files:
        wave = soundfile.read(path, dtype="float32")[0]
        frames = np.lib.stride_tricks.sliding_window_view(wave, 400)[::640]
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        log = np.log(power[:, 1:193].reshape(len(power), bands, -1).mean(2) + 1e-8)
        X.append(np.concatenate([log.mean(0), log.std(0)]))
    X = np.array(X, dtype=np.float32)
    names = [path.stem.split("-") for path in files]
    fold = np.array([int(name[0]) for name in names])
    classes, targets = np.unique([name[3] for name in names], return_inverse=True)
    for C in (1e-3, 1e-2, 0.1, 1.0):
        found = evaluate(
            one_strength(C), X, targets, classes, fold=fold, group=np.array([n[1] for n in names]), clip_ids=ids(len(X))
        )
        expected = [
            reference(X, targets, np.flatnonzero(fold != run.fold), run.test, C).argmax(1) for run in found.runs
        ]
        same = [np.mean(run.predicted == want) for run, want in zip(found.runs, expected, strict=True)]
        right = [np.mean(want == targets[run.test]) for run, want in zip(found.runs, expected, strict=True)]
        assert np.mean(same) >= 0.99
        assert abs(found.mean - np.mean(right)) <= 0.003
        assert found.mean > 0.4
