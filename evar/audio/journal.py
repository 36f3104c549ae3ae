"""The two growing files of a waveform cache: samples, and one record per decoded clip.

Samples are appended before their records, and both reach the disk before the next batch: after `kill -9` what the
journal says is true, and what lies beyond it is cut off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evar.files import append_bytes, writing

SAMPLES, JOURNAL = "clips.i16", "journal"
RECORD = np.dtype(
    [
        ("clip", "<i8"),
        ("offset", "<i8"),  # in samples
        ("length", "<i8"),  # in samples
        ("file_size", "<i8"),
        ("file_mtime_ns", "<i8"),
        ("scale", "<f4"),
        ("digest", "u1", 16),
        ("crc", "<u4"),  # of the bytes before it
    ]
)
_COMMIT_BYTES = 16 << 20
_COMMIT_SECONDS = 2.0


class Journal:
    """Appends clips to the cache in `folder`, whose lock the caller holds.

    Opening it cuts off what a killed process or a damaged disk left beyond the last true record.
    `stamps` is int64 [N, 2]: size and modification time (ns) of each clip's file.
    """

    def __init__(self, folder: Path, stamps: np.ndarray) -> None:
        self._folder, self._stamps = folder, stamps
        self.records = _true_records(folder, len(stamps))
        self._clear()

    def start_over(self) -> None:
        """Drop everything. Unlinked, not truncated: a process that has the old samples mapped keeps them."""
        for name in ("meta.json", JOURNAL, SAMPLES):
            with writing(self._folder / name), contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()
        self.records = self.records[:0]

    def add(self, clip: int, samples: np.ndarray, scale: float, digest: bytes) -> None:
        """Take one clip (int16 [n], 16 bytes of digest); it is kept back until there is enough for one write."""
        self._waiting.append((clip, samples, scale, digest))
        self._bytes += samples.nbytes
        if self._bytes >= _COMMIT_BYTES or time.monotonic() - self._last >= _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Put what was kept back on the disk."""
        if self._waiting:
            clips, samples, scales, digests = zip(*self._waiting, strict=True)
            new = np.zeros(len(clips), dtype=RECORD)
            new["clip"], new["scale"] = clips, scales
            new["length"] = [len(part) for part in samples]
            new["offset"] = int(self.records["length"].sum()) + np.cumsum(new["length"]) - new["length"]
            new["file_size"], new["file_mtime_ns"] = self._stamps[new["clip"]].T
            new["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
            new["crc"] = [_crc(record.tobytes()) for record in new]
            append_bytes(self._folder / SAMPLES, b"".join(samples))
            append_bytes(self._folder / JOURNAL, new.tobytes())
            self.records = np.concatenate([self.records, new])
        self._clear()

    def _clear(self) -> None:
        self._waiting: list[tuple[int, np.ndarray, float, bytes]] = []
        self._bytes, self._last = 0, time.monotonic()


def latest(records: np.ndarray, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The newest record of each clip [N], and whether it is of the file as it is now, bool [N]."""
    row = np.full(len(stamps), -1)
    row[records["clip"]] = np.arange(len(records))  # of several records of a clip the last one stays
    newest = records[row] if len(records) else np.zeros(len(stamps), dtype=RECORD)
    same_size, same_time = newest["file_size"] == stamps[:, 0], newest["file_mtime_ns"] == stamps[:, 1]
    return newest, (row >= 0) & same_size & same_time


def file_stamps(paths: Sequence[str]) -> np.ndarray:
    """int64 [N, 2]: size and modification time (ns) of each file; -1 where there is none."""
    seen: dict[str, tuple[int, int]] = {}
    for path in paths:
        if path not in seen:
            try:
                info = os.stat(path)
                seen[path] = (info.st_size, info.st_mtime_ns)
            except OSError:
                seen[path] = (-1, -1)
    return np.array([seen[path] for path in paths], dtype=np.int64)


def content_digest(samples: np.ndarray, scale: float) -> bytes:
    """16 bytes that stand for the content of a clip."""
    content = hashlib.blake2b(samples, digest_size=16)
    content.update(np.float32(scale).tobytes())
    return content.digest()


def _true_records(folder: Path, n_clips: int) -> np.ndarray:
    """The longest run of undamaged records whose samples are there; both files are cut to it."""
    journal, samples = folder / JOURNAL, folder / SAMPLES
    raw = journal.read_bytes() if journal.exists() else b""
    n_bytes = samples.stat().st_size if samples.exists() else 0
    size = RECORD.itemsize
    records = np.frombuffer(raw[: len(raw) // size * size], dtype=RECORD)
    good = end = 0
    for record in records:
        offset, length = int(record["offset"]), int(record["length"])
        whole = record["crc"] == _crc(raw[good * size : (good + 1) * size]) and offset == end and length > 0
        if not whole or 2 * (end + length) > n_bytes or not 0 <= record["clip"] < n_clips:
            break
        good, end = good + 1, end + length
    for path, keep, found in ((journal, good * size, len(raw)), (samples, 2 * end, n_bytes)):
        if keep < found:
            with writing(path):
                os.truncate(path, keep)
    return records[:good]


def _crc(record: bytes) -> int:
    return zlib.crc32(record[: RECORD.itemsize - 4])
