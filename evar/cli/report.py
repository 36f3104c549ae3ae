"""`evar report`, `evar plot`, `evar export`: look at what was measured, as a page, a figure or a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evar.cli.options import (
    Group,
    data_option,
    embeddings_option,
    filter_options,
    probe_option,
    results_option,
    tasks_dir_option,
    with_options,
)
from evar.errors import EvarError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FIGURE_FORMATS, TABLE_FORMATS = ("png", "svg", "pdf"), ("parquet", "csv")

one_protocol = probe_option("The protocol. Default: fair where it is there.")
synthetic_option = click.option("--synthetic", is_flag=True, help="Draw the synthetic stand-ins instead of real rows.")
variant_options = (
    one_protocol,
    click.option("--layers", metavar="L|L+L", help="Of several rows, the one at this layer."),
    click.option("--pooling", metavar="NAME", help="Of several rows, the one with this pooling."),
    click.option("--cell", "cell_id", metavar="ID", help="The row with this cell_id."),
)
figure_options = (
    click.option("-o", "--output", metavar="FILE", help="Where to; .png, .svg or .pdf. Default: KIND.png here."),
    click.option(
        "--format", "form", type=click.Choice(FIGURE_FORMATS), help="Default: by the suffix of FILE, else png."
    ),
)


def _warn(text: str) -> None:
    click.echo(f"evar: warning: {text}", err=True)


@click.command()
@with_options(
    click.option("-o", "--output", default="report.html", show_default=True, metavar="FILE", help="Where to."),
    results_option,
    embeddings_option,
    data_option,
    tasks_dir_option,
    click.option("--training", multiple=True, metavar="DIR", help="A pre-training run to draw; repeatable."),
    *filter_options,
    probe_option("Only this protocol."),
    click.option("--projections", type=click.IntRange(0, 200), default=6, show_default=True, metavar="N",
                 help="Draw the embeddings of N cells as points, the best of each task first."),
    click.option("--umap", is_flag=True, help="Draw them by UMAP too (needs umap-learn)."),
    click.option("--parameters", is_flag=True, help="Count the parameters of evar's own encoders (builds each once)."),
    click.option("--title", default="What was measured", metavar="TEXT", help="The page's headline."),
)  # fmt: skip
def report_command(output: str, training: tuple[str, ...], parameters: bool, **options: Any) -> None:
    """Write one HTML page of all that was measured. It needs no network, and what it shows can be printed.

    Leaderboards, heat map, score against cost, layers, confusion, class by class, embeddings, training curves, and for
    each number where it comes from. Embeddings of tasks with a fixed split need the dataset (--data) for their labels.

    \b
    Examples:
      evar report
      evar report -o fair.html --probe fair --training runs/byola-1 --training runs/byola-2
      evar report --results server/results --embeddings server/embeddings --data ~/datasets
    """
    from evar.files import human_bytes
    from evar.reporting.formats import format_of
    from evar.reporting.report import Options, write_report

    format_of(output, None, {".html": "html", ".htm": "html"}, "html")
    made = Options(training=training, **options)
    if parameters:
        made = Options(training=training, parameters=_parameters(made), **options)
    wrote = write_report(output, made, _warn)
    if not wrote["cells"]:
        _warn(f"nothing measured yet in {made.results}: the page says what to run")
    click.echo(f"{output}: {wrote['cells']} cells, {human_bytes(wrote['bytes'])}")


def _parameters(options: Any) -> dict[str, int]:
    """Encoder label -> number of parameters, for labels that name an encoder which evar can build untrained."""
    import contextlib

    from evar.encoders.registry import list_encoders, load_encoder, parse
    from evar.results import Results

    shipped, counts = list_encoders(), {}
    for label in sorted(set(Results(options.results).leaderboard()["encoder"])):
        with contextlib.suppress(EvarError):
            named = parse(label)
            if named.scheme in ("", "random") and named.name in shipped:
                trained = shipped[named.name].weights != "none"
                encoder = load_encoder(f"random:{named.name}" if trained else named.name)
                counts[label] = sum(part.numel() for part in encoder.parameters())
    return {label: count for label, count in counts.items() if count}


@click.group(cls=Group)
def plot_command() -> None:
    """Draw one figure as PNG, SVG or PDF. Equal results give equal files.

    ENCODER is a label as 'evar leaderboard' shows it.

    \b
    Examples:
      evar plot heatmap -o heatmap.svg
      evar plot tsne random:byola-v2 esc50 --fold 1
      evar plot layers random:byola-v2 -o layers.pdf
      evar plot classes byola-v2@mine logmel esc50
    """


def _kind(name: str, *options: Callable) -> Callable:
    """A subcommand of `evar plot` with the options that all share; its function gives the Figure."""

    def decorate(function: Callable[..., Figure]) -> click.Command:
        def command(output: str | None, form: str | None, **given: Any) -> None:
            from evar.reporting.formats import format_of
            from evar.reporting.plot_style import SUFFIXES, save, styled

            path = Path(output or f"{name}.{form or 'png'}")
            chosen = format_of(path, form, SUFFIXES)
            with styled():
                save(function(**given), path, chosen)
            click.echo(str(path))

        command.__doc__ = function.__doc__
        return plot_command.command(name)(with_options(*options, *figure_options)(command))

    return decorate


def _rows(results: str, **globs: str | None) -> pd.DataFrame:
    from evar.reporting.report_rows import select
    from evar.results import Results

    return select(Results(results), **globs)


def _chosen(results: str, encoder: str, task: str, **equal: Any) -> pd.Series:
    from evar.reporting.report_rows import choose

    return choose(_rows(results), encoder, task, **equal)


def _confusion(results: str, row: pd.Series) -> Any:
    from evar.reporting.report_confusion import confusion
    from evar.results import Results

    found = confusion(Results(results).predictions(row["cell_id"]), f"predictions of {row['cell_id']}")
    if found is None:
        raise EvarError(f"{row['task']} is multi-label: clips have no single class to be taken for")
    return found


def _title(row: pd.Series) -> str:
    from evar.reporting.plot_kinds import short

    return f"{short(row['encoder'], 36)} on {short(row['task'], 24)}, {short(row['protocol'], 20)}"


@_kind("heatmap", results_option, *filter_options, one_protocol, synthetic_option)
def heatmap(results: str, tasks: str | None, encoders: str | None, protocol: str | None, synthetic: bool) -> Figure:
    """Scores of encoders × tasks under one protocol.

    \b
    Example:
      evar plot heatmap --probe fair --tasks 'esc*' -o heatmap.svg
    """
    from evar.reporting import plot_kinds

    return plot_kinds.heatmap(plot_kinds.one_board(_rows(results, tasks=tasks, encoders=encoders), protocol, synthetic))


@_kind("layers", click.argument("encoder"), results_option, filter_options[0], one_protocol, synthetic_option)
def layers(results: str, encoder: str, tasks: str | None, protocol: str | None, synthetic: bool) -> Figure:
    """The score of one encoder at each of its layers that was measured.

    \b
    Example:
      evar run random:byola-v2 esc50 --mini --layers block1
      evar plot layers random:byola-v2 --synthetic
    """
    from evar.errors import unknown
    from evar.reporting import plot_kinds

    rows = plot_kinds.one_board(_rows(results, tasks=tasks), protocol, synthetic)
    if encoder not in set(rows["encoder"]):
        raise unknown("encoder", encoder, set(rows["encoder"]), "(labels as 'evar leaderboard' shows them)")
    return plot_kinds.layers(rows, encoder)


@_kind("confusion", click.argument("encoder"), click.argument("task"), results_option, *variant_options)
def confusion(results: str, encoder: str, task: str, **equal: Any) -> Figure:
    """Who is taken for whom.

    \b
    Example:
      evar plot confusion logmel esc50 -o confusion.png
    """
    from evar.reporting import plot_kinds

    row = _chosen(results, encoder, task, **equal)
    return plot_kinds.confusion_matrix(_confusion(results, row), _title(row))


@_kind(
    "classes", click.argument("a"), click.argument("b"), click.argument("task"), results_option, *variant_options[:3]
)
def classes(results: str, a: str, b: str, task: str, **equal: Any) -> Figure:
    """Recall per class of two encoders, A and B, on a task.

    \b
    Example:
      evar plot classes random:byola-v2 logmel esc50
    """
    from evar.reporting import plot_kinds
    from evar.reporting.report_confusion import together
    from evar.reporting.report_rows import choose

    rows = _rows(results)
    first = choose(rows, a, task, **equal)
    alike = rows[rows["column"] == first["column"]]
    if b in set(rows["encoder"]) and b not in set(alike["encoder"]):
        raise EvarError(
            f"{a} and {b} were not measured alike on {task} (protocol, version, clips): run both in the same way"
        )
    own = alike[alike["encoder"] == b]
    second = choose(
        alike, b, task, **{name: equal[name] for name in ("layers", "pooling") if equal[name] in set(own[name])}
    )
    if first["cell_id"] == second["cell_id"]:
        raise EvarError(f"evar plot classes needs two encoders, found {a} twice")
    _, pair = together({k: _confusion(results, row) for k, row in enumerate((first, second))})
    return plot_kinds.class_differences(pair[0], pair[1], (a, b), f"{task}, {first['protocol']}")


@_kind("cost", click.argument("task"), results_option, embeddings_option, one_protocol, synthetic_option,
       click.option("--against", type=click.Choice(["speed", "dim"]), default="speed", show_default=True,
                    help="Clips encoded per second, or numbers per embedding."))  # fmt: skip
def cost(results: str, embeddings: str, task: str, protocol: str | None, synthetic: bool, against: str) -> Figure:
    """The score on a task against what an encoder costs.

    \b
    Example:
      evar plot cost esc50 --against dim
    """
    from evar.errors import unknown
    from evar.reporting import plot_kinds
    from evar.reporting.report_embeddings import with_costs

    rows = plot_kinds.one_board(_rows(results), protocol, synthetic)
    if task not in set(rows["task"]):
        raise unknown("task", task, set(rows["task"]))
    rows = rows[rows["task"] == task]
    largest = rows["column"].value_counts(sort=True).index[0]  # whole and partial rows of a task do not share a figure
    title = {"speed": "clips encoded per second", "dim": "numbers per embedding"}[against]
    return plot_kinds.cost(with_costs(rows[rows["column"] == largest], embeddings, {}), against, title)


def _projection(method: str, what: str) -> None:
    @_kind(
        method,
        click.argument("encoder"),
        click.argument("task"),
        click.option("--fold", type=int, metavar="K", help="Only the clips that are tested in fold K."),
        results_option,
        embeddings_option,
        data_option,
        tasks_dir_option,
        *variant_options,
    )
    def project(
        results: str,
        embeddings: str,
        data: tuple[str, ...],
        tasks_dir: str | None,
        encoder: str,
        task: str,
        fold: int | None,
        **equal: Any,
    ) -> Figure:
        from evar.reporting import plot_kinds
        from evar.reporting.report_embeddings import labelled
        from evar.results import Results

        row = _chosen(results, encoder, task, **equal)
        found = labelled(Results(results), row, embeddings, data=data, tasks_dir=tasks_dir, fold=fold)
        title = _title(row) + (f", fold {fold}" if fold else "")
        return plot_kinds.scatter(found.project(method), title)

    project.help = (
        f"The embeddings of a task's test clips in a plane, by {what}; at most 1000 clips.\n\n"
        f"\b\nExample:\n  evar plot {method} random:byola-v2 esc50 --fold 1"
    )


_projection("tsne", "t-SNE")
_projection("pca", "their principal axes")
_projection("umap", "UMAP (needs umap-learn)")


@_kind("training", click.argument("folders", nargs=-1, required=True, metavar="DIR..."))
def training(folders: tuple[str, ...]) -> Figure:
    """The curves of pre-training runs: loss, spread of the embeddings, probe scores.

    \b
    Example:
      evar plot training runs/byola-1 runs/byola-2 -o training.svg
    """
    from evar.reporting import plot_kinds
    from evar.reporting.report_training import read_training

    return plot_kinds.training([read_training(folder) for folder in folders])


@click.command()
@with_options(
    click.option("-o", "--output", metavar="FILE", help="FILE.parquet or FILE.csv."),
    click.option("--format", "form", type=click.Choice(TABLE_FORMATS), help="Default: by the suffix of FILE."),
    click.option("--runs", "kind", flag_value="runs", help="One row per fold and seed instead of one per cell."),
    click.option("--predictions", "kind", flag_value="predictions", help="One row per test clip, fold and seed."),
    click.option("--to", multiple=True, metavar="PLACE", help="Log the cells to tensorboard:DIR, mlflow:URI or wandb:PROJECT."),
    results_option,
)  # fmt: skip
@click.pass_context
def export_command(
    ctx: click.Context, output: str | None, form: str | None, kind: str | None, to: tuple[str, ...], results: str
) -> None:
    """Write all results as one tidy table, or log them elsewhere. Columns: docs/results-schema.md.

    \b
    Examples:
      evar export -o results.parquet
      evar export -o clips.parquet --predictions
      evar export --to tensorboard:runs/evar
    """
    from evar.reporting.export import SUFFIXES, send, table, write_table
    from evar.reporting.formats import format_of
    from evar.results import Results

    if not output and not to:
        raise click.UsageError("say where to: -o FILE.parquet, -o FILE.csv, or --to PLACE", ctx)
    if output:
        format_of(output, form, SUFFIXES)
        made = table(Results(results), kind or "cells", _warn)
        write_table(made, output, form)
        click.echo(f"{output}: {len(made):,} rows, {len(made.columns)} columns")
    for place in to:
        click.echo(send(table(Results(results), "cells"), place))
