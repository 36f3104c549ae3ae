"""wav2vec 2.0 (Baevski et al., NeurIPS 2020) and its relatives, through transformers.

`wav2vec2-f` is the output z of the convolutional feature encoder (512-d), `wav2vec2-c` the output c of the context
network (768-d, large 1024-d): one network, two entries. The published tables pool F by mean + max and C by mean; which
checkpoint they used is not certain.

`Wav2Vec2` serves every model that is a convolutional encoder of the waveform under a Transformer: HuBERT, WavLM,
data2vec-audio, UniSpeech(-SAT), SEW(-D), Wav2Vec2-Conformer (`hf:NAME_OR_FOLDER`, evar.encoders.hf).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from evar.encoders.base import Encoder, Frames
from evar.encoders.hf_corpora import known_corpora, labelled_corpora, merged
from evar.encoders.huggingface import LoadedModel, config_facts, load_model, preprocessing, silent
from evar.encoders.long_clips import features_in_pieces, in_pieces, is_long, standardized
from evar.encoders.pooling import frame_times
from evar.encoders.registry import list_encoders
from evar.errors import EvarError

ENCODERS = {
    "wav2vec2-f": {
        "class": "Wav2Vec2F",
        "sample_rate": 16000,
        "dim": 512,
        "extra": None,
        "trained_on": ["librispeech"],
        "title": "wav2vec 2.0 base (NeurIPS 2020), convolutional feature encoder, 512-d",
        "weights": "required",
        "options": {"config": None},
        "small": {
            "config": {
                "num_hidden_layers": 2,
                "intermediate_size": 64,
                "conv_dim": [32, 32, 32, 32, 32, 32, 512],
                "num_conv_pos_embeddings": 16,
            },
        },
        "source": {
            "hf": "facebook/wav2vec2-base",
            "file": "pytorch_model.bin",
            "bytes": 380267417,
            "sha256": "3249fe98bfc62fcbc26067f724716a6ec49d12c4728a2af1df659013905dff21",
            "licence": "Apache-2.0",
        },
    },
    "wav2vec2-c": {
        "like": "wav2vec2-f",
        "class": "Wav2Vec2C",
        "dim": 768,
        "title": "wav2vec 2.0 base (NeurIPS 2020), context network, 768-d",
    },
    "wav2vec2-f-large": {
        "like": "wav2vec2-f",
        "class": "Wav2Vec2FLarge",
        "trained_on": ["libri-light"],
        "title": "wav2vec 2.0 large (LV-60k), convolutional feature encoder, 512-d",
        "source": {
            "hf": "facebook/wav2vec2-large-lv60",
            "file": "pytorch_model.bin",
            "sha256": "1d095321ee151b9cbeeb2f325d104bf1813b795c9bbbee58efcde34f701d0386",
        },
    },
    "wav2vec2-c-large": {
        "like": "wav2vec2-f-large",
        "class": "Wav2Vec2CLarge",
        "dim": 1024,
        "title": "wav2vec 2.0 large (LV-60k), context network, 1024-d",
    },
}

SAMPLE_RATE = 16000
BASE = MappingProxyType({"hidden_size": 768})
LARGE = MappingProxyType(
    {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "conv_bias": True,
        "do_stable_layer_norm": True,
    }
)
"""Large as published with LV-60k: layer normalisation in the convolutional encoder, before each block, and biases."""
EXACT = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
"""Model types in which nothing but attention and one positional convolution crosses frames: with layer normalisation
and a mask they are exact under padding. In the others padding leaks in through stacked or unmasked convolutions."""
NORM_EPS = 1e-7
"""Added to the variance when a clip is normalised, as in transformers' Wav2Vec2FeatureExtractor."""


