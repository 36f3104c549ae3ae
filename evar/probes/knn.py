"""Cosine k nearest neighbours on standardised features: the probe of `knn`.

Majority vote; a tie between classes goes to the one whose nearest neighbour comes first; equal distances are ordered by the clip's
position in the table. Multi-label: the share of neighbours that carry the label.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from evar.probes import metrics
from evar.probes.features import Features
from evar.probes.protocol import Protocol
from evar.probes.splits import Fold, Outcome

TIE = 1e-6  # cosine similarities closer than float32's rounding are equal


def fit_folds(
    protocol: Protocol,
    features: Features,
    targets: np.ndarray,
    n_classes: int,
    folds: list[Fold],
    metric: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Choose k on the validation part (ties to the smaller k), then classify the test part by all training clips."""
    outcomes = []
    for done, fold in enumerate(folds, 1):
        counts = sorted(protocol.neighbours)
        near = neighbours(features, fold.fit, fold.valid, min(counts[-1], len(fold.fit)))
        values = [metrics.score(metric, targets[fold.valid], vote(targets, near[:, :k], n_classes)) for k in counts]
        k = counts[int(np.argmax(values))]
        near = neighbours(features, fold.train, fold.test, min(k, len(fold.train)))
        outcomes.append(Outcome(f"k={k}", True, vote(targets, near, n_classes)))
        if progress:
            progress(done, len(folds))
    return outcomes


def neighbours(features: Features, train: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The k training clips of greatest cosine similarity, nearest first: int64 [len(queries), k], clip indices.

    Features are standardised on `train`. A zero vector is at similarity 0 from everything.
    """
    mean, scale = (value.float() for value in features.standardizer(train))

    def unit(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize((rows - mean) / scale, dim=1)

    near = []
    step = max(1, min(1024, (256 << 20) // (4 * len(train))))
    for start in range(0, len(queries), step):
        query = unit(features.rows(queries[start : start + step]))
        similar = torch.cat([query @ unit(rows).T for _, rows in features.chunks(train)], 1)
        # whole steps of TIE, so that equal distances are equal on every machine; the stable sort keeps the table's order
        similar = (similar / TIE).round_()
        order = torch.sort(similar, dim=1, descending=True, stable=True).indices[:, :k]
        near.append(train[order.cpu().numpy()])
    return np.concatenate(near)


def vote(targets: np.ndarray, near: np.ndarray, n_classes: int) -> np.ndarray:
    """Shares of the vote float32 [n, C] from neighbours int64 [n, k]; the nearest of tied classes is a hair ahead."""
    n, k = near.shape
    if targets.ndim == 2:
        return np.stack([targets[row].mean(0) for row in near]).astype(np.float32)
    votes = np.zeros((n, n_classes))
    lines = np.arange(n)
    for place in range(k):
        votes[lines, targets[near[:, place]]] += 1
    for place in reversed(range(k)):  # the nearest writes last
        mine = targets[near[:, place]]
        votes[lines, mine] = np.floor(votes[lines, mine]) + 0.5 * (k - place) / (k + 1)
    whole = np.floor(votes)
    return ((whole + 1e-3 * (votes - whole)) / k).astype(np.float32)
