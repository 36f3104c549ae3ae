"""What an encoder accepts: every clip, length and statistic is checked once, here, before any arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evar.errors import EvarError

LOUDEST = 1000.0
"""A sample beyond this is no audio in [-1, 1]: most likely integers turned into floats without scaling."""


def checked_audio(
    wav: Any, lengths: Any, min_samples: int, device: torch.device, label: str
) -> tuple[Tensor, Tensor, bool]:
    """Check a batch and bring it into the form that encoders compute on.

    Returns float32 [B, N] with zeros past each clip's end, int64 [B] lengths, both on `device`, and whether a single
    clip [N] was given. Clips shorter than `min_samples` are zero-padded: their length becomes `min_samples`.
    Raises EvarError for another type or shape, integers, NaN or infinity, empty clips, lengths out of range.
    """
    wav = _checked_tensor(wav, label)
    single = wav.ndim == 1
    if single:
        wav = wav[None]
    if wav.shape[0] == 0 or wav.shape[1] == 0:
        raise EvarError(f"{label}: empty audio: expected clips of at least one sample, found shape {_shape(wav)}")
    lengths, shortest, longest = _checked_lengths(lengths, wav, label)
    wav, lengths = wav[:, :longest].to(device, torch.float32), lengths.to(device)
    if shortest < longest:
        wav = wav.masked_fill(torch.arange(longest, device=device) >= lengths[:, None], 0.0)
    low, high = torch.stack(wav.aminmax()).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = torch.nonzero(~torch.isfinite(wav).all(dim=1))[0].item()
        raise EvarError(f"{label}: clip {bad} of the batch holds NaN or infinity: expected samples in [-1, 1]")
    if max(-low, high) > LOUDEST:
        raise EvarError(
            f"{label}: samples reach {max(-low, high):g}: expected about [-1, 1] (16-bit samples are divided by 32768)"
        )
    if shortest < min_samples:
        wav = torch.nn.functional.pad(wav, (0, max(0, min_samples - longest)))
        lengths = lengths.clamp(min=min_samples)
    return wav, lengths, single


def checked_rate(rate: Any, what: str) -> int:
    """A sample rate in Hz as a whole number above 0; EvarError that begins with `what` (who says it) for anything else."""
    try:
        whole = int(rate)
        right = whole == rate and whole > 0 and not isinstance(rate, bool)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        right = False
    if not right:
        raise EvarError(f"{what} is a whole number of Hz above 0, found {rate!r}")
    return whole


def checked_normalization(stats: Mapping[str, float], label: str) -> dict[str, float]:
    """{"mean": float, "std": float} with a positive std, or EvarError."""
    try:
        mean, std = float(stats["mean"]), float(stats["std"])
        right = set(stats) == {"mean", "std"} and math.isfinite(mean) and math.isfinite(std) and std > 0
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise EvarError(
            f'{label}: normalisation statistics are {{"mean": number, "std": number above 0}}, found {stats!r}'
        )
    return {"mean": mean, "std": std}


def _checked_tensor(wav: Any, label: str) -> Tensor:
    if isinstance(wav, np.ndarray):
        # Copies what torch cannot share: read-only memory maps, negative strides, foreign byte order.
        if wav.dtype.kind == "f":
            wav = np.asarray(wav, dtype=wav.dtype.newbyteorder("="))
            shared = wav.flags.writeable and all(stride >= 0 for stride in wav.strides)
            wav = wav if shared else wav.copy()
        dtype = str(wav.dtype)
        wav = torch.from_numpy(wav) if dtype in ("float32", "float64") else wav
    elif isinstance(wav, Tensor):
        dtype = str(wav.dtype).removeprefix("torch.")
    else:
        raise EvarError(f"{label}: expected audio as a numpy array or torch tensor, found {type(wav).__name__}")
    if dtype not in ("float32", "float64"):
        advice = ": divide 16-bit samples by 32768" if "int" in dtype else ""
        raise EvarError(f"{label}: expected float32 samples in [-1, 1], found {dtype}{advice}")
    if wav.ndim == 3:
        raise EvarError(
            f"{label}: expected mono clips [B, N], found [B, channels, N] = {_shape(wav)}: stereo: average the channels"
        )
    if wav.ndim not in (1, 2):
        raise EvarError(f"{label}: expected clips [B, N] or one clip [N], found shape {_shape(wav)}")
    return wav.detach()


def _checked_lengths(lengths: Any, wav: Tensor, label: str) -> tuple[Tensor, int, int]:
    """Lengths as int64 [B] on the CPU, the shortest and the longest."""
    batch, n_samples = wav.shape
    if lengths is None:
        return torch.full((batch,), n_samples), n_samples, n_samples
    try:
        lengths = torch.as_tensor(lengths).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise EvarError(f"{label}: lengths are whole numbers of samples, found {type(lengths).__name__}") from None
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        raise EvarError(f"{label}: lengths are whole numbers of samples, found {lengths.dtype}")
    if lengths.ndim == 0:
        lengths = lengths[None]
    if lengths.shape != (batch,):
        raise EvarError(f"{label}: expected one length for each of {batch} clips, found shape {_shape(lengths)}")
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest < 1 or longest > n_samples:
        wrong = shortest if shortest < 1 else longest
        raise EvarError(f"{label}: a clip's length is {wrong} samples: expected 1 to {n_samples}")
    return lengths.long(), shortest, longest


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
