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
from torch.nn import functional

from evar.products import linear

WHOLE_SAMPLES = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Batches of up to so many samples (65 s at 16 kHz on a CPU) go through at once, as they always did, ..."""
WHOLE_CLIP = {"cpu": 1 << 19, "cuda": 1 << 24}
"""... unless a single clip is longer than this (33 s): with it memory grows, and nothing is gained by going at once."""
PIECE_SAMPLES = {"cpu": 1 << 17, "cuda": 1 << 22}
PIECE_FRAMES = {"cpu": 1 << 11, "cuda": 1 << 15}
HEADS = 2  # heads whose keys and values are held at a time


def is_long(x: Tensor) -> bool:
    """Whether a batch [B, N] is worked through in pieces."""
    return x.numel() > _of(WHOLE_SAMPLES, x) or x.shape[1] > _of(WHOLE_CLIP, x)


def _of(sizes: dict[str, int], x: Tensor) -> int:
    return sizes["cpu" if x.device.type == "cpu" else "cuda"]


def standardized(wav: Tensor, lengths: Tensor, eps: float) -> Tensor:
    """Zero mean and unit variance over each clip's own samples, zeros past its end: float32 [B, N], in pieces."""
    piece = _of(PIECE_SAMPLES, wav)
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
    n_frames, piece = (x.shape[1] - field) // hop + 1, _of(PIECE_SAMPLES, x)
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
def in_pieces(model: nn.Module, blocks: nn.ModuleList, features: Tensor, whole: bool) -> Iterator[None]:
    """While it lasts `model.feature_extractor` gives `features`, once, and the Transformer works in pieces.

    whole: all clips of the batch are of one length, so no mask is needed. Blocks of another build (WavLM's with a
    position bias, Conformers) keep their own attention, whose memory grows with the square of the length.
    """
    step = _of(PIECE_FRAMES, features)
    held, changed, spare = [features], list[nn.Module](), list[Tensor]()
    del features

    def change(module: nn.Module, forward: Callable[..., Any]) -> None:
        module.forward = forward  # an attribute of the instance, before the class's own
        changed.append(module)

    try:
        change(model.feature_extractor, lambda *args, **kwargs: held.pop())
        if type(projection := getattr(model, "feature_projection", None)).__name__.endswith("FeatureProjection"):
            change(projection, _noted(_projected(projection.forward, step), spare))
        if (position := _positions(model)) is not None:
            change(position, _noted(_with_margin(position, step), spare))
        for block in blocks:
            if whole and _is_plain(block):
                change(block, _block(block, step, spare))
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
        return _joined(x, step, lambda start, stop: forward(x[:, start:stop]))

    return run


def _projected(forward: Callable[[Tensor], Any], step: int) -> Callable[[Tensor], Any]:
    """The projection of features in pieces; of the normalised features that some give as well, which no layer is, one."""

    def run(x: Tensor) -> Any:
        first = forward(x[:, :1])
        if isinstance(first, tuple):
            return _joined(x, step, lambda start, stop: forward(x[:, start:stop])[0]), *first[1:]
        return _joined(x, step, lambda start, stop: forward(x[:, start:stop]))

    return run


def _noted(forward: Callable[[Tensor], Any], spare: list[Tensor]) -> Callable[[Tensor], Any]:
    """A function whose result, which the model's own code holds on to until the end, is noted as of no later use."""

    def run(x: Tensor) -> Any:
        y = forward(x)
        spare.append(y[0] if isinstance(y, tuple) else y)
        return y

    return run


def _let_go(spare: list[Tensor], x: Tensor) -> None:
    """Free what was noted, but for what shares its memory with x, the frames that the first block is given."""
    for tensor in spare:
        if tensor.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
            tensor.untyped_storage().resize_(0)
    spare.clear()


def _joined(x: Tensor, step: int, piece: Callable[[int, int], Tensor]) -> Tensor:
    """[B, T, D] of what `piece(start, stop)` gives for the frames of x, `step` at a time."""
    out = None
    for start in range(0, x.shape[1], step):
        y = piece(start, min(x.shape[1], start + step))
        if out is None:
            out = y.new_empty(*x.shape[:2], y.shape[2])
        out[:, start : start + step] = y
    return out


