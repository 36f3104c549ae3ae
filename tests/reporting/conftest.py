"""The tests of `compare` share `compare_data.py`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def two(tmp_path):
    """Encoders `new` (better) and `old` on `sounds`: 400 clips in 5 folds, no groups."""
    from compare_data import frame, outcomes, record

    right = {"new": outcomes(0.8, 1), "old": outcomes(0.6, 2)}
    for number, (encoder, row) in enumerate(right.items()):
        record(tmp_path, encoder, "sounds", frame(row), number)
    return tmp_path, right
