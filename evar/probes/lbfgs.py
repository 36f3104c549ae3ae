"""L-BFGS on many logistic regressions at once.

A *problem* is one fold × strength (× label, where labels are independent). Parameters of all problems are one tensor
[P, K, d], logits one tensor [P, K, n]. An iteration costs two products with the data: the logits of the search direction and
the gradient. The line search needs neither: along a direction the logits are Z + a * ZD, so the slope of the convex
objective is known at every step length a from the logits alone, and its root is found by safeguarded Newton steps, for
all problems together. Converged problems leave, so later products are smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol as Interface

import torch

HISTORY = 10
BLOCK = 1 << 22  # logits that the element-wise passes handle at a time, to bound temporaries
LEAST_SPREAD = 1e-2  # of 1 / K: saturated logits must not scale the next direction without bounds
STALLED = 20  # iterations without a smaller gradient after which a problem that is good enough stops
SLOPE = 0.5  # a step is taken when the slope has fallen to this share: exact enough, mostly at the first trial


class Design(Interface):
    """Products with the training rows of every fold; the last of the d parameters is the intercept."""

    n: int
    d: int

    def logits(self, W: torch.Tensor, fold: torch.Tensor) -> torch.Tensor:
        """[P, K, d] -> [P, K, n]; problem p uses the rows of fold[p] (ascending)."""

    def gradient(
        self, residual: Callable[[slice], torch.Tensor], fold: torch.Tensor, K: int, block: int
    ) -> torch.Tensor:
        """Sum over rows: residual(slice) [P, K, rows] times the rows -> [P, K, d]."""

    def spectrum(self, fold: torch.Tensor) -> torch.Tensor:
        """Mean square of each coordinate, [P, 1, d]: the Hessian is about this times a constant, plus the penalty."""


@dataclass
class Loss:
    """Mean cross-entropy over the rows of non-zero weight.

    targets: softmax: int64 [F, n]; sigmoid: float32 [F, n, L], problem p has label[p].
    weights: float32 [F, n], summing to 1 in every fold. absent: bool [F, K], classes without a row (softmax only).
    """

    targets: torch.Tensor
    weights: torch.Tensor
    absent: torch.Tensor | None = None

    def probabilities(self, z: torch.Tensor, fold: torch.Tensor) -> torch.Tensor:
        """[P, K, rows] logits to probabilities, in place."""
        if self.absent is None:
            return z.sigmoid_()
        return torch.softmax(z.masked_fill_(self.absent[fold][:, :, None], -torch.inf), 1)

    def true(self, fold: torch.Tensor, label: torch.Tensor, rows: slice) -> torch.Tensor:
        if self.absent is None:
            return self.targets[fold, rows, label][:, None]
        return self.targets[fold, rows][:, None]


@dataclass
class Solution:
    """Parameters [P, K, d], and per problem whether the gradient fell below the tolerance, and the iterations."""

    W: torch.Tensor
    converged: torch.Tensor
    iterations: torch.Tensor


@dataclass
class _State:
    """What belongs to the problems still at work; `keep` drops the others."""

    index: torch.Tensor
    fold: torch.Tensor
    label: torch.Tensor
    penalty: torch.Tensor
    goal: torch.Tensor
    W: torch.Tensor
    Z: torch.Tensor
    G: torch.Tensor
    spread: torch.Tensor
    memory: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

    def keep(self, rows: torch.Tensor) -> None:
        for name in ("index", "fold", "label", "penalty", "goal", "W", "Z", "G", "spread"):
            setattr(self, name, getattr(self, name)[rows])
        self.memory = [tuple(part[rows] for part in pair) for pair in self.memory]


def solve(
    design: Design,
    loss: Loss,
    fold: torch.Tensor,
    label: torch.Tensor,
    penalty: torch.Tensor,
    K: int,
    *,
    tolerance: float,
    strictness: torch.Tensor,
    max_iterations: int,
    progress: Callable[[int], None] | None = None,
) -> Solution:
    """Minimise, for every problem p, mean cross-entropy over the rows of fold[p] + penalty[p] / 2 * ||W without intercept||^2.

    fold, label: int64 [P], folds ascending; penalty: float64 [P].
    A problem has converged when its gradient's norm is below `tolerance` times the norm at W = 0. Work goes on to
    `tolerance` times strictness[p] (float64 [P], at most 1), or until the norm no longer falls: float32 has its limit.
    """
    P, device = len(fold), penalty.device
    zero = torch.zeros(P, K, design.d, device=device)
    ridge = penalty[:, None, None].float().expand(P, 1, design.d).clone()
    ridge[..., -1] = 0  # the intercept is free
    nothing = torch.zeros(P, K, design.n, device=device)
    state = _State(torch.arange(P, device=device), fold, label, ridge, penalty, zero, nothing, zero, penalty, [])
    state.G, state.spread = _gradient(design, loss, state)
    enough = tolerance * _norm(state.G)
    state.goal = enough * strictness
    solution = Solution(torch.zeros_like(zero), torch.zeros(P, dtype=torch.bool), torch.zeros(P, dtype=torch.int64))
    spectrum = design.spectrum(fold)
    lowest, since = torch.full_like(enough, torch.inf), torch.zeros_like(enough)
    for iteration in range(max_iterations + 1):
        norm, at = _norm(state.G), state.index
        since[at] = torch.where(norm < lowest[at], 0.0, since[at] + 1)
        lowest[at] = torch.minimum(norm, lowest[at])
        good = norm <= enough[at]
        done = (norm <= state.goal) | (good & (since[at] >= STALLED))
        if iteration == max_iterations:
            solution.iterations[state.index.cpu()] = iteration
            solution.W[state.index] = state.W
            solution.converged[state.index.cpu()] = good.cpu()
        elif done.any():
            leaving = state.index[done]
            solution.W[leaving] = state.W[done]
            solution.converged[leaving.cpu()] = True
            solution.iterations[leaving.cpu()] = iteration
            state.keep(~done)
        if iteration == max_iterations or not len(state.index):
            break
        if progress and done.any():
            progress(P - len(state.index))
        scaling = 1 / (state.spread[:, None, None].float() * spectrum[state.index] + state.penalty)
        D = _direction(state, scaling)
        ZD = design.logits(D, state.fold)
        step = _step_length(loss, state, D, ZD)[:, None, None]
        state.W = state.W + step * D
        state.Z.addcmul_(step.expand_as(ZD), ZD)
        del ZD
        before = state.G
        state.G, state.spread = _gradient(design, loss, state)
        s, y = step * D, state.G - before
        curvature = _dot(s, y)
        state.memory.append((s, y, torch.where(curvature > 0, 1 / curvature, 0.0)))
        del state.memory[:-HISTORY]
    return solution


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """float64 [P]: inner products per problem, summed in float32 within a row of parameters and in float64 across."""
    return torch.linalg.vecdot(a, b).double().sum(1)


def _norm(a: torch.Tensor) -> torch.Tensor:
    return _dot(a, a).sqrt()


def _direction(state: _State, scaling: torch.Tensor) -> torch.Tensor:
    """The two-loop recursion (Nocedal & Wright, algorithm 7.4), for all problems; a descent direction always."""
    q, taken = state.G.clone(), []
    for s, y, rho in reversed(state.memory):
        alpha = rho * _dot(s, q)
        q.addcmul_(y, alpha[:, None, None].float(), value=-1)
        taken.append(alpha)
    q *= scaling
    if state.memory:
        s, y, rho = state.memory[-1]
        length = _dot(y, scaling * y)
        q *= torch.where(rho > 0, 1 / (rho * length), 1.0)[:, None, None].float()
    for (s, y, rho), alpha in zip(state.memory, reversed(taken), strict=True):
        beta = rho * _dot(y, q)
        q.addcmul_(s, (alpha - beta)[:, None, None].float())
    uphill = ~(_dot(q, state.G) > 0)
    if uphill.any():
        q[uphill] = (scaling * state.G)[uphill]
    return q.neg_()


def _blocks(n: int, width: int) -> Iterator[slice]:
    size = max(1, BLOCK // width)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _gradient(design: Design, loss: Loss, state: _State) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient [P, K, d], and twice the mean variance p (1 - p) of the predicted labels, float64 [P].

    The variance times the spectrum is about the Hessian; it falls from 1 / K towards 0 as the fit gets sure of itself.
    Twice, because a scaling that is too long costs more iterations than one that is too short.
    """
    P, K, _ = state.W.shape
    spread = torch.zeros(P, dtype=torch.float64, device=state.W.device)

    def residual(rows: slice) -> torch.Tensor:
        p = loss.probabilities(state.Z[:, :, rows].clone(), state.fold)
        true = loss.true(state.fold, state.label, rows)
        w = loss.weights[state.fold, rows]
        spread.add_((w * (p - p**2).sum(1)).sum(1, dtype=torch.float64), alpha=1 / K)
        if loss.absent is None:
            p -= true
        else:
            p.scatter_add_(1, true, torch.full_like(true, -1.0, dtype=p.dtype))
        p *= w[:, None]
        return p

    G = design.gradient(residual, state.fold, K, max(1, BLOCK // (P * K)))
    return G.addcmul_(state.penalty, state.W), (2 * spread).clamp_min(LEAST_SPREAD / K)


def _step_length(loss: Loss, state: _State, D: torch.Tensor, ZD: torch.Tensor) -> torch.Tensor:
    """float32 [P]: step lengths at which the slope along D has fallen to a share SLOPE of its start."""
    slope0 = _dot(state.G, D)
    bend = _dot(state.penalty * D, D)
    straight = _dot(state.penalty * D, state.W)
    low, high = torch.zeros_like(slope0), torch.full_like(slope0, torch.inf)
    step = torch.ones_like(slope0)
    open_ = torch.ones_like(slope0, dtype=torch.bool)
    for _ in range(20):
        slope, curvature = _slopes(loss, state, ZD, step)
        slope, curvature = slope + straight + step * bend, curvature + bend
        open_ &= slope.abs() > SLOPE * slope0.abs()
        if not open_.any():
            break
        low = torch.where(open_ & (slope < 0), step, low)
        high = torch.where(open_ & (slope > 0), step, high)
        newton = step - slope / curvature.clamp_min(1e-300)
        middle = torch.where(high.isinf(), 4 * step, (low + high) / 2)
        inside = (newton > low) & (newton < high) & (newton <= 10 * step)
        step = torch.where(open_, torch.where(inside, newton, middle), step)
    return step.float()


def _slopes(loss: Loss, state: _State, ZD: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second derivative of the mean cross-entropy along the direction: float64 [P] each."""
    P, K, n = ZD.shape
    first = torch.zeros(P, dtype=torch.float64, device=ZD.device)
    second = torch.zeros_like(first)
    wide = step.float()[:, None, None]
    for rows in _blocks(n, P * K):
        zd = ZD[:, :, rows]
        p = loss.probabilities(torch.addcmul(state.Z[:, :, rows], wide, zd), state.fold)
        true = loss.true(state.fold, state.label, rows)
        w = loss.weights[state.fold, rows]
        if loss.absent is None:
            w, zd = w[:, None], zd
            first += (w * (p - true) * zd).sum((1, 2), dtype=torch.float64)
            second += (w * p * (1 - p) * zd**2).sum((1, 2), dtype=torch.float64)
        else:
            pz = p * zd
            mean = pz.sum(1)
            first += (w * (mean - zd.gather(1, true)[:, 0])).sum(1, dtype=torch.float64)
            second += (w * ((pz * zd).sum(1) - mean**2)).sum(1, dtype=torch.float64)
    return first, second
