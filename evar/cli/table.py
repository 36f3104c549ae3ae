"""`evar table`, `evar reproduce`: what was published beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evar.cli.options import (
    data_option,
    device_option,
    embeddings_option,
    encoders_option,
    print_json,
    probe_option,
    results_option,
    tasks_dir_option,
    tasks_option,
    with_options,
)
from evar.cli.progress import Bars
from evar.cli.table_plan import Plan
from evar.errors import EvarError

if TYPE_CHECKING:
    from evar.reporting.table_missing import Missing

_SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html", ".htm": "html", ".txt": "text"}
_published_option = click.option(
    "--published",
    metavar="FILE.csv",
    help="Figures of your own, beside or instead of those that ship (docs/tables.md).",
)
_quiet_option = click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and the result.")


def _list(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    """Print the published tables that ship: name, lines, protocol."""
    if not asked:
        return
    from evar.cli.options import table
    from evar.reporting.published import figures, paper_tables

    every = figures()
    rows = []
    for name, one in paper_tables().items():
        mine = [figure for figure in every if figure.table == one.source]
        protocol = one.protocol or mine[0].protocol
        rows.append([name, f"{len({figure.model for figure in mine})}", f"{len(one.tasks)}", protocol, one.title])
    click.echo(table(rows, ["table", "models", "tasks", "protocol of the source", ""], right={1, 2}))
    ctx.exit()


@click.command()
@click.argument("name")
@with_options(
    encoders_option("Only these: published models, leaderboard labels, NAME@FILE, globs."),
    tasks_option("Only these columns; the average is taken only where it has all of its own."),
    results_option,
    probe_option(
        "Whose rows. Default: paper, which the published figures compare with; fair where nothing is published."
    ),
    click.option(
        "--format", "form", type=click.Choice(["text", "markdown", "latex", "csv", "html"]), help="[default: text]"
    ),
    click.option(
        "-o", "--output", metavar="FILE", help="Write a file; its suffix (.md, .tex, .csv, .html) gives the format."
    ),
    _published_option,
    click.option(
        "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="List the published tables."
    ),
    click.option(
        "--run", "fill", is_flag=True, help="Measure the missing cells first, as far as weights and data are there."
    ),
    data_option,
    tasks_dir_option,
    device_option,
    embeddings_option,
    click.option("-v", "--verbose", count=True, help="Say more."),
    _quiet_option,
)
def table_command(
    name: str,
    encoders: str | None,
    tasks: str | None,
    results: str,
    protocol: str | None,
    form: str | None,
    output: str | None,
    published: str | None,
    fill: bool,
    verbose: int,
    quiet: bool,
    **settings: Any,
) -> None:
    """Print the table NAME with what was measured beside what was published.

    NAME: byola-v1, byola-v2 (the nine-task table), fusion, cola, ... (--list names all); a table of your own figures; a
    suite, or task names. Tables of another protocol (kNN, fine-tuning, HEAR) are shown as published, with nothing beside.
    Cells that are not measured stay empty, and the commands that fill them are listed. Rows that are synthetic, partial,
    contaminated, of a subset or of another protocol never enter; they are listed with the reason.

    \b
    Examples:
      evar table byola-v2
      evar table fusion --format latex -o fusion.tex
      evar table byola-v2 --encoders byola-v2@AudioNTT2022-BYOLA-64x96d2048.pth --run --data ~/datasets
      evar table paper9 --probe fair --encoders 'random:*,logmel' --format markdown
    """
    from evar.reporting.formats import format_of
    from evar.reporting.table_formats import format_table

    form = format_of(output, form, _SUFFIXES, "text")
    reporter = Bars(-1 if quiet else verbose)
    given = {"results": results, **settings}
    plan = Plan(name, encoders, tasks, protocol, published, given)
    table, gaps = plan.table()
    if fill:
        _fill(gaps, plan, reporter)
        table, gaps = plan.table()
    text = format_table(table, plan.words(table, gaps), form)
    if output is None:
        click.echo(text, nl=False)
    else:
        from evar.files import atomic_write

        atomic_write(output, text)
        reporter.say(f"wrote {output}")
    if form == "csv" and not quiet:
        _say_notes(plan.words(table, gaps), reporter)


def _fill(gaps: list[Missing], plan: Plan, reporter: Bars) -> None:
    """Measure the missing cells one by one; what cannot be measured (no weights, no data) is named and skipped."""
    from evar import runner
    from evar.reporting.table_missing import NO_ENCODER

    for gap in gaps:
        name = f"{gap.model} on {', '.join(gap.tasks)}"
        if not gap.encoder or gap.why:
            if gap.why != NO_ENCODER:
                reporter.warn(f"skipped {name}: {gap.why}")
            continue
        for task in gap.tasks:
            try:
                runner.run(
                    [gap.encoder],
                    [task],
                    reporter=reporter,
                    probe=[plan.probe],
                    layers=gap.layers or None,
                    pooling=gap.pooling or None,
                    **plan.settings,
                )
            except EvarError as error:
                reporter.warn(f"skipped {gap.model} on {task}: {error}")


def _say_notes(words: Any, reporter: Bars) -> None:
    for name, lines in words.notes:
        if not name.startswith("How to read"):
            reporter.say("\n".join([f"{name}:", *(f"  {line}" for line in lines)]))


@click.command()
@click.argument("encoder")
@click.argument("task")
@with_options(
    click.option(
        "--tolerance",
        type=float,
        metavar="PTS",
        help="Points. Default: twice the published deviation over seeds, at least 1.",
    ),
    probe_option("How it is measured.", default="paper", show_default=True),
    click.option("--against", metavar="MODEL", help="The published model, where ENCODER's name does not say it."),
    click.option("--table", "table_name", metavar="NAME", help="The published table, where several have the figure."),
    _published_option,
    click.option("--no-run", is_flag=True, help="Measure nothing: judge the stored row. Needs no weights and no data."),
    data_option,
    tasks_dir_option,
    results_option,
    embeddings_option,
    device_option,
    click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True),
    click.option("-v", "--verbose", count=True, help="Say more."),
    _quiet_option,
)
def reproduce_command(
    encoder: str,
    task: str,
    tolerance: float | None,
    protocol: str,
    against: str | None,
    table_name: str | None,
    published: str | None,
    no_run: bool,
    form: str,
    verbose: int,
    quiet: bool,
    **settings: Any,
) -> int:
    """Hold ENCODER on TASK to the published figure: exit code 0 within the tolerance, 1 outside, 2 for bad input.

    Measures the cell where that is not done yet, then says in words what is the same, what differs and what is not known
    of the published protocol: learning rate, pooling, length of clips, normalisation, weights.

    \b
    Examples:
      evar reproduce byola-v2@AudioNTT2022-BYOLA-64x96d2048.pth esc50 --data ~/datasets
      evar reproduce byola-v1-512 spcv2 --no-run --tolerance 2
      evar reproduce byola esc50 --against byola-v2 --data ~/datasets --probe fair
    """
    from evar.encoders.registry import list_encoders, parse
    from evar.probes import get_protocol
    from evar.reporting.published import figures
    from evar.reporting.reproduce import (
        as_dict,
        check_tolerance,
        choose,
        format_verdict,
        judge,
        settings_of,
        stored_row,
    )
    from evar.results import Results

    check_tolerance(tolerance)  # before anything is measured
    parsed = parse(encoder)
    task_name = Path(task).stem if task.endswith((".yaml", ".yml")) else task
    chosen = get_protocol(protocol)
    name = against or (parsed.name if not parsed.scheme else f"{parsed.scheme}:{parsed.name}")
    figure, others = choose(figures(published), name, task_name, table_name)
    cell_id = None if no_run else _measure(encoder, task, protocol, Bars(-1 if quiet else verbose), settings)
    results = Results(settings["results"])
    row = stored_row(results, parsed.label, task_name, chosen, figure, cell_id)
    entry = list_encoders().get(parsed.name)
    verdict = judge(
        row,
        figure,
        tolerance=tolerance,
        settings=settings_of(results, row),
        card=_card(task, settings["tasks_dir"]),
        sample_rate=entry.sample_rate if entry else None,
        others=others,
    )
    if form == "json":
        print_json(as_dict(verdict))
    else:
        click.echo(format_verdict(verdict), nl=False)
    return 0 if verdict.within else 1


def _measure(encoder: str, task: str, protocol: str, reporter: Bars, settings: Mapping[str, Any]) -> str:
    """Measure one cell, if that is not done yet; its cell_id."""
    from evar import runner
    from evar.cells import expand_encoders, expand_tasks

    encoders, tasks = expand_encoders(encoder), expand_tasks(task, settings["tasks_dir"])
    for what, names in (("encoder", encoders), ("task", tasks)):
        if len(names) != 1:
            raise EvarError(f"evar reproduce takes one {what}, found {', '.join(map(str, names))}")
    try:
        rows = runner.run(encoders, tasks, reporter=reporter, probe=[protocol], **settings)
    except EvarError as error:
        raise EvarError(f"{error} (to judge a stored row without running: --no-run)") from error
    return rows["cell_id"].iloc[0]


def _card(task: str, tasks_dir: str | None) -> Any:
    """The task's card, None where there is none: the row may come from another machine."""
    from evar.datasets import find_card

    try:
        return find_card(task, tasks_dir)
    except EvarError:
        return None
