"""Reading what a dataset brings: csv tables and lists of files, all of it possibly broken, none of it trusted.

Every function raises EvarError (file, line where there is one, what was expected) and returns text only: ids keep
their leading zeros.
"""

from __future__ import annotations

import codecs
import csv
import functools
import hashlib
import io
import os
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evar.audio.listing import AUDIO_EXTENSIONS
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

SYNTHETIC_FILE = "EVAR_SYNTHETIC.json"  # marks a root as a mini; holds its card and counts
_CORRECT = "correct it there, or fetch it anew where it came with the dataset"
_RESTORE = _CORRECT.partition(", ")[2]
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # xlsx and ods; xls
_AROUND = re.compile("^[\\s\u200b\u2060\ufeff]+|[\\s\u200b\u2060\ufeff]+$")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_STAND_IN = re.compile(r"\.(?:flac|ogg|mp3|au|aiff)(?=[\s,;\"]|$)")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; line ends become LF."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise EvarError(f"{path} not found: this is not the dataset's folder, or not in its official layout") from None
    except OSError as error:
        raise EvarError(f"cannot read {path}: {error.strerror}") from None
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if data.startswith(_WORKBOOKS):
        raise EvarError(f"{path} is a spreadsheet, not text; save it as 'CSV UTF-8'")
    if encoding == "utf-8" and len(data) > 1 and 0 in data[:2]:
        raise EvarError(f"{path} is not UTF-8 text (UTF-16 without a byte order mark?); save it as UTF-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        where = f"byte {error.start}, line {data[: error.start].count(10) + 1}"
        raise EvarError(
            f"{path} is not {encoding.upper().removesuffix('-SIG')} text ({where}); save it as UTF-8 (a spreadsheet's "
            f"'CSV UTF-8'; plain 'CSV' is Windows-1252 there), {_RESTORE}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def clean(value: str) -> str:
    """A value without the spaces and invisible marks around it, in Unicode's composed form (NFC): what is compared."""
    if value.isascii():
        return value.strip()
    return _AROUND.sub("", unicodedata.normalize("NFC", value))


def read_table(path: Path, wanted: Sequence[str], delimiter: str = "", header: Sequence[str] = ()) -> DataFrame:
    """All columns of a csv as `clean` str; the index is the line of each row.

    `wanted` are names that its header is expected to have. Without `delimiter`, the header decides: a comma, or a tab, a
    semicolon or a bar where that finds more of `wanted` (with a warning). `header` are the names of a file without them.
    Raises EvarError: no rows, broken quotes, a row of another length, a wanted name twice in the header.
    """
    import pandas as pd

    text = read_text(path)
    first, _, rest = text.partition("\n")
    if stated := re.fullmatch(r'"?sep=(.)"?\s*', first):  # what Excel writes for itself
        delimiter, text = delimiter or stated[1], "\n" + rest
    delimiter = delimiter or _delimiter(path, text, header or wanted, len(header))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, [clean(value) for value in row]) for row in reader if row]
    except csv.Error as error:
        raise EvarError(f"{path} is not a valid csv file: line {reader.line_num}: {error}; {_CORRECT}") from None
    names = list(header)
    if not names and rows:
        names = rows.pop(0)[1]
    elif rows and rows[0][1] == names:
        raise EvarError(f"{path}: its first line is a header; remove `columns` from the card's options")
    if not rows:
        raise EvarError(f"{path} is empty: expected a header with {', '.join(wanted)} and one row per clip")
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise EvarError(f"{path}: column {shown(twice[0])} stands there twice; {_CORRECT}")
    for line, row in rows:
        if len(row) != len(names):
            has = f"`columns` of the card's options {len(names)}" if header else f"the header has {len(names)}"
            mend = (
                "quote a value that holds the sign between the columns"
                if len(row) > len(names)
                else "add what is missing"
            )
            raise EvarError(f"{path}: row {line} has {len(row)} values, {has}; {mend}, or {_CORRECT}")
    return pd.DataFrame([row for _, row in rows], columns=names, dtype=str, index=[line for line, _ in rows])


def read_csv(path: Path, columns: Sequence[str], *, optional: Sequence[str] = (), delimiter: str = "") -> DataFrame:
    """The named columns of a csv with a header row, as str; columns of `optional` only where the file has them.

    Raises EvarError as `read_table` does, and for a missing column and an empty value in a column of `columns`.
    """
    table = read_table(path, [*columns, *optional], delimiter)
    absent = [name for name in columns if name not in table]
    if absent:
        raise EvarError(f"{path}: column {', '.join(absent)} is missing; found {columns_of(table)}")
    require_values(table, columns, path)
    return table[[*columns, *(name for name in optional if name in table)]].reset_index(drop=True)


