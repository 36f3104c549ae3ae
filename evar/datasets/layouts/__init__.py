"""One file per dataset layout: OPTIONS, MARKERS, read(root, card) and write_mini(root, card) (docs/architecture.md).

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
    """The layout's options with the card's values over the defaults; EvarError for an unknown one or another type."""
    given = copy.deepcopy(layout.OPTIONS)
    for key, value in card.options.items():
        if key not in given:
            raise EvarError(f"{card.path}: 'options': {unknown(f'option of layout {card.layout}', key, given)}")
        where = f"{card.path}: 'options': {key!r}"
        given[key] = list(strings(value, where)) if isinstance(given[key], list) else _typed(value, given[key], where)
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
