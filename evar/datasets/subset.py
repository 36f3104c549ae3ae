"""Choosing a smaller set of clips that keeps the shares of classes and parts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame, Series


def stratified(clips: DataFrame, n: int, seed: int) -> list[int]:
    """Row numbers (ascending) of `n` clips, stratified over class × split or fold; needs 0 < n < len(clips).

    A multi-label clip counts for its rarest label. The n places are shared by largest remainder, each stratum first
    getting one where n allows; inside a stratum, and among strata of equal claim, sha1 of seed and clip id decides.
    """
    part = "fold" if "fold" in clips else "split"
    labels = clips["label"] if "label" in clips else _rarest_labels(clips["labels"])
    drawn = [hashlib.sha1(f"{seed}/{clip_id}".encode()).hexdigest() for clip_id in clips["clip_id"]]
    strata: dict[tuple, list[int]] = {}
    for row in sorted(range(len(drawn)), key=drawn.__getitem__):
        strata.setdefault((labels.iloc[row], clips[part].iloc[row]), []).append(row)
    sizes = _shares([len(rows) for rows in strata.values()], n)
    return sorted(row for rows, size in zip(strata.values(), sizes, strict=True) for row in rows[:size])


def by_group(groups: Series, fraction: float) -> Series:
    """A boolean per clip: whole groups, in sha1 order of their names, until they hold `fraction` of the clips."""
    order = sorted(groups.unique(), key=lambda name: hashlib.sha1(str(name).encode()).hexdigest())
    sizes, chosen, count = groups.value_counts(), set(), 0
    for name in order:
        if count >= fraction * len(groups) or len(chosen) + 1 == len(order):
            break
        chosen.add(name)
        count += sizes[name]
    return groups.isin(chosen)


def _shares(sizes: list[int], n: int) -> list[int]:
    """`n` places over strata of `sizes`: one each, the rest in proportion; earlier strata win ties."""
    if n < len(sizes):
        return [1] * n + [0] * (len(sizes) - n)
    rest, total = n - len(sizes), sum(sizes) - len(sizes)
    exact = [rest * (size - 1) / max(total, 1) for size in sizes]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: rest - sum(shares)]:
        shares[i] += 1
    return [1 + share for share in shares]


def _rarest_labels(labels: Series) -> Series:
    counts = labels.explode().value_counts()
    return labels.map(lambda names: min(names, key=lambda name: (counts[name], name)) if names else "")
