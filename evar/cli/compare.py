"""`evar compare`: measure what is missing, then hold encoders against each other clip by clip."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evar.cli.options import (
    data_option,
    device_option,
    embeddings_option,
    mini_option,
    probe_option,
    results_option,
    tasks_dir_option,
    tasks_option,
    with_options,
)
from evar.cli.progress import Bars
from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = {".md": "markdown", ".csv": "csv", ".json": "json", ".txt": "text"}


@click.command()
@click.argument("encoders", nargs=-1, required=True, metavar="A B [C...]")
@with_options(
    tasks_option("Tasks, as in 'evar run'. Default: what is stored of these encoders."),
    click.option("--baseline", metavar="B", help="Compare each other encoder with this one only."),
    probe_option("One protocol.", default="fair", show_default=True),
    data_option,
    mini_option,
    tasks_dir_option,
    results_option,
    embeddings_option,
    device_option,
    click.option("--no-run", is_flag=True, help="Measure nothing: compare what is stored, by label. Needs no weights."),
    click.option(
        "--prefer", multiple=True, metavar="COLUMN=VALUE", help="Of several stored rows of an encoder, take these."
    ),
    click.option("--alpha", type=float, default=0.05, show_default=True, help="Level; intervals are at 1 - alpha."),
    click.option(
        "--resamples",
        type=click.IntRange(100, 1_000_000),
        metavar="N",
        help="Of the bootstrap [default: 10000; 1000 for mAP].",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap."),
    click.option("--format", "form", type=click.Choice(["text", "markdown", "csv", "json"]), help="[default: text]"),
    click.option(
        "-o", "--output", metavar="FILE", help="Write a file instead; its suffix (.md, .csv) gives the format."
    ),
    click.option("-v", "--verbose", count=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and the result."),
)
def compare_command(
    encoders: tuple[str, ...],
    tasks: str | None,
    baseline: str | None,
    protocol: str,
    no_run: bool,
    prefer: tuple[str, ...],
    alpha: float,
    resamples: int | None,
    seed: int,
    form: str | None,
    output: str | None,
    verbose: int,
    quiet: bool,
    **settings: Any,
) -> None:
    """Compare encoders task by task, on the same clips: is the difference more than the choice of test clips?

    What is not measured yet is measured first, as 'evar run' does it. Each pair is tested per task on the stored
    predictions: by a bootstrap over groups (speaker, source recording) where the task has them, else by McNemar's mid-p
    test; Holm's correction covers all comparisons made. Up to four encoders are compared pair by pair, more with the
    first, or with --baseline.

    \b
    Examples:
      evar compare py:mine:MyEncoder random:byola-v2 logmel --tasks esc10,emodb --data ~/datasets
      evar compare byola-v2@step9000.safetensors logmel mfcc --baseline logmel --tasks paper9 --data ~/datasets
      evar compare logmel mfcc --no-run
      evar compare logmel random:byola-v1-512 --tasks esc10 --mini -o comparison.md
    """
    from evar.reporting.compare import compare
    from evar.reporting.compare_text import format_comparison
    from evar.reporting.formats import format_of
    from evar.results import Results

    if not 0 < alpha < 1:
        raise EvarError(f"--alpha: expected a number between 0 and 1, found {alpha:g}")
    form = format_of(output, form, _SUFFIXES, "text")
    reporter = _Quiet(-1 if quiet else verbose)
    results = Results(settings["results"])
    if results.folder.exists() and not results.folder.is_dir():
        raise EvarError(f"--results {results.folder} is not a folder")
    words = [word for given in encoders for word in _words(given, results)]
    if baseline is not None and baseline not in words:
        words.append(baseline)
    if not words:
        raise EvarError("compare needs two encoders, found none")
    if no_run or tasks is None:
        wanted = _pairs(prefer)
        rows, notes = _stored(results, words, tasks, protocol, wanted, settings)
    elif prefer:
        raise EvarError("--prefer chooses among stored rows: it goes with --no-run")
    else:
        rows, notes = _measured(words, tasks, protocol, reporter, settings)
    for note in notes:
        reporter.warn(note)
    cards = _cards([row["task"] for row in rows], settings["tasks_dir"])
    found = compare(
        results,
        rows,
        baseline=None if baseline is None else _label(baseline, [row["encoder"] for row in rows]),
        alpha=alpha,
        resamples=resamples,
        seed=seed,
        again=lambda row: _run_command(row, words, settings),
        groups={task: card.group for task, card in cards.items()},
        classes={task: card.classes for task, card in cards.items() if isinstance(card.classes, tuple)},
    )
    text = format_comparison(found, form)
    if output is None:
        return click.echo(text, nl=False)
    from evar.files import atomic_write

    atomic_write(output, text)
    reporter.say(f"wrote {output}")


class _Quiet(Bars):
    """Bars that do not say what was measured before: here that is the normal case."""

    def say(self, text: str) -> None:
        if self.verbosity > 0 or not text.endswith("already measured, nothing to do"):
            super().say(text)


def _words(given: str, results: Any) -> list[str]:
    """One argument as encoder words; a comma may belong to a path that is there, or to a label that was measured."""
    from evar.cells import split_encoders

    is_label = "," in given and results.folder.exists() and given in set(results.leaderboard()["encoder"])
    return [given] if is_label else split_encoders(given)


def _measured(
    words: list[str], tasks: str, protocol: str, reporter: Bars, settings: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of all encoders × tasks, measured now where they are not there yet."""
    from evar import runner
    from evar.cells import expand_encoders

    if len(expand_encoders(words)) < 2:
        raise EvarError(f"compare needs two encoders, found {', '.join(words)}: name another, or --baseline")
    try:
        rows = runner.run(words, tasks, reporter=reporter, probe=[protocol], **settings)
    except EvarError as error:
        raise EvarError(f"{error} (to compare what is stored already, without running: --no-run)") from error
    return rows.to_dict("records"), []


