"""Reading what a dataset brings: csv tables and lists of files, all of it possibly broken, none of it trusted.

Every function raises EvarError (file, line where there is one, what was expected) and returns text only: ids keep
their leading zeros.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evar.audio.listing import AUDIO_EXTENSIONS
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

SYNTHETIC_FILE = "EVAR_SYNTHETIC.json"  # marks a root as a mini; holds its card and counts
_STAND_IN = re.compile(r"\.(?:flac|ogg|mp3|au|aiff)(?=[\s,;\"]|$)")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file (a byte order mark is dropped)."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise EvarError(f"{path} not found: this is not the dataset's folder, or not in its official layout") from None
    except UnicodeDecodeError as error:
        raise EvarError(f"{path} is not UTF-8 text (byte {error.start}); restore the official file") from None
    except OSError as error:
        raise EvarError(f"cannot read {path}: {error.strerror}") from None


def read_csv(path: Path, columns: Sequence[str], *, optional: Sequence[str] = (), delimiter: str = ",") -> DataFrame:
    """The named columns of a csv with a header row, as str; columns of `optional` only where the file has them.

    Raises EvarError: no rows, a missing column, a row of another length, an empty value in a column of `columns`.
    """
    import pandas as pd

    text = io.StringIO(read_text(path), newline="")
    try:
        rows = [row for row in csv.reader(text, delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise EvarError(f"{path} is not a valid csv file: {error}; restore the official file") from None
    if len(rows) < 2:
        raise EvarError(f"{path} is empty: expected a header with {', '.join(columns)} and one row per clip")
    header = [name.strip() for name in rows[0]]
    absent = [name for name in columns if name not in header]
    if absent:
        raise EvarError(f"{path}: column {', '.join(absent)} is missing; found {', '.join(header)[:200]}")
    twice = [name for name in (*columns, *optional) if header.count(name) > 1]
    if twice:
        raise EvarError(f"{path}: column {twice[0]} stands there twice; restore the official file")
    for i, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise EvarError(f"{path}: row {i} has {len(row)} values, the header has {len(header)}")
    table = pd.DataFrame(rows[1:], columns=header, dtype=str)
    table = table[[*columns, *(name for name in optional if name in header)]]
    for name in columns:
        empty = (table[name].str.strip() == "").to_numpy()
        if empty.any():
            raise EvarError(f"{path}: row {int(empty.argmax()) + 2} has no {name}")
    return table


def read_list(path: Path) -> list[str]:
    """The lines of a list of files, stripped, without empty ones; each a safe relative path, none twice."""
    entries = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not entries:
        raise EvarError(f"{path} is empty: expected one file name per line")
    seen: set[str] = set()
    for entry in entries:
        relative(entry, path)
        if entry in seen:
            raise EvarError(f"{path}: {entry} is listed twice")
        seen.add(entry)
    return entries


def relative(entry: str, where: Path | str) -> str:
    """`entry` when it is a relative path that stays inside its folder (posix separators), else EvarError."""
    unsafe = entry[:1] in ("", "/") or "\\" in entry or entry[1:2] == ":" or not entry.isprintable()
    if unsafe or not {"", ".", ".."}.isdisjoint(entry.split("/")):
        raise EvarError(f"{where}: {entry[:80]!r} is not a path inside the dataset; restore the official file")
    return entry


def list_sha256(path: Path) -> str:
    """SHA-256 (hex) of a split list, the same for every stand-in extension and line end: the cards' `lists`.

    Extensions become .wav, line ends LF, spaces at line ends and empty lines at the end go.
    """
    lines = [_STAND_IN.sub(".wav", line.rstrip()) for line in read_text(path).splitlines()]
    return hashlib.sha256("\n".join(lines).rstrip("\n").encode()).hexdigest()


def without_extension(path: str) -> str:
    """`audio/1-2-A-3.flac` -> `audio/1-2-A-3`; only audio extensions go (`blues.00001` stays)."""
    stem, dot, extension = path.rpartition(".")
    return stem if dot and f".{extension.lower()}" in AUDIO_EXTENSIONS else path


def first_names(names: Iterable[str], n: int = 3) -> str:
    """`a, b, c, ...`: the first `n` names for an error line."""
    names = list(names)
    return ", ".join(str(name) for name in names[:n]) + (", ..." if len(names) > n else "")
