"""The contract of every encoder: the author writes one method, everything public is sealed and shared.

class Mine(Encoder):
    name, version, sample_rate = "mine", 1, 16000
    layers, hop_ms = {"conv": 512}, {"conv": 10.0}
    default_layers, default_pooling = ("conv",), "mean"

    def _frames(self, wav, lengths):            # float32 [B, N], int64 [B]
        return {"conv": Frames(features, times_ms, valid)}
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evar.encoders.arithmetic import exact, in_float32
from evar.encoders.choices import CLIP, choose, named_layer
from evar.encoders.fingerprint import foreign_code, plain_attributes, state_digest
from evar.encoders.inputs import checked_audio, checked_normalization
from evar.encoders.pooling import Frames, fuse, pool, pooled_dim, summary_of
from evar.errors import EvarError
from evar.files import digest

__all__ = ["CLIP", "Encoder", "Frames"]

SEALED = (
    "encode",
    "encode_frames",
    "encode_all",
    "encode_pairs",
    "measure_normalization",
    "with_normalization",
    "fingerprint",
)


class Encoder(nn.Module):
    """A frozen encoder of mono waveforms at `sample_rate`, in [-1, 1].

    Authors declare the attributes below and write `_frames`, or `_clip` for models with one vector per clip, or both.
    Layers that are absent from `hop_ms` are clip layers: they come from `_clip` and have the pooling `clip`.
    Where computing every layer is wasteful, override `_frames_of` instead of `_frames`.
    An encoder that standardises its log-mel sets `needs_normalization` and writes `_log_mel`.
    """

    name: str
    version: int
    sample_rate: int
    layers: Mapping[str, int]
    hop_ms: Mapping[str, float] = MappingProxyType({})
    summary_layers: Sequence[str] = ()
    """Frame layers with a token for the whole clip (`Frames.summary`): those that pooling `cls` takes."""
    default_layers: tuple[str, ...]
    default_pooling: str
    trained_on: tuple[str, ...] = ()
    equal_lengths_only: bool = False
    min_samples: int = 1
    needs_normalization: bool = False
    preferred_batch: Mapping[str, int] = MappingProxyType({"cpu": 8, "cuda": 256})
    precisions: tuple[str, ...] = ("fp32",)
    """Add "bf16" where the network may run under autocast: its front end must then keep float32, as `evar.audio`'s do."""
    batch_per_core: bool = False
    """On a CPU each core takes batches of its own, so several threads call the methods below: faster for small networks,
    whose single steps are too short to share. A subclass says so for itself."""
    compiled_parts: tuple[str, ...] = ()
    """Methods that `--compile` gives to torch.compile: tensors in, tensors out, no branch on a tensor's values."""
    _precision = "fp32"
    weights_kind: str = "none"
    weights_sha256: str = ""
    weights_file: str = ""
    settings: Mapping[str, Any] = MappingProxyType({})
    """What else the embeddings depend on (front end, variant): JSON values; part of the fingerprint."""
    settings_say_all = False
    """True for evar's own networks: version, settings and weights decide every embedding, no other attribute counts."""
    normalization: Mapping[str, float] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for method in SEALED:
            if method in vars(cls):
                raise TypeError(f"{cls.__name__}.{method} is sealed: write _frames or _clip instead")

    @classmethod
    def from_weights(cls, weights: str | None, **options: Any) -> Encoder:
        """Build the encoder as `load_encoder` does: an author's class that takes weights overrides this.

        weights: the path after `@`, or None. Raises EvarError when this class takes none.
        """
        if weights is not None:
            raise EvarError(f"{cls.__name__} takes no weights: remove '@{weights}'")
        return cls(**options)

    # ---- what an author writes -------------------------------------------------------------------------------------

    def _frames(self, wav: Tensor, lengths: Tensor) -> dict[str, Frames]:
        """All frame layers of wav float32 [B, N] (zeros past each clip's `lengths` int64 [B])."""
        raise NotImplementedError(f"{type(self).__name__} has frame layers and no _frames")

    def _clip(self, wav: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """All clip layers, float32 [B, D] each."""
        raise NotImplementedError(f"{type(self).__name__} has clip layers and no _clip")

    def _frames_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Frames]:
        """At least the frame layers named in `layers`."""
        return self._frames(wav, lengths)

    def _outputs_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Any]:
        """At least the `layers` of both kinds; override it where one pass of the network gives both."""
        outputs: dict[str, Any] = {}
        if of_frames := layers & set(self.hop_ms):
            outputs |= self._frames_of(wav, lengths, of_frames)
        if layers - set(self.hop_ms):
            outputs |= self._clip(wav, lengths)
        return outputs

    def _log_mel(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The log-mel that `normalization` standardises: float32 [B, bands, T] and valid frames int64 [B]."""
        raise NotImplementedError(f"{type(self).__name__} needs normalisation and has no _log_mel")

    # ---- what users call -------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """The name shown in the leaderboard; `load_encoder` sets it."""
        return self.__dict__.get("_label") or self.name

    @label.setter
    def label(self, label: str) -> None:
        self.__dict__["_label"] = label

    @property
    def device(self) -> torch.device:
        """Where the encoder computes, and where its results are."""
        tensor = next(self.parameters(), None)
        tensor = next(self.buffers(), None) if tensor is None else tensor
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def default_layer(self) -> str:
        """The default layers as one name: `a`, or the fusion `a+b`."""
        return "+".join(self.default_layers)

    @property
    def embedding_dim(self) -> int:
        """Size of what `encode` gives."""
        return self.dim(self.default_layer, self.default_pooling)

    def dim(self, layer: str, pooling: str) -> int:
        """Size of one clip's vector for `layer` (or a fusion `a+b`) and `pooling`; EvarError for unknown names."""
        parts = self._parts(layer)
        size = sum(self.layers[part] for part in parts)
        of_clip = [part for part in parts if part not in self.hop_ms]
        if of_clip and len(parts) > 1:
            raise EvarError(f"{self.label}: layer {of_clip[0]!r} is one vector per clip and cannot be fused")
        if bool(of_clip) != (pooling == CLIP):
            wanted = (
                f"pooling 'clip' (it is one vector per clip), not {pooling!r}" if of_clip else "a pooling over time"
            )
            raise EvarError(f"{self.label}: layer {layer!r} takes {wanted}")
        if pooling == "cls" and not set(parts) <= set(self.summary_layers):
            raise EvarError(
                f"{self.label}: layer {layer!r} has no token for the whole clip: pool it by mean or mean+max"
            )
        return size if of_clip else pooled_dim(pooling, size)

    def choices(self, layers: str | None = None, poolings: str | None = None) -> list[tuple[str, str]]:
        """The (layer, pooling) pairs that words of the command line mean, in order; EvarError for unknown ones.

        layers: names, commas, fusions `a+b`, `all`; a number stands for the layer whose name ends in it (`3+6` is
        `block3+block6`). None is the default, as for poolings; fusions are then pooled by `mean+max`, as published.
        Clip layers always have the pooling `clip`.
        """
        return choose(self, layers, poolings)

    def encode(self, wav: Tensor | np.ndarray, lengths: Any = None, *, sample_rate: int | None = None) -> Tensor:
        """Embed clips with the default layers and pooling.

        wav: float [B, N] in [-1, 1] (or [N], which gives [D]); lengths: samples of each clip, 1..N (default: N).
        Gives float32 [B, D] on the encoder's device. A clip's row does not depend on its neighbours or padding.
        Raises EvarError for another shape, dtype or rate, NaN, empty clips, missing statistics.
        """
        pair = (self.default_layer, self.default_pooling)
        return self.encode_pairs(wav, lengths, [pair], sample_rate=sample_rate)[pair]

    def encode_all(
        self,
        wav: Tensor | np.ndarray,
        lengths: Any = None,
        layers: Sequence[str] | None = None,
        poolings: Sequence[str] | None = None,
        *,
        sample_rate: int | None = None,
    ) -> dict[tuple[str, str], Tensor]:
        """Every layer with every pooling, from one pass of the network: {(layer, pooling): float32 [B, D]}.

        layers: names of `self.layers` or fusions `a+b`; None for the default; inputs and errors as in `encode`.
        """
        layers = [self.default_layer] if layers is None else list(layers)
        poolings = [self.default_pooling] if poolings is None else list(poolings)
        pairs = [(layer, pooling) for layer in layers for pooling in poolings]
        return self.encode_pairs(wav, lengths, pairs, sample_rate=sample_rate)

    def encode_pairs(
        self,
        wav: Tensor | np.ndarray,
        lengths: Any,
        pairs: Sequence[tuple[str, str]],
        *,
        sample_rate: int | None = None,
    ) -> dict[tuple[str, str], Tensor]:
        """As `encode_all`, for chosen (layer, pooling) pairs, such as those of `choices`."""
        for layer, pooling in pairs:
            self.dim(layer, pooling)
        wav, lengths, single = self._checked(wav, lengths, sample_rate)
        results = {}
        with self._frozen():
            parts = {layer: self._parts(layer) for layer, _ in pairs}
            outputs = self._run(wav, lengths, frozenset(part for some in parts.values() for part in some))
            for layer, names in parts.items():
                of_clip = names[0] not in self.hop_ms
                frames = None if of_clip else self._fused(outputs, names)
                for pooling in dict.fromkeys(pooling for other, pooling in pairs if other == layer):
                    results[layer, pooling] = outputs[names[0]] if of_clip else pool(frames, pooling)
        # Clones made outside inference mode are ordinary tensors, which a probe may train on.
        return {pair: (results[pair][0] if single else results[pair]).clone() for pair in dict.fromkeys(pairs)}

    def encode_frames(
        self,
        wav: Tensor | np.ndarray,
        lengths: Any = None,
        layers: str | Sequence[str] | None = None,
        *,
        sample_rate: int | None = None,
    ) -> Frames:
        """Frames of one layer, or of the fusion of several: features [B, T, D], times_ms [T], valid [B].

        layers: None is the default, or the last frame layer of an encoder whose default is one vector per clip.
        A single clip [N] gives features [T, D] and a valid count without dimensions.
        """
        if layers is None:
            layers = self.default_layers if set(self.default_layers) <= set(self.hop_ms) else [*self.hop_ms][-1:]
            if not layers:
                raise EvarError(f"{self.label} gives one vector per clip and has no frames")
        parts = self._parts(layers if isinstance(layers, str) else "+".join(layers))
        if of_clip := [part for part in parts if part not in self.hop_ms]:
            raise EvarError(f"{self.label}: layer {of_clip[0]!r} is one vector per clip and has no frames")
        wav, lengths, single = self._checked(wav, lengths, sample_rate)
        with self._frozen():
            frames = self._fused(self._run(wav, lengths, frozenset(parts)), parts)
        features, times_ms, valid = frames.features.clone(), frames.times_ms.clone(), frames.valid.clone()
        summary = None if frames.summary is None else frames.summary.clone()
        if single:
            return Frames(features[0], times_ms, valid[0], None if summary is None else summary[0])
        return Frames(features, times_ms, valid, summary)

    def measure_normalization(self, batches: Iterable[tuple[Any, Any]]) -> dict[str, float]:
        """Mean and standard deviation of the log-mel over all valid frames of (wav, lengths) batches.

        Summed in float64 and given to six digits: the next ones depend on the number of threads and the batches, and what
        is stored under a fingerprint must not.
        """
        if not self.needs_normalization:
            raise EvarError(f"{self.label} uses no normalisation statistics: do not measure them")
        count, mean, squares = 0, 0.0, 0.0
        for wav, lengths in batches:
            wav, lengths, _ = checked_audio(wav, lengths, self.min_samples, self.device, self.label)
            with self._frozen():
                log_mel, frames = self._log_mel(wav, lengths)
                values = log_mel.transpose(1, 2)
                if int(frames.min()) < values.shape[1]:
                    values = values[torch.arange(values.shape[1], device=values.device) < frames[:, None]]
                values = values.double().flatten()
                n, batch_mean = values.numel(), values.mean()
                values -= batch_mean
                batch_squares = float(torch.dot(values, values))
            # Chan, Golub, LeVeque (1979): merging means and squared deviations loses no digits as running sums do.
            delta = float(batch_mean) - mean
            squares += batch_squares + delta * delta * count * n / (count + n)
            mean += delta * n / (count + n)
            count += n
        if count == 0:
            raise EvarError(f"{self.label}: no clips to measure normalisation statistics on")
        std = math.sqrt(squares / count)
        if std == 0.0:
            raise EvarError(f"{self.label}: every clip is silent, so its normalisation statistics mean nothing")
        return {"mean": float(f"{mean:.6g}"), "std": float(f"{std:.6g}")}

    def with_normalization(self, stats: Mapping[str, float]) -> Encoder:
        """A new encoder that shares the weights and standardises its log-mel with `stats` = {"mean", "std"}."""
        if not self.needs_normalization:
            raise EvarError(f"{self.label} uses no normalisation statistics: do not give any")
        twin = copy.copy(self)
        twin.normalization = checked_normalization(stats, self.label)
        return twin

    def fingerprint(self) -> str:
        """SHA-256 of all that a layer's embeddings depend on: name, version, settings, weights, statistics.

        Code that is not evar's also counts with its place, source and attributes. Not in it: the layers and poolings that
        are chosen at call time, the label, and where evar keeps its own code.
        """
        code = foreign_code(type(self))
        return digest(
            {
                "name": self.name,
                "code": code,
                "version": self.version,
                "sample_rate": self.sample_rate,
                "layers": dict(self.layers),
                "default": [list(self.default_layers), self.default_pooling],
                "min_samples": self.min_samples,
                "settings": dict(self.settings),
                "attributes": {} if self.settings_say_all and not code else plain_attributes(self),
                "weights": state_digest(self.state_dict()),
                "normalization": dict(self.normalization) if self.normalization else None,
            }
        )

    # ---- how it is done --------------------------------------------------------------------------------------------

    def _fused(self, outputs: Mapping[str, Frames], parts: Sequence[str]) -> Frames:
        return fuse([outputs[part] for part in parts], [self.hop_ms[part] for part in parts])

    def _parts(self, layer: str) -> list[str]:
        return [named_layer(self, part) for part in layer.split("+")]

    def _checked(self, wav: Any, lengths: Any, sample_rate: int | None) -> tuple[Tensor, Tensor, bool]:
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise EvarError(
                f"{self.label} expects {self.sample_rate} Hz, found {sample_rate} Hz: resample first"
                f" (evar.audio.decode.decode(path, {self.sample_rate}))"
            )
        if self.needs_normalization and self.normalization is None:
            raise EvarError(
                f"{self.label} has no normalisation statistics: measure them on training audio,"
                " encoder = encoder.with_normalization(encoder.measure_normalization(batches))"
            )
        return checked_audio(wav, lengths, self.min_samples, self.device, self.label)

    def _run(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Any]:
        """The network's outputs by layer: `Frames`, or [B, D] for clip layers."""
        if self.equal_lengths_only and int(lengths.min()) < int(lengths.max()):
            return self._run_by_length(wav, lengths, layers)
        with torch.autocast(wav.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            outputs = self._outputs_of(wav, lengths, layers)
        outputs = outputs if self._precision == "fp32" else in_float32(outputs)
        for layer in layers:
            if layer in self.hop_ms and int(outputs[layer].valid.max()) > outputs[layer].features.shape[1]:
                raise EvarError(f"{self.label}: layer {layer!r} counts more valid frames than it has")
            tensor = outputs[layer].features if layer in self.hop_ms else outputs[layer]
            found, wanted = list(tensor.shape), [len(wav), self.layers[layer]]
            if tensor.ndim != (3 if layer in self.hop_ms else 2) or [found[0], found[-1]] != wanted or 0 in found:
                raise EvarError(
                    f"{self.label}: layer {layer!r} of {wanted[1]} dimensions for {wanted[0]} clips: {found}"
                )
        return outputs

    def _run_by_length(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Any]:
        """One pass for each length, merged: for models that are inexact under padding."""
        rows, parts = [], []
        for length in lengths.unique().tolist():
            rows.append(torch.nonzero(lengths == length)[:, 0])
            parts.append(self._run(wav[rows[-1], :length], lengths[rows[-1]], layers))
        order = torch.argsort(torch.cat(rows))
        merged: dict[str, Any] = {}
        for layer in layers:
            outputs = [part[layer] for part in parts]
            if layer not in self.hop_ms:
                merged[layer] = torch.cat(outputs)[order]
                continue
            times = max((frames.times_ms for frames in outputs), key=len)
            features = [nn.functional.pad(f.features, (0, 0, 0, len(times) - f.features.shape[1])) for f in outputs]
            summary = summary_of([f.summary for f in outputs], dim=0)
            valid = torch.cat([f.valid for f in outputs])[order]
            merged[layer] = Frames(
                torch.cat(features)[order], times, valid, None if summary is None else summary[order]
            )
        return merged

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        """Inference in evaluation mode and full float32; a network in training gets its modes back afterwards."""
        training = [module for module in self.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False), exact(self.device):
                yield
        finally:
            for module in training:
                module.training = True
