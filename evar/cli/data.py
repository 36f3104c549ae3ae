"""`evar data`: verify a dataset folder, fetch one, make a small stand-in, or search a corpus for its clips."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from evar.cli.leaks import leaks_command
from evar.cli.options import Group, data_option, format_option, print_json, tasks_dir_option, with_options


@click.group(cls=Group)
def data_command() -> None:
    """Verify a dataset folder, fetch one, make a small synthetic stand-in, or search a corpus for its clips.

    \b
    Examples:
      evar data verify esc50 --data ~/datasets
      evar data fetch esc50 --to ~/datasets
      evar data mini vc1 --to /tmp/minis
      evar data leaks corpus/ esc50 --data ~/datasets
    """


data_command.add_command(leaks_command, "leaks")


@data_command.command("verify")
@click.argument("task")
@with_options(
    data_option,
    tasks_dir_option,
    click.option("--audio", is_flag=True, help="Also decode every file: copies in other formats, silence, damage."),
    format_option,
)
@click.pass_context
def verify(
    ctx: click.Context, task: str, data: tuple[str, ...], tasks_dir: str | None, audio: bool, output: str
) -> None:
    """Say what is missing, altered or not official in the folder of TASK. Exits 1 when something is.

    Findings are said too, and leave the exit code at 0: copies across parts or folds, digital silence, classes and groups
    that are hardly tested, files that are left out. Pointers of Git LFS or git-annex and saved web pages count as altered.

    \b
    Example:
      evar data verify gtzan --data gtzan=/corpora/GTZAN --audio
    """
    from dataclasses import asdict

    from evar.datasets.verify import verify as verify_folder

    with bar("verify", "file") as progress:
        report = verify_folder(task, data=data, tasks_dir=tasks_dir, audio=audio, progress=progress)
    if output == "json":
        print_json(asdict(report) | {"ok": report.ok})
    else:
        click.echo(str(report))
    ctx.exit(0 if report.ok else 1)


@data_command.command("fetch")
@click.argument("task")
@with_options(
    click.option("--to", "folder", default="data", show_default=True, metavar="DIR", help="Parent of the new folder."),
    tasks_dir_option,
)
def fetch(task: str, folder: str, tasks_dir: str | None) -> None:
    """Download and unpack the data of TASK. An interrupted download continues where it stopped.

    \b
    Example:
      evar data fetch spcv2 --to ~/datasets
    """
    from evar.datasets import find_card
    from evar.datasets.fetch import fetch as fetch_data

    card = find_card(task, tasks_dir)
    click.echo(f"{card.name}: {card.licence or 'no licence stated'}", err=True)
    with bar("fetch", "B") as progress:
        root = fetch_data(card, Path(folder), progress=progress)
    click.echo(f"{root}\nnow: evar run ENCODER {card.name} --data {folder}")


@data_command.command("mini")
@click.argument("task")
@with_options(
    click.option(
        "--to", "folder", default="data/minis", show_default=True, metavar="DIR", help="Parent of the folder."
    ),
    tasks_dir_option,
)
def mini(task: str, folder: str, tasks_dir: str | None) -> None:
    """Make a small synthetic stand-in in the official layout of TASK. Its rows are marked and never rank with real ones.

    \b
    Example:
      evar data mini nsynth
    """
    from evar.datasets import find_card
    from evar.datasets.mini import default_root, make

    card = find_card(task, tasks_dir)
    root = make(card, default_root(card, Path(folder)))
    click.echo(f"{root}\nnow: evar run logmel {task} --data {card.name}={root}")


@contextlib.contextmanager
def bar(what: str, unit: str) -> Iterator:
    from tqdm import tqdm

    with tqdm(
        desc=what, unit=unit, unit_scale=unit == "B", file=sys.stderr, leave=False, disable=not sys.stderr.isatty()
    ) as line:

        def progress(done: int, total: int) -> None:
            line.total = total or None
            line.update(done - line.n)

        yield progress
