"""`evaluate`: one protocol on one matrix of embeddings. Arrays in, numbers out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evar.errors import EvarError
from evar.probes import metrics
from evar.probes.bootstrap import FEW_GROUPS, Interval, interval
from evar.probes.protocol import Protocol, get_protocol
from evar.probes.splits import Fold, Outcome, plan_folds

FEW_VALID = 30  # validation clips under which a choice is little more than chance


@dataclass(frozen=True)
class Run:
    """One fold × seed. `fold` is 0 for a fixed split; `n_train` counts the clips the scored probe was fitted on.

    test: int64 indices of the scored clips; predicted: int64 [n_test] (the label of highest score);
    scores: float32 [n_test, C], probabilities. score, macro_f1: fractions 0-1.
    """

    fold: int
    seed: int
    score: float
    macro_f1: float
    setting: str
    converged: bool
    n_train: int
    n_valid: int
    n_test: int
    test: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """All runs and their summary, as fractions 0-1.

    mean: over folds first, then over seeds. std_seeds: spread of the seeds' means; std_folds: spread over folds of the
    folds' means over seeds; both with n - 1, NaN where there is one value. std: std_seeds where there are several seeds,
    else std_folds. Neither is a confidence interval: ci95_low and ci95_high are (over groups of test clips, see `bootstrap`;
    NaN where there is no honest one).
    """

    runs: list[Run]
    mean: float
    std: float
    std_seeds: float
    std_folds: float
    macro_f1: float
    ci95_low: float
    ci95_high: float
    warnings: list[str]


def evaluate(
    protocol: Protocol | str | Path,
    X: Any,
    targets: np.ndarray,
    classes: Sequence[str],
    *,
    split: np.ndarray | None = None,
    fold: np.ndarray | None = None,
    group: np.ndarray | None = None,
    clip_ids: Sequence[str],
    metric: str = "accuracy",
    seeds: Sequence[int] | None = None,
    lr: float | None = None,
    train_fraction: float | None = None,
    shots: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score embeddings by a protocol (METHODS.md, Protocols).

    X: float32 [N, D] array, memory map, or anything with `.shape` and `[int64 indices] -> float32 rows`; more than 1 GiB is
    read in chunks. targets: int64 [N] indices into `classes`, or float32 [N, C] multi-hot. Either `split` ('train', 'valid',
    'test') or `fold` (int); `group` (speaker, source recording; default: every clip its own) never straddles training and
    validation, but where the protocol draws that by clip.
    seeds, lr: instead of the protocol's. train_fraction, shots: a seeded subset of the training clips.
    A deterministic protocol (`fair`, `knn`) runs once, under its first seed, unless a subset is drawn by seed.

    Raises EvarError for shapes that do not fit, empty parts, a metric that does not suit the targets, or NaN in X.
    """
    protocol = get_protocol(protocol)
    split, fold = (None if part is None else np.asarray(part) for part in (split, fold))
    clip_ids = np.asarray(clip_ids)
    group = clip_ids if group is None else np.asarray(group)
    targets = _checked_targets(X, targets, classes, metric, split, fold, group, clip_ids)
    if lr is not None:
        protocol = dataclasses.replace(protocol, learning_rate=float(lr))
    seeds = [int(seed) for seed in (protocol.seeds if seeds is None else seeds)]
    if not seeds:
        raise EvarError("no seeds given: at least one is needed")
    if protocol.deterministic and train_fraction is None and shots is None:
        seeds = seeds[:1]

    plans: list[list[Fold]] = []
    warnings: list[str] = []
    for seed in seeds:
        folds, told = plan_folds(
            protocol,
            targets,
            split=split,
            fold=fold,
            group=group,
            clip_ids=clip_ids,
            seed=seed,
            train_fraction=train_fraction,
            shots=shots,
        )
        plans.append(folds)
        warnings += [warning for warning in told if warning not in warnings]
    warnings += _class_warnings(plans[0], targets, classes, metric) + _choice_warnings(plans[0])
    outcomes = _outcomes(protocol, X, targets, len(classes), plans, metric, device, progress)
    folds = [one for plan in plans for one in plan]
    runs = [_run(one, outcome, targets, metric) for one, outcome in zip(folds, outcomes, strict=True)]
    unsettled = sum(not run.converged for run in runs)
    if unsettled:
        limit = f"{protocol.max_iterations} iterations" if protocol.deterministic else f"{protocol.max_epochs} epochs"
        warnings.append(f"{unsettled} of {len(runs)} fits were still improving at the limit of {limit}")
    return _summary(runs, len(plans), targets, group, metric, warnings)


