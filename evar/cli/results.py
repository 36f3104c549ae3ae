"""`evar leaderboard`, `evar results merge`: look at what was measured, bring results of several machines together."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import click

from evar.cli.options import output_option, print_json, results_option, with_options
from evar.errors import EvarError


@click.command()
@with_options(
    results_option,
    click.option("--task", "tasks", metavar="GLOB", help="Only these tasks."),
    click.option("--encoder", "encoders", metavar="GLOB", help="Only these encoders."),
    click.option("--probe", "protocol", metavar="NAME", help="Only this protocol."),
    click.option(
        "--canonical", is_flag=True, help="CSV without the volatile columns, sorted: two equal runs print the same."
    ),
    output_option,
)
def leaderboard_command(
    results: str, tasks: str | None, encoders: str | None, protocol: str | None, canonical: bool, output: str
) -> None:
    """Show what has been measured: one table per protocol; synthetic rows apart.

    \b
    Examples:
      evar leaderboard
      evar leaderboard --task 'esc*' -o json
      evar leaderboard --canonical > before.csv
    """
    from evar.leaderboard import format_leaderboard
    from evar.results import Results

    if Path(results).exists() and not Path(results).is_dir():
        raise EvarError(f"--results {results} is not a folder")
    rows = Results(results).leaderboard(canonical=canonical)
    for column, pattern in (("task", tasks), ("encoder", encoders), ("protocol", protocol)):
        if pattern:
            rows = rows[[fnmatch.fnmatchcase(name, pattern) for name in rows[column]]]
    if canonical:
        click.echo(rows.to_csv(index=False), nl=False)
    elif output == "json":
        print_json(rows.to_dict("records"))
    elif len(rows) == 0 and (tasks or encoders or protocol):
        click.echo(f"no row of {results} matches --task, --encoder and --probe")
    elif len(rows) == 0:
        click.echo(f"nothing measured yet in {results}: try 'evar run logmel,random:byola-v2 esc50 --mini'")
    else:
        click.echo(format_leaderboard(rows))


@click.group()
def results_command() -> None:
    """Work with results folders.

    \b
    Example:
      evar results merge gpu1/results gpu2/results --into results
    """


@results_command.command("merge")
@click.argument("folders", nargs=-1, required=True)
@click.option("--into", default="results", show_default=True, metavar="DIR", help="The folder that takes all rows.")
def merge(folders: tuple[str, ...], into: str) -> None:
    """Bring the rows and predictions of FOLDERS together; nothing is lost, the newest row of a cell ranks.

    \b
    Example:
      evar results merge laptop/results server/results --into results
    """
    from evar.results import merge as merge_results

    report = merge_results([Path(folder) for folder in folders], Path(into))
    click.echo(str(report))
