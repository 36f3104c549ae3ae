"""What evar last wrote to `runs.csv` and `leaderboard.csv`, so that a bit which a disk flipped is told from an edit.

`RESULTS/.seal` holds size, modification time and CRC-32 of both. A file of another size or time was written by somebody
else, which is their right: its seal is void. One of the same size and time and another CRC was written by nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import IO

from evar.errors import EvarError
from evar.files import atomic_write, digest

SEAL = ".seal"
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
