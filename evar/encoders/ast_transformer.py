"""AST, the Audio Spectrogram Transformer (Gong, Chung, Glass, Interspeech 2021), and the fusion of two of its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evar.audio.kaldi import KaldiFbank
from evar.encoders.base import Encoder, Frames
from evar.encoders.pooling import frame_times
from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    from evar.encoders.huggingface import LoadedModel

ENCODERS = {
    "ast": {
        "class": "Ast",
        "sample_rate": 16000,
        "dim": 768,
        "extra": None,
        "trained_on": ["audioset"],
        "title": "AST (Interspeech 2021), mean of the [CLS] and [DIST] tokens, 768-d",
        "weights": "required",
        "options": {"patches": "mean", "config": None},
        "small": {
            "config": {
                "hidden_size": 48,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "frequency_stride": 56,
            },
        },
        "source": {
            "hf": "MIT/ast-finetuned-audioset-10-10-0.4593",
            "file": "model.safetensors",
            "bytes": 346404948,
            "sha256": "ae0c1e2ad4e1381d851fa9bf298ba13ebc9c5a914cdee2dbe427a6583869924d",
            "licence": "BSD-3-Clause",
            "note": "a folder: config.json, model.safetensors, preprocessor_config.json",
        },
    },
    "ast-fusion": {
        "like": "ast",
        "class": "AstFusion",
        "dim": 18432,
        "title": "AST, layers 5 and 12 fused (EUSIPCO 2022), 18432-d",
        "options": {"patches": "concat", "config": None},
    },
}

SAMPLE_RATE = 16000
MEAN, STD = -4.2677393, 4.5689974
"""Statistics of AudioSet's filterbank that the published weights were trained with; a folder may bring others."""
PATCHES = ("mean", "concat")
TOKENS = 2
"""[CLS] and [DIST], before the patches."""
CHUNK_WINDOWS = MappingProxyType({"cpu": 2, "cuda": 64})
"""Windows that go through the network together."""


