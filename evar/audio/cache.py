"""The decoded clips of a task, kept on disk: decoded once, then read 20 times faster than the files.

A cache folder is named by a digest of what was asked for (ids, files, segments, rate, cut) and holds

    clips.i16    the samples of all clips, one after the other, in the order they were decoded
    journal      one fixed-size record per decoded clip: where it lies, its scale, its content digest, its file's stamp
    meta.json    written last: the fingerprint, the clips that could not be decoded, the sizes of the other two
    lock

The first two only grow (journal.py), so a build that was killed goes on where it stopped. A clip whose file changed
(size, times or inode) is decoded again and appended; the other clips stay.

Samples are held to their digest when a clip is first given out by `batch` (1 ns a byte; a network takes 100): a clip
that a disk has damaged is decoded again and mended where it lies. `crops`, of pre-training, does not look.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evar.audio.clips import FORMAT, Clips
from evar.audio.decode import FULL_SCALE
from evar.audio.journal import JOURNAL, RECORD, SAMPLES, Journal, content_digest, file_stamps, latest
from evar.errors import EvarError
from evar.files import atomic_write, canonical_json, lock, require_space

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Waveforms:
    """Clips of one task at one rate, memory-mapped. Reading is safe from several threads.

    Attributes:
        ids: clip ids, in the order of the task.
        sample_rate: Hz.
        seconds: the cut, or None for native lengths.
        lengths: int64 [N] samples after the cut, before padding; 0 for a clip that could not be decoded.
        bad: index -> reason, for the clips that were skipped.
        fingerprint: SHA-256 (hex) of the rate, the ids and the decoded samples: not of folders or file formats.
    """

    ids: tuple[str, ...]
    sample_rate: int
    seconds: float | None
    lengths: np.ndarray
    bad: dict[int, str]
    fingerprint: str
    _samples: np.ndarray = field(repr=False)
    _offsets: np.ndarray = field(repr=False)
    _gains: np.ndarray = field(repr=False)
    _vouch: _Vouch = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digests(self) -> np.ndarray:
        """uint8 [N, 16]: the same for clips whose samples are the same after the cut; zeros for a clip in `bad`."""
        digests = self._vouch.records["digest"].copy()
        digests[list(self.bad)] = 0
        return digests

    def batch(self, indices: Sequence[int], samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [B, L], int64 [B] lengths): clips padded with zeros to L = `samples`, or to the longest of them.

        A clip longer than `samples` is cut to it. Raises ValueError for the index of a clip in `bad`.
        """
        indices = self._readable(indices)
        mended = self._vouch.check(self._samples, indices)
        lengths = self.lengths[indices]
        if samples is None:
            samples = int(lengths.max(initial=0))
        else:
            lengths = np.minimum(lengths, samples)
        batch = np.empty((len(indices), samples), dtype=np.float32)
        starts, gains = self._offsets[indices].tolist(), self._gains[indices]
        for clip, row, start, length, gain in zip(indices, batch, starts, lengths.tolist(), gains, strict=True):
            held = mended[clip][:length] if clip in mended else self._samples[start : start + length]
            np.multiply(held, gain, out=row[:length])
            row[length:] = 0.0
        return batch, lengths

    def crops(self, indices: np.ndarray, starts: np.ndarray, samples: int) -> np.ndarray:
        """float32 [B, samples]: of clip indices[i] the part from sample starts[i] (int64 [B]), zeros past its end.

        One gather for the whole batch. Starts are within their clips. Raises ValueError for the index of a clip in `bad`.
        """
        indices, starts = self._readable(indices), np.asarray(starts)
        first, left = self._offsets[indices] + starts, self.lengths[indices] - starts
        # Rows that would reach over the end of the file are read from a copy of its end with zeros behind it.
        n = len(self._samples)
        over = first + samples > n
        base = np.lib.stride_tricks.sliding_window_view(self._samples, samples) if n >= samples else None
        rows = np.zeros((len(indices), samples), dtype=np.int16)
        if not over.all():
            rows[~over] = base[first[~over]]
        if over.any():
            low = int(first[over].min())
            tail = np.concatenate([self._samples[low:], np.zeros(samples, dtype=np.int16)])
            rows[over] = np.lib.stride_tricks.sliding_window_view(tail, samples)[first[over] - low]
        batch = rows * self._gains[indices, None]
        if (short := left < samples).any():
            batch[short] *= np.arange(samples) < left[short, None]
        return batch

    def _readable(self, indices: Sequence[int]) -> np.ndarray:
        indices = np.asarray(indices, dtype=np.int64)
        if self.bad and (skipped := self.bad.keys() & set(indices.tolist())):
            raise ValueError(f"clip {self.ids[min(skipped)]!r} could not be decoded; leave the indices in .bad out")
        return indices


