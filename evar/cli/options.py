"""Options that several verbs share, and the two ways of printing: text for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from evar.errors import EvarError, nearest

data_option = click.option(
    "--data",
    multiple=True,
    metavar="DIR",
    help="Dataset folder, a parent of dataset folders, or TASK=DIR; repeatable. Default: $EVAR_DATA, then ./data.",
)
tasks_dir_option = click.option(
    "--tasks-dir",
    metavar="DIR",
    is_eager=True,  # `--tasks` may name a suite of it
    help="A folder with task cards of your own.",
)


class Group(click.Group):
    """A group that says what it holds when it is asked for something else."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        names = self.list_commands(ctx)
        if args and args[0] not in names:
            near = nearest(args[0], names)
            hint = f"did you mean {near!r}?" if near else f"there are: {', '.join(names)}"
            raise click.UsageError(f"unknown command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


class Option(click.Option):
    """An option that also goes by other spellings, `unseen`, which `--help` leaves out."""

    def __init__(self, declarations: Sequence[str], unseen: Sequence[str] = (), **given: Any) -> None:
        super().__init__([*declarations, *unseen], **given)
        self.unseen = unseen

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        every, self.opts = self.opts, [word for word in self.opts if word not in self.unseen]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = every


def _suites(ctx: click.Context, option: click.Parameter, words: str | None) -> str | None:
    """A comma list with the tasks of a suite in place of its name."""
    if not words:
        return words
    from evar.datasets import list_suites

    suites = list_suites(ctx.params.get("tasks_dir"))
    return ",".join(",".join(suites.get(word.strip(), [word.strip()])) for word in words.split(","))


def tasks_option(help: str, **given: Any) -> Callable:
    """`--tasks`: a comma list, as everywhere."""
    return click.option("--tasks", "tasks", cls=Option, unseen=("--task",), metavar="NAMES", help=help, **given)


def encoders_option(help: str, **given: Any) -> Callable:
    """`--encoders`: a comma list, as everywhere."""
    return click.option(
        "--encoders", "encoders", cls=Option, unseen=("--encoder",), metavar="NAMES", help=help, **given
    )


def probe_option(help: str, **given: Any) -> Callable:
    """`--probe`, which rows call the protocol."""
    return click.option("--probe", "protocol", cls=Option, unseen=("--protocol",), metavar="NAME", help=help, **given)


filter_options = (
    tasks_option("Only these tasks: names, suites, globs.", callback=_suites),
    encoders_option("Only these encoders: labels of the leaderboard, globs."),
)
format_option = click.option(
    "--format",
    "output",
    cls=Option,
    unseen=("-o", "--output"),  # what it was called here before; elsewhere it is the file to write
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Output format.",
)
results_option = click.option(
    "--results", default="results", show_default=True, metavar="DIR", help="Where rows and predictions are kept."
)
embeddings_option = click.option(
    "--embeddings",
    default="embeddings",
    show_default=True,
    metavar="DIR",
    help="Where waveforms and embeddings are kept.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:i]", help="Where to compute."
)
devices_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:i]|cuda:all",
    help="Where to compute; cuda:0,cuda:1 shares the encoding out, and the first one probes.",
)
precision_option = click.option(
    "--precision",
    default="fp32",
    show_default=True,
    metavar="fp32|bf16",
    help="Of the encoder's network (marked in the row): bf16 is faster and changes embeddings by 0.1 to 1 %.",
)
compile_option = click.option(
    "--compile", is_flag=True, help="Give the encoder to torch.compile (marked in the row): minutes first, then faster."
)
mini_option = click.option(
    "--mini", is_flag=True, help="Use a small synthetic stand-in of each task, made on the spot (marked in the row)."
)


def with_options(*options: Callable) -> Callable:
    """Apply click options so that `--help` lists them in the order given."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def refuse_folders(encoders: Sequence[str], option: str) -> None:
    """EvarError for a folder that was given as an encoder, where `option` takes it."""
    from evar.encoders.registry import list_encoders

    for name in encoders:
        if name not in list_encoders() and Path(name).is_dir():
            raise EvarError(f"{name} is a folder and no encoder: a folder goes with {option} ({option} {name})")


def print_json(value: Any) -> None:
    """Print JSON on standard output: indented, NaN as null, anything unknown as text."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if hasattr(value, "item"):
        value = value.item()
    return None if value != value else value


def table(rows: list[list[str]], header: list[str], right: set[int] = frozenset()) -> str:
    """Columns padded to their widest entry; `right` names the columns that align right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def form(line: list[str]) -> str:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([form(header), "  ".join("-" * width for width in widths), *map(form, rows)])
