"""What evar last wrote to `runs.csv` and `leaderboard.csv`, so that a bit which a disk flipped is told from an edit.

`RESULTS/.seal` holds size, modification time and CRC-32 of both. A file of another size or time was written by somebody
else, which is their right: its seal is void. One of the same size and time and another CRC was written by nobody.
A table of predictions carries a digest of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from evar.errors import EvarError
from evar.files import atomic_write, digest

if TYPE_CHECKING:
    import pandas as pd

SEAL = ".seal"
CONTENT = b"evar_rows_sha256"  # the metadata of a table of predictions that holds the digest of what it says
_BLOCK = 1 << 22


def check(path: Path) -> None:
    """EvarError where `path` has other bytes than evar wrote, though its size and time say that nobody wrote it since."""
    try:
        damaged = is_whole(path) is False
    except OSError as error:
        raise EvarError(f"cannot read {path}: {error.strerror}") from None
    if damaged:
        raise EvarError(
            f"{path} is damaged: its bytes changed though nobody wrote it since evar did. Restore it from a copy, or mend "
            "it by hand and save it"
        )


def is_whole(path: Path) -> bool | None:
    """Whether `path` is what evar wrote, byte by byte; None where it has no seal, or a void one."""
    size, time_ns, crc = _read(path.parent).get(path.name, (-1, -1, -1))
    with open(path, "rb") as stream:  # which may grow, or be replaced, while it is read
        if _stamp(stream.fileno()) != (size, time_ns):
            return None
        return _crc(stream, 0, size) == crc


def sealed(path: Path) -> tuple[int, int] | None:
    """(size, CRC-32) that `path` had when evar wrote it; None where there is no file, no seal, or a void one."""
    size, time_ns, crc = _read(path.parent).get(path.name, (-1, -1, -1))
    with contextlib.suppress(FileNotFoundError):
        return (size, crc) if _stamp(path) == (size, time_ns) else None
    return None


def seal(*paths: Path, grown_from: tuple[int, int] | None = None) -> None:
    """Seal these files of one folder as they stand.

    grown_from: (size, CRC-32) of the first before bytes were appended to it, so that only those are read.
    """
    files = {}
    for path in paths:
        start, crc = grown_from or (0, 0)
        with open(path, "rb") as stream:
            size, time_ns = _stamp(stream.fileno())
            files[path.name] = size, time_ns, _crc(stream, start, size, crc)
        grown_from = None
    atomic_write(paths[0].parent / SEAL, json.dumps({"files": files, "digest": digest(files)}))


def _read(folder: Path) -> dict[str, list[int]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        stated = json.loads((folder / SEAL).read_bytes())
        if stated["digest"] == digest(stated["files"]):
            return {name: [int(number) for number in numbers] for name, numbers in stated["files"].items()}
    return {}


def _crc(stream: IO[bytes], start: int, stop: int, crc: int = 0) -> int:
    stream.seek(start)
    while block := stream.read(min(_BLOCK, stop - stream.tell())):
        crc = zlib.crc32(block, crc)
    return crc


def _stamp(file: Path | int) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def predictions_table(predictions: pd.DataFrame) -> bytes:
    """As Parquet, with a digest: what pandas writes, and what evar alone has written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.Table.from_pandas(predictions, preserve_index=False)
    about = {b"PANDAS_ATTRS": json.dumps(predictions.attrs), CONTENT: content_digest(predictions)}
    stream = pa.BufferOutputStream()
    pq.write_table(made.replace_schema_metadata({**(made.schema.metadata or {}), **about}), stream)
    return stream.getvalue().to_pybytes()


def content_digest(predictions: pd.DataFrame) -> str:
    """A digest of what a table of predictions says."""
    import numpy as np

    sha256 = hashlib.sha256(json.dumps([predictions.attrs, list(predictions.columns)]).encode())
    for name, column in predictions.items():
        if name == "scores":  # [clips, classes] may be gigabytes as text
            for cell in column:
                sha256.update(np.asarray(cell, "<f8").tobytes())
        else:
            sha256.update(json.dumps(column.tolist(), default=lambda array: array.tolist()).encode())
    return sha256.hexdigest()


def is_parquet(path: Path) -> bool:
    """Whether a file has both ends of a Parquet file: it is neither missing nor torn."""
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        if stream.read(4) == b"PAR1":
            stream.seek(-4, os.SEEK_END)
            return stream.read() == b"PAR1" and stream.tell() >= 12
    return False
