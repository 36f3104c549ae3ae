"""Fear: evar's encoders give other numbers in HEAR's evaluator than in evar, or break its API."""

from __future__ import annotations

import inspect

import pytest
import torch

import evar.hear
from evar.encoders import load_encoder
from evar.encoders.base import Encoder, Frames
from evar.encoders.registry import bundled_file
from evar.errors import EvarError


@pytest.fixture(scope="module")
def byola():
    return evar.hear.load_model()


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def test_there_and_back_gives_the_same_embeddings():
    there, direct = load_encoder("hear:evar.hear@byola"), load_encoder("byola")
    wav, lengths = noise(3, 20000), [20000, 12345, 100]
    found, expected = there.encode(wav, lengths), direct.encode(wav, lengths)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    frames, own = there.encode_frames(wav[0], layers="timestamp"), direct.encode_frames(wav[0])
    assert torch.allclose(frames.features, own.features, rtol=1e-5, atol=1e-5)
    assert torch.allclose(frames.times_ms, own.times_ms)
    assert there.hop_ms["timestamp"] == 40.0


def test_the_signatures_are_those_of_the_api():
    assert str(inspect.signature(evar.hear.load_model)).startswith("(model_file_path: 'str' = '')")
    for function in (evar.hear.get_scene_embeddings, evar.hear.get_timestamp_embeddings):
        assert list(inspect.signature(function).parameters) == ["audio", "model"]


@pytest.mark.parametrize("seconds", [1.07, 1.98, 4.0])
def test_what_hears_validator_asks_for(byola, seconds):
    """Types, shapes and regular timestamps that reach to the end of the clip and not past it."""
    assert isinstance(byola, torch.nn.Module)
    assert byola.sample_rate in (16000, 22050, 32000, 44100, 48000)
    assert isinstance(byola.scene_embedding_size, int)
    assert isinstance(byola.timestamp_embedding_size, int)
    audio = 2.0 * torch.rand(2, int(seconds * byola.sample_rate), generator=torch.Generator().manual_seed(0)) - 1.0
    scenes = evar.hear.get_scene_embeddings(audio, byola)
    assert (scenes.shape, scenes.dtype) == ((2, byola.scene_embedding_size), torch.float32)
    frames, times = evar.hear.get_timestamp_embeddings(audio, byola)
    assert (frames.dtype, frames.shape[2]) == (torch.float32, byola.timestamp_embedding_size)
    assert times.shape == frames.shape[:2]
    steps = times.diff(dim=1)
    assert float((steps - steps.mean()).abs().max()) <= 1.0
    assert float(steps.max()) <= 50.0
    assert float(times.min()) <= float(steps.mean())
    assert 1000 * seconds - 2 * float(steps.mean()) <= float(times.max()) <= 1000 * seconds


def test_large_batches_go_through_in_parts(byola, monkeypatch):
    audio = noise(5, 4000)
    together = evar.hear.get_timestamp_embeddings(audio, byola)
    monkeypatch.setitem(evar.hear.AUDIO_SECONDS, "cpu", 0.5)
    assert [len(part) for part in byola.batches(audio)] == [2, 2, 1]
    in_parts = evar.hear.get_timestamp_embeddings(audio, byola)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(together, in_parts, strict=True))
    monkeypatch.setitem(evar.hear.AUDIO_SECONDS, "cpu", 0.0001)
    assert [len(part) for part in byola.batches(audio)] == [1] * 5, "a clip that is longer than that goes alone"


