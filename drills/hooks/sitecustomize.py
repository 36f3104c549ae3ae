"""Loaded by every Python that a drill starts: notes each step that evar takes on the disk, and dies at a chosen one.

DRILL_STEPS names the file that takes a line `seconds what` per step under the folder DRILL_UNDER; DRILL_DIE is the number
of the step (`12`, or `pwrite:12` of that kind) before which the process is killed (kill -9): a `pwrite` in its middle, so
that half of the data is there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

UNDER, STEPS, DIE = (os.environ.get(name, "") for name in ("DRILL_UNDER", "DRILL_STEPS", "DRILL_DIE"))
CHANGES = ("os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.utime")
seen: Counter[str] = Counter()


def step(what: str, first: Callable[[], Any] = lambda: None) -> None:
    """Note a step; at the chosen one do `first`, and die."""
    kind = what.split()[0]
    seen[kind] += 1
    os.write(log, f"{time.monotonic():.4f} {what}\n".encode(errors="replace"))
    if DIE in (str(seen.total()), f"{kind}:{seen[kind]}"):
        first()
        os.kill(os.getpid(), signal.SIGKILL)


def hook(event: str, arguments: tuple) -> None:
    """Python tells of every file that is opened, renamed, removed and so on."""
    if event == "open":
        writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        writes = event in CHANGES
    path = arguments[0] if writes else None
    if isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(UNDER):
        step(f"{event} {os.fsdecode(path)}")


def count(name: str) -> None:
    """Count the calls of a function of `os` of which Python does not tell."""
    real = getattr(os, name)

    def call(descriptor: int, *rest: Any) -> Any:
        if seen:  # evar itself has begun to write
            half = (lambda: real(descriptor, rest[0][: len(rest[0]) // 2], *rest[1:])) if rest else (lambda: None)
            step(name, half)
        return real(descriptor, *rest)

    setattr(os, name, call)


if UNDER and STEPS:
    log = os.open(STEPS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count("pwrite")
    count("fsync")
    sys.addaudithook(hook)
