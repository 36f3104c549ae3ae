"""A grid as jobs: one job is one encoder on one task, in a process of its own, on this machine or another.

A job is idempotent: it is `evar run ENCODER TASK`, so what is measured already is not measured again and what was cut
off continues. The driver and its jobs share the results and embeddings folders; through files in `RESULTS/.jobs/` a job
tells how far it is, and how it ended:

    driver                                      engine (evar/engines/NAME.py)          job
    drive(): submit, poll, show, try again ───> a process somewhere ─────────────────> work(): runner.run(...)
       ^──────────────────────── RESULTS/.jobs/RUN/007.1.json ───────────────────────────┘
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.embed import Progress
from evar.errors import EvarError, out_of_memory
from evar.files import make_folder
from evar.runner import Reporter

if TYPE_CHECKING:
    from evar.engines import Engine

POLL_SECONDS = 0.2
TELL_SECONDS = 1.0
"""How often the driver looks, and how often a job says how far it is."""
FULL_SECONDS = 30.0
"""How long a queue that refused a job is left alone."""


@dataclass
class Job:
    """One encoder on one task. settings: the fields of `evar.cells.Settings`. folder: what all jobs of a run share."""

    number: int
    encoder: str
    task: str
    settings: dict[str, Any]
    folder: str
    cwd: str
    threads: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    attempt: int = 0

    @property
    def name(self) -> str:
        """`logmel × esc50`."""
        return f"{self.encoder} × {self.task}"

    def file(self, suffix: str) -> Path:
        """A file of this attempt."""
        return Path(self.folder) / f"{self.number:04}.{self.attempt}.{suffix}"

    def status(self) -> dict[str, Any]:
        """What the job last told: `state` is `waiting`, `working`, `done` or `failed`."""
        try:
            return json.loads(self.file("json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"state": "waiting"}


class Teller(Reporter):
    """Tells the driver, through the job's status file, what a run says."""

    def __init__(self, job: Job) -> None:
        self.job, self._next = job, 0.0
        self.status: dict[str, Any] = {"state": "working", "pid": os.getpid(), "at": "", "share": 0.0, "lines": []}
        self.tell()

    def tell(self, **values: Any) -> None:
        """Replace the status file in one step. It is news, not a result: nothing waits for the disk."""
        self.status |= values
        path = self.job.file("json")
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.status), encoding="utf-8")
        temporary.replace(path)
        self._next = time.monotonic() + TELL_SECONDS

    def say(self, text: str) -> None:
        self._line("say", text)

    def detail(self, text: str) -> None:
        self._line("detail", text)

    def warn(self, text: str) -> None:
        self._line("warn", text)

    def _line(self, kind: str, text: str) -> None:
        self.status["lines"].append([kind, text])
        self.tell()

    @contextlib.contextmanager
    def bar(self, stage: str, what: str, unit: str) -> Iterator[Progress | None]:
        before = self.status["at"], self.status["share"]
        self.status |= {"at": stage, "share": 0.0}

        def progress(done: int, total: int) -> None:
            self.status["share"] = done / max(total, 1)
            if time.monotonic() >= self._next:
                self.tell()

        yield progress
        if stage == "check":  # in the midst of another stage
            self.status["at"], self.status["share"] = before


def work(job: dict[str, Any]) -> None:
    """Do a job (the fields of `Job`); its status file says how it ended. What a user can mend is an error, not a crash."""
    this = Job(**job)
    os.environ.update(this.env)
    if this.threads:  # read by OpenMP, if torch is not loaded yet
        os.environ["OMP_NUM_THREADS"] = str(this.threads)
    os.chdir(this.cwd)
    teller = Teller(this)
    try:
        import torch

        from evar import runner

        if this.threads:
            torch.set_num_threads(this.threads)
        rows = runner.run([this.encoder], [this.task], reporter=teller, **this.settings)
        teller.tell(state="done", cells=rows["cell_id"].tolist())
    except EvarError as error:
        teller.tell(state="failed", error=str(error))
    except Exception as error:
        if out_of_memory(error):
            return teller.tell(state="failed", error="out of memory: try a smaller --batch, or fewer workers")
        trace = this.file("traceback")
        trace.write_text(traceback.format_exc(), encoding="utf-8")
        teller.tell(state="failed", error=f"{type(error).__name__}: {error} (a bug of evar: see {trace})")


@dataclass
class _Flight:
    """A job that was handed to the engine. told: how many lines of its process `pid` were shown. ended_at: when it was first
    seen to have ended without saying how."""

    job: Job
    handle: Any
    told: int = 0
    pid: int | None = None
    ended_at: float | None = None
    status: dict[str, Any] = field(default_factory=dict)


