"""The table of verbs. A verb's module is imported only when it is called, so `evar --help` is instant."""

from __future__ import annotations

import importlib

import click

import evar
from evar.cli.options import Group
from evar.errors import EvarError

# verb -> (module, one line for --help). The order is the order of the help page.
VERBS = {
    "run": ("run", "Score encoders on tasks; writes the leaderboard."),
    "leaderboard": ("results", "Show what has been measured."),
    "compare": ("compare", "Compare encoders clip by clip: is the difference real?"),
    "table": ("table", "Regenerate a paper's table, measured beside published."),
    "reproduce": ("table", "Hold one measured number to the published one."),
    "report": ("report", "Write one HTML page of all that was measured."),
    "plot": ("report", "Draw one figure as PNG or SVG."),
    "export": ("report", "Write all results as tidy CSV or Parquet."),
    "pretrain": ("pretrain", "Train BYOL-A or COLA on your own audio."),
    "encoders": ("listing", "List the encoders."),
    "weights": ("weights", "List, fetch or add the weights of encoders."),
    "tasks": ("listing", "List the tasks and suites."),
    "task": ("listing", "Show one task card."),
    "data": ("data", "Verify, fetch or imitate a dataset."),
    "check": ("encode", "Hold an encoder to the contract."),
    "encode": ("encode", "Write the embeddings of audio files."),
    "results": ("results", "Merge results folders."),
    "store": ("store", "List, verify or prune stored embeddings."),
    "doctor": ("doctor", "Say what this machine and installation can do."),
}


class Verbs(Group):
    """A group that knows its verbs by name and imports each one late."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"evar.cli.{VERBS[name][0]}")
        return getattr(module, f"{name}_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(evar.__version__, prog_name="evar")
def app() -> None:
    """evar: how good is a frozen audio representation?

    \b
    evar run logmel,random:byola-v2 esc50 --mini       try it now, without any dataset
    evar run byola-v2@weights.pth esc50 --data ~/data  your copy of ESC-50, the published folds
    evar leaderboard                                   what has been measured so far
    """
    from evar.cli import GONE, folder_is_gone

    if folder_is_gone():
        raise EvarError(GONE)
