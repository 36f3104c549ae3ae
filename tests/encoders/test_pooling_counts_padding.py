"""Pooling and fusion on numbers worked out by hand: padded frames count for nothing."""

import math

import pytest
import torch

from evar.encoders import load_encoder
from evar.encoders.base import Frames
from evar.encoders.pooling import POOLINGS, fuse, pool, pooled_dim
from evar.errors import EvarError


def frames(rows, valid, hop=10.0):
    features = torch.tensor(rows, dtype=torch.float32)[..., None]
    return Frames(features, torch.arange(features.shape[1]) * hop, torch.tensor(valid))


@pytest.mark.parametrize(
    ("pooling", "full", "padded"),
    [
        ("mean", [[3.0]], [[-1.5]]),
        ("max", [[8.0]], [[-1.0]]),
        ("std", [[math.sqrt(38 / 3)]], [[0.5]]),
        ("mean+max", [[11.0]], [[-2.5]]),
        ("mean_std", [[3.0, math.sqrt(38 / 3)]], [[-1.5, 0.5]]),
    ],
)
def test_by_hand(pooling, full, padded):
    rows = [[8.0, 1.0, 0.0], [-1.0, -2.0, 1e6]]
    found = pool(frames(rows, [3, 2]), pooling)
    torch.testing.assert_close(found, torch.tensor(full + padded))
    torch.testing.assert_close(pool(frames(rows[:1], [3]), pooling), torch.tensor(full))
    assert found.shape[1] == pooled_dim(pooling, 1)


def test_one_frame_has_no_deviation():
    assert pool(frames([[5.0, 9.0]], [1]), "mean_std").tolist() == [[5.0, 0.0]]


def test_nan_in_padding_is_not_seen():
    rows = [[1.0, math.nan], [1.0, 2.0]]
    for pooling in set(POOLINGS) - {"cls"}:  # which is no pooling of frames
        assert torch.isfinite(pool(frames(rows, [1, 2]), pooling)).all()


def test_fusion_averages_the_finer_layer():
    fine = frames([[1.0, 3.0, 5.0, 7.0, 9.0], [2.0, 4.0, 6.0, 1e6, 1e6]], [5, 3], hop=10.0)
    coarse = frames([[10.0, 20.0], [30.0, 1e6]], [2, 1], hop=20.0)
    fused = fuse([fine, coarse], [10.0, 20.0])
    assert fused.valid.tolist() == [2, 1]
    assert fused.times_ms.tolist() == [0.0, 20.0]
    assert fused.features[0].tolist() == [[2.0, 10.0], [6.0, 20.0]]
    assert fused.features[1, 0].tolist() == [3.0, 30.0]


def test_a_fine_layer_that_ends_early_averages_what_it_has():
    fine = frames([[1.0, 3.0, 5.0]], [3], hop=10.0)
    coarse = frames([[10.0, 20.0]], [2], hop=20.0)
    assert fuse([fine, coarse], [10.0, 20.0]).features[0].tolist() == [[2.0, 10.0], [5.0, 20.0]]


def test_rates_without_a_common_grid_are_refused():
    with pytest.raises(EvarError, match=r"differ by 1\.5"):
        fuse([frames([[1.0, 2.0]], [2]), frames([[1.0]], [1])], [10.0, 15.0])


def test_mfcc_is_scipys_dct_of_logmel():
    from scipy.fft import dct

    wav = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    log_mel = load_encoder("logmel").encode_frames(wav).features.numpy()
    for coefficients in (20, 40):
        found = load_encoder("mfcc", coefficients=coefficients).encode_frames(wav).features.numpy()
        expected = dct(log_mel, type=2, norm="ortho", axis=-1)[..., :coefficients]
        assert abs(found - expected).max() < 1e-3


def test_logmel_is_mean_then_deviation_of_bands():
    encoder = load_encoder("logmel")
    wav = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    features = encoder.encode_frames(wav).features
    assert features.shape == (51, 64)
    expected = torch.cat([features.mean(0), features.std(0, correction=0)])
    torch.testing.assert_close(encoder.encode(wav), expected, rtol=1e-5, atol=1e-5)


def test_all_layers_come_from_one_pass(monkeypatch):
    encoder = load_encoder("random:byola-v2").with_normalization({"mean": -5.0, "std": 4.0})
    calls = []
    original = type(encoder)._log_mel
    monkeypatch.setattr(type(encoder), "_log_mel", lambda *args: calls.append(1) or original(*args))
    found = encoder.encode_all(torch.zeros(2, 8000), [8000, 5000], ["block1", "fc", "block1+fc"], ["mean", "max"])
    assert len(calls) == 1
    assert {pair: vector.shape[1] for pair, vector in found.items()} == {
        (layer, pooling): size
        for layer, size in (("block1", 2048), ("fc", 3072), ("block1+fc", 5120))
        for pooling in ("mean", "max")
    }
