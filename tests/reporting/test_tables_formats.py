"""Every format of a table can be read where it goes: hostile names, LaTeX that compiles, Markdown that renders."""

from __future__ import annotations

import csv
import html.parser
import io
import re
import shutil
import subprocess

import pytest
from table_data import NINE, PUBLISHED, drawn, record, record_whole, table_of

from evar.errors import EvarError
from evar.probes import get_protocol
from evar.reporting.published import figures, own_tables
from evar.reporting.rows import measured
from evar.reporting.tables import build
from evar.results import Results

HOSTILE = [
    "</td><script>alert(1)</script>",
    "a_b#c%d&e$f{g}h~i^j\\k|l\"m'n`o<p>q",
    "é ü ñ Å 音 😀 ±×−",
    "**bold** | [x](y)",
]


@pytest.fixture
def whole(tmp_path):
    return record_whole(tmp_path / "results")


@pytest.fixture
def hostile(tmp_path):
    """A table of the user's own whose model names hold every special sign, with measured rows of such labels."""
    own = tmp_path / "own.csv"
    with open(own, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["table", "model", "task", "mean", "std"])
        writer.writerows(["own", name, task, 50.0, 0.5] for name in HOSTILE for task in ("esc50", "us8k"))
    for i, name in enumerate(HOSTILE):
        record(tmp_path / "results", encoder=f"{name}\n\x1b[31m", start=i)
    found = figures(own)
    paper = own_tables(found)["own"]
    rows = measured(Results(tmp_path / "results"), protocol=get_protocol("paper"), tasks=paper.tasks)
    return build(paper, found, rows, get_protocol("paper"))


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_escaped(hostile):
    page = Page()
    page.feed(drawn(hostile, "html"))
    assert "script" not in page.tags
    assert any(HOSTILE[0] in text for text in page.text)
    assert page.tags.count("tr") == 1 + 8


def test_terminal_and_markdown_stay_in_their_lines(hostile):
    for form in ("text", "markdown"):
        assert "\x1b" not in drawn(hostile, form)
    lines = [line for line in drawn(hostile, "markdown").splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 8
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<script>" not in drawn(hostile, "markdown")


def test_markdown_renders_as_one_table(hostile, whole):
    markdown_it = pytest.importorskip("markdown_it")
    render = markdown_it.MarkdownIt("commonmark").enable("table").render
    page = Page()
    page.feed(render(drawn(hostile, "markdown")))
    assert page.tags.count("table") == 1
    assert page.tags.count("tr") == 1 + 8
    assert "script" not in page.tags
    assert "a" not in page.tags
    assert all(any(name in text for text in page.text) for name in HOSTILE)
    page = Page()
    page.feed(render(drawn(table_of(whole), "markdown")))
    assert page.tags.count("td") == (34 + 2 + len(HOSTILE)) * 11


def test_csv_is_tidy_and_exact(whole):
    rows = list(csv.DictReader(io.StringIO(drawn(table_of(whole), "csv"))))
    mine = {row["task"]: row for row in rows if row["model"] == "BYOL-A"}
    assert set(mine) == {*NINE, "average"}
    assert mine["esc50"]["published"] == "83.2"
    assert mine["esc50"]["measured"] == "83.7"
    assert mine["esc50"]["difference"] == "0.5"
    assert float(mine["average"]["measured"]) == pytest.approx(sum(PUBLISHED.values()) / 9 + 0.5)
    assert len({tuple(row) for row in rows}) == 1
    assert all(row["measured"] == "" for row in rows if row["model"] == "M2D")


def test_an_unknown_format_is_one_line(whole):
    with pytest.raises(EvarError, match="did you mean 'latex'"):
        drawn(table_of(whole), "latx")


@pytest.mark.parametrize("which", ["fusion", "byola-v1", "byola-v2", "hostile"])
def test_latex_compiles(which, hostile, whole, tmp_path):
    engine = next((name for name in ("pdflatex", "tectonic") if shutil.which(name)), None)
    if engine is None:
        pytest.skip("neither pdflatex nor tectonic is installed")
    table = hostile if which == "hostile" else table_of(whole, which)
    (tmp_path / "table.tex").write_text(drawn(table, "latex"), encoding="utf-8")
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n\\input{table}\n\\end{document}\n"
    )
    options = ["-interaction=nonstopmode", "-halt-on-error"] if engine == "pdflatex" else []
    done = subprocess.run(
        [engine, *options, "page.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace"
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").stat().st_size > 1000
