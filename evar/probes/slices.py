"""How the fits of `fair` are cut into slices that stay within memory, and what they will cost: known before work starts."""

from __future__ import annotations

from dataclasses import dataclass

VECTORS = 28  # of the size of the parameters: 10 pairs of L-BFGS, the parameters, gradients, directions
PASSES = 4  # multiply-adds count two, and an iteration has two products with the rows
ITERATIONS = 60  # of a typical problem: 20 under a strong penalty, 100 under a weak one


@dataclass(frozen=True)
class Slices:
    """What is solved at a time: so many folds × strengths × labels (classes under a softmax belong together).

    hold: logits stay in memory; else they are computed again when needed, at twice the products. bytes: float32 logits and
    L-BFGS memory of one slice. slices: how many there are. flops: of one iteration of all problems.
    """

    folds: int
    strengths: int
    labels: int
    hold: bool
    bytes: int
    slices: int
    flops: float

    def seconds(self, flops_per_second: float, iterations: float = ITERATIONS) -> float:
        """Of all products with the data, at a measured rate; the rest of the search adds about a half."""
        return self.flops * iterations / flops_per_second


def plan_slices(
    rows: int, dims: int, folds: int, strengths: int, width: int, independent: bool, budget: int, hold: bool = True
) -> Slices:
    """The largest slices of `folds` × `strengths` problems of `width` labels on [rows, dims] whose memory is within `budget`.

    independent: each label is a problem of its own. One problem that is too large even so gives up its logits (`hold`).
    """
    unit = 1 if independent else width
    each = 4 * unit * (2 * rows * hold + VECTORS * (dims + 1))
    if hold and each > budget:
        return plan_slices(rows, dims, folds, strengths, width, independent, budget, hold=False)
    at_once = max(1, budget // each)
    labels = min(width, at_once) if independent else width
    at_once = max(1, at_once // labels) if independent else at_once
    f = min(folds, at_once)
    s = min(strengths, max(1, at_once // f))
    return Slices(
        folds=f,
        strengths=s,
        labels=labels,
        hold=hold,
        bytes=f * s * (labels if independent else 1) * each,
        slices=-(-folds // f) * -(-strengths // s) * -(-width // labels),
        flops=float(PASSES * (1 if hold else 2) * rows * (dims + 1) * width * folds * strengths),
    )
