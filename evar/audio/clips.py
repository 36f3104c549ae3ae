"""The clips of a task as they were asked for, and their decoding in threads.

Threads take small clips by the handful: to hand one over takes as long as to read it.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from evar.audio.decode import Tape, decode_int16, reads_forward, samples_after_decoding
from evar.audio.journal import Decoded, content_digest
from evar.errors import EvarError
from evar.files import digest

FORMAT = 1
_HANDFUL = 1 << 19  # bytes of clips that a thread takes at once; at eight times that, decoded, it gives back the rest
_AHEAD = 8 << 20  # bytes that threads may be ahead of the writer; or four clips per thread, where these are more


@dataclass(frozen=True)
class Clips:
    """What was asked for, one entry per clip."""

    ids: tuple[str, ...]
    files: tuple[str, ...]
    starts: tuple[float, ...]
    stops: tuple[float | None, ...]
    sample_rate: int
    seconds: float | None

    def key(self) -> str:
        """32 hex digits: the name of the cache that holds them."""
        asked = [self.ids, self.files, self.starts, self.stops, self.sample_rate, self.seconds]
        return digest({"format": FORMAT, "waveforms": asked})[:32]

    def decode_all(
        self, todo: list[int], file_sizes: np.ndarray, workers: int | None
    ) -> Iterator[tuple[list[Decoded], dict[int, str]]]:
        """The clips of `todo`, some at a time, and why others cannot be decoded (by clip).

        They come in that order, but for segments of files that are read forward: these come with the first of the file.

        file_sizes: int64 [N] bytes, of all clips. workers: threads (libsndfile and soxr release the GIL), or all cores.
        """
        workers = workers or _cores()
        todo, forward = self._by_file(todo)
        handfuls, ahead = self._handfuls(todo, file_sizes, forward), deque[tuple[Future, int, int, Tape]]()
        n_clips = n_bytes = 0
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            try:
                while True:
                    while n_clips <= 4 * workers or len(ahead) <= 2 * workers or n_bytes <= _AHEAD:
                        handful, size = next(handfuls, ([], 0))
                        if not handful:
                            break
                        tape = Tape(hold=True)
                        ahead.append((pool.submit(self.decode_some, handful, tape), len(handful), size, tape))
                        n_clips, n_bytes = n_clips + len(handful), n_bytes + size
                    if not ahead:
                        return
                    decoding, fewer, less, tape = ahead.popleft()
                    good, reasons, rest = decoding.result()
                    n_clips, n_bytes = n_clips - fewer, n_bytes - less
                    if rest:
                        ahead.appendleft((pool.submit(self.decode_some, rest, tape), 0, 0, tape))
                    yield good, reasons
            finally:
                pool.shutdown(cancel_futures=True)

    def decode_some(
        self, clips: list[int], tape: Tape | None = None
    ) -> tuple[list[Decoded], dict[int, str], list[int]]:
        """(those that can be decoded, why others cannot, those that were left because these have become large).

        tape: for the segments of one file that follow each other; open, where clips were left.
        """
        good, reasons, size = [], {}, 0
        tape = tape or Tape(hold=True)
        for done, clip in enumerate(clips):
            if size > 8 * _HANDFUL:
                return good, reasons, clips[done:]
            several = self.files[clip] in (tape.path, *(self.files[later] for later in clips[done + 1 : done + 2]))
            try:
                samples, scale = decode_int16(*self._segment(clip), tape if several else None)
            except EvarError as error:
                reasons[clip] = str(error)
            else:
                samples = np.ascontiguousarray(samples, dtype="<i2")
                good.append(Decoded(clip, samples, scale, content_digest(samples, scale)))
                size += samples.nbytes
        tape.close()
        return good, reasons, []

    def _by_file(self, todo: list[int]) -> tuple[list[int], set[str]]:
        """`todo` with the segments of a file that is read forward together, by their starts; and those files."""
        found: dict[str, list[int]] = {}
        for clip in todo:
            found.setdefault(self.files[clip], []).append(clip)
        forward = {file for file, clips in found.items() if len(clips) > 1 and reads_forward(file)}
        ordered = []
        for clip in todo:
            if (file := self.files[clip]) not in forward:
                ordered.append(clip)
            elif clip == found[file][0]:
                ordered += sorted(found[file], key=lambda other: self.starts[other])
        return ordered, forward

    def count_samples(self, todo: list[int], workers: int | None) -> int:
        """About how many samples the clips of `todo` have, from the headers of their files."""

        def count(clips: list[int]) -> int:
            return sum(samples_after_decoding(*self._segment(clip)) for clip in clips)

        with ThreadPoolExecutor(workers or _cores()) as pool:
            return sum(pool.map(count, (todo[i : i + 64] for i in range(0, len(todo), 64))))

    def _segment(self, clip: int) -> tuple[str, int, float, float | None, float | None]:
        """The arguments of `decode` for one clip."""
        return self.files[clip], self.sample_rate, self.starts[clip], self.stops[clip], self.seconds

    def _handfuls(self, todo: list[int], file_sizes: np.ndarray, forward: set[str]) -> Iterator[tuple[list[int], int]]:
        """`todo` in runs of about `_HANDFUL` bytes in the file or, where the cut tells, decoded; each with its bytes.

        The segments of a file in `forward` stay together.
        """
        handful, n_bytes = [], 0
        for clip, file_size in zip(todo, file_sizes[todo].tolist(), strict=True):
            start, stop = self.starts[clip], self.stops[clip]
            seconds = min(
                math.inf if stop is None else stop - start, math.inf if self.seconds is None else self.seconds
            )
            size = max(4096, min(file_size, 2 * self.sample_rate * seconds))  # 4096: a file takes time, however small
            together = handful and self.files[clip] in forward and self.files[clip] == self.files[handful[-1]]
            if handful and n_bytes + size > _HANDFUL and not together:
                yield handful, n_bytes
                handful, n_bytes = [], 0
            handful.append(clip)
            n_bytes += size
        if handful:
            yield handful, n_bytes


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
