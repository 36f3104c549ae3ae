"""A disk that flips a bit leaves size and time stamp alone: no table shows the number that it made."""

from __future__ import annotations

import os

import pytest
import results_data as d

from evar.errors import EvarError
from evar.results import Results, merge


def rot(path, old: bytes, new: bytes):
    """Change bytes of a file as a disk does it."""
    before, data = path.stat(), path.read_bytes()
    assert old in data
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new, 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        d.record(tmp_path, number)
    return tmp_path


def test_a_rotten_leaderboard_is_made_anew(folder):
    expected = (folder / "leaderboard.csv").read_bytes()
    rot(folder / "leaderboard.csv", b"0.1033", b"0.9033")
    assert max(Results(folder).leaderboard()["mean"]) < 0.2
    assert (folder / "leaderboard.csv").read_bytes() == expected
    before = (folder / "leaderboard.csv").stat()  # cut at the end of a row: what is left looks whole
    rows = expected.splitlines(keepends=True)
    (folder / "leaderboard.csv").write_bytes(b"".join(rows[:-1]))
    os.utime(folder / "leaderboard.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(Results(folder).leaderboard()) == 3


def test_rotten_rows_are_one_line_and_never_shown(folder):
    rot(folder / "runs.csv", b"0.1033", b"0.9033")
    assert max(Results(folder).leaderboard()["mean"]) < 0.2  # leaderboard.csv is whole
    for use in (lambda: Results(folder).runs(), lambda: merge([folder], folder.parent / "other")):
        with pytest.raises(EvarError, match=r"runs.csv is damaged: its bytes changed"):
            use()
    d.record(folder, 4)  # and what comes after does not hide it
    (folder / "leaderboard.csv").unlink()
    with pytest.raises(EvarError, match=r"runs.csv is damaged"):
        Results(folder).leaderboard()


def test_an_edit_is_no_damage(folder):
    path = folder / "runs.csv"
    path.write_bytes(path.read_bytes().replace(b"here", b"home"))
    assert set(Results(folder).leaderboard()["host"]) == {"home"}
    d.record(folder, 5)
    assert len(Results(folder).runs()) == 4 * d.FOLDS


@pytest.mark.parametrize("harm", [b"", b"{}", b"\xff\x00", None])
def test_a_seal_that_is_damaged_or_gone_seals_nothing(folder, harm):
    (folder / ".seal").unlink()
    if harm is not None:
        (folder / ".seal").write_bytes(harm)
    assert len(Results(folder).runs()) == 3 * d.FOLDS
    d.record(folder, 4)
    rot(folder / "runs.csv", b"0.1033", b"0.9033")
    with pytest.raises(EvarError, match="damaged"):
        Results(folder).runs()


def test_the_seal_of_a_file_that_grew_is_that_of_the_whole_file(folder):
    grown = (folder / ".seal").read_bytes()
    os.utime(folder / "leaderboard.csv", (0, 0))
    (folder / ".seal").unlink()
    Results(folder).leaderboard()  # made anew from the whole file
    assert (folder / ".seal").read_bytes() == grown


def test_every_flipped_bit_of_predictions_is_found_or_harmless(folder):
    made = d.cell(0)
    path = folder / "predictions" / f"{made['cell_id']}.parquet"
    whole, expected = path.read_bytes(), Results(folder).predictions(made["cell_id"])
    found = 0
    for where in range(0, len(whole), 7):
        path.write_bytes(whole[:where] + bytes([whole[where] ^ (1 << where % 8)]) + whole[where + 1 :])
        try:
            read = Results(folder).predictions(made["cell_id"])
        except EvarError:
            found += 1
        else:
            assert read.equals(expected)
    assert found > 100


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_torn_predictions_are_measured_again(folder, kept):
    cell = d.cell(1)["cell_id"]
    path = folder / "predictions" / f"{cell}.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    assert Results(folder).finished(cell) is None
    rows = (folder / "runs.csv").read_bytes()
    d.record(folder, 1, start=9)
    assert Results(folder).finished(cell) is not None
    assert (folder / "runs.csv").read_bytes() == rows  # the same numbers: no row twice


def test_the_last_recording_ranks_though_the_clock_went_back(folder):
    """Its predictions were kept already, and the row of the earlier one stayed on the leaderboard."""
    cell = d.cell(1, std=0.5)["cell_id"]
    d.record(folder, 1, start=30, cell_id=cell, std=0.5)
    d.record(folder, 1, start=10, cell_id=cell, std=0.25)
    (folder / "leaderboard.csv").unlink()
    for results in (Results(folder), Results(folder)):
        row = results.finished(cell)
        assert (row["std"], row["started_at"]) == (0.25, "2026-01-01T00:00:30.000001+00:00")