class Wav2Vec2(Encoder):
    """A convolutional encoder of the waveform under a Transformer, from transformers.

    Layers: `features`, the convolutional encoder's output before any projection; `layer0`, what enters the first
    block; `layerK`, what leaves block K; the last one is the model's own output (`last_hidden_state`, behind the
    final layer normalisation of models that have one; an adapter behind it is left out). The waveform is normalised to
    zero mean and unit variance over the clip's own samples where the model's feature extractor says so.

    Models whose convolutional encoder normalises over time ("group": wav2vec2-base) are inexact under padding even
    with a mask, and others than `EXACT` as well: `equal_lengths_only`.
    """

    version = 1
    settings_say_all = True
    default_pooling = "mean"
    preferred_batch = MappingProxyType({"cpu": 8, "cuda": 32})
    precisions = ("fp32", "bf16")

    def __init__(self, loaded: LoadedModel, name: str, settings: Mapping[str, Any], label: str) -> None:
        """loaded: the network; settings: of its feature extractor (`preprocessing`), {} for 16 kHz and normalised."""
        super().__init__()
        config = loaded.config
        if getattr(loaded.model, "adapter", None) is not None:
            loaded.model.adapter = None
        self.model, self.name = loaded.model, name
        self.sample_rate = int(settings.get("sampling_rate", SAMPLE_RATE))
        self.do_normalize = bool(settings.get("do_normalize", True))
        facts = {"do_normalize": self.do_normalize, "sampling_rate": self.sample_rate}
        self.settings = {"config": config_facts(config)} | facts
        self.equal_lengths_only = not exact_under_padding(config)
        self.convolutions = tuple(zip(map(int, config.conv_kernel), map(int, config.conv_stride), strict=True))
        self.squeeze = int(getattr(config, "squeeze_factor", 1))
        """SEW's blocks see the mean of so many frames; its output is at the full rate again."""
        self.n_blocks = len(blocks_of(self.model, label))

        self.hop_samples = math.prod(stride for _, stride in self.convolutions)
        self.field_samples = 1
        for kernel, stride in reversed(self.convolutions):
            self.field_samples = (self.field_samples - 1) * stride + kernel
        self.min_samples = self.field_samples + self.hop_samples * (self.squeeze - 1)
        hop_ms = 1000.0 * self.hop_samples / self.sample_rate
        blocks = [f"layer{index}" for index in range(self.n_blocks + 1)]
        self.layers = {"features": int(config.conv_dim[-1])} | dict.fromkeys(blocks, int(config.hidden_size))
        self.hop_ms = {"features": hop_ms} | dict.fromkeys(blocks[:-1], hop_ms * self.squeeze) | {blocks[-1]: hop_ms}
        self.default_layers = (blocks[-1],)

    def _frames_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Frames]:
        x = self.normalised(wav, lengths)
        long, extractor = is_long(x), self.model.feature_extractor
        if long or layers == {"features"}:
            z = features_in_pieces(extractor, x, self.hop_samples, self.field_samples) if long else extractor(x)
            if layers == {"features"}:
                return {"features": self._full_rate(z.transpose(1, 2), lengths)}
        wanted = {int(layer.removeprefix("layer")) for layer in layers - {"features"}}
        equal = int(lengths.min()) == wav.shape[1]
        mask = None if equal else (torch.arange(wav.shape[1], device=wav.device) < lengths[:, None]).long()
        blocks, features = blocks_of(self.model, self.label), list[Tensor]()
        pieces: contextlib.AbstractContextManager = contextlib.nullcontext()
        if long:
            pieces = in_pieces(self.model, blocks, z, whole=equal)
            del z  # which the model lets go of
            x = x[:, :1].clone() if equal else x  # only its features are looked at, and its mask
        keep = (lambda *call: features.append(call[2])) if "features" in layers else (lambda *call: None)
        hook = extractor.register_forward_hook(keep)
        try:
            with silent(), unchanged(self.model), pieces:
                states = hidden_states(blocks, wanted, lambda: self.model(x, attention_mask=mask).last_hidden_state)
        finally:
            hook.remove()
        found = {f"layer{index}": state for index, state in states.items()}
        outputs = {
            layer: self._full_rate(state, lengths)
            if layer == self.default_layers[0]
            else self._squeezed(state, lengths)
            for layer, state in found.items()
        }
        if "features" in layers:
            outputs["features"] = self._full_rate(features[0].transpose(1, 2), lengths)
        return outputs

    def normalised(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """Zero mean and unit variance over each clip's own samples, zeros past its end: float32 [B, N]."""
        if not self.do_normalize:
            return wav
        if is_long(wav):
            return standardized(wav, lengths, NORM_EPS)
        valid = torch.arange(wav.shape[1], device=wav.device) < lengths[:, None]
        count = lengths.double()[:, None]
        x = wav.double()
        x = (x - x.sum(dim=1, keepdim=True) / count).masked_fill(~valid, 0.0)
        variance = x.square().sum(dim=1, keepdim=True) / count
        return (x / (variance + NORM_EPS).sqrt()).float()

    def frames_in(self, lengths: Tensor) -> Tensor:
        """Frames that the convolutional encoder makes of so many samples."""
        for kernel, stride in self.convolutions:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths

    def _full_rate(self, features: Tensor, lengths: Tensor) -> Frames:
        hop_ms = self.hop_ms["features"]
        first_ms = 500.0 * self.field_samples / self.sample_rate
        times = frame_times(features.shape[1], hop_ms, features.device, first_ms)
        valid = self.frames_in(lengths)
        # SEW fills an incomplete last group of its output with zeros.
        return Frames(features, times, valid // self.squeeze * self.squeeze if self.squeeze > 1 else valid)

    def _squeezed(self, features: Tensor, lengths: Tensor) -> Frames:
        hop_ms = self.hop_ms["features"]
        first_ms = 500.0 * self.field_samples / self.sample_rate + hop_ms * (self.squeeze - 1) / 2
        times = frame_times(features.shape[1], hop_ms * self.squeeze, features.device, first_ms)
        return Frames(features, times, self.frames_in(lengths) // self.squeeze)


class _Entry(Wav2Vec2):
    """wav2vec 2.0 itself: what the four entries share."""

    entry: str
    layer: str
    pooling = "mean"
    expected: Mapping[str, Any] = BASE
    corpora: tuple[str, ...] = ("librispeech",)

    @classmethod
    def from_weights(cls, weights: str | None, config: Mapping[str, Any] | None = None) -> Wav2Vec2:
        """The network with the weights of a folder, or of a name on the hub that was fetched.

        weights: holds config.json and model.safetensors or pytorch_model.bin (of pre-training, or fine-tuned); None
        for random weights. config: values that replace its own. Raises EvarError as `load_model` does, and for a
        model of the other size.
        """
        from transformers import Wav2Vec2Model

        values = {**(cls.expected if weights is None else {}), **(config or {})}
        loaded = load_model(Wav2Vec2Model, weights, config=values, random=weights is None, label=cls.entry)
        wanted, found = cls.expected["hidden_size"], loaded.config.hidden_size
        if weights is not None and found != wanted:
            other = cls.entry.removesuffix("-large") if cls.expected is LARGE else f"{cls.entry}-large"
            raise EvarError(
                f"{weights} does not fit {cls.entry}: its hidden_size should be {wanted}, is {found}:"
                f" give {other}@{weights} or hf:{weights}"
            )
        encoder = cls(loaded, cls.entry, preprocessing(loaded.folder, cls.entry), cls.entry)
        encoder.default_layers = (encoder.default_layers[0],) if cls.layer == "context" else (cls.layer,)
        encoder.default_pooling = cls.pooling
        if weights is not None:
            encoder.weights_kind, encoder.weights_sha256 = "trained", loaded.sha256
            # Any base model counts as LibriSpeech's; large ones were pre-trained on other speech as often (XLSR).
            sure = cls.expected is BASE or loaded.sha256 == list_encoders()[cls.entry].source["sha256"]
            known = known_corpora(str(weights), loaded.folder)
            encoder.trained_on = merged(cls.corpora if sure else (), known, labelled_corpora(loaded.config))
        return encoder


class Wav2Vec2F(_Entry):
    """Base, `features`, pooled by mean + max as the published rows are."""

    entry, layer, pooling = "wav2vec2-f", "features", "mean+max"


class Wav2Vec2C(_Entry):
    """Base, the context network's output, pooled by mean."""

    entry, layer = "wav2vec2-c", "context"


class Wav2Vec2FLarge(_Entry):
    """Large, `features`, pooled by mean + max."""

    entry, layer, pooling = "wav2vec2-f-large", "features", "mean+max"
    expected, corpora = LARGE, ("libri-light",)


class Wav2Vec2CLarge(_Entry):
    """Large, the context network's output, pooled by mean."""

    entry, layer = "wav2vec2-c-large", "context"
    expected, corpora = LARGE, ("libri-light",)


# ---- what the transformers encoders share --------------------------------------------------------------------------


def exact_under_padding(config: Any) -> bool:
    """Whether a clip's frames are the same alone and in a padded batch with a mask; see `Wav2Vec2`."""
    return (
        config.model_type in EXACT
        and getattr(config, "feat_extract_norm", "group") == "layer"
        and not getattr(config, "conv_pos_batch_norm", False)
    )


def blocks_of(model: nn.Module, label: str) -> nn.ModuleList:
    """The Transformer (or Conformer) blocks of an encoder; EvarError when there are none to be found."""
    counts = {
        getattr(model.config, key, None) for key in ("num_hidden_layers", "encoder_layers", "encoder_num_hidden_layers")
    }
    found = [
        (len(name), module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) in counts and re.search(r"(^|\.)(layers?|blocks)$", name)
    ]
    if not found:
        raise EvarError(
            f"{label}: {type(model).__name__} has no list of blocks that evar knows: write an adapter (py:)"
        )
    return min(found, key=lambda pair: pair[0])[1]


class _Enough(Exception):
    pass


def hidden_states(blocks: nn.ModuleList, wanted: Iterable[int], forward: Callable[[], Tensor]) -> dict[int, Tensor]:
    """What enters the first block (0), what leaves block K (K), and what `forward` returns (as the last number).

    The pass ends with the deepest block wanted. transformers' own hidden_states differ between versions in whether
    the last one is normalised; hooks do not.
    """
    wanted = set(wanted)
    deepest, states = max(wanted), {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states[0] = args[0] if args else kwargs["hidden_states"]
        if deepest == 0:
            raise _Enough

    def after(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            states[number] = output if isinstance(output, Tensor) else output[0]
            if number == deepest:
                raise _Enough

        return hook

    # Only what is wanted is kept: twelve layers of twenty minutes are 2.2 GB.
    hooks = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)] if 0 in wanted else []
    hooks += [
        block.register_forward_hook(after(index)) for index, block in enumerate(blocks[:-1], 1) if index in wanted
    ]
    try:
        with contextlib.suppress(_Enough):
            states[len(blocks)] = forward()
    finally:
        for hook in hooks:
            hook.remove()
    return {number: states[number] for number in sorted(wanted)}


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Conformers remember the positions of the last or longest clip: no property of the model, so it is undone."""
    names = ("cached_sequence_length", "cached_rotary_positional_embedding", "pe")
    kept = [
        (module, name, getattr(module, name)) for module in model.modules() for name in names if hasattr(module, name)
    ]
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
