"""How figures look, on paper as on the page: palette, markers, ramp; and files that come out equal byte by byte."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.extras import require
from evar.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
# Okabe and Ito's palette; a series always has a marker and a dash of its own too, as on the page of `evar report`.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1F2328", "#A59B00")
MARKERS = ("o", "s", "^", "D", "v", "P", "p", "X")
DASHES = ("-", (0, (5, 2)), (0, (1, 2)), (0, (7, 2, 1, 2)), (0, (3, 1.5)), (0, (1, 1)), (0, (9, 3)), (0, (4, 1, 1, 1)))
RAMP = "viridis"
INK, SOFT, LINE = "#1F2328", "#5B636C", "#E4E1DA"
_NO_DATES = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
}
_SETTINGS = {
    "svg.hashsalt": "evar",
    "svg.fonttype": "path",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a class called "$x$" is no formula
    "axes.unicode_minus": True,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}


# DejaVu comes with matplotlib: the same figure on every machine. The others only serve letters that it lacks.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Hiragino Sans",
    "Yu Gothic",
    "Noto Sans",
    "Arial Unicode MS",
)


def series(i: int) -> dict[str, Any]:
    """Colour, marker and dash of series `i`, as keyword arguments of `Axes.plot`: 64 differ."""
    turned = (i + i // 8) % 8
    return {"color": COLOURS[i % 8], "marker": MARKERS[turned], "linestyle": DASHES[turned]}


def ink_on(rgba: tuple[float, ...]) -> str:
    """Black or white, whichever is easier to read on a colour (WCAG relative luminance)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgba[:3]]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "white"


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this style, without a screen; matplotlib is imported here. EvarError where it is not installed."""
    require("report", "evar plot")
    import matplotlib as mpl
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    fonts = [name for name in _FONTS if name in there]
    with mpl.rc_context({**mpl.rcParamsDefault, **_SETTINGS, "font.sans-serif": fonts, "backend": "agg"}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, outside of pyplot (which would keep it)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, form: str) -> None:
    """Write a figure in one step; the same data give the same bytes (no dates, fixed ids)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # no font here has this letter: an empty box stands for it
        figure.savefig(buffer, format=form, dpi=160, metadata=_NO_DATES[form])
    atomic_write(path, buffer.getvalue())
