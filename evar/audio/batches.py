"""Batches of clips of nearly equal lengths, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def length_batches(
    lengths: Sequence[int] | np.ndarray,
    batch: int,
    multiple: int = 1,
    budget: int | None = None,
    equal: bool = False,
) -> list[np.ndarray]:
    """Split clips into batches, longest first; each index of `lengths` is in exactly one batch.

    Args:
        lengths: samples of each clip, [N].
        batch: most clips in a batch.
        multiple: batches are padded to `padded_length(longest, multiple)` samples; clips that pad to the same length
            keep their order, which is the order on the disk.
        budget: most padded samples (clips x padded length) in a batch; a clip that is longer alone has its own batch.
        equal: only clips of exactly the same length share a batch, for encoders that are not exact under padding.

    Returns int64 arrays. The same input gives the same batches. Longest first: a lack of memory shows at once.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any():
        raise ValueError("lengths is one non-negative number of samples per clip")
    if batch < 1 or multiple < 1 or (budget is not None and budget < 1):
        raise ValueError(f"batch, multiple and budget are at least 1, found {batch}, {multiple} and {budget}")
    padded = lengths if equal else padded_length(lengths, multiple)
    order = np.argsort(-padded, kind="stable")
    sizes = padded[order].tolist()
    batches, first = [], 0
    while first < len(order):
        longest = sizes[first]
        most = batch if budget is None else min(batch, max(1, budget // max(1, longest)))
        last = min(first + most, len(order))
        if equal:
            last = first + sum(size == longest for size in sizes[first:last])
        batches.append(order[first:last])
        first = last
    return batches


def padded_length(samples: int | np.ndarray, multiple: int) -> int | np.ndarray:
    """`samples` rounded up to a multiple of `multiple`."""
    return -(-samples // multiple) * multiple
