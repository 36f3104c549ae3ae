"""A split drawn over class folders: the same every time, and with a test clip in every class."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING

from evar.audio.listing import counted, shortened
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame


def drawn(clips: DataFrame, task: str, folds: int | None) -> list[str]:
    """Fold or part of each clip, dealt within its class in the order of sha1(clip id).

    Parts: of each ten clips of a class the ninth is valid, the tenth test; of a class of 3 to 9 the last is test, the one
    before valid; of two one is trained on, one tested. Folds: in turn; classes with fewer clips than folds go on where
    the one before stopped. EvarError for a class of one clip, a warning for those without a valid clip or with fewer
    clips than folds.
    """
    order = clips["clip_id"].map(lambda clip_id: hashlib.sha1(clip_id.encode()).hexdigest())
    ranks = (order.groupby(clips["label"]).rank(method="first").astype(int) - 1).tolist()
    sizes = clips["label"].value_counts().sort_index().to_dict()
    single = [label for label, n in sizes.items() if n == 1]
    if single:
        raise EvarError(
            f"{task}: a split cannot be drawn: {shortened(single)} {'have' if len(single) > 1 else 'has'} one clip, "
            "and a class needs one to train and one to test; add clips, or options: "
            f"{{leave_out: [{', '.join(single[:3])}]}}"
        )
    small = {label: n for label, n in sizes.items() if n < (folds or 3)}
    if small:
        named = shortened([f"{label}: {n}" for label, n in small.items()], 5)
        lack = "clips in every fold (not tested in each)" if folds else "a valid clip"
        warnings.warn(f"{task}: the drawn split: {counted('classes', len(small))} too small for {lack}: {named} clips")
    if folds:
        starts, at = {}, 0
        for label, n in small.items():
            starts[label], at = at, at + n
        return [
            str((starts.get(label, 0) + rank) % folds + 1) for label, rank in zip(clips["label"], ranks, strict=True)
        ]
    return [_part(rank, sizes[label]) for label, rank in zip(clips["label"], ranks, strict=True)]


def _part(rank: int, n: int) -> str:
    """Part of the clip at `rank` (from 0) of a class of `n` clips."""
    if n >= 10:
        return {8: "valid", 9: "test"}.get(rank % 10, "train")
    return "test" if rank == n - 1 else "valid" if rank == n - 2 and n > 2 else "train"
