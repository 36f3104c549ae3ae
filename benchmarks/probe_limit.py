"""How near the search of `fair` comes to the machine's matrix products: [2000 x 2048 x 50] and [20,000 x 3,072 x 35].

Useful work is the products of the search with the data (logits of a direction, gradient), 2 m k n operations each; the
limit is the best of torch.mm (MKL on a CPU) on square matrices and on the very shapes of the search, measured before and
after it. `product` is what evar multiplies with (oneDNN where the processor has AVX-512), at the same shapes.
Seconds of the process's own work stand beside wall-clock seconds: on a busy machine only they can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import common
import numpy as np
from probe_data import embeddings

TARGETS = {
    "folds": {"what": "`fair`, [2000 x 2048 x 50], 5 folds x 7 strengths, of the GEMM rate", "least": 60, "unit": "%"},
    "split": {"what": "`fair`, [20,000 x 3,072 x 35], fixed split, of the GEMM rate", "least": 60, "unit": "%"},
}


class Clock:
    """Wall-clock and process seconds spent in named stages, and the operations of the products in the search."""

    def __init__(self) -> None:
        self.wall, self.own, self.flops, self.shapes = {}, {}, 0.0, {}

    def timed(self, name: str, work: Callable) -> Callable:
        def run(*given: object, **named: object) -> object:
            wall, own = time.perf_counter(), time.process_time()
            try:
                return work(*given, **named)
            finally:
                self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
                self.own[name] = self.own.get(name, 0.0) + time.process_time() - own

        return run

    def counted(self, work: Callable) -> Callable:
        def run(a: object, b: object) -> object:
            flops = 2.0 * a.shape[0] * a.shape[1] * b.shape[1]
            self.flops += flops
            shape = (*a.shape, b.shape[1], b.stride(0) < b.stride(1))
            self.shapes[shape] = self.shapes.get(shape, 0.0) + flops
            return work(a, b)

        return self.timed("products", run)


@contextmanager
def watched() -> Iterator[Clock]:
    """Puts a clock into the engine; only the products that `solve` asks for count."""
    from evar.probes import designs, features, lbfgs, logistic

    clock = Clock()
    axes, solve, product = features.Features.principal_axes, logistic.solve, designs.product
    decompose = features.torch.linalg.eigh

    def searched(*given: object, **named: object) -> object:
        designs.product = clock.counted(product)
        try:
            return clock.timed("search", lbfgs.solve)(*given, **named)
        finally:
            designs.product = product

    logistic.solve, features.torch.linalg.eigh = searched, clock.timed("principal axes", decompose)
    try:
        yield clock
    finally:
        logistic.solve, features.torch.linalg.eigh = solve, decompose
        assert features.Features.principal_axes is axes


def rates(shapes: dict, tries: int) -> tuple[float, float, float, float]:
    """GFLOP/s of torch.mm by wall-clock and own seconds, and the same of evar's product, best of the shapes that matter."""
    import torch

    from evar.products import product

    most = sorted(shapes, key=shapes.get, reverse=True)[:2]
    square = (2048, 2048, 2048, False)
    found = np.zeros(4)
    for m, k, n, turned in [square, *most]:
        a, b = torch.rand(m, k), torch.rand(n, k).T if turned else torch.rand(k, n)
        for place, work in ((0, torch.mm), (2, product)):
            for _ in range(tries):
                wall, own = time.perf_counter(), time.process_time()
                work(a, b)
                taken = np.array([time.perf_counter() - wall, time.process_time() - own])
                found[place : place + 2] = np.maximum(found[place : place + 2], 2e-9 * m * k * n / taken)
    return tuple(found)


def measure(name: str, X: np.ndarray, y: np.ndarray, classes: int, tries: int, **division: np.ndarray) -> dict:
    from evar.probes import evaluate

    ids = np.array([f"{i:06d}" for i in range(len(y))])
    small = {"clip_ids": ids[:200], "fold": np.arange(200) % 5 + 1}
    evaluate("fair", X[:200, :64], y[:200] % 5, range(5), **small)  # imports, thread pools
    with watched() as clock:
        whole = clock.timed("whole", evaluate)
        found = whole("fair", X, y, range(classes), clip_ids=ids, **division)
    best = np.array(rates(clock.shapes, tries))
    gflop = 1e-9 * clock.flops
    return {
        "problem": name,
        "seconds": clock.wall["whole"],
        "own seconds": clock.own["whole"],
        "of them search": clock.own["search"],
        "... products": clock.own["products"],
        "principal axes": clock.own["principal axes"],
        "useful GFLOP": gflop,
        "torch.mm GFLOP/s": best[0],
        "product GFLOP/s": best[2],
        "whole, % of torch.mm": 100 * gflop / clock.wall["whole"] / best[0],
        "search, % of torch.mm": 100 * gflop / clock.wall["search"] / best[0],
        "search, % of product": 100 * gflop / clock.wall["search"] / best[2],
        "whole, own, % of torch.mm": 100 * gflop / clock.own["whole"] / best[1],
        "search, own, % of product": 100 * gflop / clock.own["search"] / best[3],
        "accuracy": found.mean,
    }


def main() -> None:
    quick = common.parser(__doc__).parse_args().quick
    shrink, tries = (10, 1) if quick else (1, 5)
    n, d = 2000 // shrink, 2048 // shrink
    X, y, fold = embeddings(n, d, 50)
    rows = [measure("5 folds x 7 strengths, [2000 x 2048], 50", X, y, 50, tries, fold=fold)]
    n, d = 20_000 // shrink, 3072 // shrink
    X, y, _ = embeddings(n, d, 35)
    split = np.random.default_rng(1).choice(["train", "valid", "test"], n, p=[0.8, 0.1, 0.1])
    rows.append(measure("split x 7 strengths, [20,000 x 3,072], 35", X, y, 35, tries, split=split))
    measured = {key: row["whole, % of torch.mm"] for key, row in zip(TARGETS, rows, strict=True)}
    common.finish("probe: share of the matrix-product rate", rows, TARGETS, measured)


if __name__ == "__main__":
    main()
