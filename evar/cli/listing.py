"""`evar encoders`, `evar tasks`, `evar task show`: what there is. None of these imports torch."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from evar.cli.options import Group, format_option, print_json, table, tasks_dir_option
from evar.errors import EvarError

if TYPE_CHECKING:
    from evar.datasets import Card
    from evar.encoders.registry import Entry


@click.command()
@format_option
def encoders_command(output: str) -> None:
    """List the encoders: name, sample rate, dimension, where their weights are; and the schemes for those of others.

    \b
    Example:
      evar encoders --format json
    """
    from evar.encoders.registry import list_encoders, list_schemes

    entries, schemes = list_encoders(), list_schemes()
    if output == "json":
        return print_json({name: asdict(entry) for name, entry in entries.items()})
    rows = [
        [
            name,
            f"{entry.sample_rate}",
            f"{entry.dim}",
            _weights(entry),
            f"[{entry.extra}]" if entry.extra else "",
            entry.title,
        ]
        for name, entry in entries.items()
    ]
    click.echo(table(rows, ["encoder", "Hz", "dim", "weights", "extra", ""], right={1, 2}))
    click.echo("\nEncoders of others, without a line of code:")
    named = [
        [f"{name}:", f"[{scheme.extra}]" if scheme.extra else "", scheme.title] for name, scheme in schemes.items()
    ]
    named += [["py:", "", "your own class, or a plain torch.nn.Module: py:package.module:Class"]]
    named += [["random:", "", "the untrained architecture of any name above: random:NAME[@SEED]"]]
    click.echo(table(named, ["scheme", "extra", ""]))
    click.echo(
        "\nweights: 'fetch' is 'evar weights fetch NAME', 'own file' is NAME@FILE; 'evar weights list' says more."
        "\nNAME@FILE gives weights; label=NAME names it in the leaderboard."
    )


def _weights(entry: Entry) -> str:
    """Where an encoder's weights are, or are to come from, in a word or two."""
    from evar.encoders.catalog import fetched, source_of

    if entry.weights != "required":
        return {"optional": "bundled"}.get(entry.weights, entry.weights)
    if fetched(entry) is not None:
        return "here"
    source = source_of(entry)
    return "fetch" if source and source.kind else "own file"


@click.command()
@tasks_dir_option
@format_option
def tasks_command(tasks_dir: str | None, output: str) -> None:
    """List the tasks and suites.

    \b
    Example:
      evar tasks --tasks-dir my_cards
    """
    from evar.datasets import list_cards, list_suites

    cards, suites = list_cards(tasks_dir), list_suites(tasks_dir)
    if output == "json":
        return print_json({"tasks": {name: _summary(card) for name, card in cards.items()}, "suites": suites})
    rows = [
        [
            name,
            f"{card.counts.get('clips', 0):,}" if card.counts.get("clips") else "",
            f"{card.n_classes or ''}",
            f"{card.seconds:g} s",
            card.metric,
            f"{card.folds} folds" if card.split == "folds" else "parts",
            card.licence or "",
            card.title,
        ]
        for name, card in cards.items()
    ]
    click.echo(table(rows, ["task", "clips", "classes", "clip", "metric", "split", "licence", ""], right={1, 2, 3}))
    click.echo("\nSuites:")
    for name, members in suites.items():
        click.echo(f"  {name:<8} {','.join(members)}")
    click.echo("\n'evar task show TASK' tells more; 'evar data fetch TASK' or 'evar data mini TASK' gets the audio.")


def _summary(card: Card) -> dict[str, Any]:
    """All that a card says, its base's words included; of the layout's options those it gives and the defaults."""
    from evar.datasets import layouts

    said = asdict(card)
    del said["shadows"]
    kept = {key: value for key, value in said.items() if value not in (None, "", (), {}, False)}
    options = dict(card.options)
    with contextlib.suppress(EvarError):  # a list of cards is not broken by one of an unknown layout
        layout = layouts.load(card)
        written = {key: name for name, key in getattr(layout, "SPELLINGS", {}).items() if name in card.options}
        options = {written.get(key, key): default for key, default in layout.OPTIONS.items()} | card.options
    if options:
        kept["options"] = options
    return {key: kept[key] for key in (*_FIRST, *kept) if key in kept}


_FIRST = (
    "name",
    "version",
    "base",
    "title",
    "asks",
    "seconds",
    "metric",
    "multilabel",
    "split",
    "folds",
    "split_file",
    "group",
    "groups_disjoint",
    "classes",
    "counts",
    "layout",
    "options",
    "folders",
    "lists",
)
_WIDE = len("groups_disjoint")


@click.group(cls=Group)
def task_command() -> None:
    """Look at one task card.

    \b
    Example:
      evar task show esc50
    """


@task_command.command("show")
@click.argument("task")
@tasks_dir_option
@format_option
def show(task: str, tasks_dir: str | None, output: str) -> None:
    """Show all that the card of TASK (a name or a card file) says: what is asked, split, options, licence, where to get it.

    What a card takes from its `base` is shown with it; layout options that it leaves alone are marked as defaults.

    \b
    Example:
      evar task show esc50
    """
    from evar.datasets import find_card

    card = find_card(task, tasks_dir)
    summary = _summary(card)
    if output == "json":
        return print_json(summary)
    for key, value in summary.items():
        text = _text(key, value, card)
        for i, line in enumerate(text.splitlines()):
            click.echo(f"{key if i == 0 else '':>{_WIDE}}  {line}")


def _text(key: str, value: Any, card: Card) -> str:
    if key == "fetch":
        return "\n".join(f"{item['url']} ({item['bytes'] or '?'} bytes)" for item in value)
    if key == "options":
        return "\n".join(
            f"{name}: {json.dumps(item, ensure_ascii=False)}{'' if name in card.options else ' (default)'}"
            for name, item in value.items()
        )
    if key == "paper":
        return "; ".join(f"{name}: {_text('', items, card)}" for name, items in value.items())
    if key == "split_file":
        from evar.datasets.card import find_split_file

        found = find_split_file(card, None)
        return f"{value} ({'found: ' + str(found) if found else 'to lie beside the card or in the dataset folder'})"
    if key == "lists":
        return "\n".join(f"{name} (sha256 {sha})" for name, sha in value.items())
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
