"""From frames to one vector per clip: pooling over valid frames only, and fusion of layers of different rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evar.errors import EvarError, unknown

POOLINGS = {"mean": 1, "max": 1, "std": 1, "mean+max": 1, "mean_std": 2, "cls": 1}
"""Name -> how many times the layer's dimension the pooled vector has."""


@dataclass(frozen=True)
class Frames:
    """One layer's frames for a batch. Rows at and past `valid` are padding: their content means nothing.

    features: float32 [B, T, D]; times_ms: float32 [T], where each frame is centred; valid: int64 [B], 1..T.
    summary: float32 [B, D], the layer's own token for the whole clip (pooling `cls`), None where it has none.
    """

    features: Tensor
    times_ms: Tensor
    valid: Tensor
    summary: Tensor | None = None


def pooled_dim(pooling: str, dim: int) -> int:
    """Size of a `dim`-dimensional layer after `pooling`; EvarError for an unknown pooling."""
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    return dim * POOLINGS[pooling]


def pool(frames: Frames, pooling: str) -> Tensor:
    """Pool valid frames over time: [B, T, D] -> [B, D] (`mean_std`: [B, 2 D]).

    `mean+max` is the sum of the two, as in BYOL-A (arXiv 2204.07402); `std` is the population's, 0 for one frame;
    `cls` is the layer's summary token, EvarError where it has none.
    """
    pooled_dim(pooling, 1)
    if pooling == "cls":
        if frames.summary is None:
            raise EvarError("pooling 'cls': this layer has no summary token: choose mean, max or mean+max")
        return frames.summary
    x, n_frames = frames.features, frames.features.shape[1]
    count = frames.valid.clamp(min=1).to(x.dtype)[:, None]
    padding = None
    if not bool((frames.valid == n_frames).all()):
        padding = (torch.arange(n_frames, device=x.device) >= frames.valid[:, None])[..., None]

    def mean(values: Tensor) -> Tensor:
        return (values if padding is None else values.masked_fill(padding, 0.0)).sum(dim=1) / count

    def maximum() -> Tensor:
        return (x if padding is None else x.masked_fill(padding, -torch.inf)).amax(dim=1)

    if pooling == "max":
        return maximum()
    average = mean(x)
    if pooling == "mean":
        return average
    if pooling == "mean+max":
        return average + maximum()
    deviation = mean((x - average[:, None]).square()).sqrt()
    return deviation if pooling == "std" else torch.cat([average, deviation], dim=1)


def fuse(layers: Sequence[Frames], hops_ms: Sequence[float]) -> Frames:
    """Concatenate layers along features, the finer ones first averaged in time to the coarsest one's rate.

    Multilayer fusion of Niizumi et al. (EUSIPCO 2022). Rates must be whole multiples of each other (EvarError).
    """
    if len(layers) == 1:
        return layers[0]
    coarsest = max(range(len(layers)), key=lambda i: hops_ms[i])
    averaged = [_averaged(frames, hops_ms[coarsest] / hop) for frames, hop in zip(layers, hops_ms, strict=True)]
    n_frames = min(frames.features.shape[1] for frames in averaged)
    return Frames(
        torch.cat([frames.features[:, :n_frames] for frames in averaged], dim=2),
        layers[coarsest].times_ms[:n_frames],
        torch.stack([frames.valid for frames in averaged]).amin(dim=0).clamp(max=n_frames),
        summary_of([frames.summary for frames in layers], dim=1),
    )


def summary_of(summaries: Sequence[Tensor | None], dim: int) -> Tensor | None:
    """Summary tokens concatenated along `dim`; None unless all are there."""
    return None if any(summary is None for summary in summaries) else torch.cat(list(summaries), dim=dim)


def _averaged(frames: Frames, ratio: float) -> Frames:
    """Average every `ratio` frames; the last group of a clip is the mean of the valid frames that it has."""
    step = round(ratio)
    if abs(ratio - step) > 1e-6:
        raise EvarError(f"cannot fuse layers whose frame rates differ by {ratio:g}: choose layers of whole multiples")
    if step == 1:
        return frames
    x = frames.features
    batch, n_frames, dim = x.shape
    n_groups = -(-n_frames // step)
    padding = torch.arange(n_frames, device=x.device) >= frames.valid[:, None]
    x = torch.nn.functional.pad(x.masked_fill(padding[..., None], 0.0), (0, 0, 0, n_groups * step - n_frames))
    starts = torch.arange(n_groups, device=x.device) * step
    count = (frames.valid[:, None] - starts).clamp(1, step).to(x.dtype)
    averages = x.view(batch, n_groups, step, dim).sum(dim=2) / count[..., None]
    return Frames(averages, frames.times_ms[::step], (frames.valid + step - 1) // step)


def frame_times(n_frames: int, hop_ms: float, device: torch.device, first_ms: float = 0.0) -> Tensor:
    """Times of `n_frames` frames, `hop_ms` apart, in ms: float32 [T]; the first is centred on `first_ms`."""
    return torch.arange(n_frames, device=device, dtype=torch.float32) * hop_ms + first_ms
