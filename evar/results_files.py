"""The columns of `runs.csv` and `leaderboard.csv`, and how rows are read, checked and mended.

A row that cannot be read is an error that names path and line; only the very end of `runs.csv`, where a process was killed
while it wrote, is cut off, and kept in `runs.csv.torn`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from evar.errors import EvarError
from evar.files import append_bytes, writing
from evar.results_seal import check

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2
READS = ("1", "2")  # rows of schema 1 lack SINCE_2, which are then empty

# fmt: off
_CELL = [
    "schema", "cell_id", "encoder", "encoder_fingerprint", "weights", "weights_sha256", "weights_kind", "task",
    "task_version", "task_fingerprint", "clips_fingerprint", "protocol", "protocol_version", "protocol_fingerprint",
    "learning_rate", "layers", "pooling", "norm", "norm_mean", "norm_std", "duration", "precision", "metric",
]
SINCE_2 = ["clips_fingerprint", "protocol_fingerprint", "learning_rate", "norm_mean", "norm_std"]
_RUN = [
    "fold", "seed", "setting", "converged", "score", "run_macro_f1",
]
_SCORES = [
    "mean", "std", "ci95_low", "ci95_high", "macro_f1", "n_folds", "n_seeds", "seeds", "train_fraction", "shots",
    "n_train", "n_valid", "n_test", "synthetic", "partial", "limit", "skipped", "contaminated",
]
VOLATILE = [
    "seconds_encode", "seconds_probe", "started_at", "host", "device", "evar_version", "torch_version", "git_commit",
]
LEADERBOARD_COLUMNS = [*_CELL, *_SCORES, *VOLATILE]
RUN_COLUMNS = [*_CELL, *_RUN, *_SCORES, *VOLATILE]
_RUN_COLUMNS_1 = [column for column in RUN_COLUMNS if column not in SINCE_2]

_FLOATS = {
    "learning_rate", "norm_mean", "norm_std", "score", "run_macro_f1", "mean", "std", "ci95_low", "ci95_high",
    "macro_f1", "train_fraction", "seconds_encode", "seconds_probe",
}
_INTEGERS = {
    "schema", "task_version", "protocol_version", "fold", "seed", "n_folds", "n_seeds", "shots", "n_train", "n_valid",
    "n_test", "limit", "skipped",
}
_BOOLEANS = {
    "converged", "synthetic", "partial", "contaminated",
}
# fmt: on
AT = {column: i for i, column in enumerate(RUN_COLUMNS)}  # where a column is in a row
_FLOATS_AT = [AT[column] for column in RUN_COLUMNS if column in _FLOATS]
_INTEGERS_AT = [AT[column] for column in RUN_COLUMNS if column in _INTEGERS]
_BOOLEANS_AT = [AT[column] for column in RUN_COLUMNS if column in _BOOLEANS]
_TRUTH = {"true": True, "false": False}
_SPECIAL = re.compile(r'[,"\r\n]')
_CELL_ID = re.compile(r"[0-9a-f]{16}")
_NEXT_ROW = re.compile(rb"\n\d+,[0-9a-f]{16},")  # how a row begins: no torn row holds the beginning of another


def as_text(value: Any) -> str:
    """A value as CSV text: floats by their shortest exact form, missing and NaN as nothing."""
    if value is None or str(value) == "<NA>" or value != value:
        return ""
    if hasattr(value, "item"):
        value = value.item()
    return repr(value) if isinstance(value, float) else str(value)


def as_int(text: str) -> int:
    """A whole number as a spreadsheet may have left it (`5`, `5.0`); -1 for nothing. ValueError otherwise."""
    if not text:
        return -1
    try:
        number = int(text)
    except ValueError:
        if not float(text).is_integer():
            raise
        number = int(float(text))
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text[:40]} is beyond 64 bits")
    return number


def csv_bytes(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows as UTF-8 CSV; what UTF-8 cannot say is written as an escape."""
    # Not csv.writer: with a line end of "\n" it leaves a "\r" unquoted, which no reader takes.
    lines = (",".join(_quoted(field) if _SPECIAL.search(field) else field for field in row) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "backslashreplace")


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'


