"""One file per dataset layout: OPTIONS, MARKERS, read(root, card) and write_mini(root, card) (docs/architecture.md).

A layout may also have TYPES (option -> types, where the default's type is not the only one), SPELLINGS (other word for an
option -> the option), `markers(options)` in place of MARKERS, and `idle(card)`, which says of an option that the card
gives why it cannot have an effect.

Where there is use for them: ELSEWHERE (official path -> places in copies that arrange the files otherwise) and
holds(root, card) (whether a folder looks like the dataset, for layouts without files of their own).
"""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evar.datasets.card_values import strings
from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    from evar.datasets.card import Card


def load(card: Card) -> ModuleType:
    """The reader that the card names; EvarError when there is no such layout."""
    names = [path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__"]
    if card.layout not in names:
        raise EvarError(f"{card.path}: {unknown('layout', card.layout, names)}")
    return import_module(f"evar.datasets.layouts.{card.layout}")


def options(card: Card, layout: ModuleType) -> dict[str, Any]:
    """The layout's options with the card's values over the defaults.

    Raises EvarError for an unknown one, another type, and one that has no effect beside what else the card says.
    """
    given = copy.deepcopy(layout.OPTIONS)
    spellings = getattr(layout, "SPELLINGS", {})
    for written, value in card.options.items():
        key = spellings.get(written, written)
        if key != written and key in card.options:
            raise EvarError(f"{card.path}: 'options': {written!r} is another word for {key!r}; remove one of the two")
        if key not in given:
            raise EvarError(f"{card.path}: 'options': {unknown(f'option of layout {card.layout}', key, given)}")
        where = f"{card.path}: 'options': {written!r}"
        if type(value) in getattr(layout, "TYPES", {}).get(key, ()):
            given[key] = value
        elif isinstance(given[key], list):
            given[key] = list(strings(value, where))
        else:
            given[key] = _typed(value, given[key], where)
    without_effect = layout.idle(card) if hasattr(layout, "idle") else None
    if without_effect is not None:
        raise EvarError(f"{card.path}: 'options': {without_effect}")
    return given


def lies(layout: ModuleType, root: Path, file: str) -> Path:
    """Where `file`, a path of the official layout, lies in `root`: there, or where the layout's ELSEWHERE says."""
    places = [root / file, *(root / other for other in getattr(layout, "ELSEWHERE", {}).get(file, ()))]
    return next((place for place in places if place.exists()), places[0])


def _typed(value: Any, default: Any, where: str) -> Any:
    """`value` when it is of the default's type; a default of None takes anything."""
    if default is not None and type(value) is not type(default):
        kinds = {bool: "true or false", str: "a text", int: "a whole number", dict: "a mapping"}
        raise EvarError(f"{where}: expected {kinds.get(type(default), type(default).__name__)}, found {value!r}")
    return value
