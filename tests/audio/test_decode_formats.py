"""Every container, width, rate and channel count gives the same sound; a cut or a segment is exact."""

import math

import numpy as np
import pytest
import soundfile
import soxr

from evar.audio.decode import decode, decode_int16, samples_after_decoding

RATE = 16000
FORMATS = [
    ("wav", "PCM_U8", 0.01),
    ("wav", "PCM_16", 1e-4),
    ("wav", "PCM_24", 1e-4),
    ("wav", "PCM_32", 1e-4),
    ("wav", "FLOAT", 1e-4),
    ("wav", "DOUBLE", 1e-4),
    ("flac", "PCM_16", 1e-4),
    ("flac", "PCM_24", 1e-4),
    ("au", "PCM_16", 1e-4),
    ("aiff", "PCM_16", 1e-4),
    ("ogg", "VORBIS", 0.02),
    ("mp3", "MPEG_LAYER_III", 0.02),
]


def tone(rate, seconds=1.0, hz=440.0):
    """A tone that fades in and out, so that resampling has no edges to ring at."""
    t = np.arange(round(rate * seconds)) / rate
    return 0.5 * np.sin(2 * np.pi * hz * t) * np.sin(np.pi * t / seconds) ** 2


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance", "rate", "channels"),
    [
        (*kind, rate, channels)
        for kind in FORMATS
        for rate, channels in [(16000, 1), (44100, 2), (8000, 3)]
        if not (kind[0] == "mp3" and channels == 3)
    ],
)
def test_every_format_gives_the_same_tone(tmp_path, suffix, subtype, tolerance, rate, channels):
    # The channels differ; only their mean is the tone.
    gains = {1: [1.0], 2: [1.5, 0.5], 3: [1.5, 1.0, 0.5]}[channels]
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(rate)[:, None] * gains, rate, subtype=subtype)
    heard = decode(path, RATE)
    assert heard.dtype == np.float32
    assert heard.shape == (RATE,)
    assert np.abs(heard - tone(RATE)).max() < tolerance
    assert samples_after_decoding(path, RATE) == RATE


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sixteen_bit_mono_is_bit_exact(tmp_path, suffix):
    stored = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    stored[:2] = 32767, -32768
    path = tmp_path / f"noise.{suffix}"
    soundfile.write(path, stored, RATE, subtype="PCM_16")
    samples, scale = decode_int16(path, RATE)
    assert scale == 1.0
    np.testing.assert_array_equal(samples, stored)
    np.testing.assert_array_equal(decode(path, RATE), stored / np.float32(32768))
    np.testing.assert_array_equal(decode_int16(path, RATE, 0.1, 0.2)[0], stored[1600:3200])


def test_float_files_beyond_full_scale_are_not_clipped(tmp_path):
    wave = (3.0 * np.sin(np.arange(4000) / 20)).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", wave, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(decode(tmp_path / "loud.wav", RATE), wave)
    samples, scale = decode_int16(tmp_path / "loud.wav", RATE)
    assert scale == pytest.approx(3.0, abs=1e-3)
    assert np.abs(samples * (scale / 32768) - wave).max() <= 1.01 * scale / 32768


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_cut_equals_cutting_the_whole(tmp_path, rate, subtype):
    noise = 0.2 * np.random.default_rng(1).standard_normal((3 * rate + 7, 2))
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise, rate, subtype=subtype)
    whole = decode(path, RATE)
    for seconds in (0.001, 0.5, 1.234, 2.9999, 3.0, 10.0):
        cut = decode(path, RATE, seconds=seconds)
        assert len(cut) == min(round(seconds * RATE), len(whole))
        assert np.abs(cut - whole[: len(cut)]).max() < 1e-6


@pytest.mark.parametrize(("suffix", "tolerance"), [("wav", 1e-6), ("flac", 1e-6), ("ogg", 1e-6), ("mp3", 1e-6)])
def test_segment_alone_is_resampled(tmp_path, suffix, tolerance):
    noise = 0.2 * np.random.default_rng(2).standard_normal(4 * 22050)
    path = tmp_path / f"noise.{suffix}"
    soundfile.write(path, noise, 22050)
    whole = soundfile.read(path, dtype="float32")[0]
    part = soxr.resample(whole[round(1.3 * 22050) : round(2.1 * 22050)], 22050, RATE, quality="HQ")
    for stop in (2.1, 2.1 + 1e-9):
        assert np.abs(decode(path, RATE, start=1.3, stop=stop) - part).max() < tolerance
    assert len(decode(path, RATE, start=1.3, stop=2.1, seconds=0.5)) == 8000
    for end in (None, math.nan, 4.04):
        assert len(decode(path, RATE, start=3.5, stop=end)) == 8000
