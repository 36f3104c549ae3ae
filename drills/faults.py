"""A file system that fails on command: `faults.c`, compiled and put before a command by LD_PRELOAD (Linux with gcc)."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

COUNTED = ("calls", "bytes", "injected", "delayed", "shortened", "mapped", "stale")
ASKED = ("at_call", "after_bytes", "error", "span", "removing", "delay_us", "short_every", "flock_error", "stale_ms")
SHORT = {
    number: errno.errorcode[number] for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOLCK)
}


class Unavailable(Exception):
    """No gcc, no LD_PRELOAD: a drill that needs them is left out, with this reason, and counted nowhere."""


@dataclass(frozen=True)
class Fault:
    """What is to go wrong in the chosen folders. Calls are those that a full disk may refuse.

    at_call: from this call on (1 is the first) they fail with `error`, `span` of them (0: all). after_bytes: as soon as so
    many bytes were written. removing: opening to write, shrinking and unlinking count too, as on a read-only file system.
    delay_us: every call by name takes up to so many microseconds more. short_every: each so-maniest write takes half of
    its bytes. flock_error: what flock answers. stale_ms: so long stat may answer as before (not after an open).
    """

    at_call: int = 0
    after_bytes: int = -1
    error: int = errno.ENOSPC
    span: int = 0
    removing: int = 0
    delay_us: int = 0
    short_every: int = 0
    flock_error: int = 0
    stale_ms: int = 0

    def __str__(self) -> str:
        where = f"after {self.after_bytes} bytes" if self.after_bytes >= 0 else f"at call {self.at_call}"
        return f"{SHORT.get(self.error, self.error)} {where}" + (f", {self.span} times" if self.span else "")


@dataclass(frozen=True)
class Seen:
    """What the shim counted in the chosen folders: calls that need the disk, bytes written, and what it did to them."""

    calls: int
    bytes: int
    injected: int
    delayed: int
    shortened: int
    mapped: int
    stale: int


class Shim:
    """The compiled shim. Raises Unavailable where it cannot be built or does not work."""

    def __init__(self, scratch: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if not sys.platform.startswith("linux") or compiler is None:
            raise Unavailable("needs Linux and a C compiler (gcc)")
        scratch.mkdir(parents=True, exist_ok=True)
        self._scratch, self._library = scratch, scratch / "faults.so"
        source = Path(__file__).with_name("faults.c")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            raise Unavailable(f"faults.c does not compile here: {built.stderr.strip().splitlines()[0]}")
        folder = scratch / "probe"
        folder.mkdir(exist_ok=True)
        trap = self.set(Fault(at_call=1), folder)
        probe = f"open({str(folder / 'x')!r}, 'w')"
        subprocess.run([sys.executable, "-c", probe], env=os.environ | trap.env, capture_output=True)
        if not trap.seen().injected:
            raise Unavailable("LD_PRELOAD has no effect here")

    def set(self, fault: Fault, *folders: Path) -> Trap:
        """A trap for one command: its environment, and afterwards what was seen."""
        control = self._scratch / f"control-{uuid.uuid4().hex}"
        values = [0] * len(COUNTED) + [getattr(fault, name) for name in ASKED]
        control.write_bytes(struct.pack(f"{len(values)}q", *values).ljust(mmap.PAGESIZE, b"\0"))
        preload = ":".join(filter(None, [str(self._library), os.environ.get("LD_PRELOAD")]))
        where = ":".join(os.path.realpath(folder) for folder in folders)
        return Trap(control, {"LD_PRELOAD": preload, "EVAR_FAULTS": str(control), "EVAR_FAULT_FOLDERS": where})


@dataclass(frozen=True)
class Trap:
    """`env` makes a command meet the fault; `seen` says what happened."""

    control: Path
    env: dict[str, str]

    def seen(self) -> Seen:
        """The counters as they are now."""
        return Seen(*struct.unpack_from(f"{len(COUNTED)}q", self.control.read_bytes()))
