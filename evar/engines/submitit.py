"""Slurm by way of submitit, or submitit's own local processes: `--engine submitit`.

Options (`-E KEY=VALUE`) are those of `submitit.AutoExecutor.update_parameters`: `timeout_min`, `mem_gb`, `cpus_per_task`,
`gpus_per_node`, `slurm_partition`, `slurm_account` ...; and `cluster=slurm|local` (default: Slurm where it is). A job that
Slurm preempts or that reaches its time limit is queued again by submitit and continues. The working, results and embeddings folders
must be seen by all nodes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evar import engines
from evar.errors import EvarError
from evar.extras import require
from evar.jobs import Job, work

DEFAULTS = {"timeout_min": 24 * 60, "name": "evar"}


class Work:
    """`work` as submitit wants it: something that knows how to be queued again."""

    def __call__(self, job: dict[str, Any]) -> None:
        work(job)

    def checkpoint(self, job: dict[str, Any]) -> Any:
        """Called by submitit when the job has to leave its node: the same job continues what this one stored."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


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
        except (RuntimeError, ValueError, TypeError, NameError) as error:
            raise EvarError(f"engine submitit: {error}") from None
        local = self._executor.cluster == "local"
        cores = len(os.sched_getaffinity(0))
        self.slots = workers or (max(1, cores // 2) if local else None)
        per_task = parameters.get("cpus_per_task")
        self.threads = per_task or (max(1, cores // self.slots) if local else None)

    def submit(self, job: Job) -> Any:
        return self._executor.submit(Work(), dict(vars(job)))

    def ended(self, handle: Any) -> str | None:
        if not handle.done():
            return None
        return f"its job {handle.job_id} ended ({handle.state.lower()})"

    def cancel(self, handle: Any) -> None:
        handle.cancel(check=False)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
