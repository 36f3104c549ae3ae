"""L2 logistic regression over all folds and strengths at once: the probe of `fair`.

The objective is scikit-learn's: C * sum of losses + ||W||^2 / 2, the intercept unpenalised. More than two classes:
multinomial; two classes: one logit, as LogisticRegression fits them; multi-label: one regression per label.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from evar.probes import metrics
from evar.probes.cross_entropy import Loss, Problems
from evar.probes.designs import Stacked, Streamed, fits_stacked
from evar.probes.features import Features
from evar.probes.lbfgs import solve
from evar.probes.protocol import Protocol
from evar.probes.slices import plan_slices
from evar.probes.splits import Fold, Outcome

WORKING_BYTES = 1 << 30  # logits and L-BFGS memory of the problems solved together, beside a matrix in memory
# The solution is off by at most gradient / penalty, and the penalty falls as C rises: above this C the solver goes on below
# the protocol's tolerance in the same measure. At C = 10 and 1e-4 alone, one prediction in ten would still change.
STRICT_ABOVE = 0.1
NEVER = 30.0  # logit of a label that all or none of the training clips carry


def fit_folds(
    protocol: Protocol,
    features: Features,
    targets: np.ndarray,
    n_classes: int,
    folds: list[Fold],
    metric: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Choose C on the validation part of each fold, refit where the fold says so, and score its test part.

    targets: int64 [N] or multi-hot [N, C]. Ties between strengths go to the smaller C. Deterministic.
    """
    strengths = sorted(protocol.strengths)
    refitted = [i for i, fold in enumerate(folds) if fold.refit is not None]
    total = len(folds) * len(strengths) + len(refitted)
    report = _Progress(progress, total)
    task = _Task(protocol, features, targets, n_classes, report)

    # candidates that are refitted anyway need no more than the protocol's tolerance
    coefficients, converged = task.fit([fold.fit for fold in folds], [strengths] * len(folds), strict=not refitted)
    chosen = []
    for i, fold in enumerate(folds):
        candidates = task.scores(coefficients[i], fold.fit, fold.valid)
        values = [metrics.score(metric, targets[fold.valid], candidate) for candidate in candidates]
        chosen.append(int(np.argmax(values)))  # the first of equals, and strengths ascend
    final = [coefficients[i, best][None] for i, best in enumerate(chosen)]
    settled = [bool(converged[i, best]) for i, best in enumerate(chosen)]
    if refitted:
        refit, ok = task.fit(
            [folds[i].refit for i in refitted],
            [[strengths[chosen[i]]] for i in refitted],
            strict=True,
        )
        for position, i in enumerate(refitted):
            final[i], settled[i] = refit[position], bool(ok[position, 0])
    return [
        Outcome(f"C={strengths[chosen[i]]:g}", settled[i], task.scores(final[i], fold.train, fold.test)[0])
        for i, fold in enumerate(folds)
    ]


