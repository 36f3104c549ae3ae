"""A segment is bit for bit the cut of the whole decoded file, decoded once; a time beyond the end is said, not bent."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from evar.audio import decode as decoding
from evar.audio.cache import open_waveforms
from evar.audio.decode import Tape, decode, decode_int16, segment_fault
from evar.datasets.findings import look_at
from evar.errors import EvarError

KINDS = {
    "wav": {"subtype": "PCM_16"},
    "float.wav": {"format": "WAV", "subtype": "FLOAT"},
    "flac": {},
    "au": {"subtype": "PCM_16"},
    "aiff": {"subtype": "PCM_16"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
}
SUFFIX_RATE = [
    (kind, rate) for kind in KINDS for rate in (8000, 16000, 22050, 44100) if kind != "opus" or rate in (8000, 16000)
]


def sound(path, rate, channels=1, seconds=6.3, **options):
    """A rising tone in noise: coders spend many bits, and no second sounds like another."""
    n = round(rate * seconds)
    t = np.arange(n) / rate
    wave = 0.2 * np.random.default_rng(rate).standard_normal((n, channels))
    wave += 0.3 * np.sin(2 * np.pi * 440 * t * (1 + t / 5))[:, None]
    soundfile.write(path, wave, rate, **options)
    return path


def times(n, seconds, seed=0):
    draw = np.random.default_rng(seed)
    starts = draw.uniform(0, seconds - 0.1, n)
    return [(float(start), float(draw.uniform(start + 0.05, seconds))) for start in starts]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("kind", "rate"), SUFFIX_RATE)
def test_a_segment_equals_the_cut_of_the_whole_file(tmp_path, kind, rate, channels, capfd):
    path = sound(tmp_path / f"long.{kind}", rate, channels, **KINDS[kind])
    whole, segments = decode(path, rate), times(12, 6.3)
    for start, stop in segments:
        np.testing.assert_array_equal(decode(path, rate, start, stop), whole[round(start * rate) : round(stop * rate)])
    with Tape(hold=True) as tape:  # in order of time, out of order, and once more
        for start, stop in [*sorted(segments), *segments]:
            one, other = decode_int16(path, 16000, start, stop, 1.0, tape), decode_int16(path, 16000, start, stop, 1.0)
            np.testing.assert_array_equal(one[0], other[0])
            assert one[1] == other[1]
    assert capfd.readouterr() == ("", "")  # libmpg123 writes to stderr by itself


@pytest.mark.parametrize("kind", ["ogg", "opus", "mp3"])
def test_reading_in_blocks_changes_nothing(tmp_path, kind, monkeypatch, capfd):
    path = sound(tmp_path / f"long.{kind}", 16000, **KINDS[kind])
    whole = decode(path, 16000)
    monkeypatch.setattr(decoding, "_BLOCK", 1000)
    np.testing.assert_array_equal(decode(path, 16000), whole)
    np.testing.assert_array_equal(decode(path, 16000, 2.0, 3.3), whole[32000:52800])
    monkeypatch.setattr("evar.datasets.findings._BLOCK", 1000)
    assert look_at(path, audio=True).fault is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["flac", "ogg", "opus", "mp3"])
def test_the_cache_holds_the_segments_and_decodes_a_file_once(tmp_path, kind, monkeypatch):
    files = [sound(tmp_path / f"{name}.{kind}", 16000, seconds=6.3 + name, **KINDS[kind]) for name in range(2)]
    segments = times(30, 6.3)
    read, frames = decoding._read, []
    monkeypatch.setattr(decoding, "_read", lambda *given: frames.append(given[3]) or read(*given))
    clips = [(files[i % 2], *segment) for i, segment in enumerate(segments)] + [(files[0], 0.0, None)]
    waves = open_waveforms(
        [str(i) for i in range(len(clips))], *map(list, zip(*clips, strict=True)), 16000, None, tmp_path / "cache"
    )
    if kind != "flac":
        assert sum(frames) <= 16000 * (6.3 + 7.3)
    for i, (file, start, stop) in enumerate(clips):
        expected = decode_int16(file, 16000, start, stop)
        np.testing.assert_array_equal(waves.batch([i])[0][0], expected[0] * np.float32(expected[1] / 32768))


def test_many_segments_of_one_file_keep_little_in_memory(tmp_path, monkeypatch):
    """What has become large is handed over, and the file goes on from where it is."""
    path = sound(tmp_path / "long.ogg", 16000, seconds=20.0, format="OGG", subtype="VORBIS")
    read, frames = decoding._read, []
    monkeypatch.setattr(decoding, "_read", lambda *given: frames.append(given[3]) or read(*given))
    monkeypatch.setattr("evar.audio.clips._HANDFUL", 1 << 13)  # more than four seconds at once are handed over in parts
    starts = [float(k) for k in range(19)]
    waves = open_waveforms(
        list(map(str, starts)),
        [path] * 19,
        starts,
        [k + 1.5 for k in starts[:-1]] + [20.0],
        16000,
        None,
        tmp_path / "c",
    )
    assert sum(frames) <= 20 * 16000
    samples, scale = decode_int16(path, 16000, 7.0, 8.5)
    np.testing.assert_array_equal(waves.batch([7])[0][0], samples * np.float32(scale / 32768))


@pytest.mark.parametrize("kind", ["wav", "mp3", "opus"])
def test_a_time_beyond_the_end_is_said(tmp_path, kind):
    path = sound(tmp_path / f"short.{kind}", 16000, seconds=3.0, **KINDS[kind])
    n = len(decode(path, 16000, 1.0))
    for stop in (3.0, 3.04, 3.05, None, math.nan):  # rounded up
        assert len(decode(path, 16000, 1.0, stop)) == n
    for start, stop in ((1.0, 3.2), (500.0, 1500.0), (3.0, None), (3.01, 3.04)):
        with pytest.raises(EvarError) as error:
            decode(path, 16000, start, stop)
        for words in (str(path), "lasts 3", "in seconds, not milliseconds", f"from {start:g}"):
            assert words in str(error.value)
        assert "\n" not in str(error.value)
    assert len(segment_fault(path, [(0.0, 3.0), (2.0, 8.0), (0.0, None), (9.0, 10.0)])) == 2


def test_a_clip_beyond_the_end_is_a_bad_clip(tmp_path):
    path = sound(tmp_path / "short.wav", 16000, seconds=3.0)
    asked = (["a", "b"], [path, path], [0.0, 2.0], [1.0, 2000.0], 16000, None, tmp_path / "cache")
    with pytest.raises(EvarError, match=r"1 of 2 clips cannot be decoded .*--skip-bad.*lasts 3 s.*milliseconds"):
        open_waveforms(*asked)
    assert list(open_waveforms(*asked, skip_bad=True).bad) == [1]


@pytest.mark.parametrize("kind", ["ogg", "opus", "mp3"])
def test_a_compressed_dataset_says_nothing_but_our_lines(tmp_path, kind):
    rows = ["path,start,end,label,fold"]
    (tmp_path / "set").mkdir()
    for k in range(6):
        sound(tmp_path / "set" / f"{k}.{kind}", 16000, seconds=3.0, **KINDS[kind])
        rows += [f"{k}.{kind},0.2,1.1,a,{k % 3 + 1}", f"{k}.{kind},1.5,2.5,b,{k % 3 + 1}"]
    (tmp_path / "set" / "clips.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "set.yaml").write_text(
        "name: set\nversion: 1\ntitle: t\nasks: q\nseconds: 1\nmetric: accuracy\nsplit: folds\nfolds: 3\n"
        "layout: csv_columns\noptions: {start: start, end: end}\n"
    )
    command = [
        sys.executable,
        "-m",
        "evar",
        "run",
        "logmel",
        str(tmp_path / "set.yaml"),
        "--data",
        str(tmp_path / "set"),
    ]
    command += ["--results", str(tmp_path / "results"), "--embeddings", str(tmp_path / "emb")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    for sign in ("mpg123", "libsndfile", "Warning:", "Traceback", ".c:"):
        assert sign not in done.stdout + done.stderr
