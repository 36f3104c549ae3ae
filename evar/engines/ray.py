"""A Ray cluster, or workers of this machine that Ray starts: `--engine ray`.

Options (`-E KEY=VALUE`): `address` of a running cluster (default: $RAY_ADDRESS, else a local one); `num_cpus`, `num_gpus`
and `memory` (bytes) that a job reserves; `resources.NAME` for custom resources. evar must be installed on every node, and
the working, results and embeddings folders be at the same path.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evar import engines
from evar.errors import EvarError, unknown
from evar.extras import require
from evar.jobs import Job, work

KEYS = {"num_cpus": float, "num_gpus": float, "memory": int}


class Engine(engines.Engine):
    """Jobs are Ray tasks; Ray queues them by the CPUs and GPUs that they reserve."""

    settle_seconds = 5.0

    def __init__(self, options: Mapping[str, str], workers: int | None, folder: Path, gpus: bool) -> None:
        require("cluster", "--engine ray")
        self._wanted, self._address = _wanted(options, gpus)
        self._address = self._address or os.environ.get("RAY_ADDRESS")
        self.slots = workers
        self.threads = max(1, int(self._wanted["num_cpus"]))

    def start(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless asked
        import ray

        self._ray, self._own = ray, not ray.is_initialized()
        local: dict[str, Any] = {"address": "local", "include_dashboard": False}
        if self.slots:
            local["num_cpus"] = max(1, round(self.slots * self._wanted["num_cpus"]))
        told = {"address": self._address} if self._address else local
        try:
            if self._own:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **told)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise EvarError(f"Ray does not start at {self._address or 'this machine'}: {error}") from None
        self._check_resources(ray.cluster_resources())
        # Trying again is the driver's, so that it can tell.
        self._start = ray.remote(work).options(max_retries=0, **self._wanted).remote

    def _check_resources(self, there: Mapping[str, float]) -> None:
        """EvarError where no job could ever start: Ray would wait for such a machine without a word."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        wanted = {names[key]: value for key, value in self._wanted.items() if key in names}
        for name, value in (wanted | self._wanted.get("resources", {})).items():
            if value > there.get(name, 0):
                raise EvarError(f"engine ray: a job wants {value:g} {name}, the cluster has {there.get(name, 0):g}")

    def submit(self, job: Job) -> Any:
        return self._start(vars(job))

    def ended(self, handle: Any) -> str | None:
        if not self._ray.wait([handle], timeout=0)[0]:
            return None
        try:
            self._ray.get(handle)
        except self._ray.exceptions.RayError as error:
            return f"its Ray worker ended ({' '.join(str(error).split())[:120] or type(error).__name__})"
        return "its Ray task ended without a word"

    def cancel(self, handle: Any) -> None:
        self._ray.cancel(handle, force=True)

    def close(self) -> None:
        if getattr(self, "_own", False):
            self._ray.shutdown()


def _wanted(options: Mapping[str, str], gpus: bool) -> tuple[dict[str, Any], str | None]:
    """(what a job reserves, address)."""
    wanted: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if gpus else 0}
    for key, text in options.items():
        if key == "address":
            continue
        resource = key.removeprefix("resources.")
        if key not in KEYS and resource == key:
            raise unknown("option of engine ray", key, [*KEYS, "address", "resources.NAME"])
        try:
            value = KEYS.get(key, float)(text)
        except ValueError:
            raise EvarError(f"engine ray: {key}: expected a number, found {text!r}") from None
        if not 0 <= value < float("inf"):
            raise EvarError(f"engine ray: {key}: expected a number of at least 0, found {text!r}")
        if resource != key:
            wanted.setdefault("resources", {})[resource] = value
        else:
            wanted[key] = value
    return wanted, options.get("address")
