"""A file with other content is another file, though its size and its modification time are what they were."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from evar.audio import cache, journal
from evar.audio.cache import open_waveforms

RATE = 16000


def write(path, seed, seconds=0.5):
    soundfile.write(path, 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)), RATE)
    return path


def overwrite(path, seed):
    """Other content under the same size and modification time."""
    before = path.stat()
    write(path, seed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def opened(files, where, **options):
    decoded = []
    n = len(files)
    waves = open_waveforms(
        [file.stem for file in files], files, [0.0] * n, [None] * n, RATE, None, where,
        progress=lambda done, total: decoded.append(done), **options,
    )  # fmt: skip
    return waves, len(decoded)


def test_other_content_under_the_same_size_and_time_is_decoded(tmp_path):
    files = [write(tmp_path / f"{k}.wav", k) for k in range(6)]
    first, _ = opened(files, tmp_path / "cache")
    overwrite(files[2], 99)
    second, n = opened(files, tmp_path / "cache")
    assert n == 1
    assert second.fingerprint != first.fingerprint
    np.testing.assert_array_equal(second.batch([2])[0][0], soundfile.read(files[2], dtype="float32")[0])


def test_a_file_put_in_its_place_is_decoded(tmp_path):
    """`mv` and `rsync -t` put a file with an old time there."""
    files = [write(tmp_path / f"{k}.wav", k) for k in range(3)]
    first, _ = opened(files, tmp_path / "cache")
    other, before = write(tmp_path / "other.bin.wav", 50), files[0].stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, files[0])
    assert opened(files, tmp_path / "cache")[0].fingerprint != first.fingerprint


def test_the_same_content_with_a_new_time_of_change_keeps_the_fingerprint(tmp_path):
    files = [write(tmp_path / f"{k}.wav", k) for k in range(6)]
    first, _ = opened(files, tmp_path / "cache")
    for file in files:
        os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    second, n = opened(files, tmp_path / "cache")
    assert (n, second.fingerprint) == (6, first.fingerprint)
    assert opened(files, tmp_path / "cache")[1] == 0


@pytest.mark.parametrize("bad", [False, True])
def test_a_cache_of_an_earlier_version_is_renewed_once(tmp_path, monkeypatch, recwarn, bad):
    def sizes_and_times(paths):  # as stamps were
        found = [os.stat(path) for path in paths]
        return np.array([[info.st_size, info.st_mtime_ns] for info in found], dtype=np.int64)

    files = [write(tmp_path / f"{k}.wav", k) for k in range(5)]
    if bad:
        files[3].write_bytes(b"no sound")
    with monkeypatch.context() as earlier:
        earlier.setattr(cache, "file_stamps", sizes_and_times)
        first, _ = opened(files, tmp_path / "cache", skip_bad=bad)
        assert opened(files, tmp_path / "cache", skip_bad=bad)[1] == 0
    again, n = opened(files, tmp_path / "cache", skip_bad=bad)
    assert (n, again.fingerprint) == (5, first.fingerprint)
    assert opened(files, tmp_path / "cache", skip_bad=bad)[1] == 0
    assert journal.RECORD.itemsize == 64  # records of earlier versions can be read
    assert not recwarn.list


def test_a_run_measures_what_the_files_hold_now(tmp_path):
    (tmp_path / "set").mkdir()
    files, rows = [], ["path,label,fold"]
    for k in range(12):
        t = np.arange(RATE // 2) / RATE
        wave = 0.3 * np.sin(2 * np.pi * (300 + 500 * (k % 2)) * t) + 0.05 * np.random.default_rng(k).standard_normal(
            len(t)
        )
        soundfile.write(tmp_path / "set" / f"{k}.wav", wave, RATE)
        files.append(tmp_path / "set" / f"{k}.wav")
        rows.append(f"{k}.wav,{'ab'[k % 2]},{k // 2 % 3 + 1}")
    (tmp_path / "set" / "clips.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "set.yaml").write_text(
        "name: set\nversion: 1\ntitle: t\nasks: q\nseconds: 0.5\nmetric: accuracy\nsplit: folds\nfolds: 3\n"
        "layout: csv_columns\n"
    )

    def run():
        command = [sys.executable, "-m", "evar", "run", "logmel", str(tmp_path / "set.yaml")]
        command += [
            "--data",
            str(tmp_path / "set"),
            "--results",
            str(tmp_path / "r"),
            "--embeddings",
            str(tmp_path / "e"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        with open(tmp_path / "r" / "runs.csv", newline="") as stream:
            return done.stdout + done.stderr, len(list(csv.DictReader(stream)))

    first, n = run()
    assert "100.0%" in first
    for file in files:
        os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    touched, n_touched = run()
    assert "already measured" in touched
    assert n_touched == n
    for k in (0, 3, 5, 8):
        overwrite(files[k], 70 + k)
    changed, n_changed = run()
    assert "already measured" not in changed
    assert "100.0%" not in changed
    assert n_changed == 2 * n
