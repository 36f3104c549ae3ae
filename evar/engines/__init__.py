"""Where a grid runs: one file per engine, found by its name; nothing else lists them.

An engine starts processes and says when they ended. All else (which jobs, trying again, one view of the progress, where
results go) is `evar/jobs.py`, the same for all.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, unknown
from evar.files import make_folder

if TYPE_CHECKING:
    import pandas as pd

    from evar.cells import Settings
    from evar.jobs import Job
    from evar.runner import Reporter

RETRIES = 3
"""How often a job whose process died is started again."""


class Engine:
    """Starts jobs somewhere. Authors write a file `evar/engines/NAME.py` with a class `Engine` on top of this one.

    options: `KEY=VALUE` words of the user. workers: jobs at a time, None for the engine's own choice. folder: for files of
    the engine, shared by all machines. gpus: whether jobs want a GPU each.
    Raises EvarError for options that it does not know, and where its library is missing.
    """

    slots: int | None = 1
    """Jobs that may be in flight; None where the engine has a queue of its own."""
    threads: int | None = None
    """CPU threads that a job shall use; None leaves it to torch."""
    settle_seconds: float = 0.0
    """How long the last words of a job that ended may take to arrive through the shared folder."""

    def __init__(self, options: Mapping[str, str], workers: int | None, folder: Path, gpus: bool) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Called once, after all names of the run are known to be good."""

    def submit(self, job: Job) -> Any:
        """Have `evar.jobs.work(vars(job))` called in another process; gives a handle."""
        raise NotImplementedError

    def ended(self, handle: Any) -> str | None:
        """None while the process is waiting or at work; then a few words on how it ended."""
        raise NotImplementedError

    def cancel(self, handle: Any) -> None:
        """Stop a job that is waiting or at work."""

    def close(self) -> None:
        """Nothing more will come."""


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def list_engines() -> list[str]:
    """The names that `--engine` takes. Imports none of them."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def run(
    encoders: Any,
    tasks: Any,
    *,
    reporter: Reporter | None = None,
    engine: str = "local",
    workers: int | None = None,
    engine_options: Mapping[str, str] | None = None,
    retries: int = RETRIES,
    **options: Any,
) -> pd.DataFrame:
    """Score encoders on tasks; returns the leaderboard rows of these cells, which also stand in `results/`.

    encoders: names, commas, globs, Encoder objects or classes. tasks: names, suites, globs, card files, Task objects.
    engine: `local` (here; with `workers` above 1 in processes of their own), `ray` or `submitit`; engine_options are the
    engine's own. options: the fields of `evar.cells.Settings`, the words of `evar run`.
    Raises EvarError for any bad input, before work starts where that can be known; finished cells are kept.
    """
    from evar import runner

    engine_options = _checked(engine, workers, engine_options, retries)
    if engine == "local" and (workers or 1) == 1:
        return runner.run(encoders, tasks, reporter=reporter, **options)
    return _run_jobs(encoders, tasks, reporter, engine, workers, engine_options, retries, options)


def estimate(
    encoders: Any,
    tasks: Any,
    *,
    reporter: Reporter | None = None,
    engine: str = "local",
    workers: int | None = None,
    engine_options: Mapping[str, str] | None = None,
    retries: int = RETRIES,
    **options: Any,
) -> list[dict]:
    """What `run` would do with these words: one dict per cell, as `evar.plan.estimate` gives it. Nothing is left on the disk.

    Raises EvarError for whatever `run` would refuse before work starts, the engine's own options included.
    """
    from evar import plan
    from evar.cells import Settings

    engine_options = _checked(engine, workers, engine_options, retries)
    if engine != "local" or (workers or 1) > 1:
        gpus = _wants_gpus(Settings.of(**options))
        with tempfile.TemporaryDirectory() as folder:  # submitit makes some in it
            _made(engine, engine_options, workers, Path(folder), gpus)
        if engine != "local":
            options["device"] = "auto"  # the estimate is of this machine, which may lack what the jobs' has
    return plan.estimate(encoders, tasks, reporter=reporter, **options)


def _checked(engine: Any, workers: Any, options: Any, retries: Any) -> dict[str, str]:
    """The engine's options as text; EvarError for words that no run takes."""
    if engine not in list_engines():
        raise unknown("engine", str(engine), list_engines())
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise EvarError(f"workers: expected a whole number of at least 1, found {workers!r}")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise EvarError(f"retries: expected a whole number of at least 0, found {retries!r}")
    if options is not None and not isinstance(options, Mapping):
        raise EvarError(f"engine_options: expected names and values, found {options!r}")
    if options and engine == "local":
        raise EvarError(f"engine local takes no options, found {', '.join(map(str, options))}")
    return {str(key): str(value) for key, value in (options or {}).items()}


