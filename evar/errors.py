"""The one kind of error that evar shows to its user: a single line that says what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# What a terminal obeys (C0 without tab and line feed, DEL, C1), what turns the reading direction, and half characters
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class EvarError(Exception):
    """A problem the user can mend. The CLI prints its message as one line and exits with code 2.

    The message says what is wrong, where (a path), what was expected and found, and what to do next.
    Line breaks are folded so that one error is always one line.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(str(message).split())))


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it hides, says in any library's words that there is no memory left."""
    words = ("out of memory", "allocate memory", "bad_alloc", "start new thread", "failed to map segment")
    while error is not None:
        if isinstance(error, MemoryError) or any(word in str(error).lower() for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def printable(text: str) -> str:
    """Text that does nothing to a terminal: control characters as `\\u001b`, which is how JSON writes them too."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option closest in spelling to `name`, or None when nothing is near."""
    options = list(options)
    lowered = {option.lower(): option for option in reversed(options)}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return lowered[matches[0]] if matches else None


def unknown(kind: str, name: str, options: Iterable[str], hint: str = "") -> EvarError:
    """The error for a name that is not among `options`: suggests the nearest one, else lists them.

    >>> str(unknown("task", "esc5", ["esc50", "us8k"]))
    "unknown task 'esc5'; did you mean 'esc50'?"
    """
    options = sorted(options)
    near = nearest(name, options)
    message = f"unknown {kind} {name!r}"
    if near:
        message += f"; did you mean {near!r}?"
    elif options:
        message += f"; there are: {', '.join(options)}"
    return EvarError(f"{message} {hint}" if hint else message)
