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


class Remembers(Energy):
    """Scaled by the loudest sample ever heard."""

    def _energy(self, wav):
        self.loudest = max(getattr(self, "loudest", 0.0), float(wav.abs().max()))
        return super()._energy(wav / max(self.loudest, 1e-6))


class Reseeds(Energy):
    def _energy(self, wav):
        torch.manual_seed(0)
        return super()._energy(wav + 0.01 * torch.randn(wav.shape[1]))


class WritesIntoItsInput(Energy):
    def _energy(self, wav):
        return super()._energy(wav.mul_(0.5))


class KeepsEveryClip(Energy):
    kept = []  # noqa: RUF012

    def _energy(self, wav):
        KeepsEveryClip.kept.append(wav.clone())
        return super()._energy(wav)


class SecondsForMilliseconds(Energy):
    def _frames(self, wav, lengths):
        frames = super()._frames(wav, lengths)["energy"]
        return {"energy": Frames(frames.features, frames.times_ms / 1000, frames.valid)}


class PaddingIsValid(Energy):
    """Every clip is zero-padded to whole seconds, which are embedded too: exact, and wrong."""

    def _frames(self, wav, lengths):
        wav = torch.nn.functional.pad(wav, (0, -wav.shape[1] % 8000))
        return super()._frames(wav, (lengths + 7999) // 8000 * 8000)


class HearsTenSeconds(Energy):
    def _frames(self, wav, lengths):
        return super()._frames(wav[:, :80000], lengths.clamp(max=80000))


class VectorOfTenSeconds(Energy):
    layers, hop_ms = {"loudness": 2}, {}
    default_layers, default_pooling = ("loudness",), "clip"

    def _clip(self, wav, lengths):
        return {"loudness": self._energy(wav[:, :80000]).amax(dim=1)}


class ForgetsLongClips(Energy):
    """Right for a few seconds; beyond them it counts the frames of the batch, not of the clip."""

    def _frames(self, wav, lengths):
        frames = super()._frames(wav, lengths)["energy"]
        n_frames = frames.features.shape[1]
        valid = frames.valid if n_frames < 300 else torch.full((len(wav),), n_frames)
        return {"energy": Frames(frames.features, frames.times_ms, valid)}


class TooShortForACoarseLayer(Energy):
    """The layer of 50 ms has no frame in a clip of 10 ms."""

    layers, hop_ms = {"energy": 2, "coarse": 2}, {"energy": 10.0, "coarse": 50.0}

    def _frames(self, wav, lengths):
        n = wav.shape[1] // 400
        coarse = self._energy(wav)[:, : 5 * n].view(len(wav), n, 5, 2).mean(dim=2)
        return super()._frames(wav, lengths) | {"coarse": Frames(coarse, torch.arange(n) * 50.0, lengths // 400)}


class BadSecondLayer(Energy):
    """The default layer is right, the other one listens to the padding."""

    layers, hop_ms = {"energy": 2, "other": 2}, {"energy": 10.0, "other": 10.0}

    def _other(self, frames, lengths):
        n_frames = frames.features.shape[1]
        return Frames(frames.features, frames.times_ms, torch.full((len(lengths),), n_frames))

    def _frames(self, wav, lengths):
        frames = super()._frames(wav, lengths)["energy"]
        return {"energy": frames, "other": self._other(frames, lengths)}


class SilentSecondLayer(BadSecondLayer):
    def _other(self, frames, lengths):
        return Frames(frames.features.log(), frames.times_ms, frames.valid)


class DependsOnWhatElseIsWanted(BadSecondLayer):
    def _frames_of(self, wav, lengths, layers):
        frames = Energy._frames(self, wav, lengths)["energy"]
        alone = Frames(frames.features * (2 if len(layers) == 1 else 1), frames.times_ms, frames.valid)
        return {"energy": alone, "other": frames}


class WithToken(Energy):
    """Sound: each clip has a token of its own, the default embedding."""

    default_pooling, summary_layers = "cls", ("energy",)

    def _token(self, features, valid):
        inside = torch.arange(features.shape[1]) < valid[:, None]
        return features.masked_fill(~inside[..., None], 0.0).amax(dim=1)

    def _frames(self, wav, lengths):
        frames = super()._frames(wav, lengths)["energy"]
        token = self._token(frames.features, frames.valid)
        return {"energy": Frames(frames.features, frames.times_ms, frames.valid, token)}


class TokenOfTheBatch(WithToken):
    default_pooling = "mean"

    def _token(self, features, valid):
        return features.amax(dim=(0, 1)).expand(len(features), -1)


class TokenOfAnotherSize(WithToken):
    default_pooling = "mean"

    def _token(self, features, valid):
        return super()._token(features, valid)[:, :1]


class HidesItsNetwork(Energy):
    def __init__(self):
        super().__init__()
        self.networks = [torch.nn.Linear(2, 2)]

    def _energy(self, wav):
        return self.networks[0](super()._energy(wav))


class WeightsOutOfSight(Energy):
    def __init__(self):
        super().__init__()
        self.scale, self.weights_kind, self.weights_sha256 = torch.nn.Parameter(torch.ones(2)), "trained", "ab" * 32

    def state_dict(self, *args, **kwargs):
        return {}

    def _energy(self, wav):
        return super()._energy(wav) * self.scale


class NumberedTwice(Energy):
    layers, hop_ms = {"energy": 2, "1": 2, "block1": 2}, {"energy": 10.0, "1": 10.0, "block1": 10.0}

    def _frames(self, wav, lengths):
        return dict.fromkeys(self.layers, super()._frames(wav, lengths)["energy"])


class LayerNamedAll(Energy):
    layers, hop_ms, default_layers = {"all": 2}, {"all": 10.0}, ("all",)

    def _frames(self, wav, lengths):
        return {"all": super()._frames(wav, lengths)["energy"]}


class NoBatchForCuda(Energy):
    preferred_batch = {"cpu": 4}  # noqa: RUF012


class TrainedOnOneWord(Energy):
    trained_on = "audioset"


class LongMinimum(Energy):
    """Sound: at least half a second is heard, in frames of a quarter."""

    min_samples, hop_ms = 4000, {"energy": 250.0}

    def _energy(self, wav):
        blocks = wav[:, : wav.shape[1] // 2000 * 2000].reshape(len(wav), -1, 2000)
        return torch.stack([blocks.square().mean(2), blocks.abs().amax(2)], dim=2)

    def _frames(self, wav, lengths):
        features = self._energy(wav)
        return {"energy": Frames(features, torch.arange(features.shape[1]) * 250.0, lengths // 2000)}


class LongMinimumForgetsLengths(LongMinimum):
    """Wrong only for clips beyond the minimum: those of a second and less could all hide behind it."""

    min_samples = 12000

    def _frames(self, wav, lengths):
        frames = super()._frames(wav, lengths)["energy"]
        n_frames = frames.features.shape[1]
        return {"energy": Frames(frames.features, frames.times_ms, torch.full((len(wav),), n_frames))}


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


def failures(encoder, only=None):
    return {result.name: result.detail for result in check_encoder(encoder, only=only) if not result.ok}


@pytest.mark.parametrize("cls", [Energy, PaddingSensitive, OneVector, EqualLengthVector, WithToken, LongMinimum])
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
        (HidesItsNetwork, "fingerprint"),
        (WeightsOutOfSight, "fingerprint"),
        (Remembers, "deterministic"),
        (Reseeds, "frozen"),
        (WritesIntoItsInput, "frozen"),
        (KeepsEveryClip, "memory"),
        (SecondsForMilliseconds, "frames agree"),
        (PaddingIsValid, "frames agree"),
        (HearsTenSeconds, "sixty seconds"),
        (VectorOfTenSeconds, "sixty seconds"),
        (ForgetsLongClips, "padding invariance"),
        (LongMinimumForgetsLengths, "padding invariance"),
        (TooShortForACoarseLayer, "ten milliseconds"),
        (BadSecondLayer, "padding invariance"),
        (SilentSecondLayer, "silence"),
        (DependsOnWhatElseIsWanted, "frames agree"),
        (TokenOfTheBatch, "batch invariance"),
        (TokenOfAnotherSize, "every layer"),
        (NumberedTwice, "declarations"),
        (LayerNamedAll, "declarations"),
        (NoBatchForCuda, "declarations"),
        (TrainedOnOneWord, "declarations"),
        (Crashes, "shapes"),
    ],
)
def test_a_fault_is_found(cls, check):
    assert set(failures(cls(), only=[check])) == {check}


@pytest.mark.parametrize(
    ("cls", "check"),
    [(LogOfSilence, "silence"), (WrongHop, "frames agree"), (Reseeds, "frozen"), (KeepsEveryClip, "memory")],
)
def test_one_fault_is_one_failure(cls, check):
    assert set(failures(cls())) == {check}


@pytest.mark.parametrize(
    ("cls", "check", "said"),
    [
        (ForgetsLengths, "padding invariance", "declare equal_lengths_only = True"),
        (BadSecondLayer, "padding invariance", "other mean: a clip's row changes"),
        (HidesItsNetwork, "fingerprint", "networks: a network inside a list"),
        (HearsTenSeconds, "sixty seconds", "the last of 1000 frames is at 10.0 s of 60"),
        (Reseeds, "frozen", "torch's random state"),
        (DependsOnWhatElseIsWanted, "frames agree", "must not depend on which others are wanted"),
    ],
)
def test_the_report_says_what_is_wrong(cls, check, said):
    assert said in failures(cls(), only=[check])[check]


def test_checking_leaves_the_encoder_as_it_was():
    encoder = WeightsOutOfSight().train()
    check_encoder(encoder)
    assert encoder.scale.tolist() == [1.0, 1.0]


def test_only_the_named_checks_run_and_each_is_reported_at_once():
    seen = []
    results = check_encoder(Dice(), only=["silence", "frames-agree", "deterministic "], report=seen.append)
    assert [result.name for result in results] == ["deterministic", "silence", "frames agree"]
    assert seen == results
    with pytest.raises(EvarError, match=r"unknown check 'determinstic'.*deterministic"):
        check_encoder(Dice(), only=["determinstic"])


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
