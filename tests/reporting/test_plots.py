"""Every figure in every format: equal data give equal bytes, and no name of a class is taken for a formula."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))
import results_data as d

from evar.errors import EvarError
from evar.reporting import plot_kinds
from evar.reporting.formats import format_of
from evar.reporting.plot_style import COLOURS, MARKERS, SUFFIXES, ink_on, save, series, styled
from evar.reporting.report_confusion import Confusion
from evar.reporting.report_embeddings import Points
from evar.reporting.report_rows import arranged
from evar.reporting.report_training import Training
from evar.results_files import LEADERBOARD_COLUMNS

STRANGE = "$x_{2}^ \\frac é 名 %s\n" + "y" * 200


def rows() -> pd.DataFrame:
    made = [
        d.cell(n, encoder=encoder, task=task, task_fingerprint=task, layers=layer, mean=0.3 + n / 20)
        for n, (encoder, task, layer) in enumerate(
            [
                ("a", "esc50", "block1"),
                ("a", "esc50", "block2"),
                ("a", STRANGE, "block1"),
                ("a", STRANGE, "block2"),
                (STRANGE, "esc50", "out"),
            ]
        )
    ]
    frame = pd.DataFrame(made).assign(schema=2)[LEADERBOARD_COLUMNS]
    ints = ["limit", "shots"]
    return arranged(frame.astype(dict.fromkeys(ints, "Int64")))


def confusions() -> tuple[Confusion, Confusion]:
    rng = np.random.default_rng(0)
    names = ("a", STRANGE, "c")
    return tuple(Confusion(names, rng.integers(0, 9, (3, 3))) for _ in range(2))


def points(method="tsne") -> Points:
    rng = np.random.default_rng(0)
    labels = (*(f"class {i % 70}" for i in range(199)), STRANGE)
    xy = rng.normal(size=(200, 2)).astype(np.float32)
    return Points(xy, labels, labels, np.array([i % 3 - 1 for i in range(200)]), method, 0.25, 900)


def training() -> list[Training]:
    steps = [float(i) for i in range(30)]
    return [
        Training(
            name,
            {"loss": (steps, [1 / (i + k) for i in steps]), "lr": (steps, steps)},
            {("e", "t", "valid"): ([0.0], [0.5])},
        )
        for k, name in ((1, "one"), (2, STRANGE))
    ]


FIGURES = {
    "heatmap": lambda: plot_kinds.heatmap(rows()),
    "layers": lambda: plot_kinds.layers(rows(), "a"),
    "confusion": lambda: plot_kinds.confusion_matrix(confusions()[0], "t"),
    "classes": lambda: plot_kinds.class_differences(*confusions(), ("a", STRANGE), "t"),
    "cost": lambda: plot_kinds.cost(
        rows()[rows()["task"] == "esc50"].assign(speed=[10.0, 10.0, 500.0]), "speed", "clips/s"
    ),
    "tsne": lambda: plot_kinds.scatter(points(), "t"),
    "pca": lambda: plot_kinds.scatter(points("pca"), "t"),
    "training": lambda: plot_kinds.training(training()),
}
MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_is_written_twice_with_the_same_bytes(tmp_path, kind):
    for form in ("svg", "png", "pdf"):
        written = []
        for name in ("one", "two"):
            with styled():
                save(FIGURES[kind](), tmp_path / name, form)
            written.append((tmp_path / name).read_bytes())
        assert written[0].startswith(MAGIC[form])
        assert written[0] == written[1]
        assert not any(date in written[0] for date in (b"CreationDate", b"<dc:date>", b"matplotlib.org"))


def test_styled_leaves_matplotlib_as_it_was():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with styled():
        assert mpl.rcParams["svg.hashsalt"] == "evar"
    assert dict(mpl.rcParams) == before


def test_series_differ_by_more_than_colour():
    first = [series(i) for i in range(8)]
    assert len({one["marker"] for one in first}) == len({str(one["linestyle"]) for one in first}) == 8
    assert len({(series(i)["color"], series(i)["marker"]) for i in range(64)}) == 64
    assert len(COLOURS) == len(MARKERS) == 8


def test_a_layer_curve_never_mixes_two_poolings():
    cells = [
        d.cell(n, encoder="a", layers=layer, pooling=pooling, mean=mean)
        for n, (layer, pooling, mean) in enumerate(
            [("block1", "mean", 0.5), ("block2", "mean", 0.6), ("block1", "max", 0.7), ("block2", "max", 0.4)]
        )
    ]
    frame = pd.DataFrame(cells).assign(schema=2)[LEADERBOARD_COLUMNS]
    with styled():
        (axes,) = plot_kinds.layers(arranged(frame.astype(dict.fromkeys(["limit", "shots"], "Int64"))), "a").axes
    curves = {line.get_label().rpartition(", ")[2]: [round(y) for y in line.get_ydata()] for line in axes.lines}
    assert curves == {"mean": [50, 60], "max": [70, 40]}


def test_ink_is_readable():
    assert ink_on((1, 1, 0.2, 1)) == "black"
    assert ink_on((0.1, 0.0, 0.3, 1)) == "white"


@pytest.mark.parametrize(
    ("path", "wanted", "expected"),
    [("a.svg", None, "svg"), ("a.PDF", None, "pdf"), ("a", "png", "png"), ("a.b", "svg", "svg")],
)
def test_format_by_suffix_or_by_name(path, wanted, expected):
    assert format_of(Path(path), wanted, SUFFIXES) == expected


@pytest.mark.parametrize(
    ("path", "wanted", "message"),
    [
        ("a.jpg", None, "unknown format 'jpg'.*FILE.png"),
        ("a", None, "unknown"),
        ("a.svg", "png", "ends in .svg, --format says png"),
    ],
)
def test_formats_that_do_not_fit(path, wanted, message):
    with pytest.raises(EvarError, match=message):
        format_of(Path(path), wanted, SUFFIXES)


def test_what_cannot_be_drawn_says_why():
    with pytest.raises(EvarError, match=r"measured at one layer only.*evar run"):
        plot_kinds.layers(rows(), STRANGE)
    with pytest.raises(EvarError, match="61 classes are too many"):
        plot_kinds.confusion_matrix(Confusion(tuple(map(str, range(61))), np.zeros((61, 61), int)), "t")
    with pytest.raises(EvarError, match="nothing is known about clips/s"):
        plot_kinds.cost(rows().assign(speed=np.nan), "speed", "clips/s")
    with pytest.raises(EvarError, match="nothing measured yet"):
        plot_kinds.one_board(rows().iloc[:0], None, False)
    with pytest.raises(EvarError, match="real: leave out --synthetic"):
        plot_kinds.one_board(rows(), None, True)
    with pytest.raises(EvarError, match="unknown protocol 'fiar'; did you mean 'fair'"):
        plot_kinds.one_board(rows(), "fiar", False)
