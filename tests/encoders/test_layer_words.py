"""`--layers` and `--pooling` take words; a word that means another layer than its user thinks is a wrong number."""

from types import MappingProxyType

import pytest
import torch

from evar.encoders import load_encoder
from evar.encoders.base import Encoder, Frames
from evar.errors import EvarError


class Towers(Encoder):
    """Two frame layers of different rates and a clip layer; names end in numbers."""

    name, version, sample_rate = "towers", 1, 8000
    layers = MappingProxyType({"block3": 2, "block13": 3, "fc": 4})
    hop_ms = MappingProxyType({"block3": 10.0, "block13": 20.0})
    default_layers, default_pooling = ("fc",), "clip"

    def _frames(self, wav, lengths):
        self.calls = getattr(self, "calls", 0) + 1
        found = {}
        for layer, hop in self.hop_ms.items():
            step = round(hop * 8)
            valid = (lengths // step).clamp(min=1)
            frames = wav[:, : int(valid.max()) * step].unfold(1, step, step).abs().mean(2, keepdim=True)
            found[layer] = Frames(frames.repeat(1, 1, self.layers[layer]), torch.arange(frames.shape[1]) * hop, valid)
        return found

    def _clip(self, wav, lengths):
        return {"fc": wav.abs().sum(1, keepdim=True).repeat(1, 4)}


@pytest.mark.parametrize(
    ("layers", "pooling", "expected"),
    [
        (None, None, [("fc", "clip")]),
        ("3", None, [("block3", "mean")]),
        ("13", "max", [("block13", "max")]),
        ("3+13", "mean,max", [("block3+block13", "mean"), ("block3+block13", "max")]),
        ("all", None, [("block3", "mean"), ("block13", "mean"), ("fc", "clip")]),
        ("all,3+13", "mean", [("block3", "mean"), ("block13", "mean"), ("fc", "clip"), ("block3+block13", "mean")]),
        ("3+13", None, [("block3+block13", "mean+max")]),
        ("block3, 3 ,block3", None, [("block3", "mean")]),
        ("fc,3", "clip", [("fc", "clip"), ("block3", "mean")]),
    ],
)
def test_words_mean_these_pairs(layers, pooling, expected):
    assert Towers().choices(layers, pooling) == expected


@pytest.mark.parametrize(
    ("layers", "pooling", "said"),
    [
        ("fc", "mean", "one vector per clip"),
        ("3+fc", None, "cannot be fused"),
        ("4", None, "unknown layer of towers '4'"),
        (" , ", None, "no layer is named"),
        ("3", "", "no pooling is named"),
        ("3", "median", "unknown pooling 'median'"),
    ],
)
def test_other_words_are_refused(layers, pooling, said):
    with pytest.raises(EvarError, match=said):
        Towers().choices(layers, pooling)


def test_a_number_that_two_layers_end_in_names_neither():
    encoder = Towers()
    encoder.layers, encoder.hop_ms = {"conv3": 2, "block3": 3}, {"conv3": 10.0, "block3": 10.0}
    with pytest.raises(EvarError, match="unknown layer of towers '3'"):
        encoder.choices("3")


def test_all_pairs_come_from_one_pass():
    encoder, wav = Towers(), torch.randn(2, 1600, generator=torch.Generator().manual_seed(0))
    pairs = encoder.choices("all,3+13", "mean,max")
    found = encoder.encode_pairs(wav, None, pairs)
    assert encoder.calls == 1
    assert list(found) == pairs
    for (layer, pooling), vectors in found.items():
        assert torch.equal(vectors, encoder.encode_all(wav, None, [layer], [pooling])[layer, pooling])
    assert torch.allclose(found["block3+block13", "mean"][:, :2], found["block3", "mean"])


def test_cls_needs_a_summary_token():
    encoder = load_encoder("logmel")
    with pytest.raises(EvarError, match="no token for the whole clip"):
        encoder.choices(None, "cls")  # said before any audio is decoded
    with pytest.raises(EvarError, match="no token for the whole clip"):
        encoder.encode_all(torch.zeros(1, 16000), None, ["logmel"], ["cls"])


def test_frames_of_an_encoder_with_one_vector_per_clip_are_its_last_frame_layers():
    encoder, wav = Towers(), torch.zeros(2, 1600)
    assert encoder.encode_frames(wav).features.shape == encoder.encode_frames(wav, None, "block13").features.shape
