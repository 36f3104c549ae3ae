"""What mkdocs does not know: pages still to be written, and `--help` texts that hold examples."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

log = logging.getLogger("mkdocs.hooks")
absent: set[str] = set()  # pages of the navigation that are still to be written


def on_config(config: Any) -> Any:
    """Leave out pages of the navigation that are not there, and turn the help of every verb into Markdown."""
    config["nav"] = present(config["nav"], Path(config["docs_dir"]))
    from evar.cli.app import app

    app.context_settings["terminal_width"] = 100  # whatever terminal the site is built in
    for command in commands(app):
        command.help = as_markdown(command.help or "")
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A link to an absent page is plain text."""
    for name in absent:
        markdown = re.sub(rf"\[([^\]\n]+)\]\({re.escape(name)}(#[\w-]+)?\)", r"\1", markdown)
    return markdown


def present(nav: list[dict[str, Any]], docs: Path) -> list[dict[str, Any]]:
    """The entries of `nav` whose page is in `docs`; a section without pages goes too."""
    kept = []
    for entry in nav:
        for title, target in entry.items():
            if isinstance(target, list):
                target = present(target, docs)
            elif not (docs / target).is_file():
                log.info("left out, not written yet: %s", target)
                absent.add(target)
                continue
            kept += [{title: target}] if target else []
    return kept


def commands(command: click.Command) -> Iterator[click.Command]:
    """`command` and all below it; verbs are imported when they are asked for, so they are asked for by name."""
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name))


def as_markdown(text: str) -> str:
    r"""Paragraphs that click leaves as they are (after `\b`) hold examples: they become code, their heading stays text."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if not paragraph.lstrip().startswith("\b"):
            paragraphs.append(paragraph)
            continue
        lines = paragraph.strip().splitlines()[1:]
        if lines[0].strip() in ("Example:", "Examples:"):
            paragraphs.append(lines.pop(0).strip())
        paragraphs.append("\n".join(["```sh", *(line.strip() for line in lines), "```"]))
    return "\n\n".join(paragraphs)
