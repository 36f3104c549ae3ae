"""Adam on all folds × seeds at once: the probes of `paper` (one linear layer) and `mlp` (one hidden ReLU layer).

Every problem (fold × seed) sees exactly the batches, the initial weights, the dropout masks and the updates that a plain
PyTorch loop under the same draws would give it; all problems share each product. A problem that has stopped early leaves
the batch. Draws are a problem's own, so that neither its neighbours nor the number of threads changes them: the seed is
set once, before the first fold; in the order of folds come initial weights and a seed for the fold's batches and masks.
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
    """Train each fold on `fit`, keep the epoch of best validation score (of equals as `ties` says), score `test`.

    targets: int64 [N] (cross-entropy) or multi-hot [N, C] (binary cross-entropy); the loss is the mean over clips and
    classes. folds: of one seed after the other. nn.Linear's default initialisation, one permutation of `fit` per epoch.
    `converged` is False where the score still rose within the last `patience` epochs before the limit of epochs.
    """
    sizes = [features.d, protocol.hidden, n_classes] if protocol.probe == "mlp" else [features.d, n_classes]
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    at_once = max(1, WORKING_BYTES // (4 * (7 * weights + 2 * protocol.batch_size * features.d)))
    outcomes: list[Outcome] = []
    drawn = _draws(sizes, folds)
    for start in range(0, len(folds), at_once):
        some = folds[start : start + at_once]

        def report(done: float, start: int = start, some: list[Fold] = some) -> None:
            if progress:
                total = protocol.max_epochs * len(folds)
                progress(int(protocol.max_epochs * start + done * len(some) * protocol.max_epochs), total)

        draws = [next(drawn) for _ in some]
        outcomes += _train(protocol, features, targets, draws, some, metric, report)
    return outcomes


class _Network:
    """Weights of P networks: layers [(W [P, out, in], b [P, out])], the standardiser of each, and Adam's state."""

    def __init__(self, features: Features, folds: list[Fold], initial: list[list[torch.Tensor]]) -> None:
        parts = [fold.fit if fold.scaled is None else fold.scaled for fold in folds]
        moments = {part.tobytes(): part for part in parts}
        moments = {key: features.standardizer(part) for key, part in moments.items()}
        both = [moments[part.tobytes()] for part in parts]
        self.mean, self.scale = (torch.stack(values).float()[:, None] for values in zip(*both, strict=True))
        self.parameters = [torch.stack(values).to(features.device) for values in zip(*initial, strict=True)]
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

    def step(
        self,
        X: torch.Tensor,
        residual: Callable,
        stepping: list[int],
        protocol: Protocol,
        mask: torch.Tensor | None = None,
    ) -> None:
        """One update of the problems `stepping` on their batches X [P, B, D]; residual(logits) is the loss's gradient.

        mask: what the hidden layer is multiplied with, [P, B, hidden]: 0 or 1 / (1 - dropout).
        """
        layers = self.folded()
        inputs, logits = _forward(X, layers, mask)
        error = residual(logits)
        gradients: list[torch.Tensor] = []
        for layer in reversed(range(len(inputs))):
            gradients[:0] = [error.mT @ inputs[layer], error.sum(1)]
            if layer:
                error = (error @ layers[2 * layer]) * (inputs[layer] > 0)
                if mask is not None:
                    error *= mask
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


def _draws(sizes: list[int], folds: list[Fold]) -> Iterator[tuple[list[torch.Tensor], torch.Generator]]:
    """Per fold: nn.Linear's default initialisation of each layer, in its order of draws, and a generator of its own."""
    for fold in folds:
        if fold.fold == folds[0].fold:
            generator = torch.Generator().manual_seed(fold.seed)
        drawn = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            for shape in ((fan_out, fan_in), (fan_out,)):
                drawn.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
        own = int(torch.randint(1 << 62, (), generator=generator))
        yield drawn, torch.Generator().manual_seed(own)


