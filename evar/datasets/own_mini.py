"""The tables of a csv dataset's mini, in the form that the card's options ask for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.datasets.part_words import part_of
from evar.errors import EvarError

if TYPE_CHECKING:
    from evar.datasets.card import Card

Row = tuple[str, str, str, str]  # path, label, part or fold, group


def write_tables(root: Path, card: Card, options: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the csv files that the card names, so that its own reader reads `rows` from them."""
    if options["pattern"]:
        raise EvarError(f"{card.name}: no stand-in for a card with `pattern`: evar cannot make up names for it")
    part = options["part"] or ("fold" if card.split == "folds" else "split")
    group = options["group"] or "group"
    table = [
        {options["path"]: path, options["label"]: label, part: _word(options["parts"], value, number), group: owner}
        for number, (path, label, value, owner) in enumerate(rows)
    ]
    for key in ("start", "stop"):
        if options[key]:
            table = [row | {options[key]: ""} for row in table]
    table = _with_left_out(table, options["where"])
    file = options["file"]
    if isinstance(file, dict) and card.split_file is None:
        for word, name in file.items():
            _write(root / name, [row for row in table if _same(row[part], word)], options, without=[part])
    elif options["join"]:
        key = options["key"] or options["path"]
        _write(root / (card.split_file or file), table, options, without=[part])
        _write(root / options["join"], [{key: row[options["path"]], part: row[part]} for row in table], options)
    else:
        _write(root / (card.split_file or file), table, options)


def _word(words: Mapping[str, Any], part: str, number: int) -> str:
    """A word of the card for `part`, each of them in turn; `part` itself where the card has none."""
    own = [word for word, meant in words.items() if _same(str(meant), part)]
    return own[number % len(own)] if own else part


def _same(part: str, word: str) -> bool:
    return part == word or (part_of(word) or word.removeprefix("fold")) == (part_of(part) or part)


def _with_left_out(table: list[dict[str, str]], where: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows that `where` keeps, and for each of its values one that it leaves out."""
    left_out = []
    for column, asked in where.items():
        words = [str(word) for word in (asked if isinstance(asked, list) else [asked])]
        unlike = words[0].startswith("!")
        if column not in table[0]:
            table = [row | {column: "kept" if unlike else words[i % len(words)]} for i, row in enumerate(table)]
        left_out += [{column: word.removeprefix("!")} for word in words] if unlike else [{column: "left out"}]
    first = table[0]
    path = next(iter(first))
    return table + [{**first, **changed, path: f"left_out_{number}.wav"} for number, changed in enumerate(left_out)]


def _write(
    path: Path, table: Sequence[Mapping[str, str]], options: Mapping[str, Any], without: Sequence[str] = ()
) -> None:
    from evar.files import atomic_write

    named = options["columns"] if path.name != options["join"] else []
    columns = named or [name for name in table[0] if name not in without]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, columns, delimiter=options["delimiter"] or ",", lineterminator="\n", extrasaction="ignore", restval=""
    )
    if not named:
        writer.writeheader()
    writer.writerows(table)
    atomic_write(path, text.getvalue())
