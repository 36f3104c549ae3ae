"""However the fits are cut into slices, streamed, or computed without their logits in memory: the result is the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from probe_data import embeddings, folds, ids, parts

from evar.probes import estimate_seconds, evaluate, get_protocol
from evar.probes.designs import _span
from evar.probes.features import Features
from evar.probes.lbfgs import Held, Recomputed
from evar.probes.slices import VECTORS, plan_slices
from evar.products import exact_products, product

N = 240
MULTI_HOT = (np.random.default_rng(0).random((N, 6)) < 0.2).astype(np.float32)


def same(near, far):
    assert len(near.runs) == len(far.runs)
    for a, b in zip(near.runs, far.runs, strict=True):
        assert a.setting == b.setting
        np.testing.assert_array_equal(a.predicted, b.predicted)
        np.testing.assert_allclose(a.scores, b.scores, atol=2e-3)


@pytest.mark.parametrize("streamed", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize("budget", [0, 4 * 4 * (2 * 150 + VECTORS * 25) * 3], ids=["no logits held", "a few at a time"])
@pytest.mark.parametrize(
    ("targets", "metric"), [(None, "accuracy"), (MULTI_HOT, "mAP")], ids=["softmax", "multi-label"]
)
def test_slices_and_streams_are_exact(monkeypatch, streamed, budget, targets, metric):
    X, classes = embeddings(N, 24, 4)
    targets, n_classes = (classes, 4) if targets is None else (targets, 6)
    protocol, used = dataclasses.replace(get_protocol("fair"), name="few", strengths=(0.01, 1.0)), []
    for division in ({"split": parts(N)}, {"fold": folds(N, 3)}):
        given = {"clip_ids": ids(N), "metric": metric, **division}
        near = evaluate(protocol, X, targets, range(n_classes), **given)
        with monkeypatch.context() as patch:
            patch.setattr("evar.probes.logistic.WORKING_BYTES", budget)
            if streamed:
                patch.setattr("evar.probes.features.RESIDENT_BYTES", 0)
                patch.setattr("evar.probes.features.CHUNK_BYTES", 24 * 4 * 37)
                patch.setattr("evar.probes.features.CACHED_BYTES", 24 * 4 * 10)
            for kind in (Held, Recomputed):

                def spy(self, *given, kind=kind, aim=kind.aim):
                    used.append(kind)
                    return aim(self, *given)

                patch.setattr(kind, "aim", spy)
            far = evaluate(protocol, X, targets, range(n_classes), **given)
        same(near, far)
    assert set(used) == {Held if budget else Recomputed}


def test_a_streamed_matrix_is_not_copied_to_memory(monkeypatch):
    """Regression: the limit was bound when the class was made, so a test that lowered it streamed nothing."""
    monkeypatch.setattr("evar.probes.features.RESIDENT_BYTES", 0)
    X, _ = embeddings(50, 8, 2)
    features = Features(X, np.arange(50))
    assert not features.resident
    rows = torch.cat([rows for _, rows in features.chunks(np.arange(50)[::-1])]).numpy()
    np.testing.assert_allclose(rows, ((X - X.mean(0)) / X.std(0))[::-1], atol=1e-4)


def test_slices_stay_within_their_budget():
    gib = 1 << 30
    small = plan_slices(1200, 2048, 5, 7, 50, False, gib)
    assert (small.folds, small.strengths, small.hold, small.slices) == (5, 7, True, 1)
    voxceleb = plan_slices(138_361, 3072, 1, 7, 1251, False, 2 * gib)
    assert (voxceleb.strengths, voxceleb.hold, voxceleb.slices) == (1, True, 7)
    assert voxceleb.bytes <= 2 * gib
    # an iteration of all seven strengths: two products of [1251 x 3073] with [3073 x 138361]
    assert voxceleb.flops == pytest.approx(7 * 2 * 2 * 1251 * 3073 * 138_361)
    assert voxceleb.seconds(1e12, iterations=10) == pytest.approx(voxceleb.flops / 1e11)
    huge = plan_slices(2_000_000, 3072, 1, 7, 1251, False, 2 * gib)
    assert not huge.hold
    assert huge.bytes <= 2 * gib
    labels = plan_slices(2_000_000, 1024, 1, 7, 527, True, 2 * gib)
    assert labels.hold
    assert labels.bytes <= 2 * gib
    assert labels.slices > 7


def test_an_estimate_counts_what_will_be_fitted(monkeypatch):
    monkeypatch.setattr("evar.probes.slices.machine_rates", lambda: (2e11, 5e10))
    small = estimate_seconds(2000, 1024, 50, folds=5)
    assert 2 < estimate_seconds(2000, 2048, 50, folds=5) < 20  # 6.7 s on one core where these rates were measured
    for more in (
        estimate_seconds(4000, 1024, 50, folds=5),
        estimate_seconds(2000, 2000, 50, folds=5),
        estimate_seconds(2000, 1024, 100, folds=5),
        estimate_seconds(2000, 1024, 50, folds=10),
        estimate_seconds(2000, 1024, 50, folds=5, strengths=14),
    ):
        assert more > 1.1 * small
    assert estimate_seconds(150, 24, 2, folds=2, independent=True) > 0


def test_the_span_of_equal_clips_has_orthonormal_axes():
    """Clips that occur twice leave directions whose variance is nothing but rounding; the penalty needs exact axes there too."""
    X, _ = embeddings(60, 80, 4)
    X = np.concatenate([X[:30], X[:30]])
    rows, axes, *_ = _span(Features(X, np.arange(60)), np.arange(60))
    torch.testing.assert_close(axes.T @ axes, torch.eye(60), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows @ axes.T, torch.from_numpy((X - X.mean(0)) / X.std(0)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 33, 5), (350, 129, 64), (0, 4, 3)])
def test_products_are_the_plain_ones(shape):
    m, k, n = shape
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    wide = torch.randn(m, 2 * k, generator=generator)[:, ::2]
    with exact_products():
        for left, right in ((A, B.T), (A, B.T.contiguous()), (wide, B.T)):
            torch.testing.assert_close(
                product(left, right), (left.double() @ right.double()).float(), atol=1e-4, rtol=1e-4
            )


def test_products_are_exact_whatever_the_caller_allows():
    """Regression: settings of torch's newer interface made the guard fail, and oneDNN followed them on a CPU."""
    matmul = torch.backends.cuda.matmul
    try:
        torch.set_float32_matmul_precision("medium")
        matmul.fp32_precision = "tf32"
        with exact_products():
            assert matmul.fp32_precision == torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            A = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
            assert (product(A, A.T).double() - A.double() @ A.double().T).abs().max() < 1e-3
        assert (matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision) == ("tf32", "bf16")
    finally:
        torch.set_float32_matmul_precision("highest")
        matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["fair", "paper", "mlp", "knn"])
@pytest.mark.parametrize("targets", [None, MULTI_HOT], ids=["one label", "multi-label"])
def test_a_gpu_gives_what_a_cpu_gives(name, targets):
    X, classes = embeddings(N, 24, 6)
    targets, metric = (classes, "accuracy") if targets is None else (targets, "mAP")
    given = {"fold": folds(N, 3), "clip_ids": ids(N), "metric": metric, "seeds": [0], "lr": 1e-2}
    near, far = (evaluate(name, X, targets, range(6), device=device, **given) for device in ("cpu", "cuda"))
    assert near.mean == pytest.approx(far.mean, abs=5e-3)
    for a, b in zip(near.runs, far.runs, strict=True):
        assert np.mean(a.predicted == b.predicted) >= 0.99
        if name in ("fair", "knn"):
            assert a.setting == b.setting
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-2)
