"""`hf:NAME_OR_FOLDER`: any audio model of the transformers library that has hidden states, every layer of it.

Four ways of reading audio cover them: a convolutional encoder of the waveform (`evar.encoders.wav2vec2`), AST
(`evar.encoders.ast_transformer`), windows of fixed length (Whisper, CLAP: `evar.encoders.hf_windows`), and, for all
others, the model's own feature extractor (`HfFeatures`, such as Wav2Vec2-BERT). Nothing is downloaded here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from evar.encoders.base import Encoder, Frames
from evar.encoders.hf_corpora import known_corpora, labelled_corpora, merged
from evar.encoders.huggingface import (
    LoadedModel,
    build,
    changed,
    class_of,
    config_facts,
    extractor_facts,
    feature_extractor,
    find_folder,
    preprocessing,
    quiet,
    read_config,
    required_preprocessing,
    silent,
)
from evar.encoders.inputs import checked_rate
from evar.encoders.pooling import frame_times
from evar.encoders.wav2vec2 import Wav2Vec2, blocks_of, hidden_states, unchanged
from evar.errors import EvarError

SCHEMES = {
    "hf": {
        "class": "HuggingFace",
        "extra": None,
        "title": "an audio model of transformers, by its folder or its name on the hub",
    },
}

PROBES_MS = (1000, 5000)
"""Two clip lengths whose frames tell the hop."""
SHORTEST_MS = (10, 25, 50, 100, 200, 400, 1000)
"""Clip lengths that are tried to find the shortest that a model can read."""


class HuggingFace:
    """The scheme `hf:`: what stands after it decides which `Encoder` is built."""

    @classmethod
    def from_reference(
        cls,
        reference: str,
        weights: str | None,
        random: bool = False,
        *,
        config: Mapping[str, Any] | None = None,
        trust_remote_code: bool | None = None,
        trained_on: Sequence[str] | None = None,
    ) -> Encoder:
        """The encoder of a folder, or of a name on the hub whose files are on this machine.

        random: the architecture that its config.json describes, with random weights. config: values that replace
        those of config.json. trust_remote_code: run Python files that come with the model (default: only where
        EVAR_TRUST_REMOTE_CODE=1 is set). trained_on: corpora that it was trained on, where evar does not know them.
        Raises EvarError as `load_model` does, and for models that evar cannot read audio with.
        """
        label = f"hf:{reference}"
        if weights is not None:
            raise EvarError(f"{label} takes no weights: name the folder that holds them, hf:{weights}")
        if trust_remote_code is None:
            trust_remote_code = os.environ.get("EVAR_TRUST_REMOTE_CODE", "") not in ("", "0")
        folder = find_folder(reference, label)
        with quiet(label), _modules_in_own_cache():
            found = changed(read_config(folder, label, trust_remote_code), config, label)
            encoder = _encoder(found, folder, random, trust_remote_code, label)
        if not random:
            encoder.weights_kind = "trained"
            encoder.weights_file = _file_name(reference)
            known = merged(known_corpora(reference, folder) or encoder.trained_on, labelled_corpora(found))
            encoder.trained_on = known if trained_on is None else tuple(trained_on)
        return encoder


@contextlib.contextmanager
def _modules_in_own_cache() -> Iterator[None]:
    """Code that comes with a model is copied before it is run: into evar's cache, not to the home folder."""
    from transformers import dynamic_module_utils

    from evar.encoders.catalog import cache_folder

    kept = dynamic_module_utils.HF_MODULES_CACHE
    dynamic_module_utils.HF_MODULES_CACHE = str(cache_folder() / "hf-modules")
    try:
        yield
    finally:
        dynamic_module_utils.HF_MODULES_CACHE = kept


def _file_name(reference: str) -> str:
    """What the column `weights` of results says: the folder's name, or OWNER--MODEL of a model on the hub."""
    path = Path(reference).expanduser()
    return os.path.basename(os.path.abspath(path)) if path.is_dir() else reference.replace("/", "--")


