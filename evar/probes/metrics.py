"""Scores of one test part, by scikit-learn's definitions, as fractions 0-1."""

from __future__ import annotations

import numpy as np


def score(metric: str, targets: np.ndarray, scores: np.ndarray) -> float:
    """`accuracy` (targets int64 [n]) or `mAP` (targets multi-hot [n, C]) of `scores` float32 [n, C].

    mAP is the macro average of average precision over the classes that have a positive in this part, as
    `average_precision_score(average="macro")` gives on those columns. For `mAP` with int targets each class is one label.
    """
    if metric == "accuracy":
        return float(np.mean(scores.argmax(1) == targets))
    return float(np.mean(average_precisions(one_hot(targets, scores.shape[1]), scores)))


def average_precisions(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision of every class with a positive: float64 [C' <= C]."""
    from sklearn.metrics import average_precision_score

    present = targets.any(0)
    if not present.any():
        return np.zeros(1)
    value = average_precision_score(targets[:, present], scores[:, present], average=None)
    return np.atleast_1d(value)


def macro_f1(targets: np.ndarray, scores: np.ndarray) -> float:
    """Macro F1 over the classes in the targets or the predictions; multi-label: over all classes, at probability 0.5.

    Equal to scikit-learn's `f1_score(average="macro", zero_division=0)`, whose import would cost a fresh process 0.8 s.
    """
    several = targets.ndim == 2
    true = one_hot(targets, scores.shape[1])
    said = scores >= 0.5 if several else one_hot(scores.argmax(1), scores.shape[1])
    total = true.sum(0) + said.sum(0)
    f1 = 2 * (true & said).sum(0) / np.maximum(total, 1)
    return float(np.mean(f1 if several else f1[total > 0]))


def one_hot(targets: np.ndarray, n_classes: int) -> np.ndarray:
    """int64 [n] to bool [n, C]; multi-hot targets become bool."""
    if targets.ndim == 2:
        return targets > 0
    return targets[:, None] == np.arange(n_classes)
