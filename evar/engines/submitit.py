"""Slurm by way of submitit, or submitit's own local processes: `--engine submitit`.

Options (`-E KEY=VALUE`) are those of `submitit.AutoExecutor.update_parameters`: `timeout_min`, `mem_gb`, `cpus_per_task`,
`gpus_per_node`, `slurm_partition`, `slurm_account` ...; and `cluster=slurm|local` (default: Slurm where it is). A job that
Slurm preempts or that reaches its time limit is queued again by submitit (three times, unless told otherwise) and
continues. The working, results and embeddings folders must be seen by all nodes, and `sacct` must answer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evar import engines
from evar.errors import EvarError
from evar.extras import require
from evar.jobs import Job, command

DEFAULTS = {"timeout_min": 24 * 60, "name": "evar"}


class Work:
    """A job as submitit wants it: something that knows how to be queued again.

    The job runs in a process of its own, so that the signal by which Slurm announces the end of the time finds this one
    waiting, and not in the middle of somebody's network, where an exit would look like an error of that network.
    """

    def __call__(self, job: dict[str, Any]) -> None:
        self._child = subprocess.Popen(command(Job(**job)))
        code = self._child.wait()
        if code:
            raise RuntimeError(f"the process of the job ended with code {code}")

    def checkpoint(self, job: dict[str, Any]) -> Any:
        """Called by submitit when the job has to leave its node: the same job continues what this one stored."""
        from submitit.helpers import DelayedSubmission

        # What is stored survives that. No wait(): this is a signal handler, and __call__ is inside one with its lock.
        os.kill(self._child.pid, signal.SIGKILL)
        return DelayedSubmission(Work(), job)


class Engine(engines.Engine):
    """Jobs are submitit jobs."""

    def __init__(self, options: Mapping[str, str], workers: int | None, folder: Path, gpus: bool) -> None:
        require("cluster", "--engine submitit")
        import submitit

        parameters = DEFAULTS | {"gpus_per_node": 1 if gpus else 0} | {k: _number(v) for k, v in options.items()}
        cluster = parameters.pop("cluster", None)
        if cluster not in (None, "slurm", "local"):
            raise EvarError(f"engine submitit: cluster: expected slurm or local, found {cluster!r}")
        try:
            self._executor = submitit.AutoExecutor(folder / "submitit", cluster=cluster)
            self._executor.update_parameters(**parameters)
        except (AssertionError, NameError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise EvarError(f"engine submitit: {error}") from None
        local = self._executor.cluster == "local"
        cores = engines.n_cores()
        self.slots = workers or (max(1, cores // 2) if local else None)
        per_task = parameters.get("cpus_per_task")
        if local and gpus and self.slots > 1:
            raise EvarError(
                "engine submitit: its local processes would all share one GPU: use --engine local --workers N"
            )
        self.settle_seconds = 0.0 if local else 60.0
        self._handles: list[Any] = []
        self.threads = per_task or (max(1, cores // self.slots) if local else None)

    def submit(self, job: Job) -> Any:
        # Ctrl-C is for the driver, which stops the jobs; processes that submitit starts here would hear it too.
        heard = signal.getsignal(signal.SIGINT)
        try:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            handle = self._executor.submit(Work(), dict(vars(job)))
        except (OSError, RuntimeError) as error:
            raise EvarError(f"engine submitit: {' '.join(str(error).split())}") from None
        finally:
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGINT, heard)
        self._handles.append(handle)
        return handle

    def ended(self, handle: Any) -> str | None:
        if not handle.done():
            return None
        return f"its job {handle.job_id} ended ({handle.state.lower()})"

    def cancel(self, handle: Any) -> None:
        handle.cancel(check=False)

    def close(self) -> None:
        """A job tells its end a moment before submitit has written its own files."""
        until = time.monotonic() + 10
        while time.monotonic() < until and not all(handle.done() for handle in self._handles):
            time.sleep(0.1)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
