"""Audio that an encoder cannot mean anything for must be refused, never embedded."""

import numpy as np
import pytest
import torch

from evar.encoders import load_encoder
from evar.errors import EvarError

GOOD = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))


def with_value(value):
    wav = GOOD.clone()
    wav[1, 1234] = value
    return wav


@pytest.mark.parametrize(
    ("wav", "lengths", "message"),
    [
        ((GOOD * 32767).to(torch.int16), None, "found int16: divide 16-bit samples by 32768"),
        ((GOOD * 32767).to(torch.int16).numpy(), None, "found int16: divide 16-bit samples by 32768"),
        (GOOD.half(), None, "found float16"),
        (GOOD.to(torch.complex64), None, "found complex64"),
        (GOOD * 32767, None, "expected about [-1, 1]"),
        (GOOD[:, None].expand(2, 2, 4000), None, "stereo: average the channels"),
        (GOOD[0, 0], None, "found shape []"),
        (GOOD[:, :0], None, "empty audio"),
        (GOOD[:0], None, "empty audio"),
        (GOOD[0, :0].numpy(), None, "empty audio"),
        (with_value(torch.nan), None, "clip 1 of the batch holds NaN"),
        (with_value(torch.inf), None, "clip 1 of the batch holds NaN"),
        (with_value(-torch.inf), None, "clip 1 of the batch holds NaN"),
        (with_value(0.0).double().mul_(1e300), None, "NaN or infinity"),
        ([0.1, 0.2], None, "found list"),
        ("clip.wav", None, "found str"),
        (GOOD, [4000, 4001], "length is 4001 samples: expected 1 to 4000"),
        (GOOD, [4000, 0], "length is 0 samples: expected 1 to 4000"),
        (GOOD, [4000, -5], "length is -5 samples"),
        (GOOD, [4000], "one length for each of 2 clips"),
        (GOOD, [[4000, 4000]], "one length for each of 2 clips"),
        (GOOD, [0.5, 1.0], "whole numbers of samples"),
        (GOOD, "full", "whole numbers of samples"),
    ],
)
def test_refused(wav, lengths, message):
    with pytest.raises(EvarError) as caught:
        load_encoder("logmel").encode(wav, lengths)
    assert message in str(caught.value)
    assert str(caught.value).startswith("logmel: ")


def test_another_rate_is_refused():
    encoder = load_encoder("x=logmel")
    with pytest.raises(EvarError, match="x expects 16000 Hz, found 44100 Hz: resample"):
        encoder.encode(GOOD, sample_rate=44100)
    assert torch.equal(encoder.encode(GOOD, sample_rate=16000), encoder.encode(GOOD))


def test_unknown_layers_and_poolings_name_the_nearest():
    encoder = load_encoder("random:byola-v2").with_normalization({"mean": 0.0, "std": 1.0})
    for layer, pooling, message in (
        ("blok1", "mean", "did you mean 'block1'"),
        ("block1+fd", "mean", "did you mean 'fc'"),
        ("fc", "mean+mx", "did you mean 'mean\\+max'"),
        ("fc", "clip", "pooling over time"),
    ):
        with pytest.raises(EvarError, match=message):
            encoder.encode_all(GOOD, None, [layer], [pooling])


def test_nan_in_padding_is_padding():
    encoder, wav = load_encoder("logmel"), with_value(torch.nan)
    assert torch.equal(encoder.encode(wav, [4000, 1234]), encoder.encode(GOOD, [4000, 1234]))


def test_numpy_as_it_comes():
    encoder, wav = load_encoder("logmel"), GOOD.numpy()
    expected = encoder.encode(GOOD)
    read_only = wav.copy()
    read_only.flags.writeable = False
    for other in (wav.astype(">f4"), wav[:, ::-1][:, ::-1], read_only, np.asfortranarray(wav), wav.astype(np.float64)):
        assert torch.equal(encoder.encode(other, np.array([4000, 4000], np.int32)), expected)
    assert torch.equal(torch.from_numpy(wav), GOOD), "the input is left alone"


def test_results_are_ordinary_tensors():
    out = load_encoder("logmel").encode(GOOD.clone().requires_grad_())
    probe = torch.nn.Linear(128, 2)
    probe(out).sum().backward()
    assert probe.weight.grad is not None
    assert not out.requires_grad