def drive(engine: Engine, jobs: list[Job], reporter: Reporter, retries: int) -> list[list[str]]:
    """Run the jobs, at most `engine.slots` at a time; one whose process dies is started again, `retries` times.

    Returns the cell ids of each job, in the order of `jobs`. A job that fails does not stop the others. Raises EvarError
    at the end if any failed.
    """
    waiting, flights = list(jobs), []
    cells: dict[int, list[str]] = {}
    failed: dict[int, str] = {}
    shown: set[str] = set()
    full_until = 0.0
    try:
        with reporter.grid(len(jobs)) as show:
            while waiting or flights:
                until = time.monotonic() + TELL_SECONDS  # a queue that takes long must not hide those at work
                while waiting and (engine.slots is None or len(flights) < engine.slots):
                    if flights and not full_until < time.monotonic() < until:
                        break
                    try:
                        handle = engine.submit(waiting[0])
                    except EvarError as error:
                        if not flights:
                            raise
                        full_until = time.monotonic() + FULL_SECONDS
                        _warn_once(reporter, shown, f"the queue takes no more jobs now ({error}): asked again later")
                        break
                    flights.append(_Flight(waiting.pop(0), handle))
                for flight in list(flights):
                    job, ended = flight.job, engine.ended(flight.handle)
                    flight.status = job.status()
                    _relay(flight, reporter, shown)
                    state = flight.status["state"]
                    if state == "done":
                        cells[job.number] = flight.status["cells"]
                    elif state == "failed":
                        failed[job.number] = f"{job.name}: {flight.status['error']}"
                        reporter.warn(failed[job.number])
                    elif ended is None or not _settled(flight, engine.settle_seconds):
                        continue
                    elif job.attempt < retries:
                        with contextlib.suppress(Exception):  # a queue may have started it again by itself
                            engine.cancel(flight.handle)
                        job.attempt += 1
                        reporter.warn(f"{job.name}: {ended}; started again ({job.attempt} of {retries})")
                        waiting.append(job)
                    else:
                        failed[job.number] = f"{job.name}: {ended}, {job.attempt + 1} times: see {job.folder}"
                        reporter.warn(failed[job.number])
                    flights.remove(flight)
                show(len(cells) + len(failed), [_where(flight) for flight in flights])
                if flights:
                    time.sleep(max(POLL_SECONDS, 0.01 * len(flights)))
    finally:
        for flight in flights:
            with contextlib.suppress(Exception):  # one that cannot be reached must not keep the others at work
                engine.cancel(flight.handle)
    if failed:
        first = failed[min(failed)]
        raise EvarError(
            f"{len(failed)} of {len(jobs)} jobs failed (the others are kept; the same command tries these again): {first}"
        )
    return [cells[job.number] for job in jobs]


def _settled(flight: _Flight, seconds: float) -> bool:
    """Whether the last words of a job that ended would have arrived by now: other machines' files come late."""
    flight.ended_at = flight.ended_at or time.monotonic()
    if time.monotonic() - flight.ended_at >= seconds:
        return True
    with contextlib.suppress(OSError):
        os.listdir(flight.job.folder)  # has NFS look again
    return False


def _warn_once(reporter: Reporter, shown: set[str], text: str) -> None:
    if text not in shown:
        shown.add(text)
        reporter.warn(text)


def _relay(flight: _Flight, reporter: Reporter, shown: set[str]) -> None:
    lines = flight.status.get("lines", [])
    if flight.status.get("pid") != flight.pid:  # queued again by Slurm: another process, with lines of its own
        flight.told, flight.pid = 0, flight.status.get("pid")
    for kind, text in lines[flight.told :]:
        if kind == "warn":  # what concerns a task, each of its jobs says
            _warn_once(reporter, shown, text)
        else:
            getattr(reporter, kind)(text)
    flight.told = max(flight.told, len(lines))


def _where(flight: _Flight) -> str:
    status = flight.status
    if status["state"] != "working":
        return f"{flight.job.name} waiting"
    return f"{flight.job.name} {status['at']} {status['share']:.0%}".replace("  ", " ")


def command(job: Job) -> list[str]:
    """The words that start a process for the job. It imports nothing from its working folder: data may lie there."""
    path = job.file("job")
    make_folder(path.parent)
    path.write_text(json.dumps(vars(job)), encoding="utf-8")
    return [sys.executable, "-c", _START, str(Path(__file__).resolve().parents[1]), str(path)]


_START = "import sys; sys.path[:] = [p for p in sys.path if p] + [sys.argv.pop(1)]; from evar.jobs import main; main()"


def main() -> None:
    """Do the job whose file is the only argument."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    work(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