def open_waveforms(
    ids: Sequence[str],
    files: Sequence[Path | str],
    starts: Sequence[float],
    stops: Sequence[float | None],
    sample_rate: int,
    seconds: float | None,
    cache_dir: Path | str,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Waveforms:
    """Open the waveforms of N clips, decoding those that the cache does not hold.

    Args:
        ids, files, starts, stops: one per clip; `stops` may hold None or NaN for the file's end (seconds).
        sample_rate: Hz. seconds: cut clips to this length; None keeps native lengths.
        cache_dir: the folder of all caches; this one becomes a folder in it.
        skip_bad: leave out clips that cannot be decoded (see `Waveforms.bad`) instead of raising.
        workers: decoding threads; all cores by default.
        progress: called with (clips done, N) while decoding; never where all is cached.

    A second call with the same arguments decodes nothing and stats each file once. A process that finds another one
    building the same cache waits for it. Raises EvarError when clips cannot be decoded (the good ones stay cached),
    when the disk is too small (before anything is written), or when `cache_dir` cannot be written.
    """
    clips = Clips(
        ids=tuple(str(name) for name in ids),
        files=tuple(os.path.abspath(file) for file in files),
        starts=tuple(float(start) for start in starts),
        stops=tuple(None if stop is None or stop != stop else float(stop) for stop in stops),
        sample_rate=int(sample_rate),
        seconds=None if seconds is None else float(seconds),
    )
    if not len(clips.ids) == len(clips.files) == len(clips.starts) == len(clips.stops):
        raise ValueError("ids, files, starts and stops need one entry per clip")
    if not clips.ids:
        raise EvarError("there are no clips to decode: the task is empty")
    folder = Path(cache_dir) / clips.key()
    stamps = file_stamps(clips.files)
    ready = _open_complete(folder, clips, stamps, skip_bad)
    if ready is not None:
        return ready
    with lock(folder / "lock"):
        ready = _open_complete(folder, clips, stamps, skip_bad)  # another process may have built it meanwhile
        if ready is None:
            decoded = _build(folder, clips, stamps, skip_bad, workers, progress)
            ready = _open_complete(folder, clips, stamps, skip_bad)
            if ready is not None:
                ready._vouch.checked[decoded] = True
    if ready is None:
        raise EvarError(f"the waveform cache {folder} changed while it was read: run the same command again")
    return ready


@dataclass(eq=False)
class _Vouch:
    """Whether samples are those that were decoded; those that are not are decoded again."""

    folder: Path
    clips: Clips
    records: np.ndarray
    inode: int
    checked: np.ndarray
    mended: dict[int, np.ndarray] = field(default_factory=dict)

    def check(self, samples: np.ndarray, indices: np.ndarray) -> dict[int, np.ndarray]:
        """Hold the clips of `indices` that were not yet seen to their digests; the mended clips, int16 [n] by index."""
        for clip in indices[~self.checked[indices]].tolist():
            record = self.records[clip]
            held = samples[record["offset"] : record["offset"] + record["length"]]
            if content_digest(held, record["scale"]) != record["digest"].tobytes():
                self._mend(clip, record)
            self.checked[clip] = True
        return self.mended

    def _mend(self, clip: int, record: np.ndarray) -> None:
        again, reasons, _ = self.clips.decode_some([clip])
        path = self.folder / SAMPLES
        if [found.digest for found in again] != [record["digest"].tobytes()]:
            raise EvarError(
                f"{path} is damaged at clip {self.clips.ids[clip]!r}, and its file does not give what it gave"
                f"{f' ({reasons[clip]})' if reasons else ''}: remove {self.folder} and run the same command again"
            )
        self.mended[clip] = again[0].samples
        with (
            contextlib.suppress(EvarError, OSError),
            lock(self.folder / "lock", timeout=0),
            open(path, "r+b") as stream,
        ):
            if os.fstat(stream.fileno()).st_ino == self.inode:  # not one that was begun anew
                stream.seek(2 * int(record["offset"]))
                stream.write(again[0].samples.tobytes())
        warnings.warn(f"clip {self.clips.ids[clip]!r} in {path} was damaged: decoded again")


def _open_complete(folder: Path, clips: Clips, stamps: np.ndarray, skip_bad: bool) -> Waveforms | None:
    """The cache in `folder` if it is complete, undamaged and up to date, else None. Writes nothing."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        if meta.pop("crc", None) not in (None, _crc(meta)):  # None: made before there was one
            return None
        journal = (folder / JOURNAL).read_bytes()
        inode = (folder / SAMPLES).stat().st_ino
        samples = np.memmap(folder / SAMPLES, dtype="<i2", mode="r")
        told = [meta["records"], meta["journal_crc"], meta["samples"]]
        bad = {int(clip): entry for clip, entry in meta["bad"].items()}
        fingerprint = meta["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if told != [len(journal) // RECORD.itemsize, zlib.crc32(journal), len(samples)] or (bad and not skip_bad):
        return None
    newest, fresh = latest(np.frombuffer(journal, dtype=RECORD), stamps)
    for clip, entry in bad.items():
        fresh[clip] = entry["stamp"] == stamps[clip].tolist()
    if not fresh.all():
        return None
    skipped = list(bad)
    lengths, offsets, scales = (newest[name].copy() for name in ("length", "offset", "scale"))
    lengths[skipped] = offsets[skipped] = 0
    return Waveforms(
        ids=clips.ids,
        sample_rate=clips.sample_rate,
        seconds=clips.seconds,
        lengths=lengths,
        bad={clip: bad[clip]["reason"] for clip in sorted(bad)},
        fingerprint=fingerprint,
        _samples=samples.view(np.ndarray),
        _offsets=offsets,
        _gains=scales / np.float32(FULL_SCALE),
        _vouch=_Vouch(folder, clips, newest, inode, np.zeros(len(clips.ids), bool)),
    )


def _build(
    folder: Path,
    clips: Clips,
    stamps: np.ndarray,
    skip_bad: bool,
    workers: int | None,
    progress: Progress | None,
) -> list[int]:
    """Decode what is missing and append it, and say which clips that were; the caller holds the lock."""
    total = len(clips.ids)
    with contextlib.closing(Journal(folder, stamps)) as journal:
        newest, fresh = latest(journal.records, stamps)
        if 2 * newest["length"][fresh].sum() < journal.records["length"].sum():  # mostly files that changed since
            journal.start_over()
            fresh[:] = False
        todo = np.flatnonzero(~fresh).tolist()
        _require_space(folder, clips, todo, workers)
        bad: dict[int, str] = {}
        done = total - len(todo)
        with contextlib.closing(clips.decode_all(todo, stamps[:, 0], workers)) as decoded:
            for good, reasons in decoded:
                journal.add(good)
                bad |= reasons
                for _ in range(len(good) + len(reasons) if progress else 0):
                    progress(done := done + 1, total)
        journal.commit()
        records = journal.records
    if bad and (not skip_bad or len(bad) == total):
        raise _cannot_decode(bad, total, skip_bad)
    _finish(folder, clips, stamps, records, bad)
    return todo


def _require_space(folder: Path, clips: Clips, todo: list[int], workers: int | None) -> None:
    """EvarError unless the disk has room for the clips in `todo`; reads headers only if the cut does not settle it."""
    records = len(todo) * RECORD.itemsize
    if clips.seconds is not None:
        with contextlib.suppress(EvarError):
            most = round(clips.seconds * clips.sample_rate) * 2 * len(todo) + records
            return require_space(folder, most, "the waveform cache")
    return require_space(folder, 2 * clips.count_samples(todo, workers) + records, "the waveform cache")


def _cannot_decode(bad: dict[int, str], total: int, skip_bad: bool) -> EvarError:
    reasons = [bad[clip] for clip in sorted(bad)]
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    advice = "mend the files" if skip_bad else "mend the files, or leave these clips out with --skip-bad"
    return EvarError(f"{len(bad)} of {total} clips cannot be decoded ({advice}): {shown}")


def _finish(folder: Path, clips: Clips, stamps: np.ndarray, records: np.ndarray, bad: dict[int, str]) -> None:
    """Write meta.json: from here on the cache is complete."""
    digests = latest(records, stamps)[0]["digest"]
    digests[list(bad)] = 0
    content = hashlib.sha256(canonical_json({"sample_rate": clips.sample_rate, "ids": clips.ids}).encode())
    content.update(digests.tobytes())
    meta = {
        "format": FORMAT,
        "sample_rate": clips.sample_rate,
        "seconds": clips.seconds,
        "clips": len(clips.ids),
        "records": len(records),
        "samples": int(records["length"].sum()),
        "journal_crc": zlib.crc32(records.tobytes()),
        "fingerprint": content.hexdigest(),
        "bad": {str(clip): {"reason": bad[clip], "stamp": stamps[clip].tolist()} for clip in sorted(bad)},
    }
    atomic_write(folder / "meta.json", json.dumps(meta | {"crc": _crc(meta)}, indent=1))


def _crc(meta: dict) -> int:
    return zlib.crc32(canonical_json(meta).encode())
