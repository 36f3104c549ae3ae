"""`evar check` must catch the faults that it is for: each broken encoder here fails the check named beside it."""

import pytest
import torch

from evar.encoders.base import Encoder, Frames
from evar.encoders.check import check_encoder
from evar.errors import EvarError


class Energy(Encoder):
    """Sound: the mean square of every 10 ms, zeros past the end."""

    name, version, sample_rate, min_samples = "energy", 1, 8000, 80
    layers, hop_ms = {"energy": 2}, {"energy": 10.0}
    default_layers, default_pooling = ("energy",), "mean"

    def _energy(self, wav):
        n = wav.shape[1] // 80
        blocks = wav[:, : n * 80].reshape(len(wav), n, 80)
        return torch.stack([blocks.square().mean(2), blocks.abs().amax(2)], dim=2)

    def _frames(self, wav, lengths):
        features = self._energy(wav)
        return {"energy": Frames(features, torch.arange(features.shape[1]) * 10.0, lengths // 80)}


class ForgetsLengths(Energy):
    def _frames(self, wav, lengths):
        features = self._energy(wav)
        n_frames = features.shape[1]
        return {"energy": Frames(features, torch.arange(n_frames) * 10.0, torch.full((len(wav),), n_frames))}


class LooksAtNeighbours(Energy):
    def _energy(self, wav):
        return super()._energy(wav - wav.mean(dim=0))


class Dice(Energy):
    def _energy(self, wav):
        return super()._energy(wav + 0.01 * torch.randn_like(wav))


class LogOfSilence(Energy):
    def _energy(self, wav):
        return super()._energy(wav).log()


class WrongHop(Energy):
    def __init__(self):
        super().__init__()
        self.hop_ms = {"energy": 12.5}


class WrongDim(Energy):
    def __init__(self):
        super().__init__()
        self.layers = {"energy": 3}


class Counts(Energy):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def _energy(self, wav):
        self.seen += 1
        return super()._energy(wav)


class IgnoresStatistics(Energy):
    needs_normalization = True

    def _log_mel(self, wav, lengths):
        return self._energy(wav).transpose(1, 2), lengths // 80


class Crashes(Energy):
    def _frames(self, wav, lengths):
        raise KeyError("mel")


class PaddingSensitive(Energy):
    """Exact for equal lengths only, and says so."""

    equal_lengths_only = True

    def _frames(self, wav, lengths):
        features = self._energy(wav - wav.mean(dim=1, keepdim=True))
        return {"energy": Frames(features, torch.arange(features.shape[1]) * 10.0, lengths // 80)}


class OneVector(Energy):
    """Clip layers only."""

    layers, hop_ms = {"loudness": 2}, {}
    default_layers, default_pooling = ("loudness",), "clip"

    def _clip(self, wav, lengths):
        total = wav.square().sum(1) / lengths
        return {"loudness": torch.stack([total, wav.abs().amax(1)], dim=1)}


class EqualLengthVector(OneVector):
    equal_lengths_only = True

    def _clip(self, wav, lengths):
        return {"loudness": torch.stack([wav.square().mean(1), wav.std(1)], dim=1)}


def failures(encoder):
    return {result.name: result.detail for result in check_encoder(encoder) if not result.ok}


@pytest.mark.parametrize("cls", [Energy, PaddingSensitive, OneVector, EqualLengthVector])
def test_sound_encoders_pass(cls):
    assert failures(cls()) == {}


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (ForgetsLengths, "padding invariance"),
        (LooksAtNeighbours, "batch invariance"),
        (Dice, "deterministic"),
        (LogOfSilence, "silence"),
        (WrongHop, "frames agree"),
        (WrongDim, "shapes"),
        (Counts, "frozen"),
        (IgnoresStatistics, "fingerprint"),
        (Crashes, "shapes"),
    ],
)
def test_a_fault_is_found(cls, check):
    assert check in failures(cls())


def test_one_fault_is_one_failure():
    assert set(failures(ForgetsLengths())) == {"padding invariance"}
    assert set(failures(LogOfSilence())) == {"silence"}


def test_clip_layers_have_no_frames_and_no_other_pooling():
    encoder, wav = OneVector(), torch.ones(2, 800)
    assert encoder.encode(wav).shape == (2, 2)
    assert encoder.encode(wav[0]).shape == (2,)
    with pytest.raises(EvarError, match="has no frames"):
        encoder.encode_frames(wav)
    with pytest.raises(EvarError, match="pooling 'clip'"):
        encoder.encode_all(wav, None, ["loudness"], ["mean"])


def test_equal_lengths_only_keeps_the_order_of_clips():
    encoder, lengths = PaddingSensitive(), [400, 800, 400, 1600, 799]
    wav = torch.randn(5, 1600, generator=torch.Generator().manual_seed(0))
    frames = encoder.encode_frames(wav, lengths)
    assert frames.valid.tolist() == [5, 10, 5, 20, 9]
    for row, length in enumerate(lengths):
        alone = encoder.encode_frames(wav[row, :length])
        torch.testing.assert_close(frames.features[row, : int(alone.valid)], alone.features)
