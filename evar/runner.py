"""The whole chain in one place: names -> tasks and encoders -> waveforms -> embeddings -> probe -> results.

One *cell* is encoder × task × protocol. A cell that is already in the results is not measured again; embeddings that
are already in the store are not computed again; what was interrupted continues.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.cells import Settings, expand_encoders, expand_tasks
from evar.compute import Computing, resolve_devices
from evar.decoding import Decoding
from evar.embed import Progress, choose_norm, embed, normalized
from evar.errors import EvarError
from evar.provenance import here
from evar.shelf import Shelf

if TYPE_CHECKING:
    import pandas as pd

    from evar.audio.cache import Waveforms
    from evar.datasets.task import Task
    from evar.encoders.base import Encoder
    from evar.probes.protocol import Protocol
    from evar.results import Results
    from evar.store import Embeddings, Store


class Reporter:
    """What a run tells while it works; this one is silent. The CLI draws bars instead."""

    def say(self, text: str) -> None:
        """One line about what was done."""

    def detail(self, text: str) -> None:
        """One line for those who want to know more (`-v`)."""

    def warn(self, text: str) -> None:
        """One line that the user should not miss."""

    @contextlib.contextmanager
    def bar(self, stage: str, what: str, unit: str) -> Iterator[Progress | None]:
        """A progress callable `(done, total)` for one stage of one cell."""
        yield None

    @contextlib.contextmanager
    def grid(self, jobs: int) -> Iterator[Callable[[int, list[str]], None]]:
        """A callable `(jobs done, what each worker is at)` for a run whose jobs are in other processes."""
        yield lambda done, working: None


@dataclass
class Run:
    """The state of one call of `run`: what is loaded, opened and shared between cells."""

    settings: Settings
    reporter: Reporter
    store: Store
    results: Results
    computing: Computing
    protocols: list[Protocol]
    decoding: Decoding
    finished: list[str] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    fingerprints: dict[tuple, str] = field(default_factory=dict)

    def fingerprint(self, encoder: Encoder) -> str:
        """The encoder's fingerprint, computed once for each of its statistics: it digests all weights."""
        key = (encoder.label, *sorted((encoder.normalization or {}).items()))
        if key not in self.fingerprints:
            self.fingerprints[key] = encoder.fingerprint()
        return self.fingerprints[key]


def run(encoders: Any, tasks: Any, *, reporter: Reporter | None = None, **options: Any) -> pd.DataFrame:
    """Score encoders on tasks; returns the leaderboard rows of these cells, which also stand in `results/`.

    encoders: names, commas, globs, Encoder objects or classes. tasks: names, suites, globs, card files, Task objects.
    options: the fields of `evar.cells.Settings`, the words of `evar run`.
    Raises EvarError for any bad input, before work starts where that can be known; finished cells are kept.
    """
    settings = Settings.of(**options)
    reporter = reporter or Reporter()
    run, loaded_tasks, shelf = prepare(encoders, tasks, settings, reporter)
    run.results.check_writable()
    order = list(itertools.product(loaded_tasks, dict.fromkeys(shelf.sample_rates)))
    following = dict(itertools.pairwise(order))
    with contextlib.closing(run.decoding):
        for task in loaded_tasks:
            for encoder in shelf:
                _measure_all(run, task, encoder, following.get((task, encoder.sample_rate)))
                del encoder  # the shelf may not have room for two
    return rows_of(run.results, run.finished)


def _measure_all(run: Run, task: Task, encoder: Encoder, following: tuple[Task, int] | None) -> None:
    cells = list(_cells(run, task, encoder))
    if following:
        run.decoding.begin(*following)
    for cell in cells:
        _measure(run, cell, _one_pass(run, cell, cells))


def rows_of(results: Results, cell_ids: list[str]) -> pd.DataFrame:
    """The leaderboard rows of these cells, in this order."""
    rows = results.leaderboard()
    return rows[rows["cell_id"].isin(cell_ids)].set_index("cell_id").loc[cell_ids].reset_index()


