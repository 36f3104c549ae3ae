"""The rows of a dataset of one's own: one csv, one for each part, or two that are joined; names as columns; rows left out.

What comes out is a table of `clean` text with all columns of the csv files, and of the pattern; three more are PATH, the
clip's file below the dataset's folder, and SOURCE and LINE, the csv that a row is from and where it stands there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.datasets import name_pattern
from evar.datasets.card import find_split_file
from evar.datasets.own_values import empty_value, fold_number, plain_number
from evar.datasets.part_words import part_of
from evar.datasets.tables import (
    clean,
    columns_of,
    first_names,
    is_absolute,
    read_table,
    relative,
    shown,
    without_extension,
)
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from evar.datasets.card import Card

PATH, SOURCE, LINE = "\0path", "\0source", "\0line"  # no csv has columns of these names


def read_rows(root: Path, card: Card, part: str, wanted: Sequence[str]) -> DataFrame:
    """The rows that the card's options ask for. `part` is the column of part or fold, `wanted` the columns in use."""
    import pandas as pd

    options = card.options
    tables = []
    for name, path in list_files(root, card).items():
        table = read_table(path, wanted, options["delimiter"], options["columns"])
        table = _in_capitals_of(wanted, table, path, options["pattern"])
        if options["path"] not in table:
            raise no_column(table, path, options["path"], "path", card)
        table[PATH] = _paths(table[options["path"]], path, root, card)
        table[SOURCE] = str(path)
        if name and part in table:
            _check_own_part(table[part], str(name), path, card)
        tables.append(table if not name else table.assign(**{part: name}))
    rows = tables[0] if len(tables) == 1 else pd.concat(tables, join="outer").fillna("")
    rows = rows.reset_index(names=LINE)
    n_rows, where = len(rows), options["where"]
    if options["join"]:  # what the first list itself leaves out needs no row in the second
        first = {column: asked for column, asked in where.items() if column in rows}
        every, where = rows[PATH], {column: asked for column, asked in where.items() if column not in first}
        rows = _joined(_kept(rows, first, card), every, root, card, wanted)
    if options["pattern"]:
        found = name_pattern.columns(options["pattern"], rows[PATH].map(without_extension).tolist(), _card(card))
        for name, values in found.items():
            if name in rows:
                raise EvarError(f"{_card(card)}: `pattern` gives {name}, which is a column of the csv too; rename one")
            rows[name] = values
    rows = _kept(rows, where, card)
    if options["where"]:
        _say_left_out(n_rows, n_rows - len(rows), card)
    return rows


def _check_own_part(words: Series, name: str, path: Path, card: Card) -> None:
    """EvarError where a list's own column of parts or folds says otherwise than the card's `file` does."""
    given = card.options["parts"]

    def meant(word: str) -> str:
        fold = fold_number(str(given.get(word, word)))
        return str(given.get(word) or part_of(word) or word) if fold is None else str(fold)

    other = words[(words != "") & (words.map(meant) != meant(name))]
    if len(other):
        raise EvarError(
            f"{path}: its own column {words.name} says {shown(other.iloc[0])} in {len(other)} of {len(words)} rows (row "
            f"{other.index[0]}), and `options: {{file: ...}}` in {_card(card)} says {name}; correct or remove the column "
            "there, or name one list with all rows by `options: {file: NAME}`"
        )


def _in_capitals_of(wanted: Sequence[str], table: DataFrame, path: Path, pattern: str) -> DataFrame:
    """The table with `Path` as `path` where only the capitals of one column differ from a name that is looked for."""
    names = {}
    for name in wanted:
        alike = [column for column in table.columns if column.casefold() == name.casefold()]
        if len(alike) == 1 and alike[0] != name and f"(?P<{name}>" not in pattern:
            names[alike[0]] = name
    if names:
        warnings.warn(
            f"{path}: columns {', '.join(map(shown, names))} are taken as {', '.join(map(shown, names.values()))}"
        )
    return table.rename(columns=names)


def list_files(root: Path, card: Card) -> dict[str, Path]:
    """The csv, as {"": path}, or one for each part or fold, by its word. They lie in the dataset or beside the card."""
    options, file = card.options, card.options["file"]
    if card.split_file is not None:
        path = find_split_file(card, root)
        if path is None:
            part = "fold" if card.split == "folds" else "split"
            names = ",".join([options["path"], options["label"], options["part"] or part])
            raise EvarError(
                f"{card.name}: its list {card.split_file} is neither in {root} nor beside the card; bring the list as a csv "
                f"with the columns {names}[,{options['group'] or 'group'}] (evar draws no split of its own under a "
                "published name)"
            )
        return {"": path}
    if isinstance(file, str):
        return {"": _beside(root, card, file, "file")}
    return {word: _beside(root, card, name, "file") for word, name in file.items()}


def _beside(root: Path, card: Card, name: Any, option: str) -> Path:
    if not isinstance(name, str) or not name:
        raise EvarError(f"{_card(card)}: 'options': '{option}': expected the name of a csv, found {name!r}")
    if name in card.lists:
        return root / name
    places = [root / name] + ([card.path.parent / name] if card.path else [])
    found = next((path for path in places if path.exists()), None)
    if found is None:
        there = sorted(path.name for path in root.iterdir() if path.suffix.lower() in (".csv", ".tsv", ".txt"))
        tables = f"; there are {first_names(there, 5)}" if there else ""
        raise EvarError(
            f"{places[0]} not found, nor beside the card{tables}; name the list by `options: {{{option}: NAME}}` in "
            f"{_card(card)}"
        )
    return found


