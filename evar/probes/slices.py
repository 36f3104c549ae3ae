"""How the fits of `fair` are cut into slices that stay within memory, and what they will cost: known before work starts."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass

VECTORS = 28  # of the size of the parameters: 10 pairs of L-BFGS, the parameters, gradients, directions
PASSES = 4  # multiply-adds count two, and an iteration has two products with the rows
ITERATIONS = 60  # of a typical problem: 20 under a strong penalty, 100 under a weak one
SEARCH, REFIT = (40, 100), (100, 120)  # on average and at most: means of 19-110 and 47-255 were seen
READ, PASSED = 70, 12  # times that an iteration goes through the parameters (pairs of L-BFGS above all) and the logits
AXES = 28  # operations of a decomposition by its size cubed, at the rate of a product
LATENCY = 2e-3  # seconds of an iteration, however small


@dataclass(frozen=True)
class Slices:
    """What is solved at a time: so many folds × strengths × labels (classes under a softmax belong together).

    hold: logits stay in memory; else they are computed again when needed, at twice the products. bytes: float32 logits and
    L-BFGS memory of one slice. slices: how many there are. flops, moved: operations of the products and bytes of the passes
    over vectors and logits, of one iteration of all problems.
    """

    folds: int
    strengths: int
    labels: int
    hold: bool
    bytes: int
    slices: int
    flops: float
    moved: float

    def seconds(
        self, flops_per_second: float, iterations: float = ITERATIONS, bytes_per_second: float = math.inf
    ) -> float:
        """Of the iterations of all problems at measured rates; without the second rate, of the products alone."""
        return iterations * (self.flops / flops_per_second + self.moved / bytes_per_second)


def estimate_seconds(
    clips: int, dims: int, classes: int, folds: int = 1, strengths: int = 7, independent: bool = False
) -> float:
    """What `fair` will take on this machine's CPU, by rates measured in a fraction of a second (once per process).

    clips: of all folds, or with folds = 1 (a fixed split) the training clips. independent: one regression per label, as
    in multi-label tasks and those of two classes. Data that nearly separate take three times as long, easy ones half.
    """
    (rate, bandwidth), width = machine_rates(), 1 if independent and classes == 2 else classes
    size = min(clips, dims)
    total = AXES * size**3 / rate
    apart, together = (1.0, 0.0) if folds == 1 else (max(folds - 2, 1) / folds, (folds - 1) / folds)
    for share, each, (mean, longest) in ((apart, strengths, SEARCH), (together, 1, REFIT)):
        if rows := round(share * clips):
            plan = plan_slices(rows, size, folds, each, width, independent, 1 << 31)
            read = 2 * 4.0 * rows * (size + 1) * folds / bandwidth  # the rows themselves, however few problems are left
            total += plan.seconds(rate, mean, bandwidth) + plan.slices * longest * (read + LATENCY)
    return total


@functools.cache
def machine_rates() -> tuple[float, float]:
    """Operations per second of a float32 product, and bytes per second read and written by a pass over vectors."""
    import torch

    from evar.products import exact_products, product

    a, b, large = torch.rand(512, 2048), torch.rand(2048, 2048), torch.ones(1 << 25)  # beyond any cache
    with exact_products():
        work = (lambda: product(a, b), lambda: large.mul_(0.5))
        taken = []
        for one in work:
            one()
            tries = []
            for _ in range(3):
                begun = time.perf_counter()
                one()
                tries.append(time.perf_counter() - begun)
            taken.append(min(tries))
    return 2.0 * 512 * 2048 * 2048 / taken[0], 8.0 * large.numel() / taken[1]


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
        moved=4.0 * (READ * (dims + 1) + PASSED * rows) * width * folds * strengths,
    )
