"""Whether a folder looks like a dataset, by a quick look: for layouts that have no file of their own to be known by."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from evar.audio.listing import is_audio
from evar.datasets.part_words import part_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

_FILES = 200  # of a list, taken evenly, that are looked for


def holds_listed_files(read: Callable[[Path, Card], DataFrame], root: Path, card: Card) -> bool:
    """Whether a layout's list can be read for `root` and one of its files is there; raises what `read` raises."""
    from evar.datasets.task import resolve_files

    clips = read(root, card)
    some = clips.iloc[:: max(1, len(clips) // _FILES)]
    return bool(len(some)) and len(resolve_files(some, root)[1]) < len(some)


def holds_classes(root: Path) -> bool:
    """Whether two folders or more of `root` hold audio files of their own: CLASS/FILE."""
    return sum(_has_audio(folder) for folder in _folders(root)) >= 2


def holds_parts(root: Path, parts: Collection[str]) -> bool:
    """Whether two parts of a split lie in `root`, each with a class in it: PART/CLASS/FILE.

    parts: the folders that are parts; besides them, any that is called as parts and folds usually are.
    """

    def is_part(name: str) -> bool:
        return name in parts or part_of(name) is not None or re.fullmatch(r"fold[ _-]?\d+", name.lower()) is not None

    found = 0
    for folder in _folders(root):
        if is_part(folder.name) and any(_has_audio(inner) or any(_folders(inner)) for inner in _folders(folder)):
            found += 1
    return found >= 2


def _folders(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        yield from (Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _has_audio(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_audio(entry.name) for entry in entries)
