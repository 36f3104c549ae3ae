"""Results of several machines come together: every row and every prediction is kept, disagreement is said."""

from __future__ import annotations

import os

import pandas as pd
import pytest
import results_data as d

from evar.errors import EvarError
from evar.results import Results, merge


def rows(folder):
    return Results(folder).runs()[["cell_id", "fold", "seed", "started_at"]].apply(tuple, axis=1)


def test_two_folders(tmp_path):
    a, b, into = tmp_path / "a", tmp_path / "b", tmp_path / "into"
    for number in (1, 2, 3):
        d.record(a, number, number)
    for number in (3, 4):
        d.record(b, number, number + 20)
    both = set(rows(a)) | set(rows(b))
    report = merge([a, b], into)
    assert (report.rows, report.cells, report.added, report.conflicts) == (25, 4, 25, ())
    assert set(rows(into)) == both
    assert len(list((into / "predictions").glob("*.parquet"))) == 4
    assert Results(into).leaderboard(encoder="encoder003")["started_at"].tolist() == [d.cell(3, 23)["started_at"]]
    again = merge([b, a, into], into)
    assert again.added == 0
    assert "4 cells, 25 rows, 0 of them new" in str(again)
    other = tmp_path / "other"
    merge([b], other)
    merge([a], other)
    assert d.canonical(other) == d.canonical(into)
    assert (other / "leaderboard.csv").read_bytes() == (into / "leaderboard.csv").read_bytes()


def test_into_a_folder_that_has_rows(tmp_path):
    a, into = tmp_path / "a", tmp_path / "into"
    d.record(into, 1, 5)
    d.record(a, 2, 1)
    before = (into / "runs.csv").read_bytes()
    merge([a], into)
    assert (into / "runs.csv").read_bytes().startswith(before)
    assert len(Results(into).leaderboard()) == 2
    d.record(into, 3)
    assert len(Results(into).leaderboard()) == 3


def test_conflicts_are_said_and_the_newest_ranks(tmp_path):
    a, b, into = tmp_path / "a", tmp_path / "b", tmp_path / "into"
    shared = d.cell(1)["cell_id"]
    d.record(a, 1, 9, mean=0.5, cell_id=shared)
    d.record(b, 1, 3, mean=0.25, cell_id=shared)
    report = merge([a, b], into)
    assert report.conflicts == (shared,)
    assert shared in str(report)
    assert Results(into).leaderboard()["mean"].tolist() == [0.5]
    assert len(Results(into).runs()) == 10
    assert Results(into).predictions(shared)["score_true"].iloc[0] == 0.5
    into = tmp_path / "other way"
    merge([b], into)
    merge([a], into)
    assert Results(into).predictions(shared)["score_true"].iloc[0] == 0.5


def test_columns_of_their_own_come_along(tmp_path):
    a, into = tmp_path / "a", tmp_path / "into"
    d.record(a, 1)
    d.record(into, 2)
    lines = (a / "runs.csv").read_text().splitlines()
    (a / "runs.csv").write_text("".join(f"{line},{'note' if n == 0 else 'mine'}\n" for n, line in enumerate(lines)))
    merge([a], into)
    merged = pd.read_csv(into / "runs.csv", dtype=str, keep_default_na=False)
    assert sorted(merged["note"]) == [""] * 5 + ["mine"] * 5
    assert len(Results(into).leaderboard()) == 2


def test_a_killed_folder_gives_what_is_whole(tmp_path):
    a, into = tmp_path / "a", tmp_path / "into"
    d.record(a, 1)
    d.record(a, 2)
    torn = (a / "runs.csv").read_bytes()[:-30]
    (a / "runs.csv").write_bytes(torn)
    os.utime(a / "runs.csv", (1, 1))
    merge([a], into)
    assert list(Results(into).leaderboard()["encoder"]) == ["encoder001"]
    assert (a / "runs.csv").read_bytes() == torn


@pytest.mark.parametrize("what", ["missing", "schema", "damaged"])
def test_a_bad_source_changes_nothing(tmp_path, what):
    good, bad, into = tmp_path / "good", tmp_path / "bad", tmp_path / "into"
    d.record(good, 1)
    d.record(into, 2)
    before = {path: path.read_bytes() for path in into.rglob("*") if path.is_file()}
    if what != "missing":
        d.record(bad, 3)
        text = (bad / "runs.csv").read_text()
        (bad / "runs.csv").write_text(
            text.replace("\n2,", "\n3,") if what == "schema" else text.replace("accuracy,1", "a,b")
        )
    with pytest.raises(EvarError, match=str(bad)):
        merge([good, bad], into)
    assert {path: path.read_bytes() for path in into.rglob("*") if path.is_file()} == before
