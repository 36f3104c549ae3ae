"""What people write for parts, folds, labels and times, as evar's own words and numbers; what is ambiguous is an error.

The values are `clean` (evar.datasets.tables); `where` begins every message and says whose values they are.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evar.datasets.part_words import PARTS, part_of
from evar.datasets.tables import first_names, shown
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import Series

_FOLD = re.compile(r"(?:(?:cv|fold|split|f)[\s_.-]*)?0*([0-9]{1,9})(?:\.0+)?", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]*)?", re.ASCII)
_SECONDS = re.compile(r"[0-9]+(?:[.,][0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|[.,][0-9]+", re.ASCII)


def fold_number(word: str) -> int | None:
    """The fold that a word is (`fold1`, `1.0`), or None."""
    found = _FOLD.fullmatch(word)
    return int(found[1]) if found else None


def parts(words: Series, given: Mapping[str, Any], where: str, option: str = "parts") -> Series:
    """`train`, `valid` or `test` for each word: by the card's mapping `given`, else by what the word means anywhere."""
    for word, part in given.items():
        if part not in PARTS:
            raise EvarError(f"{where}: `{option}`: {word!r} is {part!r}, expected train, valid or test")
    distinct = sorted(set(words))
    known = {word: given.get(word) or (word if word in PARTS else part_of(word)) for word in distinct}
    pairs = ", ".join(f"{_quoted(word)}: {known[word] or 'train'}" for word in distinct[:4])
    example = f"`options: {{{option}: {{{pairs}}}}}`"
    unknown = [word for word, part in known.items() if part is None]
    if unknown:
        raise EvarError(
            f"{where}: split {first_names(unknown)} is none of train, valid and test; say which is which, such as {example}"
        )
    _all_used(given, distinct, where, option)
    for part in PARTS:
        same = {word.lower() for word in distinct if known[word] == part and word not in given}
        if len(same) > 1:
            raise EvarError(
                f"{where}: split {' and '.join(sorted(map(shown, same)))} would both be {part}; say which is which, "
                f"such as {example}"
            )
    if "train" not in known.values() and any(word.lower() == "dev" for word in distinct):
        raise EvarError(f"{where}: split 'dev' may be train or valid, and there is no train; say it: {example}")
    return words.map(known)


def folds(words: Series, n_folds: int, given: Mapping[str, Any], where: str, option: str = "parts") -> Series:
    """`1` to `n_folds` as texts: `fold1` and `1.0` are 1, and 0 to n - 1 become 1 to n (with a warning)."""
    for word, fold in given.items():
        if not _FOLD.fullmatch(str(fold)) or not 1 <= int(_FOLD.fullmatch(str(fold))[1]) <= n_folds:
            raise EvarError(f"{where}: `{option}`: {word!r} is {fold!r}, expected a fold from 1 to {n_folds}")
    distinct = sorted(set(words))
    _all_used(given, distinct, where, option)
    numbers = {}
    for word in distinct:
        found = _FOLD.fullmatch(str(given.get(word, word)))
        if found is None:
            raise EvarError(
                f"{where} has a fold {word!r}; expected whole numbers 1 to {n_folds}, or say which it is: "
                f"`options: {{{option}: {{{_quoted(word)}: 1, ...}}}}`"
            )
        numbers[word] = int(found[1])
    values = set(numbers.values())
    if values == set(range(n_folds)) and not given:
        warnings.warn(f"{where}: folds 0 to {n_folds - 1} are taken as 1 to {n_folds}")
        return words.map({word: str(number + 1) for word, number in numbers.items()})
    if not values <= set(range(1, n_folds + 1)):
        raise EvarError(f"{where} has folds {_few(values)}; expected 1 to {n_folds}; {_fold_hint(values, n_folds)}")
    return words.map({word: str(number) for word, number in numbers.items()})


def _fold_hint(values: set[int], n_folds: int) -> str:
    low, high = min(values), max(values)
    if low == 0 and high == n_folds:
        return 'fold 0 is left out by `options: {where: {fold: "!0"}}`'
    if values == set(range(1, high + 1)):
        return f"the card says `folds: {n_folds}`, the table has {high}"
    return f'correct the card\'s `folds: {n_folds}`, or say which is which: `options: {{parts: {{"{low}": 1, ...}}}}`'


def _few(values: Iterable[int]) -> str:
    ordered = sorted(values)
    return f"[{', '.join(map(str, ordered[:12]))}{', ...' if len(ordered) > 12 else ''}]"


def _all_used(given: Mapping[str, Any], found: Sequence[str], where: str, option: str) -> None:
    idle = [word for word in given if word not in found]
    if idle:
        raise EvarError(
            f"{where}: `{option}` names {first_names(idle)}, which no row has; there are: {first_names(found, 8)}"
        )


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z_][\w-]*", word) else f'"{word}"'


# --- labels and groups -----------------------------------------------------------------------------------------------


