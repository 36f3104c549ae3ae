"""The figures of `evar plot`: arrays and rows in, a matplotlib Figure out. Called inside `plot_style.styled()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evar.errors import EvarError, unknown
from evar.reporting.plot_style import COLOURS, MARKERS, RAMP, SOFT, ink_on, new_figure, series
from evar.reporting.report_confusion import Confusion
from evar.reporting.report_embeddings import Points
from evar.reporting.report_rows import column_names, natural
from evar.reporting.report_training import CURVES, Training

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHOD = {"tsne": "t-SNE", "pca": "principal axes", "umap": "UMAP"}
MOST_CLASSES = 60  # of a confusion matrix
_NAMED = 40  # classes of a legend; more are not told apart anyway
_SHOWN = 40  # classes of a difference figure


def short(text: str, most: int = 40) -> str:
    """Text cut to `most` characters, with an ellipsis."""
    text = " ".join(str(text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def line_name(row: Any, most: int = 40) -> str:
    """An encoder with what tells it from its other rows."""
    variant = f" · {short(row.variant, 16)}" if row.variant else ""
    return short(row.encoder, most - len(variant)) + variant


def heatmap(rows: pd.DataFrame) -> Figure:
    """Encoders × tasks of one board, percent in each cell, complete and better lines first."""
    names = column_names(rows)
    columns = list(rows.sort_values(["task", "column"])["column"].unique())
    table = rows.pivot(index="line", columns="column", values="mean")[columns] * 100
    order = table.assign(n=-table.notna().sum(axis=1), mean=-table.mean(axis=1)).sort_values(["n", "mean"]).index
    table = table.loc[order]
    first = rows.drop_duplicates("line").set_index("line")
    figure = new_figure(2.6 + 0.72 * len(columns), 1.4 + 0.3 * len(order))
    axes = figure.subplots()
    values = np.ma.masked_invalid(table.to_numpy(dtype=float))
    image = axes.imshow(values, cmap=RAMP, aspect="auto")
    for (i, j), value in np.ndenumerate(values.filled(np.nan)):
        if value == value:
            ink = ink_on(image.cmap(image.norm(value)))
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(
        range(len(columns)), [short("\n".join(filter(None, names[c])), 28) for c in columns], rotation=35, ha="right"
    )
    axes.set_yticks(range(len(order)), [line_name(first.loc[line], 36) for line in order])
    axes.set_title(f"Score in percent, {_board(rows)}")
    _bare(axes)
    return figure


def layers(rows: pd.DataFrame, encoder: str) -> Figure:
    """The score by layer, one curve per task and pooling, with 95 % intervals. EvarError where none has two layers."""
    own = rows[rows["encoder"] == encoder].drop_duplicates(["column", "pooling", "layers"])
    own = own[own.groupby(["column", "pooling"])["layers"].transform("nunique") > 1]
    if own.empty:
        raise EvarError(
            f"{encoder} was measured at one layer only: run it at others too, evar run {encoder} TASK --layers LAYER"
        )
    places = {layer: i for i, layer in enumerate(natural(own["layers"]))}
    names = column_names(rows)
    figure = new_figure(max(5.0, 1.6 + 0.55 * len(places)), 3.6)
    axes = figure.subplots()
    several = own["pooling"].nunique() > 1
    for i, ((column, pooling), part) in enumerate(own.groupby(["column", "pooling"], sort=False)):
        name = _task(names[column]) + (f", {pooling}" if several else "")
        part = part.assign(at=part["layers"].map(places)).sort_values("at")
        axes.plot(part["at"], part["mean"] * 100, label=name, markersize=5, **series(i))
        axes.vlines(part["at"], part["ci95_low"] * 100, part["ci95_high"] * 100, color=COLOURS[i % 8], alpha=0.4)
    axes.set_xticks(list(places.values()), [short(name, 16) for name in places], rotation=30 if len(places) > 6 else 0)
    axes.set_xlabel("layer")
    axes.set_ylabel("score (%)")
    axes.set_title(f"{short(encoder, 50)}, {_board(own)}")
    figure.legend(loc="outside lower center", ncols=2 if len(places) < 6 else 3)
    return figure


def confusion_matrix(one: Confusion, title: str) -> Figure:
    """Counts in each cell, rows (true classes) shaded by their share. EvarError above MOST_CLASSES classes."""
    c = len(one.classes)
    if c > MOST_CLASSES:
        raise EvarError(
            f"{title}: {c} classes are too many for a matrix ({MOST_CLASSES} at most): 'evar report' lists who is taken for whom"
        )
    share = one.counts / np.maximum(one.n, 1)[:, None]
    side = 1.6 + max(0.26 * c, 2.4)
    figure = new_figure(side, side)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(one.counts):
        if count:
            ink = ink_on(image.cmap(share[i, j]))
            axes.text(j, i, str(count), ha="center", va="center", color=ink, fontsize=8 if c <= 25 else 5)
    names = [short(name, 16) for name in one.classes]
    axes.set_xticks(range(c), names, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(c), names)
    axes.set_xlabel("what the probe said")
    axes.set_ylabel("true class")
    axes.set_title(title)
    _bare(axes)
    return figure


def class_differences(a: Confusion, b: Confusion, names: tuple[str, str], title: str) -> Figure:
    """Recall per class of two encoders over one class list, largest differences at both ends."""
    both = [(x - y, x, y, name) for x, y, name in zip(a.recall(), b.recall(), a.classes, strict=True)]
    both = sorted([entry for entry in both if entry[0] == entry[0]], key=lambda entry: (entry[0], entry[3]))
    if not both:
        raise EvarError(f"{title}: no class was tested for both")
    shown = both if len(both) <= _SHOWN else [*both[: _SHOWN // 2], *both[-_SHOWN // 2 :]]
    figure = new_figure(6.4, 1.4 + 0.2 * len(shown))
    axes = figure.subplots()
    for i, (difference, x, y, _) in enumerate(shown):
        axes.plot([100 * x, 100 * y], [i, i], color=SOFT, linewidth=1.2, zorder=1)
        axes.text(104, i, f"{100 * difference:+.1f}".replace("-", "−"), va="center", fontsize=8)
    for k, name in enumerate(names):
        xs = [100 * entry[1 + k] for entry in shown]
        axes.scatter(xs, range(len(shown)), color=COLOURS[k], marker=MARKERS[k], s=26, label=short(name), zorder=2)
    axes.set_yticks(range(len(shown)), [short(entry[3], 24) for entry in shown])
    axes.set_xlim(-3, 113)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("recall (%); right: difference in points")
    axes.set_title(title + (f", {_SHOWN} of {len(both)} classes" if len(shown) < len(both) else ""))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def cost(rows: pd.DataFrame, field: str, title: str) -> Figure:
    """Score against `field` (logarithmic) for the rows of one column, with 95 % intervals and names."""
    known = rows[rows[field].notna() & rows["mean"].notna()]
    if known.empty:
        raise EvarError(
            f"nothing is known about {title}: the embeddings came from elsewhere, or --embeddings names another folder"
        )
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = new_figure(6.8, 4.2)
    axes = figure.subplots()
    devices = natural(known["device"]) if field == "speed" else [""]
    for i, device in enumerate(devices):
        part = known[known["device"] == device] if field == "speed" else known
        axes.scatter(
            part[field].astype(float),
            part["mean"] * 100,
            label=device,
            s=34,
            color=COLOURS[i % 8],
            marker=MARKERS[i % 8],
        )
    axes.vlines(
        known[field].astype(float), known["ci95_low"] * 100, known["ci95_high"] * 100, color=SOFT, alpha=0.4, zorder=0
    )
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(title)
    axes.set_ylabel(f"{known['metric'].iloc[0]} (%)")
    axes.set_title(f"{_task(column_names(rows)[known['column'].iloc[0]])}, {_board(known)}")
    if field == "speed":
        figure.legend(loc="outside lower center", ncols=2)
    _name_points(axes, [(float(x), 100 * y, line_name(row, 28)) for x, y, row in _named(known, field)])
    return figure


def _named(rows: pd.DataFrame, field: str) -> list[tuple[float, float, Any]]:
    rows = rows.sort_values("mean", ascending=False)
    return [(getattr(row, field), row.mean, row) for row in rows.itertuples()]


def _name_points(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """A name beside each point, moved up or down until it covers neither a point nor another name."""
    from matplotlib.transforms import Bbox

    axes.figure.canvas.draw()
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # what is drawn from here on moves nothing
    frame, pixel = axes.get_window_extent(), axes.figure.dpi / 72
    at = [axes.transData.transform(point[:2]) for point in points]
    taken = [Bbox.from_extents(x - 4 * pixel, y - 4 * pixel, x + 4 * pixel, y + 4 * pixel) for x, y in at]
    for (x, y), (_, _, name) in zip(at, points, strict=True):
        wide, high = 4.6 * len(name) * pixel, 9 * pixel
        before = x + wide + 8 * pixel > frame.x1
        left = x - wide - 6 * pixel if before else x + 6 * pixel
        for k in range(15):
            shift = (-1) ** k * ((k + 1) // 2) * 5 * pixel
            box = Bbox.from_extents(left, y + shift - high / 2, left + wide, y + shift + high / 2)
            if frame.y0 < box.y0 and box.y1 < frame.y1 and not box.count_overlaps(taken):
                taken.append(box)
                at_data = axes.transData.inverted().transform((left, y + shift))
                axes.text(*at_data, name, fontsize=7.5, va="center")
                if abs(shift) > 8 * pixel:
                    edge = axes.transData.inverted().transform((left + wide if before else left, y + shift))
                    axes.plot(
                        *zip(axes.transData.inverted().transform((x, y)), edge, strict=True),
                        color=SOFT,
                        linewidth=0.5,
                        zorder=0,
                    )
                break


def scatter(points: Points, title: str) -> Figure:
    """Clips in a plane, a colour and marker per class; a ring around what the probe took for another class."""
    figure = new_figure(7.4, 5.6)
    axes = figure.subplots()
    classes, labels = natural(points.labels), np.array(points.labels, dtype=object)
    for i, name in enumerate(classes):
        style = series(i)
        xy = points.xy[labels == name]
        label = short(name, 24) if i < _NAMED else None
        axes.scatter(*xy.T, s=16, color=style["color"], marker=style["marker"], linewidths=0, alpha=0.85, label=label)
    missed = points.xy[points.right == 0]
    if len(missed):
        axes.scatter(*missed.T, s=54, facecolors="none", edgecolors="black", linewidths=0.6, label="taken for another")
    drawn = f"{len(labels)} of {points.n_clips} clips" if len(labels) < points.n_clips else f"{len(labels)} clips"
    axes.set_title(f"{title}, {METHOD[points.method]}, {drawn}")
    if points.method == "pca":
        axes.set_xlabel(f"the two axes hold {points.explained:.0%} of the variance")
    axes.set_aspect("equal", adjustable="box")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=7, ncols=1 + (min(len(classes), _NAMED) - 1) // 24)
    return figure


def training(runs: Sequence[Training]) -> Figure:
    """A panel per logged quantity and per probed task, one curve per run."""
    panels: list[tuple[str, list[tuple[str, Any]]]] = []
    for key, title in CURVES.items():
        found = [(run.name, run.curves[key]) for run in runs if key in run.curves]
        panels += [(title, found)] if found else []
    probes = [(run.name, *names, points) for run in runs for names, points in run.probes.items()]
    for task in dict.fromkeys(name for _, _, name, _, _ in probes):
        found = [
            (" · ".join(filter(None, (run if len(runs) > 1 else "", encoder, split))), (x, [100 * v for v in y]))
            for run, encoder, of, split, (x, y) in probes
            if of == task
        ]
        panels.append((f"probe on {task or 'the task'} (%)", found))
    height = (len(panels) + 1) // 2
    figure = new_figure(8.4 if len(panels) > 1 else 4.6, 2.5 * height)
    every = figure.subplots(height, 2 if len(panels) > 1 else 1, squeeze=False).ravel()
    for axes, (title, found) in zip(every, panels, strict=False):
        for i, (name, (x, y)) in enumerate(found):
            style = series(i)
            marker = style["marker"] if len(x) <= 60 else None
            axes.plot(
                x,
                y,
                color=style["color"],
                linestyle=style["linestyle"],
                marker=marker,
                markersize=3.5,
                linewidth=1.3,
                label=short(name),
            )
        axes.set_title(short(title, 56), fontsize=9)
        axes.set_xlabel("step")
        if len(found) > 1 or title.startswith("probe"):
            axes.legend(fontsize=7)
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    return figure


def one_board(rows: pd.DataFrame, protocol: str | None, synthetic: bool) -> pd.DataFrame:
    """The rows of one protocol (`fair` where none is named and it is there), real ones unless `synthetic`.

    EvarError when there are none, or rows of two versions of the protocol.
    """
    if rows.empty:
        raise EvarError("nothing measured yet: try 'evar run logmel,random:byola-v2 esc50 --mini', or name --results")
    kept = rows[rows["synthetic"] == synthetic]
    if kept.empty:
        raise EvarError(f"all rows are {'real: leave out' if synthetic else 'synthetic stand-ins: give'} --synthetic")
    there = set(kept["protocol"])
    protocol = protocol or ("fair" if "fair" in there else sorted(there)[0])
    if protocol not in there:
        raise unknown("protocol", protocol, there)
    kept = kept[kept["protocol"] == protocol]
    return kept[kept["protocol_version"] == kept["protocol_version"].max()]


def _task(name: tuple[str, str]) -> str:
    return short(name[0], 30) + (f" ({name[1]})" if name[1] else "")


def _board(rows: pd.DataFrame) -> str:
    row = rows.iloc[0]
    return f"protocol {short(row['protocol'], 24)} (version {row['protocol_version']})" + (
        ", synthetic" if row["synthetic"] else ""
    )


def _bare(axes: Axes) -> None:
    """No frame, no grid but white lines between cells."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([x + 0.5 for x in range(-1, int(axes.get_xlim()[1] + 0.5))], minor=True)
    axes.set_yticks([y + 0.5 for y in range(-1, int(max(axes.get_ylim()) + 0.5))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
