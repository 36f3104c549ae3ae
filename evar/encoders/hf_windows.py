"""Models of transformers that read windows of a fixed length: the encoder of Whisper, and CLAP's audio network.

A clip is cut into windows, the last one padded as the model's own feature extractor does; each window is computed on
its own, so padding in a batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evar.encoders.base import Encoder, Frames
from evar.encoders.huggingface import (
    LoadedModel,
    build,
    config_facts,
    extractor_facts,
    feature_extractor,
)
from evar.encoders.inputs import checked_rate
from evar.encoders.pooling import frame_times
from evar.encoders.wav2vec2 import blocks_of, hidden_states
from evar.errors import EvarError

CHUNK_WINDOWS = MappingProxyType({"cpu": 4, "cuda": 32})
"""Windows that go through the network together."""


class Whisper(Encoder):
    """The encoder of Whisper (Radford et al., ICML 2023, arXiv 2212.04356): windows of 30 s, a frame per 20 ms.

    The model was trained on windows filled up with silence, and needs them: a short clip costs as much as 30 s.
    Frames past the clip's end are dropped. Layers: `layer0`, what enters the first block; `layerK`, what leaves block
    K; the last one is the encoder's own output, after its layer normalisation.
    """

    version = 1
    default_pooling = "mean"
    preferred_batch = MappingProxyType({"cpu": 4, "cuda": 32})

    def __init__(self, loaded: LoadedModel, extractor: Any, label: str) -> None:
        """loaded: a WhisperModel, of which the encoder is kept. Raises EvarError when the extractor does not fit."""
        super().__init__()
        self.model, self.name, config = loaded.model.get_encoder(), "hf-whisper", loaded.config
        self.extractor = extractor
        self.extractor.dither = 0.0  # random, and meant for training
        self.sample_rate = checked_rate(extractor.sampling_rate, f"{label}: sampling_rate")
        self.frame_samples = 2 * int(extractor.hop_length)  # the second convolution has stride 2
        self.window_samples = self.frame_samples * int(config.max_source_positions)
        if (int(extractor.n_samples), int(extractor.feature_size)) != (self.window_samples, int(config.num_mel_bins)):
            raise EvarError(
                f"{label}: its feature extractor gives windows of {extractor.n_samples} samples and"
                f" {extractor.feature_size} mel bands, its network needs {self.window_samples} and"
                f" {config.num_mel_bins}: do config.json and preprocessor_config.json agree?"
            )
        self.settings = {"config": config_facts(config), "extractor": extractor_facts(extractor)}
        n_blocks = len(blocks_of(self.model, label))
        self.layers = {f"layer{number}": int(config.d_model) for number in range(n_blocks + 1)}
        self.hop_ms = dict.fromkeys(self.layers, 1000.0 * self.frame_samples / self.sample_rate)
        self.default_layers = (f"layer{n_blocks}",)

    def _frames_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Frames]:
        numbers = [int(layer.removeprefix("layer")) for layer in layers]
        blocks = blocks_of(self.model, self.label)

        def states(windows: list[np.ndarray]) -> dict[str, Tensor]:
            inputs = self.extractor(windows, sampling_rate=self.sample_rate, return_tensors="pt")
            mel = inputs["input_features"].to(wav.device, torch.float32)
            found = hidden_states(blocks, numbers, lambda: self.model(mel).last_hidden_state)
            return {f"layer{number}": state for number, state in found.items()}

        outputs = _by_window(wav, lengths, self.window_samples, states)
        valid = (lengths + self.frame_samples - 1) // self.frame_samples
        found = {}
        for layer, windows in outputs.items():
            features = windows.flatten(1, 2)
            found[layer] = Frames(features, frame_times(features.shape[1], self.hop_ms[layer], wav.device), valid)
        return found


class Clap(Encoder):
    """The audio network of CLAP (Wu et al., ICASSP 2023, arXiv 2211.06687), HTS-AT: windows of 10 s, a vector each.

    Layers: `stage0` (patches) to `stageN`, each the mean over its map of frequency and time; `pooled`, the network's
    output; `embedding`, the default, its projection to the space shared with text, of unit length as in
    `ClapModel.get_audio_features`. A window that a clip does not fill is repeated or padded as the feature extractor
    says. Our choices: clips of more than one window are the mean over windows, each weighted by the clip's own samples
    in it (pooling `cls`, the default; `mean` weights them equally), where the feature extractor would take random crops;
    the fusion of such crops is never used, as upstream draws at random which short clip has it.
    """

    version = 1
    default_layers = ("embedding",)
    default_pooling = "cls"
    preferred_batch = MappingProxyType({"cpu": 4, "cuda": 32})

    def __init__(self, loaded: LoadedModel, extractor: Any, label: str) -> None:
        """loaded: a ClapAudioModelWithProjection."""
        super().__init__()
        self.model, self.name, config = loaded.model, "hf-clap", loaded.config
        self.extractor = extractor
        self.sample_rate = checked_rate(extractor.sampling_rate, f"{label}: sampling_rate")
        self.window_samples = int(extractor.nb_max_samples)
        if self.window_samples < 1:
            raise EvarError(f"{label}: its feature extractor reads windows of {self.window_samples} samples")
        if bool(config.enable_fusion) != (extractor.truncation == "fusion"):
            raise EvarError(
                f"{label}: its network has enable_fusion={bool(config.enable_fusion)}, its feature extractor truncates"
                f" by {extractor.truncation!r}: do config.json and preprocessor_config.json agree?"
            )
        self.settings = {"config": config_facts(config), "extractor": extractor_facts(extractor)}
        last = len(config.depths) - 1
        width = int(config.patch_embeds_hidden_size)
        stages = {f"stage{number}": width * 2 ** min(number, last) for number in range(last + 2)}
        self.layers = stages | {"pooled": width * 2**last, "embedding": int(config.projection_dim)}
        self.hop_ms = dict.fromkeys(self.layers, 1000.0 * self.window_samples / self.sample_rate)
        self.summary_layers = tuple(self.layers)

    @classmethod
    def build(cls, config: Any, weights: Path | None, folder: Path, label: str, trust_remote_code: bool) -> Clap:
        """The audio half of a checkpoint of ClapModel, or of ClapAudioModelWithProjection."""
        from transformers import ClapAudioModelWithProjection

        audio = getattr(config, "audio_config", config)
        loaded = build(ClapAudioModelWithProjection, audio, weights, label, folder)
        encoder = cls(loaded, feature_extractor(folder, label, trust_remote_code), label)
        encoder.weights_sha256 = loaded.sha256
        return encoder

    def _frames(self, wav: Tensor, lengths: Tensor) -> dict[str, Frames]:
        outputs = _by_window(wav, lengths, self.window_samples, self._embedded)
        valid = (lengths + self.window_samples - 1) // self.window_samples
        hop_ms = self.hop_ms["embedding"]
        n_windows = next(iter(outputs.values())).shape[1]
        times = frame_times(n_windows, hop_ms, wav.device, hop_ms / 2)
        starts = torch.arange(n_windows, device=wav.device) * self.window_samples
        own = (lengths[:, None] - starts).clamp(0, self.window_samples)
        shares = (own / lengths[:, None])[..., None]
        return {
            layer: Frames(windows, times, valid, (windows * shares).sum(dim=1)) for layer, windows in outputs.items()
        }

    def _embedded(self, windows: list[np.ndarray]) -> dict[str, Tensor]:
        state = np.random.get_state()  # noqa: NPY002
        try:  # of short clips the extractor draws one that shall count as longer: not used here, nor noticed elsewhere
            inputs = self.extractor(windows, sampling_rate=self.sample_rate, return_tensors="pt")
        finally:
            np.random.set_state(state)  # noqa: NPY002
        mel = inputs["input_features"].to(self.device, torch.float32)
        is_longer = torch.zeros(len(windows), 1, dtype=torch.bool, device=self.device)
        found = self.model.audio_model(
            input_features=mel, is_longer=is_longer, output_hidden_states=True, return_dict=True
        )
        outputs = {f"stage{number}": state.mean(dim=(2, 3)) for number, state in enumerate(found.hidden_states)}
        outputs["pooled"] = found.pooler_output
        outputs["embedding"] = functional.normalize(self.model.audio_projection(found.pooler_output), dim=-1)
        return outputs


def _by_window(
    wav: Tensor, lengths: Tensor, size: int, network: Callable[[list[np.ndarray]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Cut clips into windows of `size` samples that do not overlap, and lay out what `network` makes of them.

    network: clips of 1..size samples -> {layer: [windows, ...]}. Gives {layer: [B, W, ...]}, zeros where a clip has
    ended.
    """
    clips = [clip[:length].cpu().numpy() for clip, length in zip(wav, lengths.tolist(), strict=True)]
    places = [(row, start) for row, clip in enumerate(clips) for start in range(0, len(clip), size)]
    n_windows = -(-wav.shape[1] // size)
    chunk = CHUNK_WINDOWS.get(wav.device.type, 32)
    outputs: dict[str, Tensor] = {}
    for first in range(0, len(places), chunk):
        some = places[first : first + chunk]
        found = network([clips[row][start : start + size] for row, start in some])
        for layer, values in found.items():
            if layer not in outputs:
                outputs[layer] = values.new_zeros(len(clips), n_windows, *values.shape[1:])
            for (row, start), value in zip(some, values, strict=True):
                outputs[layer][row, start // size] = value
    return outputs