def _stored(
    results: Any,
    words: list[str],
    tasks: str | None,
    protocol: str,
    prefer: dict[str, str],
    settings: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], list[str]]:
    """The stored rows to compare, and notes on what is missing or was passed over."""
    from evar.cells import expand_tasks
    from evar.reporting.compare_rows import select
    from evar.results import LEADERBOARD_COLUMNS

    board = results.leaderboard()
    if len(board) == 0:
        raise EvarError(f"nothing is measured in {results.folder}: name --tasks and leave --no-run out, and it will be")
    for column in prefer:
        if column not in LEADERBOARD_COLUMNS:
            raise unknown("column", column, LEADERBOARD_COLUMNS)
    name = _protocol_name(protocol, set(board["protocol"]))
    measured_by = sorted(set(board["protocol"]))
    board = board[board["protocol"] == name]
    if not len(board):
        raise EvarError(f"nothing is measured by protocol {name} in {results.folder}, only by {', '.join(measured_by)}")
    if settings["mini"]:
        board = board[board["synthetic"]]
        if not len(board):
            raise EvarError(f"no synthetic row by protocol {name} in {results.folder}: leave --mini out")
    labels = list(dict.fromkeys(label for word in words for label in _labels(word, board, results.folder, name)))
    if len(labels) < 2:
        raise EvarError(f"compare needs two encoders, found {', '.join(labels)}: name another, or --baseline")
    known = list(dict.fromkeys(board["task"]))
    names = [_task_name(task) for task in expand_tasks(tasks, settings["tasks_dir"])] if tasks is not None else known
    rows, notes = select(board, labels, names, name, prefer)
    synthetic = list(dict.fromkeys(row["task"] for row in rows if row["synthetic"]))
    if any(not row["synthetic"] for row in rows) and synthetic:
        rows = [row for row in rows if not row["synthetic"]]
        names = [task for task in names if task not in synthetic]
        notes.append(f"{', '.join(synthetic)}: synthetic stand-ins, left out beside real rows; --mini compares them")
    there = {(row["encoder"], row["task"]) for row in rows}
    shown = names if tasks is not None else [task for task in names if any(task == one for _, one in there)]
    for label in labels:
        missing = [task for task in shown if (label, task) not in there]
        if missing:
            notes.append(
                f"{label} is not compared on {', '.join(missing)} (it, or all others, are not measured there):"
                " without --no-run and with --tasks it is measured first"
            )
    if not rows:
        what = ", ".join(names) if tasks else "no task"
        found = f"{what}: not measured for two of {', '.join(labels)} by {name} in {results.folder}"
        raise EvarError(f"{found}; with --tasks and without --no-run they are measured first")
    return rows, notes


def _labels(word: str, board: pd.DataFrame, folder: Path, protocol: str) -> list[str]:
    """The labels in the results that an encoder word of the command line names."""
    import fnmatch

    known = sorted(set(board["encoder"]))
    if any(mark in word for mark in "*?["):
        found = [label for label in known if fnmatch.fnmatchcase(label, word)]
        if not found:
            raise EvarError(f"no encoder in {folder} matches {word!r}; measured by {protocol}: {', '.join(known)}")
        return found
    label = _label(word, known)
    if label not in known:
        raise unknown(f"encoder in {folder} (by {protocol}):", label, known, "(--tasks without --no-run measures it)")
    return [label]


def _label(word: str, known: list[str]) -> str:
    from evar.encoders.registry import parse

    return word if word in known else parse(word).label


def _protocol_name(protocol: str, known: set[str]) -> str:
    from evar.probes import get_protocol

    return protocol if protocol in known else get_protocol(protocol).name


def _task_name(task: Any) -> str:
    return Path(task).stem if str(task).endswith((".yaml", ".yml")) else str(task)


def _cards(tasks: list[str], tasks_dir: str | None) -> dict[str, Any]:
    """The cards of tasks where they can be found: rows may come from another machine."""
    from evar.datasets import find_card

    cards = {}
    for task in dict.fromkeys(tasks):
        try:
            cards[task] = find_card(task, tasks_dir)
        except EvarError:
            continue
    return cards


def _run_command(row: Mapping[str, Any], named: list[str], settings: Mapping[str, Any]) -> str:
    """The command that measures a row again, with the encoder as the user named it."""
    from evar.reporting.pairs import text_of

    encoder = next((word for word in named if _label(word, []) == row["encoder"]), row["encoder"])
    words = ["evar", "run", encoder, row["task"]]
    words += [] if row["protocol"] == "fair" else ["--probe", row["protocol"].partition("#")[0]]
    words += ["--mini"] if row["synthetic"] else [part for folder in settings["data"] for part in ("--data", folder)]
    words += ["--partial"] if row["partial"] else []
    words += ["--duration", "native"] if row["duration"] == "native" else []
    for column in ("limit", "train_fraction", "shots"):
        words += [f"--{column.replace('_', '-')}", str(row[column])] if text_of(row[column]) != "none" else []
    for name, default in (("tasks_dir", None), ("results", "results"), ("embeddings", "embeddings")):
        words += [f"--{name.replace('_', '-')}", str(settings[name])] if settings[name] != default else []
    return shlex.join(words)


def _pairs(prefer: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for given in prefer:
        column, equals, value = given.partition("=")
        if not equals or not column or not value:
            raise EvarError(f"--prefer {given}: expected COLUMN=VALUE, such as pooling=mean")
        found[column] = value
    return found
