"""Batch normalisation over all processes, on any device (PyTorch's own SyncBatchNorm needs a GPU)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes; its gradient is summed over them too."""
    if world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)


def remember(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics as nn.BatchNorm does: `variance` is the population's, the running one unbiased."""
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean.detach().to(norm.running_mean.dtype), norm.momentum)
        unbiased = variance.detach() * (count / max(count - 1, 1))
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)


def batch_norm(x: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """`norm(x)` in training mode, with the statistics of all processes' batches; channels are dimension 1.

    One process alone takes PyTorch's own kernel, which gives the same numbers.
    """
    if world_size() == 1 or not norm.training:
        return norm(x)
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    values = x.float()
    local = torch.cat([values.sum(dims), values.square().sum(dims), values.new_tensor([x.numel() / x.shape[1]])])
    total = all_sum(local)
    channels = x.shape[1]
    count = total[-1].detach()
    mean = total[:channels] / count
    variance = (total[channels:-1] / count - mean.square()).clamp(min=0.0)
    remember(norm, mean, variance, int(count))
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return torch.addcmul((norm.bias - mean * scale).view(shape), values, scale.view(shape)).to(x.dtype)


class BatchNorm1d(nn.BatchNorm1d):
    """nn.BatchNorm1d whose batch is that of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C] -> [B, C]."""
        return super().forward(x) if world_size() == 1 or not self.training else batch_norm(x, self)
