"""Kills, full disks and neighbours while rows are written: nothing that was recorded is lost, nothing torn is ranked."""

from __future__ import annotations

import errno
import itertools
import os
import random
import time

import pandas as pd
import pytest
import results_data as d

from evar.errors import EvarError
from evar.results import LEADERBOARD_COLUMNS, RUN_COLUMNS, Results

N = 60


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    for number in range(N):
        d.record(folder, number, number % 60)
    return folder


def test_ten_kills_at_random_moments(tmp_path, undisturbed):
    rng, recorded = random.Random(5), []
    for _ in range(10):
        process = d.spawn(tmp_path, 0, N)
        assert process.stdout.readline() == "ready\n"
        recorded += [int(line) for line in itertools.islice(iter(process.stdout.readline, ""), rng.randint(0, 4))]
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        recorded += [int(line) for line in process.stdout.read().split()]
        process.communicate()
        assert set(recorded) <= set(Results(tmp_path).leaderboard()["encoder"].str[-3:].astype(int))
    assert recorded
    assert len(recorded) == len(set(recorded))  # what was said to be recorded is not measured again
    last = d.spawn(tmp_path, 0, N)
    assert last.communicate()[1] == ""
    assert d.canonical(tmp_path) == d.canonical(undisturbed)
    runs = [Results(folder).runs().drop_duplicates(["cell_id", "fold"]) for folder in (tmp_path, undisturbed)]
    pd.testing.assert_frame_equal(runs[0], runs[1])
    assert (tmp_path / "leaderboard.csv").read_bytes() == (undisturbed / "leaderboard.csv").read_bytes()


def test_a_cut_at_every_byte(tmp_path, undisturbed):
    """Whatever is left of the last append: the cells before it stay, the last is whole or gone, and recording goes on."""
    whole = b"".join((undisturbed / "runs.csv").read_bytes().splitlines(keepends=True)[: 1 + 3 * d.FOLDS])
    start = len(b"".join(whole.splitlines(keepends=True)[: 1 + 2 * d.FOLDS]))
    for length in [*range(start, len(whole), 37), len(whole) - 1, len(whole)]:
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "runs.csv").write_bytes(whole[:length])
        assert len(Results(folder).leaderboard()) == (3 if length == len(whole) else 2)
        d.record(folder, 7)
        assert len(Results(folder).leaderboard()) == (4 if length == len(whole) else 3)
        assert (folder / "runs.csv").read_bytes()[:start] == whole[:start]
        torn = folder / "runs.csv.torn"
        assert (torn.read_bytes() if torn.exists() else b"") == (
            whole[start:length] + b"\n" if start < length < len(whole) else b""
        )


@pytest.mark.parametrize("length", [0, 1, 10, 100, 400])
def test_a_torn_header(tmp_path, undisturbed, length):
    (tmp_path / "runs.csv").write_bytes((undisturbed / "runs.csv").read_bytes()[:length])
    assert len(Results(tmp_path).leaderboard()) == 0
    d.record(tmp_path)
    assert len(Results(tmp_path).leaderboard()) == 1


def test_a_torn_end_within_quotes_and_characters(tmp_path):
    d.record(tmp_path, 1)
    good = (tmp_path / "runs.csv").read_bytes()
    d.record(tmp_path, 2, host='a "host",\nwith é')
    both = (tmp_path / "runs.csv").read_bytes()
    inside = range(both.index(b'"a ""host'), both.index("é".encode()) + 3)  # of the first of its five rows
    for length in [*range(len(good), len(both), 97), *inside]:
        (tmp_path / "runs.csv").write_bytes(both[:length])
        assert list(Results(tmp_path).leaderboard()["encoder"]) == ["encoder001"]
        assert (tmp_path / "runs.csv").read_bytes() == good


def test_a_reader_that_saw_the_torn_end_first(tmp_path, undisturbed):
    """It rebuilt the leaderboard; a writer after it must still not append to half a row."""
    d.record(tmp_path, 1)
    with open(tmp_path / "runs.csv", "ab") as stream:
        stream.write(b"1,00ff")
    writer = Results(tmp_path)
    writer.leaderboard()
    Results(tmp_path).leaderboard()
    made = d.cell(2)
    writer.record(made, d.runs(made), d.predictions(made))
    assert len(Results(tmp_path).leaderboard()) == 2


def test_a_stale_leaderboard_is_made_anew(tmp_path):
    d.record(tmp_path, 1)
    stale = (tmp_path / "leaderboard.csv").read_bytes()
    d.record(tmp_path, 2)
    fresh = (tmp_path / "leaderboard.csv").read_bytes()
    for content in (stale, b"", b"rubbish\n", None):
        if content is None:
            (tmp_path / "leaderboard.csv").unlink()
        else:
            (tmp_path / "leaderboard.csv").write_bytes(content)
        assert len(Results(tmp_path).leaderboard()) == 2
        assert (tmp_path / "leaderboard.csv").read_bytes() == fresh


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux")
def test_a_stop_after_the_append_within_one_tick_of_the_clock(tmp_path, monkeypatch):
    """The rows are in, the leaderboard is not, and the time stamp of runs.csv did not move: still it is made anew."""
    d.record(tmp_path, 1)
    path, real = tmp_path / "runs.csv", os.fsync
    same = path.stat().st_mtime_ns

    def fsync(descriptor):
        real(descriptor)
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(path.resolve()):
            os.utime(path, ns=(same, same))
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        d.record(tmp_path, 2)
    monkeypatch.setattr(os, "fsync", real)
    assert list(Results(tmp_path).leaderboard()["encoder"]) == ["encoder001", "encoder002"]


