"""Comma lists of a command line: where a comma separates, and where it belongs to a path or a label."""

from __future__ import annotations

import os
from collections.abc import Callable


def split_words(text: str, is_one: Callable[[str], bool]) -> list[str]:
    """The words of a comma list, stripped, without empty ones.

    `is_one(text)` says whether a text that holds commas is one word all the same (the path of a file that is there, a
    label that was measured); the longest such text wins.

    >>> split_words("a,b,c", lambda text: text == "b,c")
    ['a', 'b,c']
    """
    pieces, words, start = text.split(","), [], 0
    while start < len(pieces):
        stop = next((s for s in range(len(pieces), start + 1, -1) if is_one(_joined(pieces, start, s))), start + 1)
        words.append(_joined(pieces, start, stop))
        start = stop
    return [word for word in words if word]


def is_path(text: str) -> bool:
    """Whether a file or folder of this name is there (`~` is the home folder)."""
    try:
        return bool(text) and os.path.exists(os.path.expanduser(text))
    except (OSError, ValueError):
        return False


def is_path_after(mark: str) -> Callable[[str], bool]:
    """A test for `split_words`: whether what follows the first `mark` is a path that is there and holds the comma."""

    def is_one(text: str) -> bool:
        before, _, path = text.partition(mark)
        return "," not in before and is_path(path)

    return is_one


def _joined(pieces: list[str], start: int, stop: int) -> str:
    return ",".join(pieces[start:stop]).strip()
