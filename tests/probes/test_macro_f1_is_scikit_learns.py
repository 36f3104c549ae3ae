"""Macro F1 without importing scikit-learn's metrics is still scikit-learn's macro F1."""

from __future__ import annotations

import numpy as np
import pytest

from evar.probes.metrics import macro_f1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("several", [False, True])
def test_equal_to_scikit_learn(seed, several):
    f1_score = pytest.importorskip("sklearn.metrics").f1_score
    random = np.random.default_rng(seed)
    n, classes = int(random.integers(1, 40)), int(random.integers(2, 9))  # few clips: classes that nobody has or says
    scores = random.uniform(0, 1, (n, classes)).astype(np.float32)
    targets = random.integers(0, 2, (n, classes)) if several else random.integers(0, classes, n)
    said = scores >= 0.5 if several else scores.argmax(1)
    expected = f1_score(targets, said, average="macro", zero_division=0.0)
    assert macro_f1(targets, scores) == pytest.approx(expected, abs=1e-15)