class Ast(Encoder):
    """AST as transformers' `ASTModel` has it, on Kaldi filterbanks of its own width (1024 frames, 10.24 s).

    Layers `layer0` (patch and position embeddings) to `layer12` (after the last block and the final layer norm: the
    model's `last_hidden_state`; the others are the blocks' plain outputs). Pooling `cls`, the default, is the mean of
    the two tokens before the patches: of `layer12`, it is the model's `pooler_output`.

    A layer's frames are the columns of its patch grid, 12 patches high, one every 100 ms. patches: "mean" averages a
    column, [T, 768]; "concat" keeps it, [T, C * F] = [T, 9216] (index c * 12 + f), and has no `cls`.

    As in ASTFeatureExtractor, frames past a clip's end are 0 before the normalisation. Our choices, where it cuts at
    1024 frames: a longer clip is read in windows of 1024 frames every 1010, so that the patch grid goes on unbroken
    (101 patches of 16 frames every 10 reach over 1016 of them); patches that lie wholly inside the clip are its valid
    frames (at least one); `cls` is the mean over windows, each weighted by its valid frames.
    """

    name = "ast"
    version = 1
    settings_say_all = True
    sample_rate = SAMPLE_RATE
    preferred_batch = MappingProxyType({"cpu": 4, "cuda": 64})
    precisions = ("fp32", "bf16")
    compiled_parts = ("_after",)

    def __init__(self, model: nn.Module, mean: float = MEAN, std: float = STD, patches: str = "mean") -> None:
        """model: an `ASTModel`; mean, std: of the filterbank, which becomes (x - mean) / (2 std); patches: see above."""
        from evar.encoders.huggingface import config_facts

        super().__init__()
        if patches not in PATCHES:
            raise unknown("patches", patches, PATCHES, f"for {self.name}")
        config = model.config
        self.model, self.patches, self.mean, self.std = model, patches, float(mean), float(std)
        self.n_layers, self.window_frames = config.num_hidden_layers, config.max_length
        self.patch, self.stride = config.patch_size, config.time_stride
        self.n_freq = (config.num_mel_bins - self.patch) // config.frequency_stride + 1
        self.n_time = (self.window_frames - self.patch) // self.stride + 1
        self.front_end = KaldiFbank(SAMPLE_RATE, config.num_mel_bins)
        self.min_samples = self.front_end.min_samples
        hop_ms = 1000 * self.front_end.hop_length / SAMPLE_RATE
        dim = config.hidden_size * (self.n_freq if patches == "concat" else 1)
        self.layers = {f"layer{i}": dim for i in range(self.n_layers + 1)}
        self.hop_ms = dict.fromkeys(self.layers, hop_ms * self.stride)
        self.summary_layers = tuple(self.layers) if patches == "mean" else ()
        # The middle of a patch's first and last frame, each of which is centred on its own middle.
        self.first_ms = 1000 * self.front_end.win_length / SAMPLE_RATE / 2 + hop_ms * (self.patch - 1) / 2
        self.default_layers = (f"layer{self.n_layers}",)
        self.default_pooling = "cls" if patches == "mean" else "mean+max"
        self.settings = {
            "front_end": "Kaldi fbank, symmetric Hann 25/10 ms",
            "mean": self.mean,
            "std": self.std,
            "window_frames": self.window_frames,
            "window_hop_frames": self.n_time * self.stride,
            "patches": patches,
            "model": config_facts(config),
        }

    @classmethod
    def from_weights(cls, weights: str | None, patches: str = "mean", config: Mapping[str, Any] | None = None) -> Ast:
        """AST with the weights of a folder in the layout of transformers, untrained without one.

        weights: a folder with config.json, model.safetensors and preprocessor_config.json; patches: see the class;
        config: values that replace those of the configuration. Raises EvarError for another model, a damaged file, or a
        front end that is not AST's.
        """
        from transformers import ASTModel

        from evar.encoders.huggingface import load_model

        loaded = load_model(ASTModel, weights, config=config, random=weights is None, label=cls.name)
        return cls.of_model(loaded, cls.name, patches)

    @classmethod
    def of_model(cls, loaded: LoadedModel, label: str, patches: str = "mean") -> Ast:
        """AST around an `ASTModel`, with the front end of the folder that it (or its configuration alone) is from."""
        trained = bool(loaded.sha256)
        front_end = {} if loaded.folder is None else _front_end(loaded.folder, label, required=trained)
        encoder = cls(loaded.model, **front_end, patches=patches)
        if trained:
            encoder.weights_kind, encoder.weights_sha256 = "trained", loaded.sha256
            encoder.trained_on = _trained_on(loaded.config)
        return encoder

    def _frames_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Frames]:
        batch, n_frames = len(wav), self.front_end.frames(lengths)
        valid = ((n_frames - self.patch) // self.stride + 1).clamp(min=1)
        longest = int(valid.max())
        starts = torch.arange(-(-longest // self.n_time), device=wav.device) * self.n_time
        counts = (valid[:, None] - starts).clamp(0, self.n_time)
        present = counts > 0
        windows = self._windows(wav, len(starts))[present]
        real = (n_frames[:, None] - starts * self.stride)[present]
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
        chunk = CHUNK_WINDOWS.get(wav.device.type, 64)
        for some, real_frames in zip(windows.split(chunk), real.split(chunk), strict=True):
            for layer, output in self._network(self._fbank(some, real_frames), layers):
                parts[layer].append(output)
        weights = (counts / valid[:, None])[..., None]
        times = frame_times(longest, self.hop_ms[next(iter(layers))], wav.device, self.first_ms)
        frames = {}
        for layer in layers:
            grids = torch.cat([grid for grid, _ in parts[layer]])
            features = grids.new_zeros(batch, len(starts), self.n_time, self.layers[layer])
            features[present] = grids
            summary = None
            if self.patches == "mean":
                tokens = torch.cat([tokens for _, tokens in parts[layer]])
                summaries = tokens.new_zeros(batch, len(starts), self.layers[layer])
                summaries[present] = tokens
                summary = (summaries * weights).sum(dim=1)
            frames[layer] = Frames(features.flatten(1, 2)[:, :longest], times, valid, summary)
        return frames

    def _windows(self, wav: Tensor, n_windows: int) -> Tensor:
        """Samples of each window, [B, n_windows, S]: S is a window's samples, or those of clips that are shorter."""
        hop = self.front_end.hop_length
        size = (self.window_frames - 1) * hop + self.front_end.win_length
        if n_windows == 1:
            return wav[:, None, :size]
        step = self.n_time * self.stride * hop
        missing = (n_windows - 1) * step + size - wav.shape[1]
        return functional.pad(wav, (0, max(0, missing))).unfold(1, size, step)[:, :n_windows]

    def _fbank(self, windows: Tensor, real_frames: Tensor) -> Tensor:
        """Normalised filterbank [M, window_frames, bands] of windows [M, S], 0 before it past the `real_frames` [M]."""
        fbank = self.front_end(windows)
        past = torch.arange(fbank.shape[1], device=fbank.device) >= real_frames[:, None]
        fbank = fbank.masked_fill(past[..., None], 0.0)
        fbank = functional.pad(fbank, (0, 0, 0, self.window_frames - fbank.shape[1]))
        return (fbank - self.mean) / (2 * self.std)

    def _network(self, fbank: Tensor, layers: frozenset[str]) -> list[tuple[str, tuple[Tensor, Tensor]]]:
        """For each layer wanted, frames [M, n_time, D] and tokens [M, hidden]; no block past the deepest is run."""
        # Inside version 5 of transformers the blocks moved from `encoder.layer` to `layers`: their list is the only one.
        blocks = next(module for module in self.model.modules() if isinstance(module, nn.ModuleList))
        deepest = max(int(layer.removeprefix("layer")) for layer in layers)
        hidden, found = self.model.embeddings(fbank), []
        for i in range(deepest + 1):
            if i > 0:
                hidden = self._after(blocks[i - 1], hidden)
            if (layer := f"layer{i}") in layers:
                found.append((layer, self._parts_of(self.model.layernorm(hidden) if i == self.n_layers else hidden)))
        return found

    def _after(self, block: nn.Module, hidden: Tensor) -> Tensor:
        return block(hidden)

    def _parts_of(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        grid = hidden[:, TOKENS:].unflatten(1, (self.n_freq, self.n_time))
        columns = grid.mean(dim=1) if self.patches == "mean" else grid.permute(0, 2, 3, 1).flatten(2)
        return columns, hidden[:, :TOKENS].mean(dim=1)


class AstFusion(Ast):
    """Multilayer fusion of AST (Niizumi et al., EUSIPCO 2022, arXiv 2205.08138): layers 5 + 12, max + mean over time.

    Layers count transformer blocks, so 12 is the last; it is taken after the final layer norm (our choice). Each frame
    keeps its column of 12 frequency patches, [T, C * F]: 12 * 768 = 9216 a layer, 18432 together. That size follows
    from the paper's [T, C * F]; a figure for AST in the paper itself is not known to us.
    """

    name = "ast-fusion"

    def __init__(self, model: nn.Module, mean: float = MEAN, std: float = STD, patches: str = "concat") -> None:
        super().__init__(model, mean, std, patches)
        if self.n_layers != 12:
            raise EvarError(f"{self.name} fuses blocks 5 and 12 of 12, this network has {self.n_layers}: give ast")
        self.default_layers, self.default_pooling = ("layer5", "layer12"), "mean+max"


def _front_end(folder: Path, label: str, required: bool) -> dict[str, float]:
    """Mean and standard deviation of the feature extractor in `folder`, once its other settings are known to fit.

    They fit the folder's config.json: what `config=` changes is up to the user. {} where there is none, nor required.
    """
    from evar.encoders.huggingface import preprocessing, read_config

    found, config = preprocessing(folder, label), read_config(folder, label)
    if not found and not required:
        return {}
    if not found:
        raise EvarError(
            f"{label}: {folder} has no preprocessor_config.json, which says how the filterbank is normalised: copy it"
            " from where the weights come from"
        )
    wanted = {
        "feature_extractor_type": "ASTFeatureExtractor",
        "sampling_rate": SAMPLE_RATE,
        "num_mel_bins": config.num_mel_bins,
        "max_length": config.max_length,
    }
    where = f"{label}: preprocessor_config.json in {folder}"
    for key, value in wanted.items():
        if found.get(key, value) != value:
            raise EvarError(f"{where}: {key} is {found[key]!r}, expected {value!r}: it is of another model")
    if found.get("do_normalize") is False:
        return {"mean": 0.0, "std": 0.5}
    mean, std = found.get("mean", MEAN), found.get("std", STD)
    numbers = all(isinstance(value, (int, float)) and math.isfinite(value) for value in (mean, std))
    if not numbers or std <= 0:
        raise EvarError(f"{where}: mean {mean!r} and std {std!r}: expected numbers, and std above 0")
    return {"mean": float(mean), "std": float(std)}


def _trained_on(config: Any) -> tuple[str, ...]:
    """What the weights saw: AudioSet, unless the head names the words of Speech Commands (as one of MIT's does)."""
    from evar.encoders.hf_corpora import labelled_corpora

    return labelled_corpora(config) or ("audioset",)