def plain_number(text: str) -> str:
    """The shortest form of a decimal number (`0.0` -> `0`, `1.50` -> `1.5`); every other text as it is."""
    if not _NUMBER.fullmatch(text) or "." not in text:
        return text
    return text.rstrip("0").rstrip(".")


def one_form(values: Iterable[str], what: str, where: str, known: Sequence[str] = ()) -> dict[str, str]:
    """{"0.0": "0"} where both occur, or where `known` (the card's classes) has the `0`: numbers that a program has written
    with decimals in some rows only. Words, and numbers of one form, are not in it."""
    distinct = set(values) | set(known)
    by_number: dict[str, list[str]] = {}
    for text in sorted(distinct):
        by_number.setdefault(plain_number(text), []).append(text)
    forms = {
        text: number
        for number, texts in by_number.items()
        if len(texts) > 1
        for text in texts
        if text != number and text not in known
    }
    if forms:
        pairs = [f"{text} and {number}" for text, number in forms.items()]
        warnings.warn(f"{where}: {what} {first_names(pairs)} are taken as one")
    if alike := near_names(distinct - set(known)):
        warnings.warn(f"{where}: {what} that differ in capitals only are taken as different: {first_names(alike)}")
    return forms


def near_names(names: Iterable[str]) -> list[str]:
    """`Dog and dog` for names that differ in capitals only."""
    near: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        near.setdefault(name.casefold(), []).append(name)
    return [" and ".join(map(shown, alike)) for alike in near.values() if len(alike) > 1]


SEPARATORS = (";", "|", ",", "/", "--", ":", "+", "&", " ")


def forgotten_separator(cells: Iterable[str], used: str, stated: bool) -> tuple[str, bool] | None:
    """The separator that label cells seem to hold beside `used`, and whether that is sure; None where all is well.

    `used` is empty for a card of one label per clip, `stated` says that the card names it. Evidence: pieces of the
    compound cells stand alone in other cells, or there are fewer different pieces than different cells. A space or a sign
    inside of names (`air conditioner`, `R&B`) does not do that. Without a stated separator, any other sign may be one.
    """
    distinct = {cell for cell in cells if cell}
    split = bool(used) and any(used in cell for cell in distinct)
    if split:
        distinct = {piece.strip() for cell in distinct for piece in cell.split(used)} - {""}
    maybe = None
    for separator in SEPARATORS:
        compounds = [cell for cell in distinct if separator in cell.strip(separator)]
        if separator == used or not compounds:
            continue
        pieces = {piece.strip() for cell in compounds for piece in cell.split(separator)} - {""}
        alone = pieces & distinct
        many = len(alone) > 1 and len(alone) * 2 > len(pieces)
        if split:  # some cells hold `used`, others perhaps another
            if many and separator != " ":
                return separator, False
            continue
        fewer = len(pieces | (distinct - set(compounds))) < len(distinct)
        if many or (used and separator != " " and (alone or fewer)):
            return separator, bool(used) and not (stated and used == ",")
        if used and not stated and separator in ";|" and len(compounds) > 1:
            return separator, True
        if used and not stated and (separator != " " or alone or fewer):
            maybe = maybe or (separator, False)
    return maybe


def empty_value(row: str, name: str, n_rows: int) -> EvarError:
    """The error for rows without a value in the column `name`; `row` says which is the first."""
    more = f" (so have {n_rows} rows in all)" if n_rows > 1 else ""
    return EvarError(
        f"{row} has no {name}{more}; fill it in there, or take the row out of the list, or leave such rows out by another "
        "column: `options: {where: {COLUMN: VALUE}}`"
    )


def two_labels(ids: Series, labels: Series) -> str:
    """`: x has the labels a and b; ...` where an id comes with different labels, and what to say then; else ""."""
    kinds = labels.groupby(ids.to_numpy(), sort=False).nunique()
    if not (kinds > 1).any():
        return ""
    name = kinds.index[kinds > 1][0]
    found = list(dict.fromkeys(labels[(ids == name).to_numpy()]))
    return (
        f": {shown(name)} has the labels {' and '.join(map(shown, found[:4]))}; if clips have several labels, say "
        "`multilabel: true` and `metric: mAP` in the card, else correct the wrong rows"
    )


# --- times -----------------------------------------------------------------------------------------------------------


def seconds(values: Series, empty: float, what: str, where: str) -> Series:
    """Times in seconds as float64, `empty` for an empty value; a comma may be the decimal point. The index holds lines."""
    import math

    found = []
    for line, text in values.items():
        number = empty
        if text and text.lower() not in ("nan", "na", "none"):
            number = float(text.replace(",", ".")) if _SECONDS.fullmatch(text) else math.inf
        if math.isinf(number):
            raise EvarError(f"{where}: row {line}: {what} is {text[:40]!r}; expected seconds from 0, such as 1.5")
        found.append(number)
    return type(values)(found, index=values.index, dtype="float64")
