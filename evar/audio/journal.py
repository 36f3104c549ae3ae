"""The two growing files of a waveform cache: samples, and one record per decoded clip.

Samples are appended as they come, their records once those samples are on the disk: after `kill -9` or a power cut what
the journal says is true, and what lies beyond it is cut off.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evar.errors import EvarError
from evar.files import append_bytes, writing

SAMPLES, JOURNAL = "clips.i16", "journal"
RECORD = np.dtype(
    [
        ("clip", "<i8"),
        ("offset", "<i8"),  # in samples
        ("length", "<i8"),  # in samples
        ("file_size", "<i8"),
        ("file_state", "<i8"),  # see `file_stamps`; earlier versions kept the modification time (ns) here
        ("scale", "<f4"),
        ("digest", "u1", 16),
        ("crc", "<u4"),  # of the bytes before it
    ]
)
_WRITE_BYTES = 1 << 20
_COMMIT_BYTES = 8 << 20
_COMMIT_SECONDS = 0.5


class Decoded(NamedTuple):
    """A clip by its number: int16 [n] samples, their scale, 16 bytes of digest."""

    clip: int
    samples: np.ndarray
    scale: float
    digest: bytes


class Journal:
    """Appends clips to the cache in `folder`, whose lock the caller holds; `close` it before that is given back.

    Opening it cuts off what a killed process or a damaged disk left beyond the last true record. A thread of its own
    waits for the disk, so that decoding need not. `stamps` is int64 [N, 2], of each clip's
    file (`file_stamps`). Where the disk is full, all methods raise EvarError, and what is not yet in the journal is
    given back.
    """

    def __init__(self, folder: Path, stamps: np.ndarray) -> None:
        self._folder, self._stamps = folder, stamps
        self._stream: io.BufferedWriter | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._begin(_true_records(folder, len(stamps)))

    @property
    def records(self) -> np.ndarray:
        """RECORD [R]: the clips that are on the disk."""
        self._safe = [np.concatenate(self._safe)]
        return self._safe[0]

    def start_over(self) -> None:
        """Drop everything, before anything is added. Unlinked: a process that has the old samples mapped keeps them."""
        for name in ("meta.json", JOURNAL, SAMPLES):
            with writing(self._folder / name), contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()
        self._begin(np.zeros(0, dtype=RECORD))

    def add(self, clips: Sequence[Decoded]) -> None:
        """Append decoded clips; every so often they begin their way to the disk."""
        with self._all_or_nothing():
            self._stream = self._stream or io.BufferedWriter(io.FileIO(self._folder / SAMPLES, "a"), _WRITE_BYTES)
            for clip, samples, scale, digest in clips:
                self._stream.write(samples)
                self._waiting.append((clip, len(samples), scale, digest))
                self._bytes += samples.nbytes
            due = self._bytes >= _COMMIT_BYTES or time.monotonic() - self._last >= _COMMIT_SECONDS
            if due and (self._on_its_way is None or self._on_its_way.done()):
                self._send()

    def commit(self) -> None:
        """Put what was added on the disk."""
        with self._all_or_nothing():
            self._send()
            self._arrived()

    def close(self) -> None:
        """Give the file back; what was not committed is lost."""
        self._disk.shutdown()
        stream, self._stream = self._stream, None
        if stream:
            with contextlib.suppress(OSError):  # the disk may be full
                stream.close()

    def _send(self) -> None:
        self._arrived()
        if self._waiting:
            clips, lengths, scales, digests = zip(*self._waiting, strict=True)
            new = np.zeros(len(clips), dtype=RECORD)
            new["clip"], new["length"], new["scale"] = clips, lengths, scales
            new["offset"] = self._end + np.cumsum(new["length"]) - new["length"]
            new["file_size"], new["file_state"] = self._stamps[new["clip"]].T
            new["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
            new["crc"] = [_crc(record.tobytes()) for record in new]
            self._stream.flush()
            self._on_its_way = self._disk.submit(self._keep, new)
        self._clear()

    def _keep(self, new: np.ndarray) -> np.ndarray:
        os.fsync(self._stream.fileno())
        append_bytes(self._folder / JOURNAL, new.tobytes())
        return new

    def _arrived(self) -> None:
        """Wait for what is on its way."""
        if self._on_its_way:
            new = self._on_its_way.result()
            self._on_its_way = None
            self._safe.append(new)
            self._end += int(new["length"].sum())

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        path = self._folder / SAMPLES
        try:
            with writing(path):
                yield
        except EvarError:
            self.close()
            with contextlib.suppress(OSError, EvarError):
                self._arrived()
            with contextlib.suppress(OSError):
                os.truncate(path, 2 * self._end)
            raise

    def _begin(self, records: np.ndarray) -> None:
        self._safe, self._end = [records], int(records["length"].sum())
        self._on_its_way: Future[np.ndarray] | None = None
        self._clear()

    def _clear(self) -> None:
        self._waiting: list[tuple[int, int, float, bytes]] = []
        self._bytes, self._last = 0, time.monotonic()


def latest(records: np.ndarray, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The newest record of each clip [N], and whether it is of the file as it is now, bool [N]."""
    row = np.full(len(stamps), -1)
    row[records["clip"]] = np.arange(len(records))  # of several records of a clip the last one stays
    newest = records[row] if len(records) else np.zeros(len(stamps), dtype=RECORD)
    same_size, same_state = newest["file_size"] == stamps[:, 0], newest["file_state"] == stamps[:, 1]
    return newest, (row >= 0) & same_size & same_state


def file_stamps(paths: Sequence[str]) -> np.ndarray:
    """int64 [N, 2]: size of each file, and one number for its times and its inode; -1 where there is none.

    `touch -r` and `rsync -t` give other content an old modification time; the time of change is the system's own. A record
    of an earlier version, which has only the modification time there, is taken for one of a file that has changed: its
    clip is decoded once more, and where the content is the same, so is the fingerprint.
    """
    seen: dict[str, tuple[int, int]] = {}
    for path in paths:
        if path not in seen:
            try:
                info = os.stat(path)
            except OSError:
                seen[path] = (-1, -1)
            else:
                state = hashlib.blake2b(f"{info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino}".encode(), digest_size=8)
                seen[path] = (info.st_size, int.from_bytes(state.digest(), "little", signed=True))
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
