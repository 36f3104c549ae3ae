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

from evar.audio.decode import decode_int16, samples_after_decoding
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
        """The clips of `todo` in that order, some at a time, and why others cannot be decoded (by clip).

        file_sizes: int64 [N] bytes, of all clips. workers: threads (libsndfile and soxr release the GIL), or all cores.
        """
        workers = workers or _cores()
        handfuls, ahead = self._handfuls(todo, file_sizes), deque[tuple[Future, int, int]]()
        n_clips = n_bytes = 0
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            try:
                while True:
                    while n_clips <= 4 * workers or len(ahead) <= 2 * workers or n_bytes <= _AHEAD:
                        handful, size = next(handfuls, ([], 0))
                        if not handful:
                            break
                        ahead.append((pool.submit(self.decode_some, handful), len(handful), size))
                        n_clips, n_bytes = n_clips + len(handful), n_bytes + size
                    if not ahead:
                        return
                    decoding, fewer, less = ahead.popleft()
                    good, reasons, rest = decoding.result()
                    n_clips, n_bytes = n_clips - fewer, n_bytes - less
                    if rest:
                        ahead.appendleft((pool.submit(self.decode_some, rest), 0, 0))
                    yield good, reasons
            finally:
                pool.shutdown(cancel_futures=True)

    def decode_some(self, clips: list[int]) -> tuple[list[Decoded], dict[int, str], list[int]]:
        """(those that can be decoded, why others cannot, those that were left because these have become large)."""
        good, reasons, size = [], {}, 0
        for done, clip in enumerate(clips):
            if size > 8 * _HANDFUL:
                return good, reasons, clips[done:]
            try:
                samples, scale = decode_int16(*self._segment(clip))
            except EvarError as error:
                reasons[clip] = str(error)
            else:
                samples = np.ascontiguousarray(samples, dtype="<i2")
                good.append(Decoded(clip, samples, scale, content_digest(samples, scale)))
                size += samples.nbytes
        return good, reasons, []

    def count_samples(self, todo: list[int], workers: int | None) -> int:
        """About how many samples the clips of `todo` have, from the headers of their files."""

        def count(clips: list[int]) -> int:
            return sum(samples_after_decoding(*self._segment(clip)) for clip in clips)

        with ThreadPoolExecutor(workers or _cores()) as pool:
            return sum(pool.map(count, (todo[i : i + 64] for i in range(0, len(todo), 64))))

    def _segment(self, clip: int) -> tuple[str, int, float, float | None, float | None]:
        """The arguments of `decode` for one clip."""
        return self.files[clip], self.sample_rate, self.starts[clip], self.stops[clip], self.seconds

    def _handfuls(self, todo: list[int], file_sizes: np.ndarray) -> Iterator[tuple[list[int], int]]:
        """`todo` in runs of about `_HANDFUL` bytes in the file or, where the cut tells, decoded; each with its bytes."""
        handful, n_bytes = [], 0
        for clip, file_size in zip(todo, file_sizes[todo].tolist(), strict=True):
            start, stop = self.starts[clip], self.stops[clip]
            seconds = min(
                math.inf if stop is None else stop - start, math.inf if self.seconds is None else self.seconds
            )
            size = max(4096, min(file_size, 2 * self.sample_rate * seconds))  # 4096: a file takes time, however small
            if handful and n_bytes + size > _HANDFUL:
                yield handful, n_bytes
                handful, n_bytes = [], 0
            handful.append(clip)
            n_bytes += size
        if handful:
            yield handful, n_bytes


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