def _encoder(config: Any, folder: Path, random: bool, trust_remote_code: bool, label: str) -> Encoder:
    weights, kind = None if random else folder, config.model_type
    if kind == "audio-spectrogram-transformer":
        from transformers import ASTModel

        from evar.encoders.ast_transformer import Ast

        return Ast.of_model(build(ASTModel, config, weights, label, folder), label)
    if kind in ("clap", "clap_audio_model"):
        from evar.encoders.hf_windows import Clap

        return Clap.build(config, weights, folder, label, trust_remote_code)
    model_class = class_of(config, folder, label, trust_remote_code)
    if kind == "whisper":
        from evar.encoders.hf_windows import Whisper

        loaded = build(model_class, config, weights, label, folder, "encoder.", trust_remote_code)
        encoder: Encoder = Whisper(loaded, feature_extractor(folder, label, trust_remote_code), label)
    else:
        loaded = build(model_class, config, weights, label, folder, trust_remote_code=trust_remote_code)
        if hasattr(config, "conv_stride") and hasattr(loaded.model, "feature_extractor"):
            settings = preprocessing(folder, label) if random else required_preprocessing(folder, label)
            encoder = Wav2Vec2(loaded, f"hf-{kind}", settings, label)
        else:
            encoder = HfFeatures(loaded, feature_extractor(folder, label, trust_remote_code), label)
    encoder.weights_sha256 = loaded.sha256
    return encoder


def _hop_ms(short: int, long: int) -> float:
    """Distance of frames in ms, from how many there are in `PROBES_MS`, which is known to about a frame."""
    measured = (PROBES_MS[1] - PROBES_MS[0]) / (long - short)
    for step, tolerance in ((10.0, 0.02), (1.0, 0.005)):
        whole = step * round(measured / step)
        if abs(measured - whole) <= tolerance * measured:
            return whole
    return round(measured, 3)