def _masks(
    orders: list[np.ndarray], start: int, shape: tuple[int, int], protocol: Protocol, generators: list[torch.Generator]
) -> torch.Tensor | None:
    """Dropout of the hidden layer for one batch of each problem, float32 [P, B, hidden]; None where there is none."""
    if protocol.probe != "mlp" or not protocol.dropout:
        return None
    masks = torch.zeros(*shape, protocol.hidden)
    for p, (order, generator) in enumerate(zip(orders, generators, strict=True)):
        clips = min(max(len(order) - start, 0), shape[1])
        if clips:
            masks[p, :clips] = torch.rand(clips, protocol.hidden, generator=generator) >= protocol.dropout
    return masks.div_(1 - protocol.dropout)


def _forward(
    X: torch.Tensor, layers: list[torch.Tensor], mask: torch.Tensor | None = None
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Inputs of every layer and the logits: [P, B, in] each, [P, B, C]."""
    inputs = [X]
    for layer in range(0, len(layers), 2):
        out = torch.baddbmm(layers[layer + 1][:, None], inputs[-1], layers[layer].mT)
        if layer + 2 == len(layers):
            return inputs, out
        inputs.append(out.relu_() if mask is None else out.relu_().mul_(mask))
    raise AssertionError("unreachable")


def _train(
    protocol: Protocol,
    features: Features,
    targets: np.ndarray,
    draws: list[tuple[list[torch.Tensor], torch.Generator]],
    folds: list[Fold],
    metric: str,
    report: Callable[[float], None],
) -> list[Outcome]:
    device, P = features.device, len(folds)
    truth = torch.from_numpy(targets).to(device)
    generators = [generator for _, generator in draws]
    network = _Network(features, folds, [initial for initial, _ in draws])
    active = list(range(P))
    best = [(-1.0, 0)] * P
    risen, stopped = [0] * P, [protocol.max_epochs] * P
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
            mask = _masks(orders, start, clips.shape, protocol, [generators[i] for i in active])
            mask = mask if mask is None else mask.to(device)
            network.step(features.rows(clips.ravel()).view(*clips.shape, -1), residual, stepping, protocol, mask)
        folded = network.folded()
        stay = torch.ones(len(active), dtype=torch.bool)
        for p, scores in enumerate(_scores(features, folded, [folds[i].valid for i in active], targets.ndim == 2)):
            i = active[p]
            value = metrics.score(metric, targets[folds[i].valid], scores)
            if value > best[i][0]:
                risen[i] = epoch
            if value > best[i][0] or (value == best[i][0] and protocol.ties == "latest"):
                best[i] = (value, epoch)
                kept[i] = [parameter[p].clone() for parameter in folded]
            if epoch - best[i][1] >= protocol.patience:
                stay[p], stopped[i] = False, epoch
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
        setting = f"lr={protocol.learning_rate:g} epoch={best[i][1]} of {stopped[i]}"
        settled = i not in active or protocol.max_epochs - risen[i] >= protocol.patience
        outcomes.append(Outcome(setting, settled, scores))
    return outcomes


def _batch(orders: list[np.ndarray], start: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips int64 [P, B] and their weights in the mean over clips, float32 [P, B]; padding has weight 0."""
    parts = [order[start : start + batch] for order in orders]
    longest = max(len(part) for part in parts)
    clips, weight = np.zeros((len(parts), longest), np.int64), np.zeros((len(parts), longest), np.float32)
    for p, part in enumerate(parts):
        clips[p, : len(part)] = part
        weight[p, : len(part)] = 1 / max(len(part), 1)
    return clips, weight


def _residual(truth: torch.Tensor, weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The gradient of the loss, a mean over clips and classes, with respect to the logits [P, B, C]."""

    def of(logits: torch.Tensor) -> torch.Tensor:
        if truth.ndim == 3:
            error = logits.sigmoid() - truth
        else:
            error = logits.softmax(2)
            error.scatter_add_(2, truth[:, :, None], torch.full_like(error[:, :, :1], -1.0))
        return error.mul_((weight / logits.shape[2])[:, :, None])

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
