"""Kaldi's filterbank: held to torchaudio's, to a frame-by-frame float64 reference, and to its own framing."""

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.compliance.kaldi as kaldi

from evar.audio.kaldi import EPS, KaldiFbank


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def torchaudio_fbank(wav, dtype=torch.float64, **options):
    options = {"window_type": "hanning", "num_mel_bins": 128, **options}
    torch.set_default_dtype(dtype)  # else its filterbank is float32 in any case
    try:
        return kaldi.fbank(wav[None].to(dtype), **options)
    finally:
        torch.set_default_dtype(torch.float32)


def reference(wav):
    """One frame at a time, float64, from Kaldi's description alone."""
    wav = np.asarray(wav, np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)

    def mel(hz):
        return 1127.0 * np.log(1 + hz / 700.0)

    edges = np.linspace(mel(20.0), mel(8000.0), 130)
    bins = mel(np.arange(257) * 16000 / 512)
    bank = np.zeros((257, 128))
    for band in range(128):
        low, centre, high = edges[band : band + 3]
        slopes = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
        bank[:, band] = np.maximum(0.0, slopes)
    rows = []
    for start in range(0, len(wav) - 400 + 1, 160):
        frame = wav[start : start + 400] - wav[start : start + 400].mean()
        before = np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft((frame - 0.97 * before) * window, 512)) ** 2
        rows.append(np.log(np.maximum(power @ bank, EPS)))
    return np.array(rows)


@pytest.mark.parametrize("n", [400, 559, 560, 561, 16000, 16123])
def test_equals_torchaudio_and_the_formula_on_noise(n):
    wav = noise(n, seed=n)
    ours = KaldiFbank()(wav[None])[0].double()
    theirs = torchaudio_fbank(wav)
    assert ours.shape == theirs.shape == (1 + (n - 400) // 160, 128)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(torch.from_numpy(reference(wav)), theirs, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.4])
def test_a_loud_tone_on_an_offset_is_as_exact_as_torchaudio(offset):
    """Far from the tone a band holds rounding only: our error may be no larger than that of torchaudio's float32."""
    wav = 0.5 * torch.sin(2 * torch.pi * 220.0 * torch.arange(16000) / 16000) + offset
    exact = torchaudio_fbank(wav)
    ours = (KaldiFbank()(wav[None])[0].double() - exact).abs().max()
    theirs = (torchaudio_fbank(wav, torch.float32).double() - exact).abs().max()
    assert ours < max(2 * theirs, 1e-3)


@pytest.mark.parametrize(("rate", "bands", "low", "high"), [(16000, 80, 20.0, 7600.0), (8000, 40, 100.0, 4000.0)])
def test_other_rates_and_bands_equal_torchaudio(rate, bands, low, high):
    wav = noise(2 * rate)
    ours = KaldiFbank(rate, bands, low, high)(wav[None])[0].double()
    theirs = torchaudio_fbank(wav, sample_frequency=rate, num_mel_bins=bands, low_freq=low, high_freq=high)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_equals_torchaudio_on_real_sound(shared_data):
    paths = sorted(shared_data.glob("ESC-50/**/*.flac"))[:3] + sorted(shared_data.glob("emodb/**/*.flac"))[:3]
    assert len(paths) == 6
    for path in paths:
        wav = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        ours = KaldiFbank()(wav[None])[0].double()
        torch.testing.assert_close(ours, torchaudio_fbank(wav), rtol=1e-3, atol=5e-3)


def test_frames_of_a_clip_do_not_depend_on_what_follows_it():
    front, lengths = KaldiFbank(), [400, 1000, 4801, 16000]
    wav = noise(len(lengths), 16000)
    together = front(wav)
    for row, length in enumerate(lengths):
        n_frames = int(front.frames(torch.tensor(length)))
        alone = front(wav[row : row + 1, :length])[0]
        assert len(alone) == n_frames
        torch.testing.assert_close(together[row, :n_frames], alone, rtol=1e-6, atol=1e-6)


def test_silence_is_the_floor_and_loudness_adds():
    front = KaldiFbank()
    torch.testing.assert_close(front(torch.zeros(1, 2000)), torch.full((1, 11, 128), float(np.log(EPS))))
    wav = noise(1, 16000)
    louder = front(4.0 * wav) - front(wav)
    above = front(wav) > np.log(EPS) + 1e-3
    torch.testing.assert_close(louder[above], torch.full_like(louder[above], float(2 * np.log(4.0))), rtol=0, atol=1e-3)


def test_half_precision_autocast_does_not_reach_the_front_end():
    wav = noise(1, 8000)
    with torch.autocast("cpu", torch.bfloat16):
        found = KaldiFbank()(wav)
    assert found.dtype == torch.float32
    assert torch.equal(found, KaldiFbank()(wav))


def test_clips_below_one_frame_and_strange_settings_are_refused():
    with pytest.raises(ValueError, match="400 samples"):
        KaldiFbank()(torch.zeros(1, 399))
    with pytest.raises(ValueError, match="B, N"):
        KaldiFbank()(torch.zeros(16000))
    with pytest.raises(ValueError, match="preemphasis"):
        KaldiFbank(preemphasis=1.5)
    with pytest.raises(ValueError, match="mel bands"):
        KaldiFbank(f_max=9000.0)
