"""Features like those of a real encoder: power-law spectrum, correlated, classes that overlap (about 80 % accuracy)."""

from __future__ import annotations

import numpy as np


def embeddings(n: int, d: int, classes: int, seed: int = 0):
    """float32 [n, d], int64 labels [n], folds 1-5 [n]."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    spectrum = np.arange(1, d + 1) ** -0.5
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    centres = rng.standard_normal((classes, 32)) @ rng.standard_normal((32, d)) / np.sqrt(32)
    X = (0.22 * centres[y] + rng.standard_normal((n, d))) * spectrum @ rotation + 3 * rng.standard_normal(d)
    return X.astype(np.float32), y, rng.permutation(np.arange(n) % 5) + 1
