"""Processes of this machine: `--workers N`. With GPUs each worker sees one of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from evar import engines
from evar.jobs import Job, command


class Engine(engines.Engine):
    """`workers` processes at a time, which share the cores."""

    def __init__(self, options: Mapping[str, str], workers: int | None, folder: Path, gpus: bool) -> None:
        self.slots = workers or 1
        self.threads = max(1, engines.n_cores() // self.slots)
        self._places: list[tuple[subprocess.Popen, Job] | None] = [None] * self.slots
        self._gpus = _visible_gpus() if gpus else []

    def submit(self, job: Job) -> subprocess.Popen:
        # A job that told its end may take a moment to leave its place.
        place = min(range(self.slots), key=self._is_busy)
        env = dict(os.environ)
        if self._gpus:
            env["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        with open(job.file("log"), "wb") as log:
            # A session of its own: Ctrl-C reaches the driver, which stops its jobs.
            process = subprocess.Popen(
                command(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        self._places[place] = process, job
        return process

    def _is_busy(self, place: int) -> bool:
        if self._places[place] is None:
            return False
        process, job = self._places[place]
        return process.poll() is None and job.status()["state"] not in ("done", "failed")

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
