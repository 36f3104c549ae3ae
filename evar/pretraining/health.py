"""Is the network collapsing? Two numbers of a batch of embeddings that say so while it trains."""

from __future__ import annotations

import torch
from torch import Tensor

COLLAPSED_STD = 0.05
"""Below this the embeddings of different clips are as good as one vector."""


def embedding_std(embeddings: Tensor) -> float:
    """Spread of l2-normalised embeddings [B, D] over the batch, per dimension, times sqrt(D): 1 random, 0 collapsed."""
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    return float(unit.std(dim=0, correction=0).square().mean().sqrt() * unit.shape[1] ** 0.5)


def uniformity(embeddings: Tensor) -> float:
    """log E exp(-2 |x - y|^2) over pairs of l2-normalised embeddings (Wang and Isola, ICML 2020): 0 is collapsed."""
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    if len(unit) < 2:
        return 0.0
    return float(torch.pdist(unit).square().mul(-2).exp().mean().log())
