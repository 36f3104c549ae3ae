"""A user's plain `torch.nn.Module` as an encoder: `sample_rate`, and a forward from audio to vectors or frames."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from evar.encoders.base import CLIP, Encoder, Frames
from evar.encoders.foreign import (
    calling,
    declared_corpora,
    declared_rate,
    finite_floats,
    model_source,
    probe_noise,
    shortest_clip,
)
from evar.encoders.weights import load_by_name, read_weights
from evar.errors import EvarError

PROBE_SECONDS = (1, 5)
"""Noise of two lengths shows whether a module gives frames that follow the time, and how far apart they are."""


def encoder_class(found: Any, name: str) -> type[PlainModule]:
    """The encoder class around a user's nn.Module class, or around a function that builds a module (or an Encoder).

    It counts as code of the user's module: its file is in the fingerprint. Raises EvarError for any other object.
    """
    is_class = isinstance(found, type) and issubclass(found, nn.Module)
    if not is_class and not inspect.isfunction(found):
        kinds = "a subclass of evar.Encoder or torch.nn.Module, or a function that builds one"
        raise EvarError(f"{name} is no encoder: expected {kinds}, found {found!r}")
    signature = inspect.signature(found)
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    required = [p.name for p in signature.parameters.values() if p.default is p.empty and p.kind not in kinds]
    if required and not is_class:
        raise EvarError(
            f"{name} is no encoder: a function that builds one is called without arguments, and {found.__name__} asks"
            f" for {', '.join(required)}: give them defaults"
        )
    return _class_of(found, name, staticmethod(found), signature)


def as_encoder(module: nn.Module) -> PlainModule:
    """The encoder around a module that is built already; EvarError where it cannot be one."""
    return _class_of(type(module), type(module).__name__, None, inspect.signature(PlainModule))(module)


def _class_of(found: Any, name: str, make: Any, signature: inspect.Signature) -> type[PlainModule]:
    named = {
        "__module__": found.__module__,
        "__qualname__": found.__qualname__,
        "__signature__": signature,  # what `load_encoder(name, **options)` checks options against
        "__doc__": found.__doc__,
        "name": found.__name__,
        "spec": name,
        "make": make,
    }
    return type(found.__name__, (PlainModule,), named)


class PlainModule(Encoder):
    """`module(wav float32 [B, N])` gives float32 [B, D] (layer `output`, one vector per clip) or [B, T, D] (frames).

    Which of the two, the dimension, the hop and the shortest clip are measured on noise. A plain module knows no
    lengths, so clips of one length go together; frames are pooled by their mean, and lie symmetrically in the clip.
    Its weights, attributes, source and what that imports beside it are in the fingerprint (`evar.encoders.foreign`).
    """

    version = 1
    default_layers = ("output",)
    equal_lengths_only = True
    spec: ClassVar[str]
    make: ClassVar[Callable[..., Any] | None]

    @classmethod
    def from_weights(cls, weights: str | None, **options: Any) -> Encoder:
        """Build the user's module with `options`, and load a state dict into it by the names of its tensors.

        Raises EvarError: not a module, no `sample_rate`, tensors missing or of other shapes, wrong output on noise.
        """
        with contextlib.redirect_stdout(sys.stderr):  # what a module prints is no part of `--format json`
            made = cls.make(**options)
        if isinstance(made, Encoder):
            if weights is not None:
                raise EvarError(f"{cls.spec} builds its encoder by itself: remove '@{weights}', or name the class")
            return made
        if not isinstance(made, nn.Module):
            raise EvarError(f"{cls.spec} is no encoder: it gives a {type(made).__name__}, expected a torch.nn.Module")
        return cls(made, weights, options)

    def __init__(self, module: nn.Module, weights: str | None = None, options: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.sample_rate = declared_rate(module, self.spec)
        self.trained_on = declared_corpora(module, self.spec)
        if weights is not None:
            found = read_weights(weights)
            load_by_name(module, found, self.spec)
            self.weights_kind, self.weights_sha256 = "trained", found.sha256
        self.module, self.options = module, dict(options or {})
        self.layers, self.hop_ms = {}, {}
        self.settings = {"source": model_source(sys.modules.get(type(self).__module__), [module])}
        self._measure()

    def _measure(self) -> None:
        """Fill in the layer, its hop and the shortest clip."""
        short_s, long_s = PROBE_SECONDS
        with self._frozen(), contextlib.redirect_stdout(sys.stderr):
            short = self._output(probe_noise(2, short_s * self.sample_rate, self.device))
            long = self._output(probe_noise(1, long_s * self.sample_rate, self.device))
            self.layers, shapes = {"output": short.shape[-1]}, [list(short.shape[1:]), list(long.shape[1:])]
            if short.shape[2:] != long.shape[2:] or (short.ndim == 2 and short.shape[1] != long.shape[1]):
                raise EvarError(
                    f"{self.spec}: the size of its output depends on the clip's length: {shapes[0]} for {short_s} s,"
                    f" {shapes[1]} for {long_s} s: expected [D], or [T, D] with one D"
                )
            if short.ndim == 2:
                self.default_pooling = CLIP
            elif long.shape[1] <= short.shape[1]:
                raise EvarError(
                    f"{self.spec}: {shapes[0]} for {short_s} s and {shapes[1]} for {long_s} s: expected frames [T, D]"
                    " that follow the time, or one vector [D] for each clip"
                )
            else:
                self.default_pooling = "mean"
                hop = 1000.0 * (long_s - short_s) / (long.shape[1] - short.shape[1])
                self.hop_ms = {"output": round(hop, 3)}
            self.min_samples = shortest_clip(self.sample_rate, lambda n: self._output(probe_noise(1, n, self.device)))

    def _clip(self, wav: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return {"output": self._output(wav)}

    def _frames(self, wav: Tensor, lengths: Tensor) -> dict[str, Frames]:
        features, hop = self._output(wav), self.hop_ms["output"]
        n_frames, duration = features.shape[1], 1000.0 * wav.shape[1] / self.sample_rate
        times = (duration - (n_frames - 1) * hop) / 2 + hop * torch.arange(n_frames, device=wav.device)
        return {"output": Frames(features, times.float(), torch.full((len(wav),), n_frames, device=wav.device))}

    def _output(self, wav: Tensor) -> Tensor:
        """What the module gives, float32 [B, D] or [B, T, D] on the device of wav; EvarError for anything else."""
        with calling(f"{self.spec}: forward failed on {list(wav.shape)} samples"):
            output = self.module(wav)
        what = f"{self.spec}: forward(wav {list(wav.shape)})"
        output = finite_floats(output, what, wav.device)
        n_dims = (2, 3) if not self.layers else (3 if self.hop_ms else 2,)
        if output.ndim not in n_dims or output.shape[0] != len(wav) or 0 in output.shape:
            raise EvarError(
                f"{what} gives the shape {list(output.shape)}: expected [{len(wav)}, D], one vector per clip,"
                f" or [{len(wav)}, T, D], frames"
            )
        return output
