"""The arithmetic that a network runs in: full float32, bf16 under autocast, and either of them through torch.compile."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evar.errors import EvarError

if TYPE_CHECKING:
    from evar.encoders.base import Encoder

RECOMPILE_LIMIT = 32
"""Forms of one part (block by block, with and without padding, one clip or more) that are compiled before PyTorch gives
up on it; lengths are no forms: from the second one on they are variables of the compiled code."""


def arithmetic_name(precision: str, compiled: bool) -> str:
    """What rows and stored sets call it: `fp32`, `bf16`, `fp32-compiled`, `bf16-compiled`."""
    return precision + ("-compiled" if compiled else "")


def check_arithmetic(encoder: Encoder, precision: str, compiled: bool) -> None:
    """EvarError where the encoder, its device or this machine cannot compute so."""
    if precision not in encoder.precisions:
        raise EvarError(
            f"{encoder.label} computes in {' or '.join(encoder.precisions)} only: leave --precision {precision} out,"
            " or measure it in a run of its own"
        )
    if precision == "bf16" and encoder.device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise EvarError(f"{torch.cuda.get_device_name(encoder.device)} has no bf16: leave --precision bf16 out")
    if not compiled:
        return
    if not encoder.compiled_parts:
        raise EvarError(
            f"{encoder.label} has no part that is given to torch.compile: leave --compile out, or measure it in a run of"
            " its own"
        )
    if reason := _why_not(encoder.device.type):
        raise EvarError(
            f"--compile: torch.compile does not work on this machine ({reason}): install a C++ compiler (g++, or name one"
            " in CXX), or leave --compile out"
        )


def in_arithmetic(encoder: Encoder, precision: str = "fp32", compiled: bool = False) -> Encoder:
    """An encoder that shares the weights of this one and computes otherwise; itself for plain float32.

    bf16: the author's code runs under autocast; the front ends of `evar.audio` stay in float32, and so does what comes
    out. compiled: `compiled_parts` go through torch.compile, which takes up to minutes at the first batch of each form.
    Take fingerprints from the original: the arithmetic is no part of them. Raises EvarError as `check_arithmetic` does.
    """
    check_arithmetic(encoder, precision, compiled)
    if precision == "fp32" and not compiled:
        return encoder
    twin = copy.copy(encoder)
    twin._precision = precision
    if compiled:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
        for name in twin.compiled_parts:
            setattr(twin, name, torch.compile(getattr(twin, name)))
    return twin


def exact(device: torch.device) -> contextlib.AbstractContextManager:
    """cuDNN convolutions without TF32 (3 digits) and without algorithms that differ from run to run."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def in_float32(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """A network's outputs by layer (`Frames`, or [B, D]) as float32: pooling and fusion are exact in any precision."""

    def whole(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.float()
        summary = None if value.summary is None else value.summary.float()
        return replace(value, features=value.features.float(), summary=summary)

    return {layer: whole(value) for layer, value in outputs.items()}


@functools.cache
def _why_not(device: str) -> str:
    """Why torch.compile fails with the simplest of functions on this kind of device; empty where it works."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no GPU is no news
    try:
        torch.compile(_one_more)(torch.zeros(8, device=device))
    except Exception as error:  # of dynamo, of the C++ compiler, of Triton
        reason = str(error).strip().partition("\n")[0]
        return f"{type(error).__name__}: {reason}"
    return ""


def _one_more(x: Tensor) -> Tensor:
    return x + 1