def _positions(model: nn.Module) -> nn.Module | None:
    """The positional convolutions of the context network, where they keep the number of frames."""
    found = getattr(getattr(model, "encoder", None), "pos_conv_embed", None)
    if found is None or any(module.stride != (1,) for module in found.modules() if isinstance(module, nn.Conv1d)):
        return None
    return found


def _with_margin(module: nn.Module, step: int) -> Callable[[Tensor], Tensor]:
    """Zero-padded convolutions over frames [B, T, D], for pieces with all that they see on both sides."""
    forward = module.forward
    margin = sum(one.dilation[0] * (one.kernel_size[0] - 1) for one in module.modules() if isinstance(one, nn.Conv1d))

    def run(x: Tensor) -> Tensor:
        def piece(start: int, stop: int) -> Tensor:
            low = max(0, start - margin)
            return forward(x[:, low : stop + margin])[:, start - low : stop - low]

        return _joined(x, step, piece)

    return run


def _is_plain(block: nn.Module) -> bool:
    """Whether a block is attention without a position bias, and a feed-forward part, as wav2vec 2.0's is."""
    attention = getattr(block, "attention", None)
    parts = ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads", "head_dim", "scaling")
    return (
        all(hasattr(attention, name) for name in parts)
        and not any("rel" in name or "pos" in name for name, _ in attention.named_children())
        and all(hasattr(block, name) for name in ("layer_norm", "feed_forward", "final_layer_norm"))
        and type(block).__name__.endswith(("EncoderLayer", "EncoderLayerStableLayerNorm"))
    )


def _block(block: nn.Module, step: int, spare: list[Tensor]) -> Callable[..., Any]:
    """A block that holds its input, its output and one piece, where its own forward holds a dozen times its input."""
    first, adapter = type(block).__name__.endswith("StableLayerNorm"), getattr(block, "adapter_layer", None)
    forward, feed_forward = block.forward, block.feed_forward.forward  # before that is changed

    def run(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        x = hidden_states
        _let_go(spare, x)
        given = _attended(block.attention, x, block.layer_norm if first else None, step)
        for start in range(0, x.shape[1], step):
            y = x[:, start : start + step] + given[:, start : start + step]
            if first:
                y = y + feed_forward(block.final_layer_norm(y))
                y = y if adapter is None else y + adapter(y)
            else:
                y = block.layer_norm(y)
                y = block.final_layer_norm(y + feed_forward(y))
            given[:, start : start + step] = y
        # What transformers' blocks return, a tensor or a tuple of it, differs between versions.
        return (given,) if isinstance(forward(x[:, :1]), tuple) else given

    return run


def _attended(attention: nn.Module, x: Tensor, norm: nn.Module | None, step: int) -> Tensor:
    """Multi-head attention of frames [B, T, D] to each other, some heads and some queries at a time."""
    out, size = torch.zeros_like(x), attention.head_dim
    for head in range(0, attention.num_heads, HEADS):
        rows = slice(head * size, min(attention.num_heads, head + HEADS) * size)

        def split(layer: nn.Module, piece: Tensor, rows: slice = rows) -> Tensor:
            y = linear(piece, layer.weight[rows], None if layer.bias is None else layer.bias[rows])
            return y.unflatten(2, (-1, size))

        def normed(start: int, stop: int) -> Tensor:
            return x[:, start:stop] if norm is None else norm(x[:, start:stop])

        def projected(layer: nn.Module, split: Callable = split) -> Tensor:
            found = _joined(x, step, lambda a, b: split(layer, normed(a, b)).flatten(2))
            return found.unflatten(2, (-1, size)).transpose(1, 2)

        keys, values = projected(attention.k_proj), projected(attention.v_proj)
        weight = attention.out_proj.weight[:, rows].contiguous()
        for start in range(0, x.shape[1], step):
            queries = split(attention.q_proj, normed(start, start + step)).transpose(1, 2)
            seen = functional.scaled_dot_product_attention(queries, keys, values, scale=attention.scaling)
            out[:, start : start + step] += linear(seen.transpose(1, 2).flatten(2), weight, None)
    return out if attention.out_proj.bias is None else out.add_(attention.out_proj.bias)