def prepare(encoders: Any, tasks: Any, settings: Settings, reporter: Reporter) -> tuple[Run, list[Task], Shelf]:
    """Load and check all that is named, before any work: (the run, its tasks, its encoders); EvarError for bad input."""
    from evar.probes import get_protocol
    from evar.results import Results
    from evar.store import Store

    encoder_names = expand_encoders(encoders)
    if settings.weights and len(encoder_names) > 1:
        raise EvarError(f"--weights goes with a single encoder, found {len(encoder_names)}: write NAME@FILE for each")
    protocols = [get_protocol(name) for name in dict.fromkeys(settings.probe)]
    loaded_tasks = [load(name, settings, reporter) for name in expand_tasks(tasks, settings.tasks_dir)]
    results = Results(settings.results)
    computing = Computing(resolve_devices(settings.device), settings.precision, settings.compile)
    shelf = Shelf(encoder_names, settings, computing)
    store = Store(settings.embeddings, reporter.bar)
    decoding = Decoding(settings, reporter)
    return Run(settings, reporter, store, results, computing, protocols, decoding), loaded_tasks, shelf


def load(name: Any, settings: Settings, reporter: Reporter) -> Task:
    """The task by name (its mini with `--mini`, a subset with `--limit`), or a Task object as it is."""
    from evar.datasets import find_card, load_task
    from evar.datasets.task import Task

    if isinstance(name, Task):
        task = name
    elif settings.mini:
        from evar.datasets.mini import default_root, make

        card = find_card(name, settings.tasks_dir)
        root = make(card, default_root(card, Path(settings.embeddings) / "minis"))
        task = load_task(name, root=root, tasks_dir=settings.tasks_dir)
    else:
        task = load_task(name, data=settings.data, tasks_dir=settings.tasks_dir, partial=settings.partial)
    if task.partial:
        whole = task.card.counts.get("clips", len(task.clips) + len(task.missing))
        reporter.warn(f"{task.name}: {len(task.clips)} of {whole} official clips are here; its rows are marked partial")
    return task.limited(settings.limit) if settings.limit else task


@dataclass(frozen=True)
class Cell:
    """One encoder (with its statistics still to be given) on one task by one protocol."""

    cell_id: str
    task: Task
    encoder: Encoder
    protocol: Protocol
    identity: dict[str, Any]
    norm: str
    layers: str
    pooling: str
    lr: float | None
    seeds: tuple[int, ...]


def _cells(run: Run, task: Task, encoder: Encoder) -> Iterator[Cell]:
    from evar.probes.protocol import uses
    from evar.results_identity import cell_id

    settings = run.settings
    waves = run.decoding.waveforms(task, encoder.sample_rate)
    pairs = encoder.choices(settings.layers, settings.pooling)
    for protocol, (layers, pooling) in itertools.product(run.protocols, pairs):
        norm = choose_norm(encoder, settings.norm, protocol.norm, task)
        by_card = protocol.learning_rate_by_card and uses(protocol.probe, "learning_rate_by_card")
        published = by_card and encoder.weights_kind in ("trained", "bundled")
        lr = task.card.paper.get("lr", {}).get(encoder.name) if published else None
        seeds = settings.seeds or protocol.seeds
        if protocol.deterministic and settings.train_fraction is None and settings.shots is None:
            seeds = seeds[:1]  # a seed changes nothing here
        identity = {
            "encoder": encoder.label,
            "encoder_fingerprint": run.fingerprint(encoder),
            "clips_fingerprint": waves.fingerprint,
            "task_fingerprint": task.fingerprint,
            "protocol_fingerprint": protocol.fingerprint(),
            "learning_rate": lr,
            "layers": layers,
            "pooling": pooling,
            "norm": norm,
            "duration": f"{task.card.seconds:g}" if settings.duration == "card" else "native",
            "precision": run.computing.arithmetic,
            "seeds": " ".join(map(str, seeds)),
            "train_fraction": settings.train_fraction,
            "shots": settings.shots,
            "limit": task.limit,
        }
        yield Cell(cell_id(identity), task, encoder, protocol, identity, norm, layers, pooling, lr, seeds)