def _paths(entries: Series, path: Path, root: Path, card: Card) -> Series:
    """Each entry as a path below `root`: in the option's folder, with the option's extension where it has none."""
    extension, folder = card.options["extension"], card.options["folder"].replace("\\", "/").rstrip("/")
    folder = "" if folder in ("", ".") else relative(folder, _card(card), root) + "/"
    found = []
    for line, entry in entries.items():
        if not entry:
            raise empty_value(f"{path}: row {line}", str(entries.name), int((entries == "").sum()))
        inside = relative(entry, f"{path}: row {line}", root)
        if not is_absolute(entry):
            inside = folder + inside
        found.append(inside if inside.endswith(extension) else inside + extension)
    return type(entries)(found, index=entries.index, dtype=object)


# --- two tables ------------------------------------------------------------------------------------------------------


def _joined(rows: DataFrame, every: Series, root: Path, card: Card, wanted: Sequence[str]) -> DataFrame:
    """The rows with the columns of the second csv, found by the clip's path; each clip stands there once.

    `every` are the paths of the first list with those that it leaves out itself."""
    options = card.options
    path = _beside(root, card, options["join"], "join")
    other = read_table(path, [options["key"] or options["path"], *wanted], options["delimiter"])
    missing = [name for name in wanted if name not in rows and name != options["path"]]
    other = _in_capitals_of([options["key"] or options["path"], *missing], other, path, options["pattern"])
    key = next((name for name in (options["key"], options["path"], "path") if name and name in other), None)
    if key is None or (options["key"] and key != options["key"]):
        raise EvarError(
            f"{path}: column {options['key'] or options['path']} is missing; found {columns_of(other)}; name the column "
            "of the files there by `options: {key: COLUMN}`"
        )
    keys = _paths(other[key], path, root, card).map(without_extension)
    if keys.duplicated().any():
        raise EvarError(f"{path}: {first_names(keys[keys.duplicated()])} stands there twice; keep one row of each")
    other = other.drop(columns=[key]).set_index(keys.to_numpy())
    ids = rows[PATH].map(without_extension)
    absent = ids[~ids.isin(other.index)]
    if len(absent):
        raise EvarError(
            f"{path} has no row for {len(absent)} of {len(ids)} clips: {first_names(absent)}; add them there, or leave "
            "them out with `options: {where: {COLUMN: VALUE}}` on a column of the first list"
            if len(absent) < len(ids)
            else f"{path} has no row for any clip: its {key} is {shown(keys.iloc[0])}, that of the first list "
            f"{shown(ids.iloc[0])}"
        )
    unused = len(set(other.index) - set(every.map(without_extension)))
    if unused:
        warnings.warn(f"{path}: {unused} of {len(other)} rows are of no clip in the first list and are left out")
    for name in other.columns:
        values = other[name].reindex(ids.to_numpy()).to_numpy()
        if name in rows:
            if name in wanted and (rows[name].to_numpy() != values).any():
                raise EvarError(f"{path}: column {shown(name)} stands in both lists and differs; rename one of them")
            continue
        rows[name] = values
    return rows


# --- rows left out ---------------------------------------------------------------------------------------------------


def _kept(rows: DataFrame, where: Mapping[str, Any], card: Card) -> DataFrame:
    """The rows for which every entry of `where` holds: {column: value or values}, `!value` for all others."""
    keep = rows[PATH].notna()
    for column, asked in where.items():
        place = f"{_card(card)}: 'options': 'where': {column!r}"
        if column not in rows:
            raise EvarError(f"{place}: no such column; found {columns_of(rows)}")
        words = [_word(value, place) for value in (asked if isinstance(asked, list) else [asked])]
        unlike = [word.startswith("!") for word in words]
        if not words or any(unlike) != all(unlike):
            raise EvarError(f"{place}: expected values to keep, or values with '!' to leave out, found {asked!r}")
        values = rows[column].map(lambda text: plain_number(text).lower())
        named = [clean(word.removeprefix("!")) for word in words]
        for word in named:
            if plain_number(word).lower() not in set(values):
                found = sorted(set(rows[column]))
                raise EvarError(f"{place}: no row has {word!r}; there are: {first_names(found, 8)}")
        keep &= values.isin({plain_number(word).lower() for word in named}) != unlike[0]
    if not keep.any():
        raise EvarError(f"{_card(card)}: 'options': 'where' leaves out all {len(rows)} rows")
    return rows[keep.to_numpy()].reset_index(drop=True)


def _say_left_out(n_rows: int, n_left_out: int, card: Card) -> None:
    if not n_left_out:
        raise EvarError(f"{_card(card)}: 'options': 'where' leaves out none of {n_rows} rows; remove it")
    warnings.warn(f"{card.name}: `where` leaves out {n_left_out} of {n_rows} rows")


def _word(value: Any, where: str) -> str:
    if isinstance(value, (Mapping, list)) or value is None:
        raise EvarError(f"{where}: expected a value or a list of values, found {value!r}")
    return str(value)


# --- messages --------------------------------------------------------------------------------------------------------


def no_column(rows: DataFrame, path: Path | str, name: str, option: str, card: Card) -> EvarError:
    """The error for a column that is not there: what is there, and the option that names another."""
    found = columns_of(rows)
    hint = f"name it by `options: {{{option}: COLUMN}}` in {_card(card)}"
    if card.options["delimiter"] and len(rows.columns) <= 4:  # one column, and the three of our own
        hint = f"if other signs than {card.options['delimiter']!r} stand between its columns, mend `options: {{delimiter: ...}}`"
    elif card.options["columns"]:
        hint = "mend `options: {columns: [...]}`"
    return EvarError(f"{path}: column {name} is missing; found {found}; {hint}")


def _card(card: Card) -> str:
    return str(card.path or card.name)