class Window(Encoder):
    """Like Whisper: every clip is padded to a window of 1500 frames, of which 50 per second are of sound."""

    name, version, sample_rate = "window", 1, 16000
    layers, hop_ms, default_layers, default_pooling = {"encoder": 4}, {"encoder": 20.0}, ("encoder",), "mean"

    def _frames(self, wav, lengths):
        valid = self._count(wav, lengths // 320)
        inside = torch.arange(1500) < valid[:, None]
        features = inside[..., None] * wav[:, :1, None] + torch.zeros(4)
        return {"encoder": Frames(features, 10.0 + 20.0 * torch.arange(1500), valid)}

    def _count(self, wav, valid):
        return valid


class Picky(Window):
    """Counts by content: a clip that begins below 0 has half of its frames."""

    def _count(self, wav, valid):
        return torch.where(wav[:, 0] < 0, valid // 2, valid)


def test_frames_of_padding_are_no_timestamps():
    """Whisper's export had 1500 frames for 1 s, 1450 of them of nothing, with timestamps up to 30 s."""
    model = evar.hear.HearModel(Window())
    audio = torch.full((2, 16000), 0.5)
    frames, times = evar.hear.get_timestamp_embeddings(audio, model)
    assert (frames.shape, times.shape) == ((2, 50, 4), (2, 50))
    assert times[1, [0, -1]].tolist() == [10.0, 990.0]
    assert bool((frames == 0.5).all())


def test_sounds_whose_counts_differ_give_the_frames_that_all_have(monkeypatch):
    model = evar.hear.HearModel(Picky())
    audio = torch.full((3, 16000), 0.5)
    audio[2] = -0.5
    for seconds in (120.0, 1.0):  # in one batch, and one by one
        monkeypatch.setitem(evar.hear.AUDIO_SECONDS, "cpu", seconds)
        frames, times = evar.hear.get_timestamp_embeddings(audio, model)
        assert (frames.shape, times.shape) == ((3, 25, 4), (3, 25))
        assert bool((frames != 0).all())
    with pytest.raises(EvarError, match="window gives no frame for 300 samples"):
        evar.hear.get_timestamp_embeddings(audio[:, :300], evar.hear.HearModel(Window()))


def test_the_runners_options_are_keywords_of_load_model():
    """HEAR's runner calls load_model(**options); its --model is a path that must exist, so no place for a name."""
    assert evar.hear.load_model(**{"model_file_path": "logmel"}).encoder.label == "logmel"


def test_names_and_files_of_encoders(tmp_path):
    file = tmp_path / "mine.safetensors"
    file.write_bytes(bundled_file("byola-v1-512").read_bytes())
    by_file, by_name = evar.hear.load_model(str(file)), evar.hear.load_model(f"byola-v1-512@{file}")
    assert by_file.encoder_fingerprint == by_name.encoder_fingerprint
    assert by_file.scene_embedding_size == 512
    assert evar.hear.load_model("logmel").scene_embedding_size == 128
    assert evar.hear.load_model("logmel").timestamp_embedding_size == 64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("byol", "did you mean 'byola'"),
        ("runs/none.safetensors", "weights file runs/none.safetensors does not exist"),
        ("random:byola-v1-512", "hold no normalisation statistics.*EVAR_HEAR_NORM=MEAN,STD"),
    ],
)
def test_wrong_models_are_one_line_through_both_doors(given, message):
    with pytest.raises(EvarError, match=message):
        evar.hear.load_model(given)
    with pytest.raises(EvarError, match=message) as caught:
        load_encoder(f"hear:evar.hear@{given}")
    assert "\n" not in str(caught.value)


def test_a_foreign_file_asks_for_the_name_of_its_encoder(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(EvarError, match="does not say which encoder it is for: give NAME@"):
        evar.hear.load_model(str(tmp_path / "foreign.pth"))


def test_statistics_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("EVAR_HEAR_NORM", "-7.5,4.5")
    model = evar.hear.load_model("random:byola-v1-512")
    assert model.encoder.normalization == {"mean": -7.5, "std": 4.5}
    other = load_encoder("hear:evar.hear@random:byola-v1-512").fingerprint()
    monkeypatch.setenv("EVAR_HEAR_NORM", "-7.5,4.0")
    assert load_encoder("hear:evar.hear@random:byola-v1-512").fingerprint() != other
    monkeypatch.setenv("EVAR_HEAR_NORM", "-7.5")
    with pytest.raises(EvarError, match="expected MEAN,STD"):
        evar.hear.load_model("random:byola-v1-512")


def test_bad_calls_are_one_line(byola):
    with pytest.raises(EvarError, match=r"expected the model that evar.hear.load_model gives, found a Linear"):
        evar.hear.get_scene_embeddings(noise(1, 16000), torch.nn.Linear(1, 1))
    with pytest.raises(EvarError, match=r"\[n_sounds, n_samples\], found \[16000\]"):
        evar.hear.get_scene_embeddings(noise(16000), byola)
    with pytest.raises(EvarError, match="found ndarray"):
        evar.hear.get_timestamp_embeddings(noise(1, 16000).numpy(), byola)
