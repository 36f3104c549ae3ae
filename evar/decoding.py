"""A task's clips as waveforms, and the next task's in the background: files are decoded while an encoder computes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from evar.embed import Progress, open_task_waveforms

if TYPE_CHECKING:
    from evar.audio.cache import Waveforms
    from evar.cells import Settings
    from evar.datasets.task import Task
    from evar.runner import Reporter


STOP_SECONDS = 2.0


class Decoding:
    """The waveforms of one run: those of one task at one rate are open, those that come next may be under way."""

    def __init__(self, settings: Settings, reporter: Reporter) -> None:
        self._settings, self._reporter = settings, reporter
        self._open: tuple[tuple, Waveforms] | None = None
        self._told: set[str] = set()
        self._ahead: tuple[tuple, _Ahead] | None = None

    def waveforms(self, task: Task, sample_rate: int) -> Waveforms:
        """The task's waveforms at one rate; encoders of one rate share them. Raises EvarError as `open_waveforms` does."""
        key = _key(task, sample_rate)
        if self._open is None or self._open[0] != key:
            self._open = None  # one at a time
            with self._reporter.bar("decode", f"{task.name} at {sample_rate} Hz", "clip") as progress:
                waves = self._taken(key, progress) or self._decoded(task, sample_rate, progress)
            if waves.bad:
                self._reporter.warn(f"{task.name}: {len(waves.bad)} clips that cannot be decoded are skipped")
            if (copies := copied(task, waves)) and copies not in self._told:
                self._told.add(copies)
                self._reporter.warn(copies)
            self._open = key, waves
        return self._open[1]

    def begin(self, task: Task, sample_rate: int) -> None:
        """Decode in a thread what `waveforms` will be asked for next; what is wrong with it is said then."""
        if self._ahead is None:
            self._ahead = _key(task, sample_rate), _Ahead(self, task, sample_rate)

    def close(self) -> None:
        """Stop what is under way; what was decoded stays decoded.

        A thread that waits for another process's lock hears of it late: it is left behind then, and ends with this one.
        """
        if self._ahead is not None:
            self._ahead[1].stop.set()
            self._ahead[1].join(STOP_SECONDS)

    def _taken(self, key: tuple, progress: Progress | None) -> Waveforms | None:
        if self._ahead is None or self._ahead[0] != key:
            return None
        ahead = self._ahead[1]
        ahead.shown = progress
        ahead.join()
        self._ahead = None  # not before: an interrupt of the waiting has to find it
        if ahead.error is not None:
            raise ahead.error
        return ahead.waves

    def _decoded(self, task: Task, sample_rate: int, progress: Progress | None) -> Waveforms:
        return open_task_waveforms(
            task,
            sample_rate,
            embeddings=Path(self._settings.embeddings),
            duration=self._settings.duration,
            skip_bad=self._settings.skip_bad,
            progress=progress,
        )


def copied(task: Task, waves: Waveforms) -> str | None:
    """How many tested clips have the very samples of a training clip, naming some; None where none has, or data is made up.

    Digital silence is no copy.
    """
    import numpy as np

    from evar.audio.journal import content_digest

    if task.synthetic:
        return None
    part = task.clips["fold" if "fold" in task.clips else "split"].to_numpy()
    groups: dict[bytes, list[int]] = {}
    for clip, digest in enumerate(waves.digests):
        if clip not in waves.bad:
            groups.setdefault(digest.tobytes(), []).append(clip)
    n, pairs = 0, []
    for digest, clips in groups.items():
        parts = {part[clip]: clip for clip in reversed(clips)}
        if len(parts) < 2 or ("fold" not in task.clips and not {"train", "test"} <= parts.keys()):
            continue
        if digest == content_digest(np.zeros(waves.lengths[clips[0]], dtype=np.int16), 1.0):
            continue
        n += sum("fold" in task.clips or part[clip] == "test" for clip in clips)
        first, second = (parts["train"], parts["test"]) if "train" in parts else list(parts.values())[:2]
        pairs.append(f"{waves.ids[first]} = {waves.ids[second]}")
    if not n:
        return None
    shown = ", ".join(pairs[:3]) + (", ..." if len(pairs) > 3 else "")
    where = "a clip of another fold" if "fold" in task.clips else "a training clip"
    return (
        f"{task.name}: {n} tested {'clip has' if n == 1 else 'clips have'} the same samples as {where} ({shown}): the score "
        "is too good; `evar data verify` names the copies"
    )


def _key(task: Task, sample_rate: int) -> tuple:
    return task.name, str(task.root), task.fingerprint, sample_rate


class _Ahead(threading.Thread):
    """Decodes one task at one rate; its progress is shown from when somebody waits for it."""

    def __init__(self, decoding: Decoding, task: Task, sample_rate: int) -> None:
        super().__init__(name="decode ahead", daemon=True)
        self._work = decoding._decoded, task, sample_rate
        self.stop, self.shown = threading.Event(), None
        self.waves: Waveforms | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        decoded, task, sample_rate = self._work
        try:
            self.waves = decoded(task, sample_rate, self._progress)
        except BaseException as error:  # for who takes the waveforms
            self.error = error

    def _progress(self, done: int, total: int) -> None:
        if self.stop.is_set():
            raise _StoppedError
        if self.shown is not None:
            self.shown(done, total)


class _StoppedError(Exception):
    pass
