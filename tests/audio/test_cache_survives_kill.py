"""`kill -9`, a full disk and torn files lose nothing and change nothing; two processes do not build one cache twice."""

import dataclasses
import errno
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from evar.audio.cache import open_waveforms
from evar.audio.journal import RECORD
from evar.errors import EvarError

N = 120
RATE = 8000
# A batch of six clips per write, so that a small corpus has many moments to die in.
BUILD = """
import sys
from pathlib import Path
from evar.audio import clips, journal
from evar.audio.cache import open_waveforms
clips._HANDFUL = journal._COMMIT_BYTES = 100_000
files = sorted(Path(sys.argv[1]).glob("*.wav"))
n = len(files)
calls = []
waves = open_waveforms([f.stem for f in files], files, [0.0] * n, [None] * n, 8000, 1.0, sys.argv[2],
                       progress=lambda done, total: calls.append(done))
print(len(calls), waves.fingerprint)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    noise = np.random.default_rng(0)
    for i in range(N):
        soundfile.write(folder / f"{i:03d}.wav", 0.1 * noise.standard_normal((11025, 2)), 11025, subtype="PCM_16")
    return folder


def start(corpus, cache):
    return subprocess.Popen([sys.executable, "-c", BUILD, str(corpus), str(cache)], stdout=subprocess.PIPE, text=True)


def opened(corpus, cache, **options):
    files = sorted(corpus.glob("*.wav"))
    names = [file.stem for file in files]
    return open_waveforms(names, files, [0.0] * len(files), [None] * len(files), RATE, 1.0, cache, **options)


def decoded(cache):
    return sum(path.stat().st_size for path in cache.glob("*/journal")) // RECORD.itemsize


def assert_same(waves, reference):
    assert waves.fingerprint == reference.fingerprint
    np.testing.assert_array_equal(waves.batch(range(N))[0], reference.batch(range(N))[0])


def test_ten_kills_at_random_moments(corpus, tmp_path):
    reference = opened(corpus, tmp_path / "undisturbed")
    moments = random.Random(0)
    cut_short = 0
    for i in range(10):
        cache = tmp_path / f"killed{i}"
        process = start(corpus, cache)
        after = moments.randrange(0, 15) * 6 * RATE * 2
        while process.poll() is None and sum(p.stat().st_size for p in cache.glob("*/clips.i16")) <= after:
            time.sleep(0.0005)
        time.sleep(moments.random() * 0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = decoded(cache)
        cut_short += 0 < before < N
        calls = []
        assert_same(opened(corpus, cache, progress=lambda done, total, calls=calls: calls.append(done)), reference)
        assert len(calls) == N - before, "a clip that was in the journal has been decoded again"
        assert decoded(cache) == N
    assert cut_short >= 3


def test_two_processes_decode_each_clip_once(corpus, tmp_path):
    both = [start(corpus, tmp_path), start(corpus, tmp_path)]
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert sorted(int(calls) for calls, _ in said) == [0, N]
    assert said[0][1] == said[1][1]
    assert decoded(tmp_path) == N


def torn(name, keep, flip=None, extra=b""):
    def damage(folder):
        data = bytearray((folder / name).read_bytes())
        if flip is not None:
            data[int(flip * len(data))] ^= 0x55
        (folder / name).write_bytes(bytes(data[: int(keep * len(data))]) + extra)

    return damage


def replaced(name, old, new):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (torn("clips.i16", 0.5), range(50, 61)),
        (torn("clips.i16", 0.0), [0]),
        (torn("clips.i16", 1.0, extra=b"garbage"), [N]),
        (torn("journal", 0.5), [N // 2]),
        (torn("journal", 0.37), range(40, 46)),
        (torn("journal", 1.0, flip=0.25), range(29, 31)),
        (torn("journal", 1.0, extra=b"x" * 100), [N]),
        (torn("meta.json", 0.5), [N]),
        (torn("meta.json", 0.0, extra=b"[1, 2]"), [N]),
        (replaced("meta.json", b'"fingerprint": "', b'"fingerprint": "0'), [N]),
        (lambda folder: (folder / "clips.i16").unlink(), [0]),
        (lambda folder: (folder / "journal").unlink(), [0]),
        (lambda folder: (folder / "meta.json").unlink(), [N]),
    ],
)
def test_torn_files_are_noticed_and_mended(corpus, tmp_path, damage, kept):
    reference = opened(corpus, tmp_path / "good")
    opened(corpus, tmp_path / "torn")
    (folder,) = (tmp_path / "torn").iterdir()
    damage(folder)
    calls = []
    waves = opened(corpus, tmp_path / "torn", progress=lambda done, total: calls.append(done))
    assert_same(waves, reference)
    assert N - len(calls) in kept
    assert_same(opened(corpus, tmp_path / "torn", progress=lambda *_: pytest.fail("decoded again")), reference)


def flipped(folder, where):
    """One bit of the samples, as a disk does it: the time stamp is as it was."""
    path = folder / "clips.i16"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[where] ^= 0x40
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_flipped_bit_in_the_samples_is_mended(corpus, tmp_path):
    reference = opened(corpus, tmp_path / "good")
    opened(corpus, tmp_path / "flipped")
    (folder,) = (tmp_path / "flipped").iterdir()
    for where in (0, 2 * RATE * 17 + 5, -1):
        flipped(folder, where)
    waves = opened(corpus, tmp_path / "flipped", progress=lambda *_: pytest.fail("decoded again"))
    with pytest.warns(UserWarning, match=r"clip '017' in .*clips.i16 was damaged: decoded again"):
        assert_same(waves, reference)
    assert_same(waves, reference)
    assert (folder / "clips.i16").read_bytes() == next((tmp_path / "good").glob("*/clips.i16")).read_bytes()
    assert_same(opened(corpus, tmp_path / "flipped"), reference)


def test_a_damaged_clip_whose_file_gives_something_else_is_refused(corpus, tmp_path):
    opened(corpus, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    flipped(folder, 2 * RATE * 3)
    own = tmp_path / "corpus"
    shutil.copytree(corpus, own)
    waves = opened(corpus, tmp_path / "cache")
    clips = waves._vouch.clips
    silent = own / "003.wav"
    soundfile.write(silent, np.zeros((11025, 2)), 11025, subtype="PCM_16")
    files = tuple(str(silent) if i == 3 else file for i, file in enumerate(clips.files))
    waves._vouch.clips = dataclasses.replace(clips, files=files)
    with pytest.raises(EvarError, match=r"damaged at clip '003'.*remove .* and run the same command again"):
        waves.batch([3])


@pytest.mark.parametrize("when", range(1, 5))
def test_full_disk_when_samples_or_records_should_reach_it(corpus, tmp_path, monkeypatch, when):
    reference = opened(corpus, tmp_path / "good")
    monkeypatch.setattr("evar.audio.clips._HANDFUL", 100_000)
    monkeypatch.setattr("evar.audio.journal._COMMIT_BYTES", 100_000)
    real, syncs = os.fsync, []

    def full(descriptor):
        syncs.append(descriptor)
        if len(syncs) == when:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EvarError, match="disk is full"):
        opened(corpus, tmp_path / "full")
    assert decoded(tmp_path / "full") < N
    assert (decoded(tmp_path / "full") > 0) == (when > 2)
    assert_as_the_journal_says(tmp_path / "full")
    assert_same(opened(corpus, tmp_path / "full"), reference)


def test_full_disk_in_the_middle_of_a_clip(corpus, tmp_path, monkeypatch):
    """What does not fit is given back, and the disk is not asked again and again; what had been kept stays."""
    reference = opened(corpus, tmp_path / "good")
    monkeypatch.setattr("evar.audio.clips._HANDFUL", 100_000)
    monkeypatch.setattr("evar.audio.journal._COMMIT_BYTES", 100_000)
    monkeypatch.setattr("evar.audio.journal._WRITE_BYTES", 5_000)
    room = [1_000_007]

    class SmallDisk(io.FileIO):
        def write(self, data):
            n = min(len(memoryview(data).cast("B")), room[0])
            room[0] -= n
            if n == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(memoryview(data).cast("B")[:n])

    with monkeypatch.context() as patch:
        patch.setattr("evar.audio.journal.io.FileIO", SmallDisk)
        with pytest.raises(EvarError, match=r"clips\.i16: the disk is full"):
            opened(corpus, tmp_path / "full")
    assert 0 < decoded(tmp_path / "full") < N
    assert_as_the_journal_says(tmp_path / "full")
    assert_same(opened(corpus, tmp_path / "full"), reference)


def assert_as_the_journal_says(cache):
    samples = sum(path.stat().st_size for path in cache.glob("*/clips.i16"))
    assert samples == 2 * RATE * decoded(cache), "space that no record needs is not given back"


@pytest.mark.parametrize("seconds", [1.0, None])
def test_small_disk_is_noticed_before_writing(corpus, tmp_path, monkeypatch, seconds):
    needed = N * (RATE * 2 + RECORD.itemsize)
    files = sorted(corpus.glob("*.wav"))
    everything = [f.stem for f in files], files, [0.0] * N, [None] * N, RATE, seconds
    for free, enough in ((needed // 2, False), (2 * needed, True)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        if enough:
            assert len(open_waveforms(*everything, tmp_path)) == N
        else:
            with pytest.raises(EvarError, match=r"not enough disk for the waveform cache .* needs 1\.9 MB"):
                open_waveforms(*everything, tmp_path)
            assert not list(tmp_path.glob("*/clips.i16"))


def test_a_file_stands_where_the_cache_should_be(corpus, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(EvarError, match="a file stands where a folder is needed"):
        opened(corpus, tmp_path / "cache")
