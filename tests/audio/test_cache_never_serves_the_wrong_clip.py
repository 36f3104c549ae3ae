"""What the cache gives is what the files hold now, for the clips, the cut and the rate that were asked for."""

import math
import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from evar.audio.cache import open_waveforms
from evar.audio.decode import decode
from evar.audio.journal import RECORD
from evar.errors import EvarError

RATE = 16000


def write(path, seconds=0.5, seed=0, rate=RATE, **options):
    soundfile.write(path, 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * rate)), rate, **options)
    return path


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(8):
        write(folder / f"clip{i}.wav", 0.3 + 0.1 * i, seed=i, subtype="PCM_16")
    return folder


def opened(folder, cache, seconds=None, sample_rate=RATE, files=None, **options):
    files = files or sorted(folder.glob("*.*"))
    n = len(files)
    names = [file.stem for file in files]
    return open_waveforms(names, files, [0.0] * n, [math.nan] * n, sample_rate, seconds, cache, **options)


def counted(folder, cache, **options):
    """The waveforms, and how many clips were decoded for them."""
    calls = []
    waves = opened(folder, cache, progress=lambda done, total: calls.append((done, total)), **options)
    return waves, len(calls)


def test_batches_hold_each_clip_and_zeros_behind_it(corpus, tmp_path):
    waves = opened(corpus, tmp_path / "cache")
    files = sorted(corpus.iterdir())
    order = [5, 0, 7, 5]
    for samples in (None, 20000, 6000):
        batch, lengths = waves.batch(order, samples)
        assert batch.dtype == np.float32
        assert lengths.dtype == np.int64
        assert batch.shape == (4, samples or waves.lengths[7])
        for row, length, clip in zip(batch, lengths, order, strict=True):
            stored = soundfile.read(files[clip], dtype="int16")[0][:samples]
            assert length == len(stored)
            np.testing.assert_array_equal(row[:length] * 32768, stored)
            assert not row[length:].any()
    assert waves.batch([])[0].shape[0] == 0


def test_loud_float_clips_keep_their_scale(tmp_path):
    prints = set()
    for peak in (2.0, 4.0):
        wave = (peak * np.sin(np.arange(8000) / 9)).astype(np.float32)
        soundfile.write(tmp_path / "loud.wav", wave, RATE, subtype="FLOAT")
        waves = opened(tmp_path, tmp_path / f"cache{peak}", files=[tmp_path / "loud.wav"])
        assert np.abs(waves.batch([0])[0][0] - wave).max() < 1.01 * peak / 32768
        prints.add(waves.fingerprint)
    assert len(prints) == 2


def test_second_opening_decodes_nothing(corpus, tmp_path):
    first, n = counted(corpus, tmp_path / "cache")
    assert n == 8
    second, n = counted(corpus, tmp_path / "cache")
    assert n == 0
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.lengths, first.lengths)
    np.testing.assert_array_equal(second.batch(range(8))[0], first.batch(range(8))[0])


