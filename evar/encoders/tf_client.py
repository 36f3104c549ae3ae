"""TensorFlow modules from a process that never imports TensorFlow: the client of `evar.encoders.tf_worker`."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from evar.encoders.catalog import cache_folder
from evar.encoders.tf_worker import READY, receive, send
from evar.errors import EvarError
from evar.files import digest, sha256_file

START = "import sys; sys.path[:] = sys.argv[1:]; from evar.encoders.tf_worker import main; main()"
QUIET = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "HIP_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_CPP_MAX_VLOG_LEVEL": "0",
}
"""The environment of the worker: the GPU is PyTorch's, and TensorFlow says only what ends it."""
WRITING = ("KERAS_HOME", "MPLCONFIGDIR")
"""Folders of libraries that TensorFlow imports: they would write to ~/.keras and ~/.cache, and read settings there."""
GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
LAST_WORDS = 5


class ModelError(EvarError):
    """The model itself refused or failed; the worker is well. why: what it said, without who said it."""

    def __init__(self, who: str, why: str) -> None:
        super().__init__(f"{who}: {why}")
        self.why = why


class SavedModel:
    """A SavedModel of a local folder, loaded in the worker of this process when it is first called.

    A SavedModel may hold any operation of TensorFlow, so it is as trusted as code. label: what errors call it;
    rate: Hz of the waveforms; sha256: of the content, to which the model is held when it is loaded. Models share one
    worker; memory is freed when the last reference to this object is gone.
    """

    def __init__(self, folder: Path, rate: int, label: str) -> None:
        self.folder, self.rate, self.label = Path(folder).resolve(), rate, label
        self.sha256, self.number = model_digest(self.folder), _worker.next_number()
        self.way: dict[str, Any] | None = None
        weakref.finalize(self, _release, self.number).atexit = False

    def find_way(self, wav: np.ndarray) -> None:
        """Find out how the module wants to be called, with wav float32 [N]; ModelError where no way works."""
        answer, _ = self._ask({"do": "find"}, wav)
        if "refused" in answer:
            raise ModelError(f"{self.label}: {self.folder}", f"it takes no waveform: {answer['refused']}")
        self.way = answer["way"]

    def __call__(self, wav: np.ndarray, layers: list[str] | None = None) -> dict[str, np.ndarray]:
        """The outputs float32 [B, ...] by name for wav float32 [B, N]; only those in `layers` unless that is None.

        Raises ModelError where the module fails, EvarError where it cannot be loaded or the worker dies twice in a row.
        """
        return self._ask({"do": "run", "way": self.way, "layers": layers}, wav)[1]

    def _ask(self, header: dict[str, Any], wav: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        header = {**header, "model": self.number}
        load = {
            "do": "load",
            "model": self.number,
            "folder": str(self.folder),
            "rate": self.rate,
            "sha256": self.sha256,
        }
        answer, arrays = _worker.ask(header, {"wav": np.asarray(wav, np.float32)}, self.label, load)
        if "error" in answer:
            advice = ": out of memory, try a smaller --batch" if answer["memory"] else ""
            raise ModelError(f"{self.label}: {self.folder}", f"it failed{advice}: {answer['error']}")
        return answer, arrays


def model_digest(folder: Path) -> str:
    """SHA-256 over all that a SavedModel computes from: graph, variables and assets, by name and content."""
    files = [folder / name for name in GRAPHS]
    files += [file for part in ("variables", "assets") for file in (folder / part).rglob("*")]
    return digest([[f.relative_to(folder).as_posix(), sha256_file(f)] for f in sorted(files) if f.is_file()])


def fetch(handle: str, cache: Path) -> Path:
    """Download the module `handle` (https) below the folder `cache`, as tensorflow_hub does; EvarError if it fails."""
    answer, _ = _worker.ask({"do": "fetch", "handle": handle, "cache": str(cache)}, {}, f"tfhub:{handle}", None)
    if "error" in answer:
        raise EvarError(f"cannot fetch {handle}: {answer['error']}")
    return Path(answer["path"])


class _Connection:
    """The worker process, started when it is first needed and again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process: subprocess.Popen | None = None
        self._loaded: set[int] = set()
        self._released: deque[int] = deque()
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._numbers = 0

    def next_number(self) -> int:
        with self._lock:
            self._numbers += 1
            return self._numbers

    def ask(
        self, header: dict[str, Any], arrays: dict[str, np.ndarray], label: str, load: dict[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send a request, and before it `load` where the worker does not hold the model; gives the answer."""
        with self._lock:
            for last in (False, True):
                try:
                    if self._process is None or self._process.poll() == 0:  # ended as it should: it had nothing to do
                        self._start()
                    if load is not None and load["model"] not in self._loaded:
                        answer, _ = self._exchange(load, {})
                        if "error" in answer:
                            raise EvarError(f"{label}: {load['folder']} cannot be loaded: {answer['error']}")
                        if load.get("sha256") not in (None, model_digest(Path(load["folder"]))):
                            raise EvarError(
                                f"{label}: {load['folder']} changed while this run was at work: run it again"
                            )
                        self._loaded.add(load["model"])
                    return self._exchange(header, arrays)
                except (EOFError, OSError):
                    died = self._cause_of_death()
                    if last:
                        raise EvarError(
                            f"{label}: the TensorFlow worker died twice in a row ({died}): try a smaller --batch,"
                            " shorter clips (--duration), or a machine with more memory"
                        ) from None
                    if died:
                        warnings.warn(f"{label}: the TensorFlow worker died ({died}) and is started again")
                except EvarError:
                    raise
                except BaseException:  # Ctrl-C: an answer that nobody waited for must not meet the next question
                    self.stop()
                    raise
            raise AssertionError("unreachable")

    def release(self, number: int) -> None:
        """Forget a model. Called by the garbage collector at any time, so it must not wait for the lock."""
        self._released.append(number)
        if self._lock.acquire(blocking=False):
            try:
                if self._process is not None and not self._busy:
                    with contextlib.suppress(OSError):
                        send(self._process.stdin, {"drop": self._to_drop()})
            finally:
                self._lock.release()

    def stop(self) -> None:
        """End the worker, whatever it is doing."""
        process, self._process, self._loaded = self._process, None, set()
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()
            process.wait()

    def abandon(self) -> None:
        """In a fork: the worker is the parent's, only its pipes are closed here."""
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                with contextlib.suppress(OSError):
                    stream.close()
            self._process.returncode = 0  # not ours to wait for

    _busy = False

    def _exchange(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
        self._busy = True
        send(self._process.stdin, {**header, "drop": self._to_drop()}, arrays)
        answer = receive(self._process.stdout)
        self._busy = False
        return answer

    def _to_drop(self) -> list[int]:
        numbers = []
        with contextlib.suppress(IndexError):
            while True:
                numbers.append(self._released.popleft())
        self._loaded -= set(numbers)
        return numbers

    def _start(self) -> None:
        self.stop()
        environment = {**os.environ, **QUIET}
        for variable in WRITING:
            environment[variable] = str(cache_folder() / "tensorflow" / variable.lower())
        if "torch" in sys.modules:  # as many threads as PyTorch was given
            environment["TF_NUM_INTRAOP_THREADS"] = str(sys.modules["torch"].get_num_threads())
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", START, *sys.path]  # it imports what this process would import
        self._busy = False
        self._process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
        self._words.clear()
        # Read to its end, or a talkative model would fill the pipe and wait for ever.
        self._reader = threading.Thread(target=_read_lines, args=(self._process.stderr, self._words), daemon=True)
        self._reader.start()
        head = b""
        while not head.endswith(READY):
            byte = self._process.stdout.read(1)
            if not byte:
                raise EOFError("it ended before it was ready")
            head = head[-len(READY) :] + byte

    def _cause_of_death(self) -> str:
        """Why the worker is gone, and what it said last; empty where it ended as it should. Stops what is left of it."""
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        code = process.returncode
        self.stop()
        self._reader.join(timeout=5)
        if code == 0:
            return ""
        if code is None:
            cause = "it closed its pipe"
        elif code == -signal.SIGKILL:
            cause = "killed from outside, most likely out of memory"
        elif code < 0:
            cause = f"signal {-code}, {signal.Signals(-code).name}"
        else:
            cause = f"exit code {code}"
        said = next((line for line in reversed(self._words) if line), "")
        return f"{cause}: {said[:200]}" if said and code != -signal.SIGKILL else cause


def _read_lines(stream: Any, lines: deque[str]) -> None:
    with contextlib.suppress(OSError, ValueError), io.BufferedReader(stream) as reader:
        while line := reader.readline(1000):
            lines.append(line.decode(errors="replace").strip())


def _release(number: int) -> None:
    _worker.release(number)


def _after_fork() -> None:
    global _worker
    _worker.abandon()
    numbers = _worker._numbers
    _worker = _Connection()
    _worker._numbers = numbers


_worker = _Connection()
atexit.register(lambda: _worker.stop())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
