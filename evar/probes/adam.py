"""Adam on all folds × seeds at once: the probes of `paper` (one linear layer) and `mlp` (one hidden ReLU layer).

Every problem (fold × seed) sees exactly the batches, the initial weights and the updates that a plain PyTorch loop under
the same seed would give it; all problems share each product. A problem that has stopped early leaves the batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.optim.adam import adam

from evar.probes import metrics
from evar.probes.features import Features
from evar.probes.protocol import Protocol
from evar.probes.splits import Fold, Outcome

BETAS, EPSILON = (0.9, 0.999), 1e-8
WORKING_BYTES = 1 << 30  # gathered batches and Adam's state of the problems trained together


def fit_folds(
    protocol: Protocol,
    features: Features,
    targets: np.ndarray,
    n_classes: int,
    folds: list[Fold],
    metric: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Train each fold on `fit`, keep the epoch of best validation score (the first of equals), score `test`.

    targets: int64 [N] (cross-entropy) or multi-hot [N, C] (binary cross-entropy, mean over clips and labels).
    Initial weights and batch order come from the fold's seed: nn.Linear's default initialisation, then one permutation of
    `fit` per epoch from the same generator. `converged` says that training stopped early, before the last epoch.
    """
    sizes = [features.d, protocol.hidden, n_classes] if protocol.probe == "mlp" else [features.d, n_classes]
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    at_once = max(1, WORKING_BYTES // (4 * (7 * weights + 2 * protocol.batch_size * features.d)))
    outcomes: list[Outcome] = []
    for start in range(0, len(folds), at_once):
        some = folds[start : start + at_once]

        def report(done: float, start: int = start, some: list[Fold] = some) -> None:
            if progress:
                total = protocol.max_epochs * len(folds)
                progress(int(protocol.max_epochs * start + done * len(some) * protocol.max_epochs), total)

        outcomes += _train(protocol, features, targets, sizes, some, metric, report)
    return outcomes


class _Network:
    """Weights of P networks: layers [(W [P, out, in], b [P, out])], the standardiser of each, and Adam's state."""

    def __init__(
        self, features: Features, sizes: list[int], folds: list[Fold], generators: list[torch.Generator]
    ) -> None:
        distinct = {fold.fit.tobytes(): fold.fit for fold in folds}
        moments = {key: features.standardizer(part) for key, part in distinct.items()}
        both = [moments[fold.fit.tobytes()] for fold in folds]
        self.mean, self.scale = (torch.stack(values).float()[:, None] for values in zip(*both, strict=True))
        drawn = [_initial(sizes, generator) for generator in generators]
        self.parameters = [torch.stack(values).to(features.device) for values in zip(*drawn, strict=True)]
        self.first = [torch.zeros_like(value) for value in self.parameters]
        self.second = [torch.zeros_like(value) for value in self.parameters]
        self.steps = torch.zeros(len(folds), device=features.device)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all problems but `rows` (bool [P])."""
        self.mean, self.scale, self.steps = self.mean[rows], self.scale[rows], self.steps[rows]
        for state in (self.parameters, self.first, self.second):
            state[:] = [value[rows] for value in state]

    def folded(self) -> list[torch.Tensor]:
        """The parameters with the standardiser folded into the first layer: they take the rows of `Features`."""
        weight = self.parameters[0] / self.scale
        return [weight, self.parameters[1] - (weight * self.mean).sum(2), *self.parameters[2:]]

    def step(self, X: torch.Tensor, residual: Callable, stepping: list[int], protocol: Protocol) -> None:
        """One update of the problems `stepping` on their batches X [P, B, D]; residual(logits) is the loss's gradient."""
        layers = self.folded()
        inputs, logits = _forward(X, layers)
        error = residual(logits)
        gradients: list[torch.Tensor] = []
        for layer in reversed(range(len(inputs))):
            gradients[:0] = [error.mT @ inputs[layer], error.sum(1)]
            if layer:
                error = (error @ layers[2 * layer]) * (inputs[layer] > 0)
        gradients[0].addcmul_(gradients[1][:, :, None], self.mean, value=-1).div_(self.scale)
        states = (self.parameters, gradients, self.first, self.second)
        lists = [[value[p] for value in state for p in stepping] for state in states]
        steps = [self.steps[p].clone() for _ in self.parameters for p in stepping]  # adam counts them up in place
        adam(
            *lists,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=protocol.learning_rate,
            weight_decay=protocol.weight_decay,
            eps=EPSILON,
            maximize=False,
        )
        self.steps[stepping] += 1


def _initial(sizes: list[int], generator: torch.Generator) -> list[torch.Tensor]:
    """nn.Linear's default initialisation of each layer, in its order of draws."""
    drawn = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        bound = 1 / math.sqrt(fan_in)
        for shape in ((fan_out, fan_in), (fan_out,)):
            drawn.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
    return drawn


def _forward(X: torch.Tensor, layers: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Inputs of every layer and the logits: [P, B, in] each, [P, B, C]."""
    inputs = [X]
    for layer in range(0, len(layers), 2):
        out = torch.baddbmm(layers[layer + 1][:, None], inputs[-1], layers[layer].mT)
        if layer + 2 == len(layers):
            return inputs, out
        inputs.append(out.relu_())
    raise AssertionError("unreachable")


def _train(
    protocol: Protocol,
    features: Features,
    targets: np.ndarray,
    sizes: list[int],
    folds: list[Fold],
    metric: str,
    report: Callable[[float], None],
) -> list[Outcome]:
    device, P = features.device, len(folds)
    truth = torch.from_numpy(targets).to(device)
    generators = [torch.Generator().manual_seed(fold.seed) for fold in folds]
    network = _Network(features, sizes, folds, generators)
    active = list(range(P))
    best = [(-1.0, 0)] * P
    kept: list[list[torch.Tensor]] = [[] for _ in folds]
    for epoch in range(1, protocol.max_epochs + 1):
        fits = [folds[i].fit for i in active]
        orders = [
            fit[torch.randperm(len(fit), generator=generators[i]).numpy()] for i, fit in zip(active, fits, strict=True)
        ]
        batch = min(protocol.batch_size, max(len(fit) for fit in fits))
        for start in range(0, max(len(order) for order in orders), batch):
            clips, weight = _batch(orders, start, batch)
            stepping = [p for p, order in enumerate(orders) if start < len(order)]
            index = torch.from_numpy(clips).to(device)
            residual = _residual(truth[index], torch.from_numpy(weight).to(device))
            network.step(features.rows(clips.ravel()).view(*clips.shape, -1), residual, stepping, protocol)
        folded = network.folded()
        stay = torch.ones(len(active), dtype=torch.bool)
        for p, scores in enumerate(_scores(features, folded, [folds[i].valid for i in active], targets.ndim == 2)):
            i = active[p]
            value = metrics.score(metric, targets[folds[i].valid], scores)
            if value > best[i][0]:
                best[i] = (value, epoch)
                kept[i] = [parameter[p].clone() for parameter in folded]
            stay[p] = epoch - best[i][1] < protocol.patience
        if not stay.all():
            network.keep(stay.to(device))
            active = [i for i, still in zip(active, stay.tolist(), strict=True) if still]
        report(1 - len(active) / P * (1 - epoch / protocol.max_epochs))
        if not active:
            break
    outcomes = []
    for i, fold in enumerate(folds):
        scores = next(_scores(features, [value[None] for value in kept[i]], [fold.test], targets.ndim == 2))
        if targets.ndim == 1:
            scores = _without_absent(scores, targets[fold.train])
        setting = f"lr={protocol.learning_rate:g} epoch={best[i][1]}"
        outcomes.append(Outcome(setting, i not in active, scores))
    return outcomes


def _batch(orders: list[np.ndarray], start: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips int64 [P, B] and their weights in the mean loss, float32 [P, B]; padding has weight 0."""
    parts = [order[start : start + batch] for order in orders]
    longest = max(len(part) for part in parts)
    clips, weight = np.zeros((len(parts), longest), np.int64), np.zeros((len(parts), longest), np.float32)
    for p, part in enumerate(parts):
        clips[p, : len(part)] = part
        weight[p, : len(part)] = 1 / max(len(part), 1)
    return clips, weight


def _residual(truth: torch.Tensor, weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The gradient of the mean loss with respect to the logits [P, B, C]."""

    def of(logits: torch.Tensor) -> torch.Tensor:
        if truth.ndim == 3:
            return (logits.sigmoid() - truth) * (weight / truth.shape[2])[:, :, None]
        error = logits.softmax(2)
        error.scatter_add_(2, truth[:, :, None], torch.full_like(error[:, :, :1], -1.0))
        return error.mul_(weight[:, :, None])

    return of


def _scores(
    features: Features, folded: list[torch.Tensor], parts: list[np.ndarray], multi_hot: bool
) -> Iterator[np.ndarray]:
    """Probabilities float32 [n, C] of each problem's part; problems with the same part share one product."""
    sharing: dict[bytes, list[int]] = {}
    for p, part in enumerate(parts):
        sharing.setdefault(part.tobytes(), []).append(p)
    found: dict[int, np.ndarray] = {}
    for problems in sharing.values():
        layers = [value[problems] for value in folded]
        logits = [
            _forward(X.expand(len(problems), -1, -1), layers)[1].cpu() for _, X in features.chunks(parts[problems[0]])
        ]
        joined = torch.cat(logits, 1)
        probabilities = joined.sigmoid() if multi_hot else joined.softmax(2)
        found |= dict(zip(problems, probabilities.numpy(), strict=True))
    return (found[p] for p in range(len(parts)))


def _without_absent(scores: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """A class without a training clip is never predicted: its probability is 0, the others' sum to 1."""
    present = np.bincount(trained, minlength=scores.shape[1]) > 0
    scores = np.where(present, scores, 0)
    return (scores / np.maximum(scores.sum(1, keepdims=True), 1e-30)).astype(np.float32)