def _in_the_middle(wav: Tensor) -> Tensor:
    """Clips [B, N] with the zeros at their end put around them, half on each side.

    A clip as short as a hop would lie in one frame, among frames of silence; extractors that normalise each band over
    time give the same features for all such clips. In the middle, several frames hold parts of it.
    """
    spare = (wav != 0).flip(1).to(torch.uint8).argmax(dim=1)  # 0 for digital silence too
    return torch.stack([clip.roll(n // 2) for clip, n in zip(wav, spare.tolist(), strict=True)])


class HfFeatures(Encoder):
    """A Transformer or Conformer encoder behind its own feature extractor, such as Wav2Vec2-BERT.

    Layers: `layer0`, what enters the first block; `layerK`, what leaves block K; the last one is the model's own
    output. Of models with a decoder the encoder is used. Feature extractors differ in how they normalise and pad, so
    clips of one length go together (`equal_lengths_only`); they compute on the CPU. Hop and dimensions are measured
    on a test tone, frames are taken to be spread evenly. The shortest clip is the first of some lengths whose features
    tell two clips of 10 ms in its middle apart. Shorter ones are put there, and times of their frames count from its
    start. NaN is replaced by zeros for digital silence alone.
    """

    version = 3
    default_pooling = "mean"
    equal_lengths_only = True
    preferred_batch = MappingProxyType({"cpu": 8, "cuda": 32})

    def __init__(self, loaded: LoadedModel, extractor: Any, label: str) -> None:
        """Raises EvarError when the model gives no frames that evar can place in time."""
        super().__init__()
        config, model = loaded.config, loaded.model
        if getattr(config, "is_encoder_decoder", False):
            model = model.get_encoder()
        self.model, self.name = model, f"hf-{config.model_type}"
        self.extractor = extractor
        self.sample_rate = checked_rate(extractor.sampling_rate, f"{label}: sampling_rate")
        self.settings = {"config": config_facts(config), "extractor": extractor_facts(extractor)}
        self.input_name = model.main_input_name
        self.n_blocks = len(blocks_of(model, label))
        self.label = label
        numbers = range(self.n_blocks + 1)
        with torch.inference_mode():
            short, long = (self._states(self._tone(milliseconds), numbers)[0] for milliseconds in PROBES_MS)
            self.hop_ms, self.layers = {}, {}
            for number in numbers:
                if short[number].ndim != 3 or long[number].shape[1] <= short[number].shape[1]:
                    raise EvarError(
                        f"{label}: {type(model).__name__} gives layers of shape {list(short[number].shape)} for"
                        f" {PROBES_MS[0]} ms and {list(long[number].shape)} for {PROBES_MS[1]} ms of audio, which are"
                        " no frames: write an adapter (py:)"
                    )
                self.layers[f"layer{number}"] = short[number].shape[2]
                self.hop_ms[f"layer{number}"] = _hop_ms(short[number].shape[1], long[number].shape[1])
            self.min_samples = self._shortest()
        self.default_layers = (f"layer{self.n_blocks}",)

    def _frames_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Frames]:
        if wav.shape[1] == self.min_samples:
            wav = _in_the_middle(wav)
        states, mask = self._states(wav, [int(layer.removeprefix("layer")) for layer in layers])
        outputs = {}
        for number, state in states.items():
            layer, n_frames = f"layer{number}", state.shape[1]
            hop_ms = self.hop_ms[layer]
            valid = lengths.new_full((len(wav),), n_frames)
            if mask is not None and mask.shape[1] == n_frames:
                valid = mask.sum(dim=1).clamp(min=1)  # Wav2Vec2-BERT's extractor pads to an even number
            outputs[layer] = Frames(state, frame_times(n_frames, hop_ms, wav.device, hop_ms / 2), valid)
        return outputs

    def _states(self, wav: Tensor, numbers: Sequence[int] | range) -> tuple[dict[int, Tensor], Tensor | None]:
        """Hidden states by number, and the mask of frames that the feature extractor gave, if any."""
        clips = list(wav.cpu().numpy())
        with silent():
            inputs = self.extractor(clips, sampling_rate=self.sample_rate, padding=True, return_tensors="pt")
            if self.input_name not in inputs:
                raise EvarError(f"{self.label}: its feature extractor gives {list(inputs)}, not {self.input_name}")
            values = inputs[self.input_name].to(self.device, torch.float32)
            if not bool(torch.isfinite(values).all()):
                values = self._without_nan(values, wav)
            given = {self.input_name: values}
            mask = inputs.get("attention_mask")
            if mask is not None:
                mask = given["attention_mask"] = mask.to(self.device)
            with unchanged(self.model):
                blocks = blocks_of(self.model, self.label)
                return hidden_states(blocks, numbers, lambda: self.model(**given).last_hidden_state), mask

    def _without_nan(self, values: Tensor, wav: Tensor) -> Tensor:
        """Features with zeros for NaN in clips of one value alone: some extractors divide by a deviation these lack.

        For any other clip NaN would make every clip of its length the same: an EvarError.
        """
        broken = ~torch.isfinite(values.flatten(1)).all(dim=1)
        if len(values) != len(wav) or bool((broken & (wav.amin(dim=1) != wav.amax(dim=1)).to(broken.device)).any()):
            raise EvarError(f"{self.label}: its feature extractor gives NaN for {wav.shape[1]} samples of sound")
        return values.nan_to_num(0.0, 0.0, 0.0)

    def _tells_apart(self, milliseconds: int) -> bool:
        """Whether two noises of 10 ms, in the middle of so much silence, have finite features that differ."""
        noise = 0.1 * torch.randn(2, self.sample_rate // 100, generator=torch.Generator().manual_seed(0))
        wav = torch.nn.functional.pad(noise, (0, (milliseconds - 10) * self.sample_rate // 1000))
        with silent():
            inputs = self.extractor(
                list(_in_the_middle(wav).numpy()), sampling_rate=self.sample_rate, padding=True, return_tensors="pt"
            )
        values = inputs[self.input_name].float()
        return bool(torch.isfinite(values).all()) and float((values[0] - values[1]).abs().amax()) > 1e-2

    def _tone(self, milliseconds: int) -> Tensor:
        time_s = torch.arange(milliseconds * self.sample_rate // 1000) / self.sample_rate
        return 0.1 * torch.sin(2 * torch.pi * 220.0 * time_s)[None]

    def _shortest(self) -> int:
        """Samples of the shortest clip, of those tried, that the model reads without an error or NaN."""
        for milliseconds in SHORTEST_MS:
            try:
                if not self._tells_apart(milliseconds):
                    continue
                (state,) = self._states(self._tone(milliseconds), [self.n_blocks])[0].values()
            except Exception:  # too short for its convolutions or statistics
                continue
            if state.shape[1] > 0 and bool(torch.isfinite(state).all()):
                return milliseconds * self.sample_rate // 1000
        raise EvarError(f"{self.label}: {type(self.model).__name__} gives no finite frames for one second of audio")