def test_changed_file_is_decoded_again_and_only_that(corpus, tmp_path):
    first, _ = counted(corpus, tmp_path / "cache")
    old = first.batch(range(8))[0]
    write(corpus / "clip3.wav", 0.6, seed=99, subtype="PCM_16")  # the same size
    os.utime(corpus / "clip3.wav", ns=(1, 1))
    second, n = counted(corpus, tmp_path / "cache")
    assert n == 1
    assert second.fingerprint != first.fingerprint
    new = second.batch(range(8))[0]
    np.testing.assert_array_equal(new[3, :9600] * 32768, soundfile.read(corpus / "clip3.wav", dtype="int16")[0])
    keep = [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_array_equal(new[keep], old[keep])
    np.testing.assert_array_equal(first.batch(range(8))[0], old)  # who opened it before still reads what was there


def test_touched_files_keep_the_fingerprint(corpus, tmp_path):
    """Embeddings stay valid when files are copied: only content counts, not time, folder or container."""
    first = opened(corpus, tmp_path / "cache")
    for file in corpus.iterdir():
        os.utime(file, ns=(5, 5))
    again, n = counted(corpus, tmp_path / "cache")
    assert n == 8
    assert again.fingerprint == first.fingerprint
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in corpus.iterdir():
        samples, rate = soundfile.read(file, dtype="int16")
        soundfile.write(moved / f"{file.stem}.flac", samples, rate)
    assert opened(moved, tmp_path / "cache").fingerprint == first.fingerprint


def test_a_cache_that_is_mostly_old_is_started_anew(corpus, tmp_path):
    waves = opened(corpus, tmp_path / "cache")
    for round_ in range(1, 4):
        for file in corpus.iterdir():
            os.utime(file, ns=(round_, round_))
        waves = opened(corpus, tmp_path / "cache")
    (samples,) = (tmp_path / "cache").glob("*/clips.i16")
    assert samples.stat().st_size <= 2 * 2 * waves.lengths.sum()
    assert (samples.parent / "journal").stat().st_size <= 2 * 8 * RECORD.itemsize


def test_rate_cut_segment_and_order_have_caches_of_their_own(corpus, tmp_path):
    files = sorted(corpus.iterdir())
    prints = {opened(corpus, tmp_path / "cache", seconds=seconds).fingerprint for seconds in (None, 0.4, 0.2)}
    prints.add(opened(corpus, tmp_path / "cache", sample_rate=8000).fingerprint)
    prints.add(opened(corpus, tmp_path / "cache", files=files[::-1]).fingerprint)
    segments = open_waveforms(
        [f.stem for f in files], files, [0.1] * 8, [0.25] * 8, RATE, None, tmp_path / "cache", workers=3
    )
    prints.add(segments.fingerprint)
    assert len(prints) == 6
    for clip, file in enumerate(files):
        np.testing.assert_array_equal(segments.batch([clip])[0][0], decode(file, RATE, 0.1, 0.25))


def test_the_number_of_threads_changes_nothing(corpus, tmp_path):
    one, many = (opened(corpus, tmp_path / f"cache{n}", sample_rate=11025, workers=n) for n in (1, 5))
    assert one.fingerprint == many.fingerprint
    assert [p.read_bytes() for p in tmp_path.glob("cache1/*/clips.i16")] == [
        p.read_bytes() for p in tmp_path.glob("cache5/*/clips.i16")
    ]


def spoil(corpus):
    (corpus / "clip1.wav").write_text("no sound at all")
    (corpus / "clip4.wav").unlink()
    (corpus / "clip6.wav").write_bytes(b"")


def test_bad_clips_are_named_and_the_good_ones_kept(corpus, tmp_path):
    files = sorted(corpus.iterdir())
    spoil(corpus)
    with pytest.raises(EvarError, match=r"^3 of 8 clips .*--skip-bad") as caught:
        opened(corpus, tmp_path / "cache", files=files)
    for name in ("clip1.wav", "clip4.wav", "clip6.wav"):
        assert name in str(caught.value)
    waves, n = counted(corpus, tmp_path / "cache", files=files, skip_bad=True)
    assert n == 3
    assert sorted(waves.bad) == [1, 4, 6]
    assert "clip4.wav is missing" in waves.bad[4]
    assert (waves.lengths == 0).nonzero()[0].tolist() == [1, 4, 6]
    good = [0, 2, 3, 5, 7]
    assert waves.batch(good)[1].tolist() == waves.lengths[good].tolist()
    with pytest.raises(ValueError, match="clip1"):
        waves.batch([0, 1])
    assert counted(corpus, tmp_path / "cache", files=files, skip_bad=True)[1] == 0
    with pytest.raises(EvarError, match="3 of 8"):
        opened(corpus, tmp_path / "cache", files=files)


def test_mended_clips_come_back(corpus, tmp_path):
    files = sorted(corpus.iterdir())
    shutil.copytree(corpus, tmp_path / "whole")
    whole = opened(corpus, tmp_path / "cache", files=files)
    spoil(corpus)
    holes = opened(corpus, tmp_path / "cache", files=files, skip_bad=True)
    assert holes.fingerprint != whole.fingerprint
    shutil.copytree(tmp_path / "whole", corpus, dirs_exist_ok=True)  # the old times too
    for skip_bad in (True, False):
        mended = opened(corpus, tmp_path / "cache", files=files, skip_bad=skip_bad)
        assert mended.bad == {}
        assert mended.fingerprint == whole.fingerprint
        np.testing.assert_array_equal(mended.batch(range(8))[0], whole.batch(range(8))[0])


def test_nothing_but_bad_clips_is_an_error_even_when_skipped(tmp_path):
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    with pytest.raises(EvarError, match="2 of 2"):
        opened(tmp_path, tmp_path / "cache", files=files, skip_bad=True)
    with pytest.raises(EvarError, match="no clips"):
        open_waveforms([], [], [], [], RATE, None, tmp_path / "cache")


def test_threads_read_the_same(corpus, tmp_path):
    waves = opened(corpus, tmp_path / "cache")
    expected = waves.batch(range(8))[0]
    wrong = []

    def read():
        for _ in range(50):
            if not np.array_equal(waves.batch(range(8))[0], expected):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is in /proc")
def test_reading_a_large_corpus_takes_no_anonymous_memory(tmp_path):
    def anonymous():
        text = Path("/proc/self/status").read_text()
        return int(text.split("RssAnon:")[1].split()[0]) * 1024

    path = write(tmp_path / "long.wav", 60.0, subtype="PCM_16")
    n = 60  # 115 MB of samples
    waves = open_waveforms([str(i) for i in range(n)], [path] * n, [0.0] * n, [None] * n, RATE, None, tmp_path / "c")
    before = anonymous()
    for clip in range(n):
        waves.batch([clip], 16000)
        waves.batch([clip])
    assert anonymous() - before < 30e6


def test_real_sound_of_every_folder(shared_data, tmp_path):
    files = [path for folder in sorted(shared_data.iterdir()) for path in sorted(folder.rglob("*.flac"))[:4]]
    files += sorted(shared_data.rglob("*.ogg"))[:4]
    assert len(files) > 20
    names = [str(path.relative_to(shared_data)) for path in files]
    n = len(files)
    waves = open_waveforms(names, files, [0.0] * n, [None] * n, RATE, 3.0, tmp_path)
    for clip, path in enumerate(files):
        expected = soundfile.read(path, dtype="float32", frames=3 * RATE)[0]
        batch, lengths = waves.batch([clip])
        assert lengths[0] == len(expected)
        assert np.abs(batch[0] - expected).max() <= max(1.0, np.abs(expected).max()) / 32767
        if path.suffix == ".flac":
            np.testing.assert_array_equal(batch[0], expected)