def no_formula(text: str) -> str:
    """Text for a file that people open: behind an apostrophe where a spreadsheet would run it (`=cmd()`); numbers stay.

    Not for runs.csv and leaderboard.csv, which hold names as they are.
    """
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def check_row(row: Sequence[str], where: str) -> None:
    """Raise EvarError, beginning with `where`, when a row (in the order of RUN_COLUMNS) is of no schema that is read."""
    if row[0] not in READS:
        known = " and ".join(READS)
        raise EvarError(f"{where}: schema {row[0]!r}, this evar knows {known}: read it with the evar that wrote it")
    if not _CELL_ID.fullmatch(row[1]):
        raise EvarError(f"{where}: cell_id {row[1]!r} is not 16 hex digits: was it saved by a spreadsheet? Restore it")
    for kind, convert, columns in (
        ("number", float, _FLOATS_AT),
        ("whole number", as_int, _INTEGERS_AT),
        ("True or False", lambda text: _TRUTH[text.lower()], _BOOLEANS_AT),
    ):
        for i in columns:
            if row[i]:
                try:
                    convert(row[i])
                except (ValueError, KeyError, OverflowError):
                    raise EvarError(
                        f"{where}: {RUN_COLUMNS[i]} is {row[i][:40]!r}, expected a {kind}: mend or remove the line"
                    ) from None


def check_summary(row: Sequence[str], where: str) -> None:
    """`check_row` of a row of leaderboard.csv."""
    check_row([*row[: len(_CELL)], *[""] * len(_RUN), *row[len(_CELL) :]], where)


def n_expected(row: Sequence[str]) -> int:
    """How many rows the recording has that this row belongs to: folds × seeds."""
    return max(as_int(row[AT["n_folds"]]), 1) * max(as_int(row[AT["n_seeds"]]), 1)


def columns_of(path: Path) -> list[str]:
    """The header of a runs.csv, empty where there is none yet; EvarError when columns of the schema are missing."""
    try:
        with open(path, "rb") as stream:
            return _header(path, stream)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EvarError(f"cannot read {path}: {error.strerror}") from None


def whole_columns(columns: Sequence[str]) -> list[str]:
    """The columns of a file in the order of the schema, those that it lacks included; its own come last."""
    return [*RUN_COLUMNS, *(column for column in columns if column not in AT)]


def read_rows(path: Path) -> Iterator[tuple[list[str], int, list[str]]]:
    """Yield (fields in the order of RUN_COLUMNS, byte offset of the row's end, fields as they stand) of a runs.csv.

    Reads one row at a time. Columns beyond the schema, any order of columns, a byte order mark, CRLF and blank lines are
    fine; a torn end is left out. Raises EvarError with path and line for anything else, and for bytes that a disk flipped.
    """
    columns = columns_of(path)
    if not columns:
        return
    check(path)
    order = [columns.index(column) if column in columns else None for column in RUN_COLUMNS]
    with open(path, "rb") as stream:
        lines = _Lines(path, stream)
        next(lines)
        reader = csv.reader(lines, strict=True)
        while True:
            start, where = lines.end, f"{path} line {lines.number + 1}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if lines.at_end and not _NEXT_ROW.search(lines.since(start)):
                    return
                raise EvarError(f"{where}: not CSV ({error}): mend or remove the line") from None
            if lines.torn or (lines.at_end and 0 < len(fields) < len(columns)):
                return
            if not fields:
                continue
            if len(fields) != len(columns):
                raise EvarError(f"{where}: {len(fields)} fields, expected {len(columns)}: mend or remove the line")
            row = ["" if i is None else fields[i] for i in order]
            check_row(row, where)
            yield row, lines.end, fields


