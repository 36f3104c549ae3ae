"""`evar report`, `evar plot`, `evar export` as typed: what they write, and one line for whatever cannot be."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))
import results_data as d

from evar.results import RUN_COLUMNS, Results


@pytest.fixture
def results(tmp_path):
    """Two encoders on one task, one of them at two layers, with predictions."""
    for number, encoder, layer in ((1, "a", "block1"), (2, "a", "block2"), (3, "b", "out")):
        d.record(tmp_path / "results", number, encoder=encoder, layers=layer, norm="none")
    return tmp_path / "results"


def edit(results, change):
    with open(results / "runs.csv", newline="") as stream:
        rows = change(list(csv.reader(stream)))
    with open(results / "runs.csv", "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def with_value(column, value, line=2):
    at = RUN_COLUMNS.index(column)
    return lambda rows: [
        [value if (n, i) == (line, at) else field for i, field in enumerate(row)] for n, row in enumerate(rows, 1)
    ]


def test_nothing_measured(evar, tmp_path):
    ran = evar("report")
    assert ran.code == 0
    assert "nothing measured yet in results: the page says what to run" in ran.err
    assert "evar run logmel,random:byola-v2 esc50 --mini" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "results").exists()
    assert "nothing measured yet" in evar("plot", "heatmap").one_line_error()
    assert "nothing measured yet" in evar("export", "-o", "x.csv").one_line_error()


def test_report_is_one_file(evar, results, tmp_path):
    ran = evar("report", "-o", "deep/page.html", "--title", "<b>Ours</b>")
    assert ran.code == 0
    assert "deep/page.html: 3 cells" in ran.out
    text = (tmp_path / "deep/page.html").read_text()
    assert "&lt;b&gt;Ours&lt;/b&gt;" in text
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["page.html"]


FIGURES = {
    "heatmap": (),
    "layers": ("a",),
    "confusion": ("b", "esc50"),
    "classes": ("a", "b", "esc50", "--layers", "block1"),
    "cost": ("esc50",),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_every_figure_of_stored_rows(evar, results, tmp_path, kind):
    ran = evar("plot", kind, *FIGURES[kind])
    assert ran.code == 0, ran.err
    assert (tmp_path / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    assert evar("plot", kind, *FIGURES[kind], "--format", "svg", "-o", "figure").code == 0
    assert (tmp_path / "figure").read_bytes().startswith(b"<?xml")


def test_training_curves(evar, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
    assert evar("plot", "training", "run", "-o", "t.pdf").code == 0
    assert (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")
    assert evar("report", "--training", "run").code == 0
    assert '"name":"run"' in (tmp_path / "report.html").read_text()
    assert "log.csv is not there" in evar("report", "--training", "other").one_line_error()
    assert "log.csv is not there" in evar("plot", "training", "other").one_line_error()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("plot", "confusion", "a", "esc50"),
            "2 rows for a on esc50, which differ in layers: block1, block2: choose with",
        ),
        (("plot", "confusion", "c", "esc50"), "unknown encoder 'c'"),
        (("plot", "confusion", "b", "esc5"), "unknown task 'esc5'; did you mean 'esc50'?"),
        (("plot", "classes", "b", "c", "esc50"), "unknown encoder 'c'"),
        (("plot", "classes", "b", "b", "esc50"), "needs two encoders"),
        (("plot", "layers", "b"), "measured at one layer only"),
        (("plot", "cost", "esc5"), "did you mean 'esc50'"),
        (("plot", "cost", "esc50", "--against", "dim"), "nothing is known about numbers per embedding"),
        (("plot", "tsne", "b", "esc50"), "the embeddings of b on esc50 (out, mean+max) are not in embeddings"),
        (("plot", "tsne", "b", "esc50", "--fold", "x"), "--fold"),
        (("plot", "heatmap", "-o", "x.jpg"), "unknown format 'jpg'"),
        (("plot", "heatmap", "--synthetic"), "all rows are real: leave out --synthetic"),
        (("plot", "heatmap", "--results", "results/runs.csv"), "is not a folder"),
        (("plot", "tnse"), "tnse"),
        (("report", "--results", "results/runs.csv"), "--results results/runs.csv is not a folder"),
        (("report", "-o", "results"), "cannot write results: a folder stands where a file is needed"),
        (("report", "-o", "x.png"), "unknown format 'png'"),
        (("report", "--probe", "fiar"), "no row of results matches protocol fiar"),
        (("plot", "heatmap", "--task", "none"), "no row of results matches task none"),
        (("export",), "say where to"),
        (("export", "-o", "x.xls"), "unknown format 'xls'"),
        (("export", "-o", "x.csv", "--results", "results/runs.csv"), "is not a folder"),
        (("export", "--to", "tensorboard"), "expected tensorboard:DIR"),
    ],
)
def test_mistakes_are_one_line(evar, results, words, expected):
    assert expected in evar(*words).one_line_error()


@pytest.mark.parametrize("place", ["/proc/x.html", "", ".", "/", ".."])
def test_a_place_that_takes_no_file_is_one_line(evar, results, place):
    assert "cannot write" in evar("report", "-o", place).one_line_error()


def test_two_encoders_of_other_poolings_are_told_apart_by_class(evar, results):
    d.record(results, 4, encoder="a", layers="block1", norm="none", pooling="mean")
    words = ("plot", "classes", "a", "b", "esc50", "--layers", "block1", "--pooling")
    assert evar(*words, "mean").code == 0  # b has no such pooling: it has one row, which needs no choice


def test_probe_and_protocol_are_one_option(evar, results):
    assert evar("plot", "heatmap", "--protocol", "fair").code == 0
    assert "fiar" in evar("report", "--protocol", "fiar").one_line_error()
    assert "fiar" in evar("compare", "a", "b", "--no-run", "--probe", "fiar").one_line_error()
    assert "fiar" in evar("table", "fusion", "--probe", "fiar").one_line_error()


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="umap-learn is installed")
def test_umap_is_asked_for_by_name(evar, results):
    assert evar("report", "--umap").code == 0  # no embeddings at hand: nothing to project


HOSTILE = {
    "a column is missing": (
        lambda rows: [row[:5] + row[6:] for row in rows],
        "line 1: the header lacks weights_sha256",
    ),
    "another schema": (with_value("schema", "3"), "line 2: schema '3', this evar knows 1 and 2"),
    "text for a score": (with_value("score", "high"), "line 2: score is 'high', expected a number"),
    "a short row": (lambda rows: [*rows[:2], rows[2][:9], *rows[3:]], "line 3: 9 fields, expected 55"),
}


@pytest.mark.parametrize("how", HOSTILE)
@pytest.mark.parametrize(
    "words", [("report",), ("plot", "heatmap"), ("export", "-o", "x.csv"), ("export", "-o", "x.csv", "--runs")]
)
def test_hostile_rows_are_one_line_and_stay(evar, results, tmp_path, how, words):
    change, message = HOSTILE[how]
    edit(results, change)
    before = (results / "runs.csv").read_bytes()
    assert message in evar(*words).one_line_error()
    assert (results / "runs.csv").read_bytes() == before
    assert not list(tmp_path.glob("*.html")) + list(tmp_path.glob("x.*"))


HARMLESS = {
    "duplicate rows": lambda rows: rows + rows[1:],
    "NaN": with_value("macro_f1", "nan"),
    "an extra column": lambda rows: [[*row, "note"] for row in rows],
    "columns in another order": lambda rows: [row[::-1] for row in rows],
}


@pytest.mark.parametrize("how", HARMLESS)
def test_harmless_rows_are_read(evar, results, how):
    edit(results, HARMLESS[how])
    assert "3 cells" in evar("report").out
    assert evar("plot", "heatmap").code == 0
    assert "3 rows, 49 columns" in evar("export", "-o", "x.parquet").out
    assert len(Results(results).leaderboard()) == 3


def test_parameters_are_counted_for_encoders_that_evar_can_build(evar, tmp_path):
    d.record(tmp_path / "results", 1, encoder="random:byola-v1-512")
    d.record(tmp_path / "results", 2, encoder="somebody's")
    assert evar("report", "--parameters").code == 0
    text = (tmp_path / "report.html").read_text()
    assert text.count('"params":null') == 1
    from evar.encoders.registry import load_encoder

    count = sum(part.numel() for part in load_encoder("random:byola-v1-512").parameters())
    assert f'"params":{count}' in text