def _one_pass(run: Run, cell: Cell, cells: list[Cell]) -> list[tuple[str, str]]:
    """What the encoder's pass for `cell` also gives: the layers of all cells still to be measured on the same input."""
    return [
        (other.layers, other.pooling)
        for other in cells
        if other is cell or (other.norm == cell.norm and run.results.finished(other.cell_id) is None)
    ]


def _measure(run: Run, cell: Cell, pairs: list[tuple[str, str]]) -> None:
    """Score one cell; `pairs` are the (layer, pooling) that are encoded with it."""
    what = cell.encoder.label
    if (cell.layers, cell.pooling) != (cell.encoder.default_layer, cell.encoder.default_pooling):
        what += f" {cell.layers} {cell.pooling}"
    name = f"{what} × {cell.task.name} ({cell.protocol.name})"
    if run.results.finished(cell.cell_id) is not None:
        run.finished.append(cell.cell_id)
        run.reporter.say(f"{name}: already measured, nothing to do")
        return
    about = {"protocol": cell.protocol.name, "protocol_version": cell.protocol.version}
    if earlier := run.results.of_v1(cell.identity | about):
        run.reporter.warn(
            f"{name}: measured before as cell {earlier}, as an earlier evar named it, and is measured again; 'evar results "
            f"migrate --results {run.settings.results} --embeddings {run.settings.embeddings}' keeps cells whose embeddings "
            "are still stored"
        )
    started_at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")
    waves = run.decoding.waveforms(cell.task, cell.encoder.sample_rate)
    begun = time.perf_counter()
    encoder = normalized(
        cell.encoder,
        cell.norm,
        cell.task,
        waves,
        run.settings.duration,
        Path(run.settings.embeddings),
        run.fingerprint(cell.encoder),
    )
    with run.reporter.bar("encode", f"{cell.encoder.label} × {cell.task.name}", "clip") as progress:
        embeddings, seconds = embed(
            encoder,
            waves,
            run.store,
            task_name=cell.task.name,
            duration=run.settings.duration,
            pairs=list(dict.fromkeys(pairs)),
            made_by={
                "encoder_fingerprint": cell.identity["encoder_fingerprint"],
                "normalization": _statistics(cell, encoder),
            },
            batch=run.settings.batch,
            computing=run.computing,
            progress=progress,
            warn=run.reporter.warn,
        )
    seconds_encode = time.perf_counter() - begun if seconds else 0.0
    begun = time.perf_counter()
    evaluation, kept = _probe(run, cell, embeddings[cell.layers, cell.pooling], waves)
    for warning in evaluation.warnings:
        if f"{cell.task.name}: {warning}" not in run.told:  # once per task, not once per encoder
            run.told.add(f"{cell.task.name}: {warning}")
            run.reporter.warn(f"{name}: {warning}")
    volatile = {
        "seconds_encode": round(seconds_encode, 3),
        "seconds_probe": round(time.perf_counter() - begun, 3),
        "started_at": started_at,
        **here(run.computing.devices),
    }
    common = _row(run, cell, encoder, evaluation, waves) | volatile
    rows = [
        {
            "fold": one.fold,
            "seed": one.seed,
            "setting": one.setting,
            "converged": one.converged,
            "score": one.score,
            "macro_f1": one.macro_f1,
            "n_train": one.n_train,
            "n_valid": one.n_valid,
            "n_test": one.n_test,
        }
        for one in evaluation.runs
    ]
    run.results.record(common, rows, _predictions(cell, evaluation, kept))
    run.finished.append(cell.cell_id)
    run.reporter.say(f"{name}: {cell.task.card.metric} {evaluation.mean:.1%}")
    settings = ", ".join(dict.fromkeys(one.setting for one in evaluation.runs))
    run.reporter.detail(
        f"  encode {volatile['seconds_encode']} s, probe {volatile['seconds_probe']} s, norm {cell.norm}, chosen {settings}"
    )