def columns_of(table: DataFrame) -> str:
    """The names of a table's columns, for an error line."""
    return ", ".join(shown(name) for name in table.columns if not name.startswith("\0"))[:300]


def require_values(table: DataFrame, columns: Sequence[str], path: Path | str) -> None:
    """EvarError for the first empty value in one of the columns; the index holds line numbers."""
    for name in columns:
        empty = (table[name] == "").to_numpy()
        if empty.any():
            raise EvarError(f"{path}: row {table.index[int(empty.argmax())]} has no {name}")


def _delimiter(path: Path, text: str, wanted: Sequence[str], n_columns: int) -> str:
    """What stands between the columns: the comma, unless the first line only makes sense with another."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    best, most = ",", None
    for delimiter in _DELIMITERS:
        try:
            found = [clean(value) for value in next(csv.reader([first], delimiter=delimiter), [])]
        except csv.Error:
            continue
        fit = (
            (len(found) == n_columns, 0)
            if n_columns
            else (len(set(wanted) & set(found)), len(_folded(wanted) & _folded(found)))
        )
        if most is None or fit > most:
            best, most = delimiter, fit
    if best != ",":
        name = _DELIMITERS[best]
        option = "\\t" if best == "\t" else best
        warnings.warn(
            f'{path}: read with {name} between the columns (`options: {{delimiter: "{option}"}}` in its card says so)'
        )
    return best


def _folded(names: Iterable[str]) -> set[str]:
    return {name.casefold() for name in names}


def read_list(path: Path) -> list[str]:
    """The lines of a list of files, stripped, without empty ones; each a safe relative path, none twice."""
    entries = [relative(line.strip(), path) for line in read_text(path).splitlines() if line.strip()]
    if not entries:
        raise EvarError(f"{path} is empty: expected one file name per line")
    seen: set[str] = set()
    for entry in entries:
        if entry in seen:
            raise EvarError(f"{path}: {shown(entry)} is listed twice")
        seen.add(entry)
    return entries


def relative(entry: str, where: Path | str, root: Path | None = None) -> str:
    """`entry` as a path below the dataset's folder, with `/` between its parts and without `./`.

    Backslashes separate as well; an absolute path does where it lies in `root`. Raises EvarError for what leaves the
    folder, for control characters, and for what names no file.
    """
    path = entry.replace("\\", "/")
    absolute = is_absolute(entry)
    if absolute and root is not None:
        below = _below(path, root)
        path, absolute = (path, True) if below is None else (below, False)
    pieces = path.split("/")
    control = _CONTROL.search(entry)
    if control:
        why = f"it holds the control character U+{ord(control[0]):04X}"
        if "\ud800" <= control[0] <= "\udfff":
            why = "its name is not UTF-8 on the disk; rename it"
    elif absolute:
        why = f"it is absolute and lies elsewhere; write it relative to {root or 'the folder of the dataset'}"
    elif ".." in pieces:
        why = f"'..' may leave it; write it relative to {root or 'the folder of the dataset'}"
    elif pieces[-1] in ("", "."):
        why = "it names no file"
    else:
        return "/".join(piece for piece in pieces if piece not in ("", "."))
    raise EvarError(f"{where}: {entry[:80]!r} is not a path inside the dataset: {why}")


def is_absolute(entry: str) -> bool:
    """Whether a path is one from the root of a disk, here or on Windows."""
    path = entry.replace("\\", "/")
    return path.startswith("/") or bool(re.match(r"[A-Za-z]:/", path)) or (os.name == "nt" and path[1:2] == ":")


def _below(path: str, root: Path) -> str | None:
    """An absolute path as one below `root` (under the name it is given by, or its real one); None where it is not."""
    for folder in _names_of(os.fspath(root)):
        if unicodedata.normalize("NFC", path).startswith(folder):
            return unicodedata.normalize("NFC", path)[len(folder) :]
    return None


@functools.lru_cache(maxsize=8)
def _names_of(root: str) -> tuple[str, ...]:
    names = (os.path.abspath(root), os.path.realpath(root))
    return tuple(unicodedata.normalize("NFC", name.replace(os.sep, "/")).rstrip("/") + "/" for name in names)


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


def shown(name: object) -> str:
    """A value for an error line: in quotes where it holds what would not be seen."""
    text = str(name)
    plain = text and text.isprintable() and text == text.strip() and "  " not in text
    return text if plain else repr(text)


def first_names(names: Iterable[object], n: int = 3) -> str:
    """`a, b, c, ...`: the first `n` names for an error line, hidden spaces shown."""
    names = list(names)
    return ", ".join(shown(name) for name in names[:n]) + (", ..." if len(names) > n else "")
