"""`kill -9`, a power cut or a full disk in the middle: what was committed stays, what was torn is never served."""

from __future__ import annotations

import errno
import os
import random
import time

import numpy as np
import pytest
import store_data as d

from evar.errors import EvarError
from evar.store import Store


def test_ten_kills_at_random_moments(tmp_path):
    rng, done = random.Random(1), []
    while len(done) < 10 or (done[-1] == 0 and len(done) < 100):  # a busy machine gets little done in 40 ms
        process = d.spawn(tmp_path / "killed", pause=0.002)
        done.append(d.N_CLIPS - int(process.stdout.readline().split()[1]))
        time.sleep(rng.uniform(0, 0.04))
        process.kill()
        process.communicate()
    assert done == sorted(done)  # never a step back
    assert done[-1] > 0
    kept = done[-1]
    with Store(tmp_path / "killed").writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "again", "again") as writer:
        assert d.N_CLIPS - len(writer.pending) >= kept
    d.fill(tmp_path / "killed")
    d.fill(tmp_path / "undisturbed")
    assert d.contents(d.folder_of(tmp_path / "killed")) == d.contents(d.folder_of(tmp_path / "undisturbed"))
    assert Store(tmp_path / "killed").verify() == []


def test_a_kill_between_sealing_and_clearing_away(tmp_path):
    d.fill(tmp_path)
    folder = d.folder_of(tmp_path)
    (folder / "journal").write_bytes(b"left behind\n")
    assert Store(tmp_path).verify() == []
    found = Store(tmp_path).find(d.SETTINGS, [("out", "mean+max")])
    np.testing.assert_array_equal(found.rows("out", "mean+max"), d.rows("out", np.arange(d.N_CLIPS), 8))


@pytest.mark.parametrize("cut", [1, 5, 12, 20])
def test_a_torn_last_journal_line(tmp_path, cut):
    d.fill(tmp_path, stop_after=20)
    journal = d.folder_of(tmp_path) / "journal"
    journal.write_bytes(journal.read_bytes()[:-cut])
    with Store(tmp_path).writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "x", "y") as writer:
        assert d.N_CLIPS - len(writer.pending) == 19 * 3
    assert d.fill(tmp_path).rows("block2", "mean").tobytes() == d.rows("block2", np.arange(d.N_CLIPS), 24).tobytes()


@pytest.mark.parametrize("name", ["0.f32", "1.f32", "rows.i64"])
def test_a_power_cut_that_lost_data_behind_the_journal(tmp_path, name):
    """The journal reached the disk, a page of the data did not: it reads as zeros, and the CRC tells."""
    d.fill(tmp_path, stop_after=20)
    folder = d.folder_of(tmp_path)
    with open(folder / name, "r+b") as stream:
        width = {"0.f32": 24 * 4, "1.f32": 8 * 4}.get(name)
        clip = int(d.order(np.arange(d.N_CLIPS))[10 * 3])  # the first clip of the 11th batch
        stream.seek(clip * width if width else 30 * 8)
        stream.write(bytes(width or 8))
    with Store(tmp_path).writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "x", "y") as writer:
        assert d.N_CLIPS - len(writer.pending) == 10 * 3
    d.fill(tmp_path)
    d.fill(tmp_path / "undisturbed")
    assert d.contents(folder) == d.contents(d.folder_of(tmp_path / "undisturbed"))


@pytest.mark.parametrize("name", ["0.f32", "rows.i64", "journal"])
def test_a_file_of_an_unfinished_set_is_gone_or_short(tmp_path, name):
    d.fill(tmp_path, stop_after=20)
    folder = d.folder_of(tmp_path)
    os.truncate(folder / name, 50)
    d.fill(tmp_path, stop_after=5, finish=False)
    (folder / name).unlink()
    assert np.array_equal(d.fill(tmp_path).rows("out", "mean+max"), d.rows("out", np.arange(d.N_CLIPS), 8))


def test_a_full_disk_keeps_what_was_committed(tmp_path, monkeypatch):
    """Half of the 8th batch fits, then the disk is full; after freeing space the same writer goes on."""
    real, room = os.pwrite, [7 * (3 * 32 * 4 + 24 + 60)]

    def pwrite(descriptor, data, offset):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        data = data[: min(len(data), room[0])]
        room[0] -= len(data)
        return real(descriptor, data, offset)

    with Store(tmp_path).writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "x", "y") as writer:
        monkeypatch.setattr(os, "pwrite", pwrite)
        todo, stored = d.order(writer.pending), 7 * 3
        for start in range(0, stored, 3):
            writer.write(todo[start : start + 3], d.blocks(todo[start : start + 3]))
        with pytest.raises(EvarError, match="disk is full"):
            writer.write(todo[stored : stored + 3], d.blocks(todo[stored : stored + 3]))
        monkeypatch.setattr(os, "pwrite", real)
        assert len(writer.pending) == d.N_CLIPS - stored
        writer.write(todo[stored : stored + 3], d.blocks(todo[stored : stored + 3]))
    d.fill(tmp_path)
    assert Store(tmp_path).verify() == []


def test_too_little_space_is_said_before_encoding(tmp_path):
    with (
        pytest.raises(EvarError, match="not enough disk for embeddings"),
        Store(tmp_path).writer(d.SETTINGS, [("out", "mean", 1 << 30)], 1 << 20, "x", "y"),
    ):
        pass


def test_finish_refuses_a_set_with_holes(tmp_path):
    with Store(tmp_path).writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "x", "y") as writer:
        writer.write(np.arange(3), d.blocks(np.arange(3)))
        with pytest.raises(EvarError, match="297 of 300 clips are not written"):
            writer.finish()
    assert Store(tmp_path).find(d.SETTINGS, [("out", "mean+max")]) is None