def _made(name: str, options: Mapping[str, str], workers: int | None, folder: Path, gpus: bool) -> Engine:
    return importlib.import_module(f"evar.engines.{name}").Engine(options, workers, folder, gpus)


def _wants_gpus(settings: Settings) -> bool:
    """A job's device is on its own machine; whether it wants a GPU is known by the word, or by what is here."""
    from evar.compute import resolve_device

    here = settings.device == "auto" and resolve_device("auto").startswith("cuda")
    if (here or settings.device.startswith("cuda")) and settings.device not in ("auto", "cuda", "cuda:all"):
        raise EvarError(
            f"--device {settings.device}: a job sees one GPU: give --device cuda, and CUDA_VISIBLE_DEVICES to choose them"
        )
    return here or settings.device.startswith("cuda")


def _run_jobs(
    encoders: Any,
    tasks: Any,
    reporter: Reporter | None,
    name: str,
    workers: int | None,
    engine_options: Mapping[str, str],
    retries: int,
    options: Mapping[str, Any],
) -> pd.DataFrame:
    from evar.cells import Settings, expand_encoders, expand_tasks
    from evar.compute import resolve_device
    from evar.jobs import drive
    from evar.runner import Reporter, prepare, rows_of

    settings = Settings.of(**options)
    reporter = reporter or Reporter()
    words = expand_encoders(encoders), expand_tasks(tasks, settings.tasks_dir)
    for word in (*words[0], *words[1]):
        if not isinstance(word, str):
            raise EvarError(
                f"jobs of other processes are named by words, found {type(word).__name__}: use --engine local"
            )
    folder = Path(settings.results).absolute() / ".jobs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    made = _made(name, engine_options, workers, folder, _wants_gpus(settings))
    device = settings.device if name == "local" else resolve_device("auto")
    state, _, shelf = prepare(*words, replace(settings, device=device), reporter)
    state.results.check_writable()
    del shelf  # each job loads its own
    make_folder(folder)
    jobs = _jobs(words, settings, folder, made.threads)
    try:
        made.start()
        cells = drive(made, jobs, reporter, retries)
    finally:
        made.close()
    shutil.rmtree(folder, ignore_errors=True)  # of a run that failed it stays, for whoever asks why
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
    by_pair = {(job.task, job.encoder): ids for job, ids in zip(jobs, cells, strict=True)}
    in_order = [cell for task in words[1] for encoder in words[0] for cell in by_pair[task, encoder]]
    return rows_of(state.results, list(dict.fromkeys(in_order)))


def _jobs(words: tuple[list[str], list[str]], settings: Any, folder: Path, threads: int | None) -> list[Job]:
    """One job for each encoder and task. Neighbours have different tasks, so that the first workers decode different audio."""
    from evar.jobs import Job

    fixed = asdict(settings) | {"results": os.path.abspath(settings.results)}
    pairs = [(encoder, task) for encoder in words[0] for task in words[1]]
    cwd = os.getcwd()
    env = {name: value for name, value in os.environ.items() if name.startswith(("EVAR_", "HF_"))}
    return [Job(i, encoder, task, fixed, str(folder), cwd, threads, env) for i, (encoder, task) in enumerate(pairs)]