def _outcomes(
    protocol: Protocol,
    X: Any,
    targets: np.ndarray,
    n_classes: int,
    plans: list[list[Fold]],
    metric: str,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> list[Outcome]:
    """One outcome per fold of every plan, in order."""
    from evar.probes.features import Features
    from evar.products import exact_products

    training = np.unique(np.concatenate([fold.train for plan in plans for fold in plan]))
    with exact_products():
        features = Features(X, training, device)
        if not protocol.deterministic:
            from evar.probes.adam import fit_folds

            flat = [fold for plan in plans for fold in plan]
            return fit_folds(protocol, features, targets, n_classes, flat, metric, progress)
        if protocol.probe == "knn":
            from evar.probes.knn import fit_folds
        else:
            from evar.probes.logistic import fit_folds
        found: list[Outcome] = []
        for i, plan in enumerate(plans):
            report = progress and (lambda done, total, i=i: progress(i * total + done, len(plans) * total))
            found += fit_folds(protocol, features, targets, n_classes, plan, metric, report)
        return found


def _run(fold: Fold, outcome: Outcome, targets: np.ndarray, metric: str) -> Run:
    truth, scores = targets[fold.test], outcome.scores
    return Run(
        fold=fold.fold,
        seed=fold.seed,
        score=metrics.score(metric, truth, scores),
        macro_f1=metrics.macro_f1(truth, scores),
        setting=outcome.setting,
        converged=outcome.converged,
        n_train=len(fold.train),
        n_valid=len(fold.valid),
        n_test=len(fold.test),
        test=fold.test,
        predicted=scores.argmax(1).astype(np.int64),
        scores=scores,
    )


def _summary(
    runs: list[Run], n_seeds: int, targets: np.ndarray, group: np.ndarray, metric: str, warnings: list[str]
) -> Evaluation:
    by_seed = np.array([run.score for run in runs]).reshape(n_seeds, -1)
    f1 = np.array([run.macro_f1 for run in runs]).reshape(n_seeds, -1)
    std_seeds, std_folds = _spread(by_seed.mean(1)), _spread(by_seed.mean(0))
    first = runs[: by_seed.shape[1]]
    found = interval(
        metric,
        [targets[run.test] for run in first],
        [np.stack([run.scores for run in runs[i :: len(first)]]) for i in range(len(first))],
        [group[run.test] for run in first],
    )
    return Evaluation(
        runs=runs,
        mean=float(by_seed.mean()),
        std=std_seeds if n_seeds > 1 else std_folds,
        std_seeds=std_seeds,
        std_folds=std_folds,
        macro_f1=float(f1.mean()),
        ci95_low=found.low,
        ci95_high=found.high,
        warnings=warnings + _interval_warnings(found),
    )


def _interval_warnings(found: Interval) -> list[str]:
    few = f"(under {FEW_GROUPS}): the 95 % interval is rough"
    if found.how == "none":
        return ["no 95 % interval: the test clips are too few independent groups (speakers, sources) to say"]
    if found.how == "over folds":
        told = f"a test part has one group only, so the {found.n_groups} of all folds are drawn together"
        return [f"{told} {few}" if found.n_groups < FEW_GROUPS else told]
    if found.how == "within folds" and found.fewest < FEW_GROUPS:
        return [f"a test part has only {found.fewest} groups {few}, likely too narrow"]
    return []


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _checked_targets(
    X: Any,
    targets: np.ndarray,
    classes: Sequence[str],
    metric: str,
    split: np.ndarray | None,
    fold: np.ndarray | None,
    group: np.ndarray,
    clip_ids: np.ndarray,
) -> np.ndarray:
    """Targets as int64 [N] or float32 [N, C]; EvarError where the inputs do not fit together."""
    targets = np.asarray(targets)
    if len(X.shape) != 2:
        raise EvarError(f"embeddings must be [clips, dimensions], found shape {tuple(X.shape)}")
    for name, values in (
        ("targets", targets),
        ("split", split),
        ("fold", fold),
        ("group", group),
        ("clip_ids", clip_ids),
    ):
        if values is not None and len(values) != X.shape[0]:
            raise EvarError(f"{name} has {len(values)} entries for {X.shape[0]} embeddings")
    if metric not in ("accuracy", "mAP"):
        raise EvarError(f"unknown metric {metric!r}: expected accuracy or mAP")
    if len(classes) < 2:
        raise EvarError(f"a task needs at least two classes, found {len(classes)}")
    if targets.ndim == 2:
        if metric == "accuracy":
            raise EvarError("accuracy needs one label per clip, found multi-hot targets: use mAP")
        if targets.shape[1] != len(classes) or not np.isin(targets, (0, 1)).all():
            raise EvarError(f"multi-hot targets must be 0 or 1, [clips, {len(classes)}]; found shape {targets.shape}")
        return targets.astype(np.float32)
    if not np.issubdtype(targets.dtype, np.integer):
        raise EvarError(f"targets must be integers or multi-hot rows, found {targets.dtype} {targets.shape}")
    if len(targets) and not 0 <= targets.min() <= targets.max() < len(classes):
        raise EvarError(f"targets must be 0 to {len(classes) - 1}, found {targets.min()} to {targets.max()}")
    return targets.astype(np.int64)


def _class_warnings(folds: list[Fold], targets: np.ndarray, classes: Sequence[str], metric: str) -> list[str]:
    hot = metrics.one_hot(targets, len(classes))
    found = []
    tested = np.any([hot[fold.test].any(0) for fold in folds], axis=0)
    if not tested.all():
        found.append(_untested("", tested, classes))
    for fold in folds:
        where = f"fold {fold.fold}" if fold.fold else "the split"
        trained, here = hot[fold.train].any(0), hot[fold.test].any(0)
        if metric == "mAP" and (tested & ~here).any():
            found.append(_untested(f"{where}: ", here, classes))
        if targets.ndim == 1 and trained.sum() == 1:
            found.append(f"{where}: the training part has one class only, so that class is predicted for every clip")
        unseen = np.flatnonzero(here & ~trained)
        if len(unseen):
            found.append(
                f"{where}: {len(unseen)} tested class(es) without a training clip are scored as errors:"
                f" {_named(unseen, classes)}"
            )
    return found


def _untested(where: str, tested: np.ndarray, classes: Sequence[str]) -> str:
    absent = np.flatnonzero(~tested)
    names = f"{len(absent)} of {len(classes)} classes have no test clip: {_named(absent, classes)}"
    return f"{where}{names}: the score is over the others"


def _named(which: np.ndarray, classes: Sequence[str]) -> str:
    return ", ".join(str(classes[i]) for i in which[:5]) + (", ..." if len(which) > 5 else "")


def _choice_warnings(folds: list[Fold]) -> list[str]:
    fewest = min(len(fold.valid) for fold in folds)
    if fewest >= FEW_VALID:
        return []
    return [
        f"the setting is chosen on {fewest} validation clip(s) only: one clip is {100 / fewest:.1f} points of the choice"
    ]
