"""Options that several verbs share, and the two ways of printing: text for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

data_option = click.option(
    "--data",
    multiple=True,
    metavar="DIR",
    help="Dataset folder, a parent of dataset folders, or TASK=DIR; repeatable. Default: $EVAR_DATA, then ./data.",
)
tasks_dir_option = click.option("--tasks-dir", metavar="DIR", help="A folder with task cards of your own.")
output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format."
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