def _probe(run: Run, cell: Cell, embeddings: Embeddings, waves: Waveforms) -> tuple:
    import numpy as np

    from evar.probes import evaluate

    task, settings = cell.task, run.settings
    kept = np.setdiff1d(np.arange(len(task.clips)), list(waves.bad))
    source = embeddings.source(cell.layers, cell.pooling)
    clips = task.clips.iloc[kept]
    with run.reporter.bar("probe", f"{cell.encoder.label} × {task.name} ({cell.protocol.name})", "step") as progress:
        evaluation = evaluate(
            cell.protocol,
            source if len(kept) == len(task.clips) else source.subset(kept),
            task.targets()[kept],
            task.classes,
            split=clips["split"].to_numpy() if task.card.split == "parts" else None,
            fold=clips["fold"].to_numpy() if task.card.split == "folds" else None,
            group=clips["group"].to_numpy(),
            clip_ids=clips["clip_id"].to_numpy(),
            metric=task.card.metric,
            seeds=cell.seeds,
            lr=cell.lr,
            train_fraction=settings.train_fraction,
            shots=settings.shots,
            device=run.computing.devices[0],
            progress=progress,
        )
    return evaluation, clips


def _statistics(cell: Cell, encoder: Encoder) -> dict[str, float] | None:
    """The log-mel statistics that were measured on the task; those of the weights are in the encoder's fingerprint."""
    return None if cell.norm in ("none", "weights") else dict(encoder.normalization)


def _row(run: Run, cell: Cell, encoder: Encoder, evaluation: Any, waves: Waveforms) -> dict:
    task, runs = cell.task, evaluation.runs
    statistics = _statistics(cell, encoder) or {}
    return cell.identity | {
        "cell_id": cell.cell_id,
        "weights": encoder.weights_file,
        "weights_sha256": encoder.weights_sha256,
        "weights_kind": encoder.weights_kind,
        "task": task.name,
        "task_version": task.card.version,
        "protocol": cell.protocol.name,
        "protocol_version": cell.protocol.version,
        "norm_mean": statistics.get("mean"),
        "norm_std": statistics.get("std"),
        "metric": task.card.metric,
        "mean": evaluation.mean,
        "std": evaluation.std,
        "ci95_low": evaluation.ci95_low,
        "ci95_high": evaluation.ci95_high,
        "macro_f1": evaluation.macro_f1,
        "n_folds": len({one.fold for one in runs}),
        "n_seeds": len({one.seed for one in runs}),
        "n_train": runs[0].n_train,
        "n_valid": runs[0].n_valid,
        "n_test": sum({one.fold: one.n_test for one in runs}.values()),
        "synthetic": task.synthetic,
        "partial": task.partial,
        "skipped": len(waves.bad),
        "contaminated": bool(set(encoder.trained_on) & set(task.card.corpora)),
    }


def _predictions(cell: Cell, evaluation: Any, clips: pd.DataFrame) -> pd.DataFrame:
    """One row per test clip × fold × seed: what `compare` and confusion matrices need, so nothing is rerun."""
    import numpy as np
    import pandas as pd

    classes = np.array(cell.task.classes, dtype=object)
    parts = []
    for one in evaluation.runs:
        tested = clips.iloc[one.test]
        part = {
            "clip_id": tested["clip_id"].to_numpy(),
            "group": tested["group"].to_numpy(),
            "fold": one.fold,
            "seed": one.seed,
        }
        if cell.task.card.multilabel:
            part |= {"targets": [list(labels) for labels in tested["labels"]], "scores": list(one.scores)}
        else:
            truth = cell.task.targets()[tested.index]
            part |= {
                "target": classes[truth],
                "predicted": classes[one.predicted],
                "score_true": one.scores[np.arange(len(truth)), truth],
            }
        parts.append(pd.DataFrame(part))
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs["classes"] = list(cell.task.classes)  # the order of `scores`, also of classes that no test clip has
    return frame