def test_eight_processes_record_at_once(tmp_path):
    processes = [d.spawn(tmp_path, 20 * i, 20) for i in range(8)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert errors == [""] * 8
    runs, board = Results(tmp_path).runs(), Results(tmp_path).leaderboard()
    assert len(runs) == 160 * d.FOLDS
    assert runs.groupby("cell_id")["fold"].nunique().eq(d.FOLDS).all()
    assert sorted(board["encoder"]) == [f"encoder{i:03d}" for i in range(160)]
    assert len(pd.read_csv(tmp_path / "leaderboard.csv")) == 160
    assert len(list((tmp_path / "predictions").glob("*.parquet"))) == 160


def test_adding_a_cell_equals_making_all_anew(tmp_path):
    for number, start in [(3, 5), (1, 9), (3, 7), (2, 1), (1, 2), (1, 9)]:  # also again, and by a clock that went back
        d.record(tmp_path, number, start, std=start / 100, cell_id=f"{number:016x}")
        added = (tmp_path / "leaderboard.csv").read_bytes()
        (tmp_path / "leaderboard.csv").unlink()
        Results(tmp_path).leaderboard()
        assert (tmp_path / "leaderboard.csv").read_bytes() == added
    assert list(Results(tmp_path).leaderboard()["std"]) == [0.09, 0.01, 0.07]


def test_a_full_disk_keeps_what_was_recorded(tmp_path, monkeypatch):
    d.record(tmp_path, 1)
    before, real = (tmp_path / "runs.csv").read_bytes(), os.fsync
    for room in range(5):
        left = [room]

        def fsync(descriptor, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            d.record(tmp_path, 2)
        except EvarError as error:
            assert "disk is full" in str(error)  # noqa: PT017
        monkeypatch.setattr(os, "fsync", real)
        assert (tmp_path / "runs.csv").read_bytes().startswith(before)
        assert "encoder001" in set(Results(tmp_path).leaderboard()["encoder"])
    d.record(tmp_path, 2, 1)
    assert list(Results(tmp_path).leaderboard()["encoder"]) == ["encoder001", "encoder002"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_finished_needs_rows_and_predictions(tmp_path):
    made = d.record(tmp_path, 1)
    results = Results(tmp_path)
    assert results.finished(made["cell_id"])["mean"] == made["mean"]
    assert results.finished("0" * 16) is None
    assert list(results.predictions(made["cell_id"])["clip_id"]) == ["001", "002"]
    path = tmp_path / "predictions" / f"{made['cell_id']}.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(EvarError, match="is damaged"):
        results.predictions(made["cell_id"])
    path.unlink()
    assert results.finished(made["cell_id"]) is None
    with pytest.raises(EvarError, match="is missing"):
        results.predictions(made["cell_id"])


def test_a_wrong_row_is_refused_before_anything_is_written(tmp_path):
    made = d.cell()
    for wrong in ({"extra": 1}, {"mean": "high"}, {"cell_id": "12"}, {"n_folds": 4}, {"n_train": 1.5}, {"partial": 2}):
        rows = [run | {k: v for k, v in wrong.items() if k in run} for run in d.runs(made)]
        with pytest.raises(EvarError):
            Results(tmp_path).record(made | wrong, rows, d.predictions(made))
    with pytest.raises(EvarError, match="wrong columns: encoder"):
        Results(tmp_path).record({k: v for k, v in made.items() if k != "encoder"}, d.runs(made), d.predictions(made))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    results = Results(tmp_path / "file" / "results")
    with pytest.raises(EvarError, match="a file stands where a folder is needed"):
        results.check_writable()
    with pytest.raises(EvarError, match="a file stands where a folder is needed"):
        d.record(tmp_path / "file" / "results")
    assert len(results.leaderboard()) == 0
    Results(tmp_path / "new").check_writable()
    assert list((tmp_path / "new").iterdir()) == []


def test_columns_are_those_of_the_schema(tmp_path):
    d.record(tmp_path)
    assert list(pd.read_csv(tmp_path / "runs.csv").columns) == RUN_COLUMNS == list(Results(tmp_path).runs().columns)
    assert list(pd.read_csv(tmp_path / "leaderboard.csv").columns) == LEADERBOARD_COLUMNS
    assert list(Results(tmp_path).leaderboard().columns) == LEADERBOARD_COLUMNS
    assert Results(tmp_path).leaderboard()["n_test"].tolist() == [2000]