def cut_torn_end(path: Path) -> None:
    """Cut off what a killed writer left at the end: half a row, or rows of a recording that lacks the others.

    The caller holds the lock. What is cut off is kept in `runs.csv.torn`.
    """
    if not path.exists():
        return
    end = start = _header_length(path)
    recording, rows = None, set()
    for row, row_end, _ in read_rows(path):
        if recording != (row[AT["cell_id"]], row[AT["started_at"]]):
            recording, rows, start = (row[AT["cell_id"]], row[AT["started_at"]]), set(), end
        rows.add((row[AT["fold"]], row[AT["seed"]]))
        missing, end = n_expected(row) - len(rows), row_end
    if rows and missing > 0:
        end = start
    with open(path, "rb") as stream:
        stream.seek(end)
        torn = stream.read()
    if torn:
        if torn.strip():
            append_bytes(path.with_name(f"{path.name}.torn"), torn + b"\n")
        with writing(path), open(path, "r+b") as stream:
            stream.truncate(end)


def frame(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows of text as a DataFrame: ids and names are text, whole numbers are nullable, missing scores are NaN."""
    import pandas as pd

    made = {}
    for i, column in enumerate(columns):
        texts = [row[i] for row in rows]
        if column in _FLOATS:
            made[column] = pd.Series([float(text or "nan") for text in texts], dtype="float64")
        elif column in _INTEGERS:
            made[column] = pd.Series([as_int(text) if text else pd.NA for text in texts], dtype="Int64")
        elif column == "converged":
            made[column] = pd.Series([_TRUTH.get(text.lower(), pd.NA) for text in texts], dtype="boolean")
        elif column in _BOOLEANS:
            made[column] = pd.Series([_TRUTH.get(text.lower(), False) for text in texts], dtype=bool)
        else:
            made[column] = pd.Series(texts, dtype="str")
    if {"ci95_low", "ci95_high"} <= set(made):  # older rows have intervals of zero width, which tell nothing
        low, high = made["ci95_low"], made["ci95_high"]
        made["ci95_low"], made["ci95_high"] = low.where(high > low), high.where(high > low)
    return pd.DataFrame(made)


def _header(path: Path, stream: IO[bytes]) -> list[str]:
    line = stream.readline()
    text = line.decode("utf-8-sig", "replace").rstrip("\r\n")
    if not line.endswith(b"\n") and any(",".join(names).startswith(text) for names in (RUN_COLUMNS, _RUN_COLUMNS_1)):
        return []  # an empty file, or a torn first write
    try:
        columns = next(csv.reader([text]), [])
    except csv.Error as error:
        raise EvarError(f"{path} line 1: not CSV ({error}): restore it, or choose another --results") from None
    missing = [column for column in RUN_COLUMNS if column not in columns]
    if missing == SINCE_2:
        missing = []
    if missing or len(set(columns)) < len(columns):
        names = ", ".join(missing[:4]) + (" ..." if len(missing) > 4 else "")
        problem = f"lacks {names}" if missing else "names a column twice"
        raise EvarError(
            f"{path} line 1: the header {problem}; it is of another schema (expected {SCHEMA}) or no file of evar: "
            "restore it, or choose another --results"
        )
    return columns


def _header_length(path: Path) -> int:
    with open(path, "rb") as stream:
        return stream.tell() if _header(path, stream) else 0


class _Lines:
    """The lines of a file as text, with their number and where they end; `torn` after a line without a line break."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path, self._stream = path, stream
        self._size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        self.number = self.end = 0
        self.torn = False

    @property
    def at_end(self) -> bool:
        return self.end >= self._size

    def since(self, start: int) -> bytes:
        """The bytes from an offset up to here."""
        self._stream.seek(start)
        return self._stream.read(self.end - start)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline()
        if not line:
            raise StopIteration
        self.number += 1
        self.end += len(line)
        self.torn = not line.endswith(b"\n")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            if self.torn:  # cut inside a character; the row will be left out
                return line.decode("utf-8", "replace")
            raise EvarError(f"{self._path} line {self.number}: not UTF-8: mend or remove the line") from None
