"""Convolutional encoders and Transformers over clips of many minutes, a piece of the time after the other.

A waveform encoder makes 1 GB a minute of its first convolution alone. Its convolutions are not padded, so pieces that
overlap by the field of a frame give the same frames; a normalisation over time takes its statistics from a first pass.
What a block does frame by frame is done for some frames at a time; attention sees all frames, a few queries at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

WHOLE_SAMPLES = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Batches of up to so many samples (65 s at 16 kHz on a CPU) go through at once, as they always did."""
PIECE_SAMPLES = {"cpu": 1 << 17, "cuda": 1 << 22}
PIECE_FRAMES = {"cpu": 1 << 11, "cuda": 1 << 15}


def is_long(x: Tensor) -> bool:
    """Whether a batch [B, N] is worked through in pieces."""
    return x.numel() > WHOLE_SAMPLES.get(x.device.type, WHOLE_SAMPLES["cuda"])


def standardized(wav: Tensor, lengths: Tensor, eps: float) -> Tensor:
    """Zero mean and unit variance over each clip's own samples, zeros past its end: float32 [B, N], in pieces."""
    piece = PIECE_SAMPLES.get(wav.device.type, PIECE_SAMPLES["cuda"])
    out = torch.zeros_like(wav)
    for row, length in enumerate(lengths.tolist()):
        pieces = wav[row, :length].split(piece)
        mean = sum(one.double().sum() for one in pieces) / length
        variance = sum((one.double() - mean).square_().sum() for one in pieces) / length
        for one, target in zip(pieces, out[row, :length].split(piece), strict=True):
            target.copy_((one.double() - mean) / (variance + eps).sqrt())
    return out


def features_in_pieces(extractor: nn.Module, x: Tensor, hop: int, field: int) -> Tensor:
    """`extractor(x)`, float32 [B, N] -> [B, C, T], row by row and piece by piece.

    extractor: a feature encoder of the wav2vec 2.0 family (`conv_layers`, each a `conv` without padding, a
    normalisation or none, an activation). hop, field: samples between its frames and under one frame. An extractor of
    another build is run at once.
    """
    layers = getattr(extractor, "conv_layers", None)
    if layers is None or not _in_pieces(layers):
        return extractor(x)
    n_frames, piece = (x.shape[1] - field) // hop + 1, PIECE_SAMPLES.get(x.device.type, PIECE_SAMPLES["cuda"])
    step, out = max(1, piece // hop), None
    for row in range(len(x)):
        first = _first_layer(layers[0], x[row : row + 1], piece)
        for start in range(0, n_frames, step):
            stop = min(n_frames, start + step)
            y = first(x[row : row + 1, None, start * hop : (stop - 1) * hop + field])
            for layer in layers[1:]:
                y = layer(y)
            if out is None:
                out = y.new_empty(len(x), y.shape[1], n_frames)
            out[row, :, start:stop] = y[0]
    return out


def _in_pieces(layers: nn.ModuleList) -> bool:
    """Whether every convolution is without padding, and none but the first is normalised over time."""
    convolutions = [getattr(layer, "conv", None) for layer in layers]
    if not all(isinstance(conv, nn.Conv1d) and tuple(conv.padding) == (0,) for conv in convolutions):
        return False
    over_time = [
        any(isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm) for module in layer.modules())
        for layer in layers
    ]
    norm = getattr(layers[0], "layer_norm", None)
    return not any(over_time[1:]) and (not over_time[0] or _per_channel(norm))


def _per_channel(norm: nn.Module | None) -> bool:
    return isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels


def _first_layer(layer: nn.Module, x: Tensor, piece: int) -> Callable[[Tensor], Tensor]:
    """The first layer for pieces of the clip x [1, N]; where it normalises over time, by the statistics of all of x."""
    norm = getattr(layer, "layer_norm", None)
    if not _per_channel(norm):
        return layer
    (size,), (hop,) = layer.conv.kernel_size, layer.conv.stride
    n_frames, step = (x.shape[1] - size) // hop + 1, max(1, piece // hop)
    count, mean, squares = 0, 0.0, 0.0
    for start in range(0, n_frames, step):
        n = min(n_frames, start + step) - start
        y = layer.conv(x[:, None, start * hop : (start + n - 1) * hop + size])
        variance, average = (value.double() for value in torch.var_mean(y.float(), dim=2, correction=0))
        delta = average - mean  # Chan, Golub, LeVeque (1979)
        squares = squares + variance * n + delta.square() * (count * n / (count + n))
        mean = mean + delta * (n / (count + n))
        count += n
    scale = (squares / count + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    scale, shift = scale.float()[..., None], shift.float()[..., None]
    return lambda piece: layer.activation((layer.conv(piece) * scale).add_(shift))


@contextlib.contextmanager
def in_pieces(model: nn.Module, blocks: nn.ModuleList, features: Tensor) -> Iterator[None]:
    """While it lasts `model.feature_extractor` gives `features`, and the blocks' frame-wise parts run piece by piece."""
    step = PIECE_FRAMES.get(features.device.type, PIECE_FRAMES["cuda"])
    changed: list[nn.Module] = []

    def change(module: nn.Module, forward: Callable[..., Any]) -> None:
        module.forward = forward  # an attribute of the instance, before the class's own
        changed.append(module)

    try:
        change(model.feature_extractor, lambda *args, **kwargs: features)
        for module in blocks.modules():
            if hasattr(module, "intermediate_dense") and hasattr(module, "output_dense"):
                change(module, _by_frames(module.forward, step))
        yield
    finally:
        for module in changed:
            del module.forward


def _by_frames(forward: Callable[[Tensor], Tensor], step: int) -> Callable[[Tensor], Tensor]:
    """A function of frames [B, T, D] that treats each frame alone, for `step` frames at a time."""

    def run(x: Tensor) -> Tensor:
        out = None
        for start in range(0, x.shape[1], step):
            y = forward(x[:, start : start + step])
            if out is None:
                out = y.new_empty(*x.shape[:2], y.shape[2])
            out[:, start : start + step] = y
        return out

    return run
