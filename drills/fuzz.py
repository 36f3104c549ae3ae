"""Coverage-guided fuzzing (atheris) of everything that evar reads from others, one process and one line per target.

Faults are inputs tried; tracebacks are kinds of exceptions that are no EvarError, crashes, hangs (20 s) and 3 GB of memory.
`EVAR_FUZZ_SECONDS` sets the seconds per target (60; 5 with --quick), `EVAR_FUZZ_TARGETS` names some of them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import Count, Options, environment
from fuzz_targets import targets

HERE = Path(__file__).resolve().parent


def drill(options: Options) -> list[Count]:
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: skipped: atheris is not installed (pip install atheris, Linux x86_64, Python < 3.14)")
        return []
    seconds = int(os.environ.get("EVAR_FUZZ_SECONDS", 5 if options.quick else 60))
    chosen = os.environ.get("EVAR_FUZZ_TARGETS")
    return [
        fuzz(name, options.scratch / name, seconds, options.seed)
        for name in targets()
        if not chosen or name in chosen.split(",")
    ]


def fuzz(name: str, folder: Path, seconds: int, seed: int) -> Count:
    """Fuzz one target; a process that dies is counted, and another one takes the seconds that are left."""
    count = Count(f"fuzz {name}")
    end = time.monotonic() + seconds
    for attempt in range(10):
        left = round(end - time.monotonic())
        if left < 2 and attempt:
            break
        place = folder / str(attempt)
        place.mkdir(parents=True)
        command = [
            sys.executable,
            str(HERE / "fuzz_targets.py"),
            name,
            str(place),
            str(max(left, 2)),
            str(seed + attempt),
        ]
        env = environment(EVAR_CACHE=str(place / "cache"), EVAR_CANARY=str(place / "canary"), MALLOC_ARENA_MAX="2")
        ended = subprocess.run(command, env=env, cwd=place, capture_output=True, text=True, errors="replace")
        _count(count, place, ended)
        if ended.returncode == 0:
            break
    return count


def _count(count: Count, place: Path, ended: subprocess.CompletedProcess) -> None:
    found_file = place / "found.json"
    found = json.loads(found_file.read_text()) if found_file.exists() else {"tries": 0, "escapes": {}}
    count.faults += found["tries"]
    count.tracebacks += len(found["escapes"])
    count.notes += [f"{key}: {words}" for key, words in found["escapes"].items()]
    if (place / "canary").exists():
        count.tracebacks += 1
        count.notes.append(f"planted code ran: {(place / 'canary').read_text()[:100]}")
    if ended.returncode:
        last = (place / "last").read_bytes() if (place / "last").exists() else bytes(8)
        tried = last[8 : 8 + int.from_bytes(last[:8], "little")]
        said = [line for line in ended.stderr.splitlines() if "ERROR" in line or "Error" in line][-1:] or ["?"]
        count.tracebacks += 1
        count.notes.append(f"ended with {ended.returncode}: {said[0][:160]} <- {tried[:200]!r}")
