"""A crop must be the part of the very clip that was asked for: no neighbour's samples, no lost gain, nothing past its end."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from evar.audio.cache import open_waveforms

RATE = 16000


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Clips of 1 to 5000 samples, the last one short; two of them louder than full scale, so that they have a gain."""
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    files = []
    for i, (length, peak) in enumerate([(5000, 0.5), (1, 0.9), (700, 3.0), (2000, 0.01), (1000, 40.0), (300, 0.5)]):
        wave = random.uniform(-peak, peak, length).astype(np.float32)
        files.append(folder / f"{i}.wav")
        soundfile.write(files[-1], wave, RATE, subtype="FLOAT")
    bad = folder / "6.wav"
    bad.write_text("no audio")
    n = len(files) + 1
    names = [str(i) for i in range(n)]
    cache = tmp_path_factory.mktemp("cache")
    return open_waveforms(names, [*files, bad], [0.0] * n, [None] * n, RATE, None, cache, skip_bad=True)


def literal(waves, index, start, samples):
    """One crop, the slow way: the whole clip as `batch` gives it, cut, zeros behind."""
    clip, lengths = waves.batch([index])
    crop = np.zeros(samples, dtype=np.float32)
    part = clip[0, : lengths[0]][start : start + samples]
    crop[: len(part)] = part
    return crop


@pytest.mark.parametrize("samples", [1, 64, 300, 1000, 5000, 20000])
def test_crops_are_the_literal_parts(samples, waves):
    random = np.random.default_rng(samples)
    indices = random.integers(0, 6, 200)
    starts = (random.random(200) * waves.lengths[indices]).astype(np.int64)
    crops = waves.crops(indices, starts, samples)
    assert crops.shape == (200, samples)
    assert crops.dtype == np.float32
    expected = np.stack([literal(waves, i, start, samples) for i, start in zip(indices, starts, strict=True)])
    np.testing.assert_array_equal(crops, expected)


def test_every_edge_of_every_clip(waves):
    """First and last starts that fit, the last sample, and the crop that ends one sample past the clip."""
    for samples in (64, 299, 300, 301):
        for index in range(6):
            length = int(waves.lengths[index])
            starts = sorted({0, max(0, length - samples), max(0, length - samples + 1) % length, length - 1})
            crops = waves.crops(np.full(len(starts), index), np.array(starts), samples)
            for crop, start in zip(crops, starts, strict=True):
                np.testing.assert_array_equal(crop, literal(waves, index, start, samples))


def test_gains_are_kept(waves):
    loud = waves.crops(np.array([4, 2]), np.array([0, 0]), 700)
    assert np.abs(loud[0]).max() > 30
    assert 2 < np.abs(loud[1]).max() <= 3.01


def test_the_clip_at_the_end_of_the_file(waves):
    last = int(np.argmax(np.where(np.arange(7) < 6, waves._offsets, -1)))
    crops = waves.crops(np.array([last, 0]), np.array([int(waves.lengths[last]) - 10, 0]), 64)
    np.testing.assert_array_equal(crops[0, 10:], 0.0)
    np.testing.assert_array_equal(crops[0], literal(waves, last, int(waves.lengths[last]) - 10, 64))
    np.testing.assert_array_equal(crops[1], literal(waves, 0, 0, 64))


def test_a_clip_that_could_not_be_decoded_has_no_crops(waves):
    assert list(waves.bad) == [6]
    with pytest.raises(ValueError, match="could not be decoded"):
        waves.crops(np.array([0, 6]), np.array([0, 0]), 64)


def test_no_crops_at_all(waves):
    assert waves.crops(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 64).shape == (0, 64)
