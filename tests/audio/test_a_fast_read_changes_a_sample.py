"""Decoding was made faster; the numbers that stored embeddings are keyed by are those of the plain formula, bit for bit."""

import hashlib
import io
import json
import random
import struct
import weakref

import numpy as np
import pytest
import soundfile
import soxr

from evar.audio import clips, decode
from evar.audio.cache import open_waveforms
from evar.audio.journal import RECORD
from evar.errors import EvarError

RATE = 16000
# What evar 0.1 wrote before there were handfuls and a reader of its own: of the files that `corpus` makes.
FINGERPRINTS = {
    None: "ce27af9113fb7c023cf9782b7ea54afa776d33a92a34e433789642f861f8354b",
    0.4: "dbaaf48db6e09a7f96f6cda08ec368c1895c619274a3b7ec76893c8b7491f471",
}


def formula(path, seconds):
    """(int16, scale), as the first version had it: libsndfile, mean, soxr, scale to the peak, round."""
    info = soundfile.info(path)
    n = None if seconds is None else round(seconds * RATE)
    if info.samplerate == RATE and info.channels == 1 and info.subtype == "PCM_16":
        return soundfile.read(path, dtype="int16")[0][:n], 1.0
    wave = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    if info.samplerate != RATE:
        reach = 0 if n is None else int(np.ceil(512 * max(1.0, info.samplerate / RATE))) + 1
        read = None if n is None else int(np.ceil(n * info.samplerate / RATE)) + reach
        wave = soxr.resample(wave[:read], info.samplerate, RATE, quality="HQ")
    wave = wave[:n]
    scale = max(1.0, float(np.abs(wave).max()))
    return np.clip(np.rint(wave * np.float32(32768 / scale)), -32768, 32767).astype(np.int16), scale


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Files of whole numbers and of float samples beyond full scale, of one, two and three channels, at three rates."""
    folder, noise = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for i, (suffix, subtype) in enumerate([("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16")]):
        for rate in (8000, 16000, 44100):
            for channels in (1, 2, 3):
                wave = noise.integers(-32768, 32768, (rate // 2 + i, channels)) / 32768
                wave *= 1.5 if subtype == "FLOAT" else 1.0
                soundfile.write(folder / f"{subtype}-{rate}-{channels}.{suffix}", wave, rate, subtype=subtype)
    return folder


def opened(files, cache, seconds=None, **options):
    n = len(files)
    return open_waveforms([f.name for f in files], files, [0.0] * n, [None] * n, RATE, seconds, cache, **options)


@pytest.mark.parametrize("seconds", [None, 0.4])
def test_the_cache_holds_what_the_plain_formula_gives(corpus, tmp_path, seconds):
    files = sorted(corpus.iterdir())
    expected = [formula(path, seconds) for path in files]
    waves = opened(files, tmp_path, seconds)
    (folder,) = tmp_path.iterdir()
    assert (folder / "clips.i16").read_bytes() == b"".join(samples.tobytes() for samples, _ in expected)
    records = np.frombuffer((folder / "journal").read_bytes(), RECORD)
    assert records["clip"].tolist() == list(range(len(files)))
    assert records["scale"].tolist() == [np.float32(scale) for _, scale in expected]
    digests = [
        hashlib.blake2b(samples.tobytes() + np.float32(scale).tobytes(), digest_size=16).digest()
        for samples, scale in expected
    ]
    assert [record.tobytes() for record in records["digest"]] == digests
    asked = json.dumps({"ids": [f.name for f in files], "sample_rate": RATE}, separators=(",", ":"))
    assert waves.fingerprint == hashlib.sha256(asked.encode() + b"".join(digests)).hexdigest()


def test_fingerprints_are_those_of_caches_made_before(tmp_path):
    for i in range(5):
        samples = (np.arange(9000) * (37 + i) % 20011 - 10000).astype(np.int16)
        soundfile.write(tmp_path / f"{i}.{'flac' if i == 2 else 'wav'}", samples, RATE)
    found = {
        seconds: opened(sorted(tmp_path.glob("*.*")), tmp_path / "c", seconds).fingerprint for seconds in FINGERPRINTS
    }
    assert found == FINGERPRINTS


def plain(path):
    with decode._open(path) as sound:
        return isinstance(sound, decode._PlainWav)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_plain_wav_is_read_as_libsndfile_reads_it(tmp_path, monkeypatch, channels):
    path = tmp_path / "clip.wav"
    stored = np.random.default_rng(channels).integers(-32768, 32768, (5000, channels)).astype(np.int16)
    soundfile.write(path, stored, RATE)
    ways = [{}, {"start": 0.1}, {"start": 0.1, "stop": 0.2}, {"seconds": 0.01}, {"start": 0.3, "seconds": 9.0}]

    def read():
        both = [
            [f(path, rate, **way) for rate in (RATE, 11025) for way in ways]
            for f in (decode.decode, decode.decode_int16)
        ]
        return both[0] + [samples for samples, _ in both[1]]

    assert plain(path)
    fast = read()
    monkeypatch.setattr(decode._PlainWav, "of", lambda *_: None)
    for mine, theirs in zip(fast, read(), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_a_spoilt_header_is_judged_by_libsndfile(tmp_path, monkeypatch):
    path, rng = tmp_path / "clip.wav", random.Random(0)
    soundfile.write(path, np.arange(600, dtype=np.int16).reshape(300, 2), 8000)
    whole = path.read_bytes()

    def read():
        try:
            return decode.decode(path, 8000).tolist()
        except EvarError as error:
            return str(error)

    of, n_plain = decode._PlainWav.of, 0
    for i in range(44 * 12):
        spoilt = bytearray(whole)
        spoilt[i % 44] = rng.choice([0, 1, 2, 3, 255, spoilt[i % 44] ^ 1, rng.randrange(256)])
        path.write_bytes(spoilt[: rng.choice([None, None, -1, -4, 44, 40])] + bytes(rng.choice([0, 0, 1, 8])))
        monkeypatch.setattr(decode._PlainWav, "of", of)
        found = read()
        n_plain += not isinstance(found, str) and plain(path)
        monkeypatch.setattr(decode._PlainWav, "of", lambda *_: None)
        assert found == read(), spoilt[:44].hex()
    assert n_plain > 5


def test_a_tag_or_a_second_chunk_is_no_sound(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.arange(1000, dtype=np.int16), RATE)
    whole = path.read_bytes()
    tag = b"LIST" + struct.pack("<I", 4) + b"INFO"
    for data in (whole + tag, whole[:36] + tag + whole[36:]):
        path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
        assert not plain(path)
        np.testing.assert_array_equal(decode.decode_int16(path, RATE)[0], np.arange(1000))


def test_handfuls_keep_the_order_and_a_bound(tmp_path, monkeypatch):
    """Digital silence, packed a hundredfold, does not fill the memory; what a thread gives back keeps its place."""
    stored = [np.full(60_000 + i, i % 3, "<i2") for i in range(40)]
    files = [tmp_path / f"{i:02d}.flac" for i in range(40)]
    for path, samples in zip(files, stored, strict=True):
        soundfile.write(path, samples, RATE)
    files[7].write_bytes(b"no sound")
    del stored[7]
    read, alive, most = clips.decode_int16, weakref.WeakValueDictionary(), []

    def counted(path, *rest):
        samples, scale = read(path, *rest)
        alive[path] = samples
        most.append(len(alive))
        return samples, scale

    monkeypatch.setattr(clips, "decode_int16", counted)
    monkeypatch.setattr(clips, "_AHEAD", 0)
    for workers, handful in ((1, 20_000), (1, 200_000), (3, 20_000), (3, 5_000)):
        monkeypatch.setattr(clips, "_HANDFUL", handful)
        said, cache = [], tmp_path / f"cache{workers}-{handful}"
        waves = opened(
            files, cache, None, skip_bad=True, workers=workers, progress=lambda done, of, said=said: said.append(done)
        )
        assert said == list(range(1, 41))
        assert list(waves.bad) == [7]
        assert next(cache.glob("*/clips.i16")).read_bytes() == b"".join(samples.tobytes() for samples in stored)
    assert max(most) < 30, "14 clips of one thread's handful of 40, while the 14 before them are written"


def test_a_wav_of_more_than_four_gigabytes_is_left_to_libsndfile():
    """Regression: its size did not fit the header's 32 bits, and the run ended as a bug."""
    fmt, most = (b"fmt ", 16, 1, 1, 16000, 32000, 2, 16), 2**32 - 1
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", most, b"WAVE", *fmt, b"data", most)
    stream = io.BytesIO(header)
    assert decode._PlainWav.of(stream, 5 << 30) is None
    assert stream.tell() == 0