class _Progress:
    """Counts problems that have converged."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def now(self, more: int) -> None:
        if self._progress:
            self._progress(min(self._done + more, self._total), self._total)

    def add(self, number: int) -> None:
        self._done += number
        self.now(0)


class _Task:
    """The data of one call, and what kind of regression it asks for."""

    def __init__(
        self, protocol: Protocol, features: Features, targets: np.ndarray, n_classes: int, report: _Progress
    ) -> None:
        self.protocol, self.features, self.report = protocol, features, report
        self.n_classes, self.targets = n_classes, targets
        self.independent = targets.ndim == 2 or n_classes == 2  # one logit per label, no softmax
        self.labels = (
            (targets if targets.ndim == 2 else targets[:, None]).astype(np.float32) if self.independent else None
        )
        self.width = self.labels.shape[1] if self.independent else n_classes

    def fit(
        self, parts: list[np.ndarray], strengths: list[list[float]], strict: bool
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Coefficients float64 [F, S, K, D + 1] on the rows of `features`, and bool [F, S]: converged.

        Folds and strengths are solved together as far as memory allows. Each starts at zero: a start from the solution
        of the search, or of a weaker strength, took more iterations.
        """
        F, S, D = len(parts), len(strengths[0]), self.features.d
        rows = max(len(part) for part in parts)
        stacked = fits_stacked(self.features, parts)
        budget = WORKING_BYTES + self.features.spare_bytes
        dims = min(rows, D) if stacked else D
        plan = plan_slices(rows, dims, F, S, self.width, self.independent, budget)
        coefficients = torch.zeros(F, S, self.width, self.features.d + 1, dtype=torch.float64)
        converged = np.ones((F, S), dtype=bool)
        for f in range(0, F, plan.folds):
            mine = slice(f, min(f + plan.folds, F))
            design = (Stacked if stacked and plan.hold else Streamed)(self.features, parts[mine])
            for s in range(0, S, plan.strengths):
                some = slice(s, min(s + plan.strengths, S))
                for k in range(0, self.width, plan.labels):
                    labels = slice(k, min(k + plan.labels, self.width))
                    coefficients[mine, some, labels], ok = self._solve(
                        design, parts[mine], [row[some] for row in strengths[mine]], labels, strict, plan.hold
                    )
                    converged[mine, some] &= ok
                self.report.add(converged[mine, some].size)
        return coefficients, converged

    def _solve(
        self,
        design: Stacked | Streamed,
        parts: list[np.ndarray],
        strengths: list[list[float]],
        labels: slice,
        strict: bool,
        hold: bool,
    ) -> tuple[torch.Tensor, np.ndarray]:
        device, F, S, width = self.features.device, len(parts), len(strengths[0]), labels.stop - labels.start
        member, order = _members(design, parts)
        sizes = np.array([len(part) for part in parts], dtype=np.float64)
        weights = torch.from_numpy(member / sizes[:, None].astype(np.float32)).to(device)
        if self.independent:
            mine = self.labels[:, labels]
            truth = torch.from_numpy(np.stack([np.ascontiguousarray(mine[clips].T) for clips in order])).to(device)
            positive = np.stack([mine[part].sum(0, dtype=np.float64) for part in parts])
            varied = (positive > 0) & (positive < sizes[:, None])
            loss = Loss(truth, weights)
            grid = np.broadcast_to(varied[:, None, :], (F, S, width))
        else:
            present = np.stack([np.bincount(self.targets[part], minlength=self.n_classes) > 0 for part in parts])
            absent = None if present.all() else torch.from_numpy(~present).to(device)
            loss = Loss(torch.from_numpy(self.targets[order]).to(device), weights, absent)
            grid = np.ones((F, S, 1), dtype=bool)
        fold, strength, label = (torch.from_numpy(index) for index in np.nonzero(grid))
        C = torch.tensor(strengths, dtype=torch.float64)[fold, strength]
        penalty = 1 / (C * torch.from_numpy(sizes)[fold])
        problems, penalty = Problems(fold.to(device), label.to(device)), penalty.to(device)
        coefficients = torch.zeros(F, S, width, self.features.d + 1, dtype=torch.float64)
        converged = np.ones((F, S), dtype=bool)
        if self.independent:
            always = torch.from_numpy(np.where(positive > 0, NEVER, -NEVER))
            coefficients[..., -1] = always[:, None].expand(F, S, width)
        if len(fold):
            solution = solve(
                design,
                loss,
                problems,
                penalty,
                1 if self.independent else self.n_classes,
                tolerance=self.protocol.tolerance,
                strictness=(STRICT_ABOVE / C if strict else torch.ones_like(C)).clamp(max=1).to(device),
                max_iterations=self.protocol.max_iterations,
                hold=hold,
                progress=self.report.now if not self.independent else None,
            )
            raw = design.coefficients(solution.W, problems).cpu()
            if self.independent:
                coefficients[fold, strength, label] = raw[:, 0]
            else:
                coefficients[fold, strength] = raw
            np.logical_and.at(converged, (fold.numpy(), strength.numpy()), solution.converged.numpy())
        return coefficients, converged

    def scores(self, coefficients: torch.Tensor, train: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Probabilities float32 [S, n, n_classes] of the clips `indices` under coefficients [S, K, D + 1]."""
        S, K, _ = coefficients.shape
        flat = coefficients.flatten(0, 1).float().to(self.features.device)
        logits = torch.empty(S * K, len(indices))
        for rows, X in self.features.chunks(indices):
            logits[:, rows] = torch.addmm(flat[:, -1:], flat[:, :-1], X.T).cpu()
        logits = logits.view(S, K, -1)
        if not self.independent:
            absent = np.bincount(self.targets[train], minlength=K) == 0
            logits[:, torch.from_numpy(absent)] = -torch.inf
            return logits.softmax(1).transpose(1, 2).numpy()
        positive = logits.sigmoid()
        if self.targets.ndim == 1:
            positive = torch.cat([(-logits).sigmoid(), positive], 1)
        return positive.transpose(1, 2).numpy()


def _members(design: Stacked | Streamed, parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of the design belong to a fold (float32 [F, n]), and the clip of every row ([F, n])."""
    if isinstance(design, Streamed):
        order = np.broadcast_to(design.clips, (len(parts), design.n))
        return design.member.cpu().numpy().astype(np.float32), order
    member = np.zeros((len(parts), design.n), np.float32)
    order = np.zeros((len(parts), design.n), dtype=np.int64)
    for f, part in enumerate(parts):
        member[f, : len(part)] = 1
        order[f, : len(part)] = part
    return member, order
