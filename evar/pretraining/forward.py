"""The BYOL-A encoder's training pass: what `Byola.network` computes in training mode, faster on a CPU.

The first block is most of the memory traffic: 64 channels at full resolution, of an image with one. But a convolution
of one channel is a product with 9 shifted copies of the image, so the mean and variance of its output follow from the
mean and covariance of those 9 values, and batch normalisation is known before anything is convolved. It is folded into
the kernel, and convolution, pooling and ReLU are done tile by tile inside the cache; the backward pass computes the
tiles again. The input needs no gradient, so the kernel's is one more product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evar.encoders.byola import Byola
from evar.pretraining.norms import all_sum, batch_norm, remember

TILE = 2048
"""Pooled pixels per tile: four products of [2048, 9] by [9, 64] and their maximum stay in the second-level cache."""


@dataclass(frozen=True)
class Patches:
    """A batch of images [B, H, W] as the 3x3 neighbourhoods of its pixels, shared by the networks that see it.

    values: [4, B * H/2 * W/2, 10], the four pixels of each pooling window apart; the tenth value is 1, for the bias.
    mean [9], covariance [9, 9]: float32, over all pixels (of all processes). count: pixels. shape: (B, H/2, W/2).
    """

    values: Tensor
    mean: Tensor
    covariance: Tensor
    count: int
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, x: Tensor, dtype: torch.dtype) -> Patches:
        """Patches of float32 images [B, H, W]; a last odd row or column meets no pooling window and is refused."""
        batch, height, width = x.shape
        if height % 2 or width % 2:
            raise ValueError(f"expected even image sizes, found {height} x {width}")
        windows = functional.pad(x, (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
        windows = windows.view(batch, height // 2, 2, width // 2, 2, 3, 3).permute(2, 4, 0, 1, 3, 5, 6)
        values = x.new_ones(*windows.shape[:5], 10)
        values[..., :9].unflatten(-1, (3, 3)).copy_(windows)
        values = values.view(4, -1, 10)
        flat = values.view(-1, 10)
        with torch.autocast(x.device.type, enabled=False):  # statistics are float32 in any precision
            total = all_sum((flat.T @ flat).double())
        count = int(total[9, 9])
        mean, second = total[9, :9] / count, total[:9, :9] / count
        covariance = second - mean[:, None] * mean
        return cls(values.to(dtype), mean.float(), covariance.float(), count, (batch, height // 2, width // 2))


class _ConvolvePool(torch.autograd.Function):
    """relu(max over the four pixels of a window of patch @ kernel): [4, M, 10], [10, C] -> [M, C]."""

    @staticmethod
    def forward(ctx, patches: Tensor, kernel: Tensor) -> Tensor:  # noqa: ANN001 (torch's own signature)
        kernel = kernel.to(patches.dtype)
        pooled = torch.empty(patches.shape[1], kernel.shape[1], dtype=patches.dtype, device=patches.device)
        for start in range(0, patches.shape[1], TILE):
            y = patches[:, start : start + TILE] @ kernel
            torch.amax(y, 0, out=pooled[start : start + TILE]).relu_()
        ctx.save_for_backward(patches, kernel, pooled)
        return pooled

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:  # noqa: ANN001
        patches, kernel, pooled = ctx.saved_tensors
        to_kernel = torch.zeros(kernel.shape, dtype=torch.float32, device=kernel.device)
        for start in range(0, patches.shape[1], TILE):
            part, top = patches[:, start : start + TILE], pooled[start : start + TILE]
            y = part @ kernel
            winners = y.eq_(y.amax(0))  # in place: ones and zeros of y's own type, which needs no pass to convert
            to_top = torch.ops.aten.threshold_backward(gradient[start : start + TILE], top, 0)
            # Pixels that tie (a cropped view's empty border) share the gradient.
            winners *= to_top / winners.sum(0)
            to_kernel += (part.flatten(0, 1).T @ winners.flatten(0, 1)).float()
        return None, to_kernel


def first_block(patches: Patches, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Convolution, batch normalisation with this batch's statistics, ReLU, 2x2 maximum: [B, C, H/2, W/2]."""
    kernel = conv.weight.flatten(1)
    with torch.autocast(kernel.device.type, enabled=False):
        mean = kernel @ patches.mean
        variance = ((kernel @ patches.covariance) * kernel).sum(1).clamp(min=0.0)
    remember(norm, mean + conv.bias, variance, patches.count)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    folded = torch.cat([kernel * scale[:, None], (norm.bias - mean * scale)[:, None]], dim=1)
    pooled = _ConvolvePool.apply(patches.values, folded.T)
    return pooled.view(*patches.shape, -1).permute(0, 3, 1, 2)


def frame_embeddings(encoder: Byola, view: Tensor | Patches) -> Tensor:
    """`encoder.network(view)` in training mode: [B, T', d] of log-mel [B, 64, T] or, on a CPU, of its `Patches`.

    A view or patches in bfloat16 go through in bfloat16; the parameters stay float32.
    """
    if isinstance(view, Tensor):
        if view.dtype != torch.bfloat16:
            return encoder.network(view)
        with torch.autocast(view.device.type, torch.bfloat16):
            return encoder.network(view)
    x = first_block(view, encoder.features[0], encoder.features[1])
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        for i in range(4, len(encoder.features), 4):
            x = batch_norm(encoder.features[i](x), encoder.features[i + 1])
            x = functional.relu(
                functional.max_pool2d(x, 2)
            )  # the same as the maximum of ReLUs, at a quarter of the cost
        return encoder._embed(x.permute(0, 3, 2, 1).flatten(2))
