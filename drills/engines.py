"""3 encoders × 4 tasks on every engine, undisturbed and with workers killed midway, against a plain run in one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from common import Count, Options, differences, evar, start, wait

from evar import extras
from evar.engines import list_engines

ENCODERS, TASKS = "logmel,mfcc,random:byola-v1-512", "fsdd,gtzan,emodb,esc50"
GRID = ["run", ENCODERS, TASKS, "--mini", "--device", "cpu"]
NEEDS = {"ray": "cluster", "submitit": "cluster"}


def drill(options: Options) -> list[Count]:
    """One line per engine; a worker killed is a fault."""
    plain = options.scratch / "plain"
    first = evar(*GRID, "--results", "plain", cwd=options.scratch)
    if first.code:
        raise SystemExit(first.stderr)
    counts = []
    for engine in list_engines():
        if NEEDS.get(engine) and extras.missing(NEEDS[engine]):
            print(f"engine {engine}: skipped, the extra {NEEDS[engine]} is not installed")
            continue
        count = Count(f"engine {engine}, 2 workers, 12 jobs")
        for kills in (0, 1) if options.quick else (0, 1, 3):
            results = f"{engine}-{kills}"
            place = [
                "--engine",
                engine,
                "--workers",
                "2",
                "--results",
                results,
                "--embeddings",
                f"{results}-embeddings",
            ]
            begun = time.perf_counter()
            process = start([*GRID, *place], options.scratch)
            count.faults += _kill_workers(process, options.scratch / results, kills)
            finished = wait(process)
            seconds = time.perf_counter() - begun
            count.saw(finished, f"{kills} kills")
            lost, wrong = differences(options.scratch / results, plain)
            count.results_lost, count.wrong_rows = count.results_lost + lost, count.wrong_rows + wrong
            again = finished.stderr.count("started again")
            count.notes.append(
                f"{kills} workers killed: {again} started again, exit code {finished.code}, {seconds:.0f} s"
            )
            if finished.code or again != kills:
                count.results_lost += 1
                count.notes.append(" / ".join(finished.stderr.splitlines()[-3:]))
        counts.append(count)
    return counts


def _kill_workers(process: subprocess.Popen, results: Path, kills: int) -> int:
    """kill -9 of `kills` workers, each of another job, when they say that they are encoding or probing."""
    killed: set[str] = set()
    while len(killed) < kills and process.poll() is None:
        for path in results.glob(".jobs/*/*.0.json"):
            try:
                status = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if status["state"] == "working" and status["at"] and path.name not in killed and len(killed) < kills:
                os.kill(status["pid"], signal.SIGKILL)
                killed.add(path.name)
        time.sleep(0.05)
    return len(killed)
