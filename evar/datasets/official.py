"""Official lists have a known length: what comes with a list of another length is a stand-in, not a part of the set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evar.datasets.tables import SYNTHETIC_FILE
from evar.errors import EvarError

if TYPE_CHECKING:
    from evar.datasets.card import Card


def require_rows(n_rows: int, card: Card, root: Path, path: Path, key: str = "clips") -> None:
    """EvarError unless the list `path` has as many rows as the card counts under `key`; a mini has its own counts.

    An incomplete copy of a dataset lacks audio files, not rows of its lists, so this holds with `--partial` too.
    """
    expected = card.counts.get(key, n_rows)
    if n_rows != expected and not (root / SYNTHETIC_FILE).exists():
        raise EvarError(
            f"{card.name}: {path} lists {n_rows} clips, the official list {expected}: this is not {card.name}, also "
            "not with --partial; restore the official list, or write a card with a name of its own"
        )
