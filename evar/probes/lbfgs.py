"""L-BFGS on many logistic regressions at once.

A *problem* is one fold × strength (× label, where labels are independent). Parameters of all problems are one tensor
[P, K, d], logits one tensor [P, K, n]. An iteration costs two products with the data: the logits of the search direction and
the gradient. The line search needs neither: along a direction the logits are Z + a * ZD, so the slope of the convex
objective is known at every step length a from the logits alone, and its root is found by safeguarded Newton steps, for
all problems together. Converged problems leave, so later products are smaller.

Where the logits are too many to hold, they are computed again block by block: the same numbers from twice the products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol as Interface

import torch

from evar.probes.cross_entropy import Loss, Problems

HISTORY = 10
BLOCK = {
    "cpu": 1 << 18,
    "cuda": 1 << 25,
}  # logits that the element-wise passes handle at a time: on a CPU, in its cache
LEAST_ROWS = 32  # of a block, however many problems there are
# Of 1 / K: saturated logits must not scale the next direction without bounds. A fit that goes on below the tolerance spends
# most iterations where they are saturated, and takes a fifth fewer with the second.
LEAST_SPREAD, LEAST_SPREAD_STRICT = 1e-2, 1e-3
STALLED = 20  # iterations without a smaller gradient after which a problem that is good enough stops
SLOPE = 0.5  # a step is taken when the slope has fallen to this share: exact enough, mostly at the first trial

Residual = Callable[[torch.Tensor, slice], torch.Tensor]


class Design(Interface):
    """Products with the training rows of every fold; the last of the d parameters is the intercept."""

    n: int
    d: int

    def logits(self, W: torch.Tensor, problems: Problems, out: torch.Tensor) -> None:
        """[P, K, d] -> out [P, K, n]; each problem uses the rows of its fold."""

    def gradient(self, R: torch.Tensor, problems: Problems) -> torch.Tensor:
        """Residuals [P, K, n] times the rows -> [P, K, d]."""

    def blocks(self, W: torch.Tensor, problems: Problems) -> Iterator[tuple[slice, torch.Tensor]]:
        """(rows, their logits [P, K, rows]), block by block."""

    def gradient_by_blocks(self, W: torch.Tensor, residual: Residual, problems: Problems) -> torch.Tensor:
        """The gradient at W of residuals that are computed block by block: residual(logits, rows) -> [P, K, rows]."""

    def spectrum(self, fold: torch.Tensor) -> torch.Tensor:
        """Mean square of each coordinate, [P, 1, d]: the Hessian is about this times a constant, plus the penalty."""


@dataclass
class Solution:
    """Parameters [P, K, d], and per problem whether the gradient fell below the tolerance, and the iterations."""

    W: torch.Tensor
    converged: torch.Tensor
    iterations: torch.Tensor


@dataclass
class _State:
    """What belongs to the problems still at work; `keep` drops the others.

    penalty: float32 [P, 1, d], 0 for the intercept. goal: the norm to be reached, floor: the least spread, float64 [P].
    """

    index: torch.Tensor
    problems: Problems
    penalty: torch.Tensor
    goal: torch.Tensor
    floor: torch.Tensor
    W: torch.Tensor
    G: torch.Tensor
    spread: torch.Tensor
    logits: Held | Recomputed
    memory: _Memory

    def keep(self, rows: torch.Tensor) -> None:
        for name in ("index", "problems", "penalty", "goal", "floor", "W", "G", "spread"):
            setattr(self, name, getattr(self, name)[rows])
        self.logits.keep(rows)
        self.memory.keep(rows)


def solve(
    design: Design,
    loss: Loss,
    problems: Problems,
    penalty: torch.Tensor,
    K: int,
    *,
    tolerance: float,
    strictness: torch.Tensor,
    max_iterations: int,
    hold: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Solution:
    """Minimise, for every problem p, mean cross-entropy over the rows of its fold + penalty[p] / 2 * ||W without intercept||^2.

    penalty: float64 [P]. hold: keep two tensors of logits [P, K, n], or compute them block by block whenever needed.
    A problem has converged when its gradient's norm is below `tolerance` times the norm at W = 0. Work goes on to
    `tolerance` times strictness[p] (float64 [P], at most 1), or until the norm no longer falls: float32 has its limit.
    """
    P, device = len(problems), penalty.device
    W = torch.zeros(P, K, design.d, device=device)
    ridge = penalty[:, None, None].float().expand(P, 1, design.d).clone()
    ridge[..., -1] = 0  # the intercept is free
    logits = (Held if hold else Recomputed)(design, loss, problems, K)
    memory = _Memory(P, K * design.d, device)
    index = torch.arange(P, device=device)
    floor = torch.where(strictness < 1, LEAST_SPREAD_STRICT, LEAST_SPREAD).to(penalty) / K
    state = _State(index, problems, ridge, penalty, floor, W, W, penalty, logits, memory)
    state.G, state.spread = _gradient(state)
    enough = tolerance * _norm(state.G)
    state.goal = enough * strictness
    solution = Solution(torch.zeros_like(W), torch.zeros(P, dtype=torch.bool), torch.zeros(P, dtype=torch.int64))
    spectrum = design.spectrum(problems.fold)
    lowest, since = torch.full_like(enough, torch.inf), torch.zeros_like(enough)
    for iteration in range(max_iterations + 1):
        norm, at = _norm(state.G), state.index
        since[at] = torch.where(norm < lowest[at], 0.0, since[at] + 1)
        lowest[at] = torch.minimum(norm, lowest[at])
        good = norm <= enough[at]
        done = (norm <= state.goal) | (good & (since[at] >= STALLED))
        if iteration == max_iterations:
            done |= True
        if done.any():
            leaving, rows = state.index[done], state.index[done].cpu()
            solution.W[leaving] = state.W[done]
            solution.converged[rows] = good[done].cpu()
            solution.iterations[rows] = iteration
            if done.all():
                break
            state.keep(~done)
            if progress:
                progress(P - len(state.index))
        scaling = 1 / (state.spread[:, None, None].float() * spectrum[state.index] + state.penalty)
        D = _direction(state, scaling)
        state.logits.aim(state.W, D)
        step = _step_length(state, D)[:, None, None]
        state.logits.advance(step)
        s = D.mul_(step)
        state.W.add_(s)
        before = state.G
        state.G, state.spread = _gradient(state)
        state.memory.add(s, torch.sub(state.G, before, out=before))
    return solution


class Held:
    """The logits of the parameters (Z) and along the direction (ZD), in memory. Between searches ZD holds residuals."""

    def __init__(self, design: Design, loss: Loss, problems: Problems, K: int) -> None:
        self._design, self._loss, self._problems = design, loss, problems
        self._Z = torch.zeros(len(problems), K, design.n, device=problems.fold.device)
        self._ZD = torch.empty_like(self._Z)

    def keep(self, rows: torch.Tensor) -> None:
        self._problems, self._Z = self._problems[rows], self._Z[rows]
        self._ZD = self._ZD[: len(self._problems)]

    def aim(self, W: torch.Tensor, D: torch.Tensor) -> None:
        self._design.logits(D, self._problems, self._ZD)

    def advance(self, step: torch.Tensor) -> None:
        self._Z.addcmul_(step, self._ZD)

    def slopes(self, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = (
            self._loss.slopes(self._Z[:, :, rows], self._ZD[:, :, rows], step, self._problems, rows)
            for rows in self._blocks()
        )
        return tuple(sum(values) for values in zip(*parts, strict=True))

    def gradient(self, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spread = 0.0
        for rows in self._blocks():
            z, R = self._Z[:, :, rows], self._ZD[:, :, rows]
            spread = spread + self._loss.residual(z, self._problems, rows, out=R)[1]
        return self._design.gradient(self._ZD, self._problems), spread

    def _blocks(self) -> Iterator[slice]:
        P, K, n = self._Z.shape
        size = max(LEAST_ROWS, BLOCK[self._Z.device.type] // (P * K))
        return (slice(start, min(start + size, n)) for start in range(0, n, size))


class Recomputed:
    """The same from the parameters and the direction themselves."""

    def __init__(self, design: Design, loss: Loss, problems: Problems, K: int) -> None:
        self._design, self._loss, self._problems = design, loss, problems

    def keep(self, rows: torch.Tensor) -> None:
        self._problems = self._problems[rows]

    def aim(self, W: torch.Tensor, D: torch.Tensor) -> None:
        self._both = torch.cat([W, D])

    def advance(self, step: torch.Tensor) -> None:
        del self._both

    def slopes(self, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        P, twice = len(self._problems), torch.arange(2 * len(self._problems), device=step.device)
        twice %= P
        parts = (
            self._loss.slopes(z[:P], z[P:], step, self._problems, rows)
            for rows, z in self._design.blocks(self._both, self._problems[twice])
        )
        return tuple(sum(values) for values in zip(*parts, strict=True))

    def gradient(self, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spread = torch.zeros(len(W), dtype=torch.float64, device=W.device)

        def residual(z: torch.Tensor, rows: slice) -> torch.Tensor:
            R, more = self._loss.residual(z, self._problems, rows)
            spread.add_(more)
            return R

        return self._design.gradient_by_blocks(W, residual, self._problems), spread


class _Memory:
    """The last pairs (s, y) of steps and changes of the gradient, per problem, for the two-loop recursion.

    The recursion (Nocedal & Wright, algorithm 7.4) needs of the pairs only s_i . y_j, i no younger than j; in that
    triangle R it is two triangular solves (Byrd, Nocedal & Schnabel, 1994), so a direction reads each pair four times
    and writes none. A problem keeps its slot to the end on a CPU, where moving the pairs would cost more than the loop.
    """

    def __init__(self, P: int, size: int, device: torch.device) -> None:
        self._s = torch.empty(P, HISTORY, size, device=device)
        self._y = torch.empty_like(self._s)
        self._inner = torch.zeros(P, HISTORY, HISTORY, dtype=torch.float64, device=device)
        self._slots, self._count = torch.arange(P, device=device), 0

    def __len__(self) -> int:
        return min(self._count, HISTORY)

    def keep(self, rows: torch.Tensor) -> None:
        self._inner, self._slots = self._inner[rows], self._slots[rows]
        if self._s.is_cuda:
            self._s, self._y = self._s[rows], self._y[rows]
            self._slots = torch.arange(len(self._s), device=self._s.device)

    def add(self, s: torch.Tensor, y: torch.Tensor) -> None:
        at = self._count % HISTORY
        self._s[self._slots, at], self._y[self._slots, at] = s.flatten(1), y.flatten(1)
        self._count += 1
        self._inner[:, : len(self), at] = self._times(self._s, y)

    def direction(self, G: torch.Tensor, scaling: torch.Tensor) -> torch.Tensor:
        """The inverse Hessian's estimate times G [P, K, d]; scaling [P, 1, d] is the guess of its diagonal."""
        if not len(self):
            return scaling * G
        newest = (self._count - 1) % HISTORY
        order = [(newest + 1 + i) % len(self) for i in range(len(self))]  # oldest first
        R = self._inner[:, order][:, :, order].triu()
        curvature = R.diagonal(dim1=1, dim2=2)
        bad = curvature <= 0  # such a pair is left out
        R = torch.where(bad[:, :, None] | bad[:, None, :], torch.diag_embed(bad.double()), R)
        alpha = _solved(R, self._times(self._s, G)[:, order], bad, upper=True)
        q = torch.sub(G, self._combined(self._y, alpha, order).view_as(G)).mul_(scaling)
        y = self._y[self._slots, newest].view_as(G)
        length = _dot(y, scaling * y)
        q *= torch.where(bad[:, -1], 1.0, curvature[:, -1] / length)[:, None, None].float()
        delta = _solved(R.mT, curvature * alpha - self._times(self._y, q)[:, order], bad, upper=False)
        return q.add_(self._combined(self._s, delta, order).view_as(G))

    def _times(self, pairs: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Inner products with v [P, K, d], float64 [P, len(self)]."""
        m, v = len(self), v.flatten(1)
        if pairs.is_cuda:
            return torch.bmm(v[:, None], pairs[:, :m].mT)[:, 0].double()
        slots = self._slots.tolist()
        return torch.stack([torch.mv(pairs[slot, :m], one) for slot, one in zip(slots, v, strict=True)]).double()

    def _combined(self, pairs: torch.Tensor, weights: torch.Tensor, order: list[int]) -> torch.Tensor:
        """Sums of the pairs by weights float64 [P, len(self)], oldest first: float32 [P, K * d]."""
        m = len(self)
        placed = torch.empty_like(weights)
        placed[:, order] = weights
        placed = placed.float()
        if pairs.is_cuda:
            return torch.bmm(placed[:, None], pairs[:, :m])[:, 0]
        out = torch.empty(len(placed), pairs.shape[2])
        for slot, one, row in zip(self._slots.tolist(), placed, out, strict=True):
            torch.mv(pairs[slot, :m].T, one, out=row)
        return out


def _solved(triangle: torch.Tensor, right: torch.Tensor, bad: torch.Tensor, upper: bool) -> torch.Tensor:
    """The solution [P, m] of triangular systems, 0 where `bad`."""
    right = right.masked_fill(bad, 0.0)
    return torch.linalg.solve_triangular(triangle, right[:, :, None], upper=upper)[:, :, 0]


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """float64 [P]: inner products per problem, summed in float32 within a row of parameters and in float64 across."""
    size = max(1, BLOCK[a.device.type] // a[0].numel())
    parts = zip(a.split(size), b.split(size), strict=True)
    return torch.cat([torch.linalg.vecdot(x, y).double().sum(1) for x, y in parts])


def _norm(a: torch.Tensor) -> torch.Tensor:
    return _dot(a, a).sqrt()


def _direction(state: _State, scaling: torch.Tensor) -> torch.Tensor:
    """A descent direction for all problems."""
    q = state.memory.direction(state.G, scaling)
    uphill = ~(_dot(q, state.G) > 0)
    if uphill.any():
        q[uphill] = (scaling * state.G)[uphill]
    return q.neg_()


def _gradient(state: _State) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient [P, K, d], and twice the mean variance p (1 - p) of the predicted labels, float64 [P].

    The variance times the spectrum is about the Hessian; it falls from 1 / K towards 0 as the fit gets sure of itself.
    Twice, because a scaling that is too long costs more iterations than one that is too short.
    """
    G, spread = state.logits.gradient(state.W)
    return G.addcmul_(state.penalty, state.W), torch.maximum(2 * spread, state.floor)


def _step_length(state: _State, D: torch.Tensor) -> torch.Tensor:
    """float32 [P]: step lengths at which the slope along D has fallen to a share SLOPE of its start."""
    slope0 = _dot(state.G, D)
    penalised = state.penalty * D
    bend, straight = _dot(penalised, D), _dot(penalised, state.W)
    low, high = torch.zeros_like(slope0), torch.full_like(slope0, torch.inf)
    step = torch.ones_like(slope0)
    open_ = torch.ones_like(slope0, dtype=torch.bool)
    for _ in range(20):
        slope, curvature = state.logits.slopes(step.float())
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
