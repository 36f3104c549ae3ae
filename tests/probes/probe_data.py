"""Embeddings-like data: a power-law spectrum, correlated features, classes that overlap."""

from __future__ import annotations

import numpy as np

RANK = 64


def embeddings(n, d, n_classes, seed=0, signal=0.3):
    """float32 [n, d] and int64 [n]; class means lie in a few directions under noise of a power-law spectrum."""
    random = np.random.default_rng(seed)
    targets = random.permutation(np.arange(n) % n_classes)
    spectrum = np.arange(1, d + 1) ** -0.5
    rotation = np.linalg.qr(random.standard_normal((d, d)))[0]
    centres = random.standard_normal((n_classes, RANK)) @ random.standard_normal((RANK, d)) / np.sqrt(RANK)
    X = (signal * centres[targets] + random.standard_normal((n, d))) * spectrum @ rotation
    return (X + 3 * random.standard_normal(d)).astype(np.float32), targets


def parts(n, seed=0):
    """A split into train (60 %), valid and test (20 % each)."""
    return np.random.default_rng(100 + seed).choice(["train", "valid", "test"], n, p=[0.6, 0.2, 0.2])


def folds(n, k, seed=0):
    return np.random.default_rng(200 + seed).permutation(np.arange(n) % k) + 1


def ids(n):
    return np.array([f"clip{i:06d}" for i in range(n)])
