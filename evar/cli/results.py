"""`evar leaderboard`, `evar results merge|migrate`: look at what was measured, bring results of several machines together."""

from __future__ import annotations

from pathlib import Path

import click

from evar.cli.options import (
    Group,
    embeddings_option,
    filter_options,
    format_option,
    print_json,
    probe_option,
    refuse_folders,
    results_option,
    tasks_dir_option,
    with_options,
)
from evar.errors import EvarError


@click.command()
@with_options(
    results_option,
    *filter_options,
    probe_option("Only this protocol."),
    click.option(
        "--canonical", is_flag=True, help="CSV without the volatile columns, sorted: two equal runs print the same."
    ),
    format_option,
)
def leaderboard_command(
    results: str, tasks: str | None, encoders: str | None, protocol: str | None, canonical: bool, output: str
) -> None:
    """Show what has been measured: one table per protocol; synthetic rows apart.

    ± is half of the 95 % interval over the choice of test clips: whole groups (speakers, source recordings) are drawn where
    the task has them. With under 20 groups it is too narrow, by half with two in a fold; 'evar compare', which tests
    differences, allows for that.

    \b
    Examples:
      evar leaderboard
      evar leaderboard --tasks 'esc*' --format json
      evar leaderboard --canonical > before.csv
    """
    from evar.leaderboard import format_leaderboard
    from evar.reporting.rows import filtered
    from evar.results import Results

    if Path(results).exists() and not Path(results).is_dir():
        raise EvarError(f"--results {results} is not a folder")
    rows = filtered(Results(results).leaderboard(canonical=canonical), results, tasks, encoders, protocol)
    if canonical:
        click.echo(rows.to_csv(index=False), nl=False)
    elif output == "json":
        print_json(rows.to_dict("records"))
    elif len(rows) == 0:
        click.echo(f"nothing measured yet in {results}: try 'evar run logmel,random:byola-v2 esc50 --mini'")
    else:
        click.echo(format_leaderboard(rows))


@click.group(cls=Group)
def results_command() -> None:
    """Work with results folders.

    \b
    Examples:
      evar results merge gpu1/results gpu2/results --into results
      evar results migrate --dry-run
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


@results_command.command("migrate")
@click.argument("encoders", nargs=-1)
@with_options(
    results_option,
    embeddings_option,
    tasks_dir_option,
    click.option("--dry-run", is_flag=True, help="Only say what would be re-keyed."),
)
def migrate(encoders: tuple[str, ...], results: str, embeddings: str, tasks_dir: str | None, dry_run: bool) -> None:
    """Give rows that an earlier evar measured the ids by which this one finds them. No score changes, no row goes.

    ENCODERS: those that are not loaded by their label, with their weights. The clips of a row are known from the store that
    it was measured with; without it the row keeps its id.

    \b
    Examples:
      evar results migrate --dry-run
      evar results migrate byola-v2@my.safetensors --results results --embeddings embeddings
    """
    from evar.migration import migrate_results

    refuse_folders(encoders, "--results")
    if not (Path(results) / "runs.csv").is_file():
        raise EvarError(f"--results {results} holds no runs.csv: give the folder that 'evar run' was given")
    report = migrate_results(results, encoders, embeddings, tasks_dir, dry_run)
    click.echo("\n".join(report.lines(dry_run)))
