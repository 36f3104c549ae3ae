"""The page says what the results say: nothing invented, nothing mixed, nothing that a name could run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))
import results_data as d

from evar.errors import EvarError
from evar.files import digest
from evar.reporting import report_rows
from evar.reporting.report import Options, embedded, write_report
from evar.reporting.report_confusion import Confusion, confusion, pack, together
from evar.reporting.report_rows import choose, command_of, select
from evar.results import Results
from evar.results_files import RUN_COLUMNS, as_text, csv_bytes

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<!--data--><!--script-->",
    "\"'><img src=x onerror='window.hacked=1'>",
    "名前-émile-🎧-\u202eabc",
    "x" * 200,
    "a,b;c|d\\u003c $y_{2}$ %s {0}",
]


def predictions(seed: int, clips: int = 60, classes: int = 5, accuracy: float = 0.7) -> pd.DataFrame:
    """Predictions of generated clips: `accuracy` of them right, the rest anything."""
    rng = np.random.default_rng(seed)
    names = np.array([f"class {i}" for i in range(classes)], dtype=object)
    target = np.arange(clips) % classes
    predicted = np.where(rng.random(clips) < accuracy, target, rng.integers(0, classes, clips))
    return pd.DataFrame(
        {
            "clip_id": [f"clip{i:05d}" for i in range(clips)],
            "group": [f"g{i % 7}" for i in range(clips)],
            "fold": np.arange(clips) % d.FOLDS + 1,
            "seed": 0,
            "target": names[target],
            "predicted": names[predicted],
            "score_true": rng.random(clips).astype(np.float32),
        }
    )


def record(folder: Path, number: int = 0, **changed) -> dict:
    made = d.cell(number, **changed)
    Results(folder).record(made, d.runs(made), predictions(number))
    return made


def grid(folder: Path, encoders: int, tasks: int, clips: int, classes: int) -> None:
    """All cells at once: `record` would rewrite the leaderboard for each."""
    rows = [RUN_COLUMNS]
    (folder / "predictions").mkdir(parents=True)
    for e in range(encoders):
        for t in range(tasks):
            name = {"encoder": f"encoder{e:02d}@weights", "task": f"task{t:02d}", "task_fingerprint": f"{t:064x}"}
            accuracy = 0.3 + 0.6 * e / encoders
            made = d.cell(e, cell_id=digest({"e": e, "t": t})[:16], **name, mean=accuracy)
            for run in d.runs(made):
                row = {"schema": 2, **made, **run, "run_macro_f1": run["macro_f1"], "macro_f1": made["macro_f1"]}
                rows.append([as_text(row[column]) for column in RUN_COLUMNS])
            kept = predictions(e * tasks + t, clips, classes, accuracy)
            kept.to_parquet(folder / "predictions" / f"{made['cell_id']}.parquet", index=False)
    (folder / "runs.csv").write_bytes(csv_bytes(rows))


def page(tmp_path: Path, **options) -> tuple[str, dict, list[str]]:
    """The page as text, its data, and what was warned about."""
    told: list[str] = []
    folders = {"results": str(tmp_path / "results"), "embeddings": str(tmp_path / "embeddings")}
    write_report(tmp_path / "r.html", Options(**(folders | options)), told.append)
    text = (tmp_path / "r.html").read_text("utf-8")
    return text, json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]), told


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


def test_nothing_measured_says_what_to_run(tmp_path):
    text, data, _ = page(tmp_path)
    assert data["rows"] == data["boards"] == []
    assert "evar run" in data["example"]
    assert "Nothing measured yet" in text
    assert not (tmp_path / "results").exists()


def test_the_page_holds_the_numbers_of_the_leaderboard(tmp_path, folder):
    for number in range(4):
        record(folder, number)
    _, data, told = page(tmp_path)
    expected = Results(folder).leaderboard().set_index("cell_id")
    assert len(data["rows"]) == 4
    assert not told
    for row in data["rows"]:
        shown = dict(zip(data["columns"], row["v"], strict=True))
        truth = expected.loc[shown["cell_id"]]
        for name in ("encoder", "task", "mean", "ci95_low", "weights_sha256", "task_fingerprint", "torch_version"):
            assert shown[name] == truth[name]
        assert shown["limit"] is None
        assert [run[2] for run in row["runs"]] == [truth["mean"] + fold / 1000 for fold in range(1, d.FOLDS + 1)]
    assert [row["rank"] for row in data["rows"]] == [1, 2, 3, 4]


def test_one_row(tmp_path, folder):
    record(folder)
    _, data, _ = page(tmp_path)
    assert len(data["rows"]) == len(data["boards"]) == len(data["boards"][0]["lines"]) == 1


def test_equal_results_give_equal_pages(tmp_path, folder):
    record(folder, 1)
    record(folder, 2)
    assert page(tmp_path)[0] == page(tmp_path)[0]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_text(tmp_path, folder, name):
    record(folder, 1, encoder=name, task=name, weights=name, host=name, layers=name)
    text, data, _ = page(tmp_path, title=name)
    assert text.count("<script") == 2 == text.count("</script>")
    assert text.count("<img") == 0
    assert data["title"] == name
    assert data["boards"][0]["lines"][0]["encoder"] == name
    assert data["boards"][0]["columns"][0]["task"] == name


def test_lone_surrogates_and_separators_do_not_break_the_page():
    text = embedded({"a": "\u2028</ScRipt>&"})
    assert json.loads(text) == {"a": "\u2028</ScRipt>&"}
    assert not set(text) & set("<>&\u2028")


def test_the_page_asks_for_nothing_from_the_network(tmp_path, folder):
    record(folder)
    text, _, _ = page(tmp_path)
    outside = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", outside)
    assert "@import" not in outside
    assert not re.search(r"url\(", outside)
    assert "default-src 'none'" in outside


def test_what_does_not_compare_stands_apart(tmp_path, folder):
    base = {"encoder": "one", "mean": 0.5}
    for at, changed in enumerate(
        [
            {},
            {"synthetic": True},
            {"protocol": "paper"},
            {"protocol_version": 2},
            {"partial": True},
            {"limit": 40},
            {"shots": 5},
            {"train_fraction": 0.1},
            {"duration": "native"},
            {"task_fingerprint": "ffff"},
            {"task_version": 2, "task_fingerprint": "eeee"},
        ]
    ):
        record(folder, at, **base, **changed)
    _, data, _ = page(tmp_path)
    assert all(row["rank"] == 1 for row in data["rows"])
    assert [(b["protocol"], b["version"], b["synthetic"]) for b in data["boards"]] == [
        ("fair", 1, False),
        ("fair", 2, False),
        ("paper", 1, False),
        ("fair", 1, True),
    ]
    notes = sorted(column["note"] for column in data["boards"][0]["columns"])
    assert len(set(notes)) == len(notes) == 8
    assert {"partial", "40 clips", "5 shots", "10% of train", "native length", "version 2"} <= set(notes)


def test_configurations_of_one_encoder_are_lines_of_their_own(folder):
    for task in ("a", "b"):
        for layer in ("block1", "block10", "block2"):
            if (task, layer) != ("b", "block2"):
                record(folder, 1, task=task, task_fingerprint=task, layers=layer)
    record(folder, 2, task="a", task_fingerprint="a", layers="block1")
    rows = select(Results(folder))
    lines = {(row.encoder, row.variant): set(rows[rows["line"] == row.line]["task"]) for row in rows.itertuples()}
    assert lines == {
        ("encoder001", "block1"): {"a", "b"},
        ("encoder001", "block2"): {"a"},
        ("encoder001", "block10"): {"a", "b"},
        ("encoder002", ""): {"a"},
    }
    assert not rows.duplicated(["line", "column"]).any()
    assert report_rows.natural(["block10", "block2", "fc"]) == ["block2", "block10", "fc"]


def test_a_missing_score_is_no_number(tmp_path, folder):
    record(folder, 1, mean=float("nan"), ci95_low=None, ci95_high=None)
    record(folder, 2)
    _, data, _ = page(tmp_path)
    scores = {
        row["v"][data["columns"].index("encoder")]: (row["rank"], row["v"][data["columns"].index("mean")])
        for row in data["rows"]
    }
    assert scores["encoder001"] == (None, None)
    assert scores["encoder002"][0] == 1


def test_predictions_that_are_gone_or_damaged_are_told(tmp_path, folder):
    kept, gone, damaged = (record(folder, number) for number in range(3))
    (folder / "predictions" / f"{gone['cell_id']}.parquet").unlink()
    (folder / "predictions" / f"{damaged['cell_id']}.parquet").write_bytes(b"nonsense")
    _, data, told = page(tmp_path)
    assert len(data["rows"]) == 3
    (column,) = data["confusion"].values()
    assert len(column["cells"]) == 1
    assert len(told) == 2
    assert "no predictions" in told[0]
    assert "damaged" in told[1]
    assert kept["cell_id"] not in "".join(told)


def unpack(text: str, c: int) -> np.ndarray:
    table, place = np.zeros(c * (c + 1), dtype=int), 0
    for part in filter(None, text.split(",")):
        gap, _, count = part.partition(":")
        place += int(gap, 36)
        table[place] = int(count or "1", 36)
    return table.reshape(c, c + 1)


def test_confusion_counts_every_prediction_once():
    kept = predictions(3, 200, 12)
    one = confusion(kept)
    assert one.classes == tuple(f"class {i}" for i in range(12))
    for target, predicted, count in kept.groupby(["target", "predicted"]).size().reset_index().itertuples(index=False):
        assert one.counts[one.classes.index(target), one.classes.index(predicted)] == count
    assert one.recall()[0] == (kept[kept["target"] == "class 0"]["predicted"] == "class 0").mean()
    whole = unpack(pack(one, 10_000), 12)
    assert (whole[:, :12] == one.counts).all()
    cut = unpack(pack(one, 30), 12)
    assert (cut.sum(axis=1) == one.n).all()
    assert (np.diag(cut) == np.diag(one.counts)).all()
    assert cut[:, 12].sum() > 0


def test_classes_of_several_encoders_are_aligned_by_name():
    a = Confusion(("x", "z"), np.array([[1, 2], [3, 4]]))
    b = Confusion(("y", "z"), np.array([[5, 6], [7, 8]]))
    classes, both = together({0: a, 1: b})
    assert classes == ("x", "y", "z")
    assert both[0].counts.tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 4]]
    assert both[1].counts.tolist() == [[0, 0, 0], [0, 5, 6], [0, 7, 8]]
    assert np.isnan(both[1].recall()[0])


def test_multi_label_has_no_confusion():
    assert confusion(pd.DataFrame({"targets": [["a"]], "scores": [[0.5]]})) is None
    with pytest.raises(EvarError, match="here: no columns target"):
        confusion(pd.DataFrame({"clip_id": ["a"]}), "here")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "evar run encoder000 esc50 --probe fair --layers out --pooling mean+max --norm task"),
        ({"norm": "none", "duration": "native"}, "--pooling mean+max --duration native"),
        ({"weights": "a b.pth", "encoder": "byola-v2@a b"}, "evar run 'byola-v2@a b.pth' esc50"),
        ({"weights": "w.pth", "encoder": "mine"}, "evar run mine=NAME@w.pth esc50"),
        ({"seeds": "42 43", "shots": 5, "synthetic": True}, "--seeds 42,43 --shots 5 --mini"),
        ({"task": "it's; rm -rf", "skipped": 2, "partial": True}, "'it'\"'\"'s; rm -rf' --probe"),
    ],
)
def test_the_command_makes_the_same_row(changed, expected):
    assert expected in command_of(pd.Series(d.cell(0, **changed)))


def test_choosing_a_row_is_never_a_guess(folder):
    record(folder, 1, layers="a")
    record(folder, 1, layers="b")
    record(folder, 1, layers="a", synthetic=True)
    record(folder, 1, layers="a", protocol="knn")
    rows = select(Results(folder))
    assert not choose(rows, "encoder001", "esc50", layers="a")["synthetic"]
    assert choose(rows, "encoder001", "esc50", protocol="knn")["protocol"] == "knn"
    with pytest.raises(EvarError, match="differ in layers: a, b"):
        choose(rows, "encoder001", "esc50")
    with pytest.raises(EvarError, match="did you mean 'encoder001'"):
        choose(rows, "encoder01", "esc50")
    with pytest.raises(EvarError, match="unknown layers 'c'"):
        choose(rows, "encoder001", "esc50", layers="c")


def test_a_page_has_an_end(folder, monkeypatch):
    record(folder, 1)
    record(folder, 2)
    monkeypatch.setattr(report_rows, "MOST_CELLS", 1)
    with pytest.raises(EvarError, match="holds 2 cells, a page shows 1 at most: choose some with --task"):
        select(Results(folder))
    assert len(select(Results(folder), encoders="*001")) == 1


def test_a_writer_at_work_disturbs_nothing(tmp_path, folder):
    folder.mkdir()
    writer = d.spawn(folder, 0, 40)
    seen = []
    writer.stdout.readline()
    while writer.poll() is None:
        seen.append(len(page(tmp_path)[1]["rows"]))
    assert writer.wait() == 0
    assert len(page(tmp_path)[1]["rows"]) == 40
    assert seen == sorted(seen)
    assert len(Results(folder).runs()) == 40 * d.FOLDS


def test_forty_encoders_on_twenty_tasks_stay_small(tmp_path, folder):
    grid(folder, 40, 20, clips=300, classes=50)
    text, data, told = page(tmp_path)
    assert len(data["rows"]) == 800
    assert sum(len(column["cells"]) for column in data["confusion"].values()) == 800
    assert len(text.encode()) < 8e6
    assert not told
