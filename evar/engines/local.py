"""Processes of this machine: `--workers N`. With GPUs each worker sees one of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from evar import engines
from evar.errors import EvarError
from evar.jobs import Job, write_job


class Engine(engines.Engine):
    """`workers` processes at a time, which share the cores."""

    def __init__(self, options: Mapping[str, str], workers: int | None, folder: Path, gpus: bool) -> None:
        if options:
            raise EvarError(f"engine local takes no options, found {', '.join(options)}")
        self.slots = workers or 1
        self.threads = max(1, len(os.sched_getaffinity(0)) // self.slots)
        self._places: list[subprocess.Popen | None] = [None] * self.slots
        self._gpus = _visible_gpus() if gpus else []

    def submit(self, job: Job) -> subprocess.Popen:
        # A job that told its end may take a moment to leave its place.
        place = min(range(self.slots), key=lambda i: self._places[i] is not None and self._places[i].poll() is None)
        env = dict(os.environ)
        if self._gpus:
            env["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        with open(job.file("log"), "wb") as log:
            # A session of its own: Ctrl-C reaches the driver, which stops its jobs.
            process = subprocess.Popen(
                [sys.executable, "-m", "evar.jobs", str(write_job(job))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        self._places[place] = process
        return process

    def ended(self, handle: subprocess.Popen) -> str | None:
        code = handle.poll()
        if code is None:
            return None
        return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with code {code}"

    def cancel(self, handle: subprocess.Popen) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(handle.pid, signal.SIGKILL)
        handle.wait()


def _visible_gpus() -> list[str]:
    import torch

    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    return told.split(",") if told else [str(i) for i in range(torch.cuda.device_count())]
