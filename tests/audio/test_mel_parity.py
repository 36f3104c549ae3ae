"""The front end is the one the weights were trained with: parity with torchaudio, librosa and plain formulas."""

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from evar.audio.mel import EPS, LogMel, mel_filterbank

SETTINGS = [(16000, 1024, 64, 60.0, 7800.0), (32000, 1024, 64, 50.0, 14000.0), (16000, 512, 40, 0.0, 8000.0)]


@pytest.mark.parametrize(("rate", "n_fft", "n_mels", "low", "high"), SETTINGS)
@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
def test_filterbank_equals_torchaudio_and_librosa(rate, n_fft, n_mels, low, high, scale, norm):
    ours = mel_filterbank(rate, n_fft, n_mels, low, high, scale, norm)
    assert ours.dtype == np.float64
    assert ours.shape == (n_fft // 2 + 1, n_mels)
    theirs = librosa.filters.mel(
        sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=low, fmax=high, htk=scale == "htk", norm=norm, dtype=np.float64
    )
    np.testing.assert_allclose(ours, theirs.T, atol=1e-6)
    torch.set_default_dtype(torch.float64)  # else torchaudio's own rounding is 4e-6
    try:
        bank = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, low, high, n_mels, rate, norm, scale)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(ours, bank.numpy(), atol=1e-6)


def test_triangles_straight_in_mel_follow_the_htk_book():
    """VGGish: weight = min of both slopes, measured in mel = 1127 ln(1 + f / 700)."""
    ours = mel_filterbank(16000, 512, 64, 125.0, 7500.0, "htk", None, "mel")

    def mel(hz):
        return 1127.0 * np.log1p(hz / 700.0)

    step = (mel(7500.0) - mel(125.0)) / 65
    for band in range(64):
        centre = mel(125.0) + (band + 1) * step
        for k in range(257):
            expected = max(0.0, 1.0 - abs(mel(k * 16000 / 512) - centre) / step)
            assert ours[k, band] == pytest.approx(expected, abs=2e-4)
    in_hz = mel_filterbank(16000, 512, 64, 125.0, 7500.0, "htk", None, "hz")
    assert np.abs(ours - in_hz).max() > 0.003


def clips(shared_data):
    paths = sorted(shared_data.glob("emodb/**/*.flac"))[:3] + sorted(shared_data.glob("ESC-50/**/*.flac"))[:3]
    assert len(paths) == 6
    return [torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None] for path in paths]


def reference(filterbank, **options):
    kind = {"htk": {}, "slaney-norm": {"norm": "slaney", "mel_scale": "slaney"}}[filterbank]
    return torchaudio.transforms.MelSpectrogram(
        16000, 1024, 1024, 160, f_min=60, f_max=7800, n_mels=64, **kind, **options
    )


@pytest.mark.parametrize("filterbank", ["htk", "slaney-norm"])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("n", [513, 1000, 15999, 16000, 16001])
def test_log_mel_equals_torchaudio_on_noise(filterbank, power, n):
    wav = 0.1 * torch.randn(1, n, generator=torch.Generator().manual_seed(n))
    ours, frames = LogMel(16000, 1024, 1024, 160, 64, 60, 7800, power, filterbank=filterbank)(wav, torch.tensor([n]))
    theirs = (reference(filterbank, power=power)(wav) + EPS).log()
    assert frames.tolist() == [1 + n // 160]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("filterbank", ["htk", "slaney-norm"])
def test_log_mel_equals_torchaudio_on_real_sound(shared_data, filterbank):
    for wav in clips(shared_data):
        ours, _ = LogMel(16000, 1024, 1024, 160, 64, 60, 7800, filterbank=filterbank)(wav, torch.tensor([wav.shape[1]]))
        theirs = (reference(filterbank)(wav) + EPS).log()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_short_window_is_centred_in_the_fft_frame():
    wav = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    for window in (400, 401):
        ours, _ = LogMel(16000, 1024, window, 160, 64, 60, 7800)(wav, torch.tensor([8000]))
        theirs = torchaudio.transforms.MelSpectrogram(16000, 1024, window, 160, f_min=60, f_max=7800, n_mels=64)(wav)
        torch.testing.assert_close(ours, (theirs + EPS).log(), rtol=1e-4, atol=1e-4)


def test_without_centring_every_window_lies_inside_the_clip():
    """The VGGish front end, frame by frame in float64."""
    wav = 0.1 * np.random.default_rng(0).standard_normal(16000)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    bank = mel_filterbank(16000, 512, 64, 125, 7500, "htk", None, "mel")
    starts = range(0, 16000 - 400 + 1, 160)
    expected = [np.log(np.abs(np.fft.rfft(wav[s : s + 400] * window, 512)) @ bank + 0.01) for s in starts]
    front = LogMel(16000, 512, 400, 160, 64, 125, 7500, 1.0, 0.01, filterbank="htk-mel", center=False)
    ours, frames = front(torch.from_numpy(wav).float()[None], torch.tensor([16000]))
    assert frames.tolist() == [98]
    np.testing.assert_allclose(ours[0].T.numpy(), expected, atol=1e-4)


def test_floor_max_clips_instead_of_adding():
    wav = torch.zeros(1, 4000)
    front = LogMel(16000, 400, 400, 160, 40, 60, 7800, 1.0, 1e-5, floor="max")
    torch.testing.assert_close(front(wav, torch.tensor([4000]))[0], torch.full((1, 40, 26), np.log(1e-5)))


def test_unknown_filterbank_and_band_edges_are_refused():
    with pytest.raises(ValueError, match="htk-mel"):
        LogMel(16000, 1024, 1024, 160, 64, 60, 7800, filterbank="librosa")
    with pytest.raises(ValueError, match="f_max"):
        mel_filterbank(16000, 1024, 64, 60, 9000)
    with pytest.raises(ValueError, match="unknown mel filterbank"):
        mel_filterbank(16000, 1024, 64, 60, 7800, scale="mel")
