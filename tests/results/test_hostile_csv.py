"""A runs.csv that people and spreadsheets have touched: read as it was meant, or one line that names path and line."""

from __future__ import annotations

import csv

import pytest
import results_data as d
from hypothesis import given, settings
from hypothesis import strategies as st

from evar.errors import EvarError
from evar.results import RUN_COLUMNS, Results


@pytest.fixture
def folder(tmp_path):
    d.record(tmp_path, 1)
    d.record(tmp_path, 2)
    return tmp_path


def edit(folder, change):
    path = folder / "runs.csv"
    with open(path, newline="") as stream:
        rows = change(list(csv.reader(stream)))
    with open(path, "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def rewrite(folder, change):
    path = folder / "runs.csv"
    path.write_bytes(change(path.read_bytes()))


AT = RUN_COLUMNS.index


def with_value(line, column, value):
    return lambda rows: [
        [value if (n, i) == (line, AT(column)) else field for i, field in enumerate(row)]
        for n, row in enumerate(rows, 1)
    ]


def open_quote(data, line):
    lines = data.splitlines(keepends=True)
    lines[line] = lines[line].replace(b",fold1", b',"fold1')
    return b"".join(lines)


HARMLESS = {
    "a byte order mark": lambda folder: rewrite(folder, lambda data: b"\xef\xbb\xbf" + data),
    "CRLF": lambda folder: rewrite(folder, lambda data: data.replace(b"\n", b"\r\n")),
    "all quoted": lambda folder: rewrite(
        folder,
        lambda data: b"\n".join(b'"' + line.replace(b",", b'","') + b'"' for line in data.split(b"\n")[:-1]) + b"\n",
    ),
    "blank lines": lambda folder: rewrite(folder, lambda data: data.replace(b"\n1,", b"\n\n1,") + b"\n\n"),
    "an extra column": lambda folder: edit(
        folder, lambda rows: [[*row, "note" if n == 0 else "mine, too"] for n, row in enumerate(rows)]
    ),
    "an extra column first": lambda folder: edit(
        folder, lambda rows: [["note" if n == 0 else "7", *row] for n, row in enumerate(rows)]
    ),
    "columns in another order": lambda folder: edit(folder, lambda rows: [row[::-1] for row in rows]),
    "rows in another order": lambda folder: edit(folder, lambda rows: rows[:1] + rows[:0:-1]),
    "duplicate rows": lambda folder: edit(folder, lambda rows: rows + rows[1:]),
    "numbers of a spreadsheet": lambda folder: edit(folder, with_value(3, "n_train", "1600.0")),
    "truth of a spreadsheet": lambda folder: edit(folder, with_value(3, "partial", "FALSE")),
}


@pytest.mark.parametrize("how", HARMLESS)
def test_harmless_changes_are_read_and_kept(folder, how):
    expected = d.canonical(folder)
    HARMLESS[how](folder)
    before = (folder / "runs.csv").read_bytes()
    assert d.canonical(folder) == expected
    d.record(folder, 3)
    assert (folder / "runs.csv").read_bytes().startswith(before.rstrip())
    assert sorted(Results(folder).leaderboard()["encoder"]) == ["encoder001", "encoder002", "encoder003"]
    assert sorted(set(Results(folder).runs()["encoder"])) == ["encoder001", "encoder002", "encoder003"]
    if "extra" in how:
        assert "note" in (folder / "runs.csv").read_text().splitlines()[0]


HOSTILE = {
    "a column is missing": (lambda f: edit(f, lambda rows: [row[:5] + row[6:] for row in rows]), "line 1: .*lacks weights_sha256"),
    "a column twice": (lambda f: edit(f, lambda rows: [[*row, row[0]] for row in rows]), "line 1: .*twice"),
    "another file": (lambda f: rewrite(f, lambda _: b"hello"), "line 1: .*no file of evar"),
    "another schema": (lambda f: edit(f, with_value(4, "schema", "3")), "line 4: schema '3'"),
    "a short row": (lambda f: edit(f, lambda rows: [*rows[:3], rows[3][:9], *rows[4:]]), "line 4: 9 fields, expected 55"),
    "a long row": (lambda f: edit(f, lambda rows: [*rows[:3], [*rows[3], "x"], *rows[4:]]), "line 4: 56 fields"),
    "a long last row": (lambda f: edit(f, lambda rows: [*rows[:-1], [*rows[-1], "x"]]), "line 11: 56 fields"),
    "a score that is text": (lambda f: edit(f, with_value(6, "score", "high")), "line 6: score is 'high', expected a number"),
    "half a clip": (lambda f: edit(f, with_value(2, "n_test", "0.5")), "line 2: n_test is '0.5', expected a whole"),
    "endless folds": (lambda f: edit(f, with_value(2, "n_folds", "inf")), "line 2: n_folds"),
    "no truth": (lambda f: edit(f, with_value(2, "synthetic", "maybe")), "line 2: synthetic is 'maybe'"),
    "a spreadsheet's id": (lambda f: edit(f, with_value(5, "cell_id", "1.23E+45")), "line 5: cell_id '1.23E\\+45'"),
    "not UTF-8": (lambda f: rewrite(f, lambda data: data.replace(b"fold1", b"f\xff\xfe", 1)), "line 2: not UTF-8"),
    "an open quote": (lambda f: rewrite(f, lambda data: data.replace(b",fold1", b',"fold1', 1)), "line 2: not CSV"),
    "an open quote near the end": (lambda f: rewrite(f, lambda data: open_quote(data, -3)), "line 9: not CSV"),
    "two open quotes": (lambda f: rewrite(f, lambda data: open_quote(open_quote(data, 3), 5)), "line 4: not CSV"),
    "zeros in the middle": (lambda f: rewrite(f, lambda data: data[:700] + bytes(200) + data[900:]), "line"),
}  # fmt: skip


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_files_are_one_line_and_stay_as_they_are(folder, how):
    change, message = HOSTILE[how]
    change(folder)
    before = (folder / "runs.csv").read_bytes()
    for act in (
        lambda: Results(folder).leaderboard(),
        lambda: Results(folder).runs(),
        lambda: Results(folder).check_writable(),
        lambda: d.record(folder, 3),
    ):
        with pytest.raises(EvarError, match=message) as error:
            act()
        assert str(folder / "runs.csv") in str(error.value)
        assert (folder / "runs.csv").read_bytes() == before
    assert not (folder / "runs.csv.torn").exists()


def test_nothing_there(tmp_path):
    for content in (None, b"", ",".join(RUN_COLUMNS).encode() + b"\n"):
        if content is not None:
            (tmp_path / "runs.csv").write_bytes(content)
        assert len(Results(tmp_path).leaderboard()) == len(Results(tmp_path).runs()) == 0
    d.record(tmp_path)
    assert len(Results(tmp_path).leaderboard()) == 1
    assert len(Results(tmp_path / "not there").leaderboard()) == 0
    assert not (tmp_path / "not there").exists()


def test_scores_that_are_missing(tmp_path):
    made = d.cell(1, mean=float("nan"), ci95_low=None, ci95_high=None)
    rows = [run | {"score": float("nan"), "converged": None} for run in d.runs(made)]
    Results(tmp_path).record(made, rows, d.predictions(made))
    row = Results(tmp_path).leaderboard().iloc[0]
    assert row["mean"] != row["mean"]
    assert Results(tmp_path).runs()["converged"].isna().all()
    rewrite(tmp_path, lambda data: data.replace(b",,,,", b",nan,nan,,", 1))


def test_ids_keep_their_zeros_and_types(tmp_path):
    d.record(tmp_path, 1, host="007", weights="1e5", layers="5", limit=40, seeds="42 43")
    for rows in (Results(tmp_path).leaderboard(), Results(tmp_path).runs()):
        row = rows.iloc[0]
        texts = ["encoder_fingerprint", "weights_sha256", "git_commit", "host", "weights", "layers", "duration"]
        assert [row[name] for name in texts] == ["00123e45", "0007", "0012ab", "007", "1e5", "5", "5"]
        assert rows["limit"].tolist() == [40] * len(rows)
        assert str(rows["limit"].dtype) == "Int64"
        assert rows["synthetic"].dtype == bool
        assert rows["shots"].isna().all()
        assert rows["macro_f1"].tolist() == [1 / 3] * len(rows)
    assert len(Results(tmp_path).leaderboard(task="esc50", limit=40)) == 1
    assert len(Results(tmp_path).leaderboard(limit=41)) == 0
    with pytest.raises(EvarError, match="did you mean 'encoder'"):
        Results(tmp_path).leaderboard(encodr="x")


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@settings(max_examples=15, deadline=None)
@given(encoder=words, setting=words, host=words, weights=words, mean=st.floats(0, 1), count=st.integers(0, 2**62))
def test_any_text_comes_back(tmp_path_factory, encoder, setting, host, weights, mean, count):
    folder = tmp_path_factory.mktemp("r")
    made = d.cell(1, encoder=encoder, host=host, weights=weights, mean=mean, skipped=count)
    Results(folder).record(
        made, [run | {"setting": setting, "n_train": count} for run in d.runs(made)], d.predictions(made)
    )
    d.record(folder, 2)
    runs = Results(folder).runs().iloc[: d.FOLDS]
    assert runs["setting"].tolist() == [setting] * d.FOLDS
    assert runs["n_train"].tolist() == [count] * d.FOLDS
    (folder / "leaderboard.csv").unlink()
    for _ in range(2):  # once from runs.csv, once from leaderboard.csv
        (row,) = Results(folder).leaderboard(cell_id=made["cell_id"]).to_dict("records")
        assert [row[k] for k in ("encoder", "host", "weights", "mean")] == [encoder, host, weights, mean]
        assert row["skipped"] == count


def test_many_rows(tmp_path):
    d.record(tmp_path, 0)
    header, *rows = (tmp_path / "runs.csv").read_text().splitlines(keepends=True)
    first = d.cell(0)["cell_id"]
    with open(tmp_path / "runs.csv", "w") as stream:
        stream.write(header)
        for number in range(20_000):
            stream.write(
                "".join(rows).replace(first, f"{number % 100:016x}").replace(":00:00.0", f":{number // 100:03d}:00.0")
            )
    results = Results(tmp_path)
    assert len(results.leaderboard()) == 100
    d.record(tmp_path, 1)
    assert len(Results(tmp_path).leaderboard()) == 101
