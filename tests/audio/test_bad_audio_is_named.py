"""A file that is damaged, or no audio at all, gives one line that names it: no traceback and no shorter clip."""

import struct

import numpy as np
import pytest
import soundfile

from evar.audio.decode import decode
from evar.errors import EvarError

RATE = 16000


def refused(path, *words, **options):
    with pytest.raises(EvarError) as caught:
        decode(path, RATE, **options)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message


def written(path, samples=None, **options):
    noise = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE)
    soundfile.write(path, noise if samples is None else samples, RATE, **options)
    return path


def test_what_is_no_audio_file(tmp_path):
    refused(tmp_path / "nowhere.wav", "missing")
    refused(tmp_path, "is a folder")
    (tmp_path / "empty.wav").touch()
    refused(tmp_path / "empty.wav", "empty")
    for name in ("text.wav", "text.flac", "text.ogg", "text.mp3", "text.raw"):
        (tmp_path / name).write_text("This is a letter, not a sound.\n" * 200)
        refused(tmp_path / name, "not audio")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "au", "aiff"])
@pytest.mark.parametrize("keep", [0.98, 0.5, 0.01])
def test_truncated_copy(tmp_path, suffix, keep):
    path = written(tmp_path / f"clip.{suffix}")
    whole = path.read_bytes()
    assert len(decode(path, RATE)) == 10 * RATE
    path.write_bytes(whole[: int(len(whole) * keep)])
    refused(path)


def test_float_wav_truncated(tmp_path):
    path = written(tmp_path / "clip.wav", subtype="FLOAT")
    path.write_bytes(path.read_bytes()[:-4000])
    refused(path, "truncated", "4000")


def test_header_without_samples(tmp_path):
    refused(written(tmp_path / "none.wav", np.zeros(0)), "no samples")
    refused(written(tmp_path / "none.flac", np.zeros(0)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    samples = np.zeros(RATE)
    samples[777] = value
    refused(written(tmp_path / "nan.wav", samples, subtype="FLOAT"), "NaN or infinite")


@pytest.mark.parametrize(("rate", "channels"), [(0, 1), (1, 1), (2_000_000_000, 1), (16000, 0), (16000, 1000)])
def test_absurd_headers(tmp_path, rate, channels):
    path = written(tmp_path / "absurd.wav", subtype="PCM_16")
    header = bytearray(path.read_bytes())
    header[22:24], header[24:28] = struct.pack("<H", channels), struct.pack("<I", rate)
    path.write_bytes(header)
    refused(path)


def test_flipped_byte_in_flac(tmp_path):
    path = written(tmp_path / "clip.flac")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    refused(path, "damaged")


def test_sound_written_to_a_pipe_is_read_to_its_end(tmp_path):
    """ffmpeg and sox put a huge size into the header where they cannot go back; that is not a truncated file."""
    path = written(tmp_path / "piped.wav", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    where = data.index(b"data") + 4
    data[4:8] = data[where : where + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(decode(path, RATE)) == 10 * RATE


def test_chunks_around_the_sound_are_no_damage(tmp_path):
    path = written(tmp_path / "tagged.wav", subtype="PCM_16")
    data = path.read_bytes()
    where = data.index(b"data")
    odd = b"junk" + struct.pack("<I", 5) + b"abcde\0"
    tagged = data[:where] + odd + data[where:] + b"LIST" + struct.pack("<I", 4) + b"INFO"
    tagged = tagged[:4] + struct.pack("<I", len(tagged) - 8) + tagged[8:]
    path.write_bytes(tagged)
    assert len(decode(path, RATE)) == 10 * RATE
    path.write_bytes(tagged[:-5000])
    refused(path, "truncated")


def test_segments_that_are_none(tmp_path):
    path = written(tmp_path / "clip.wav")
    refused(path, "beyond its end", start=10.5)
    refused(path, "0 <= start < stop", start=2.0, stop=1.0)
    refused(path, "0 <= start < stop", start=-1.0)
    refused(path, "shorter than one sample", start=1.0, stop=1.00001)


def test_too_short_to_resample(tmp_path):
    soundfile.write(tmp_path / "click.wav", np.ones(1) / 2, 48000)
    refused(tmp_path / "click.wav", "too short")


def test_bytes_under_the_name_of_an_mp3_are_not_called_missing(tmp_path):
    path = tmp_path / "noise.mp3"
    path.write_bytes(np.random.default_rng(0).bytes(400))
    with pytest.raises(EvarError, match="is not audio that can be read") as error:
        decode(path, 16000)
    assert "does not exist" not in str(error.value)
