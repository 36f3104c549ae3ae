"""A runs.csv of before schema 2 is read as it is, takes new rows, and merges with new files."""

from __future__ import annotations

import csv

import pytest
import results_data as d

from evar.leaderboard import rank
from evar.results import Results, merge
from evar.results_files import LEADERBOARD_COLUMNS, RUN_COLUMNS, SINCE_2


def aged(folder, number=0, **changed):
    """A folder with one cell of schema 1, as an earlier evar wrote it."""
    made = d.record(folder, number, **changed)
    with open(folder / "runs.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with open(folder / "runs.csv", "w", newline="") as stream:
        columns = [column for column in RUN_COLUMNS if column not in SINCE_2]
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "schema": "1"} for row in rows)
    (folder / "leaderboard.csv").unlink()
    return made


def test_it_is_read_ranked_and_not_touched(tmp_path):
    made = aged(tmp_path)
    before = (tmp_path / "runs.csv").read_bytes()
    rows = rank(Results(tmp_path).leaderboard())
    assert rows[["schema", "cell_id", "clips_fingerprint", "rank"]].values.tolist() == [[1, made["cell_id"], "", 1]]
    assert rows["norm_mean"].isna().all()
    assert len(Results(tmp_path).runs()) == d.FOLDS
    assert (tmp_path / "runs.csv").read_bytes() == before


def test_new_rows_join_old_ones(tmp_path):
    old = aged(tmp_path)
    new = d.record(tmp_path, 1, start=1)
    with open(tmp_path / "runs.csv", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == RUN_COLUMNS
    assert [row[0] for row in rows] == ["1"] * d.FOLDS + ["2"] * d.FOLDS
    board = Results(tmp_path).leaderboard().set_index("cell_id")
    assert board.loc[old["cell_id"], "clips_fingerprint"] == ""
    assert board.loc[new["cell_id"], "clips_fingerprint"] == new["clips_fingerprint"]
    assert rank(Results(tmp_path).leaderboard())["rank"].tolist() == [1, 2], "they compete as they did"


def test_a_torn_first_write_of_an_earlier_evar_is_no_error(tmp_path):
    (tmp_path / "runs.csv").write_text(",".join(column for column in RUN_COLUMNS if column not in SINCE_2)[:300])
    assert len(Results(tmp_path).leaderboard()) == 0
    d.record(tmp_path)
    assert len(Results(tmp_path).leaderboard()) == 1


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_merging_old_and_new_loses_nothing(tmp_path, order):
    old, new = aged(tmp_path / "a"), d.record(tmp_path / "b", 1, start=1)
    merge([tmp_path / name for name in order], tmp_path / "both")
    rows = Results(tmp_path / "both").leaderboard().set_index("cell_id")
    assert rows["schema"].to_dict() == {old["cell_id"]: 1, new["cell_id"]: 2}
    assert rows.loc[new["cell_id"], "norm_std"] == new["norm_std"]
    assert len(Results(tmp_path / "both").predictions(old["cell_id"])) == 2


def test_an_unfinished_append_of_an_earlier_evar_is_cut_off(tmp_path):
    aged(tmp_path)
    with open(tmp_path / "runs.csv", "ab") as stream:
        stream.write(b"1,0123456789abcdef,half")
    d.record(tmp_path, 1, start=1)
    assert len(Results(tmp_path).leaderboard()) == 2
    assert b"half" in (tmp_path / "runs.csv.torn").read_bytes()


def test_the_columns_since_are_in_both_tables():
    assert set(SINCE_2) <= set(LEADERBOARD_COLUMNS) & set(RUN_COLUMNS)
