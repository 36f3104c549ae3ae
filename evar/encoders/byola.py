"""BYOL-A, versions 1 and 2: a small convolutional network over a normalised log-mel (arXiv 2103.06695, 2204.07402)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from evar.audio.mel import FILTERBANKS, LogMel
from evar.encoders.base import Encoder, Frames
from evar.encoders.inputs import checked_normalization
from evar.encoders.logmel import FRONT_END, HOP_MS, SAMPLE_RATE
from evar.encoders.pooling import frame_times
from evar.encoders.registry import list_encoders
from evar.encoders.weights import load_by_name, read_weights, unwrapped
from evar.errors import EvarError, unknown

ENCODERS = {
    "byola": {
        "class": "ByolaV2",
        "sample_rate": 16000,
        "dim": 3072,
        "extra": None,
        "trained_on": [],
        "title": "BYOL-A v2 trained by evar (the bundled checkpoint)",
        "weights": "bundled",
        "options": {"d": 3072},
    },
    "byola-v1-512": {
        "class": "ByolaV1",
        "sample_rate": 16000,
        "dim": 512,
        "extra": None,
        "trained_on": [],
        "title": "BYOL-A (IJCNN 2021), 512-d; trained by evar unless weights are given",
        "weights": "optional",
        "options": {"d": 512, "filterbank": None},
    },
    "byola-v2": {
        "class": "ByolaV2",
        "sample_rate": 16000,
        "dim": 3072,
        "extra": None,
        "trained_on": [],
        "title": "BYOL-A (TASLP 2023), local and global features, 3072-d",
        "weights": "required",
        "options": {"d": 3072, "filterbank": None},
    },
    "byola-v1-1024": {
        "like": "byola-v1-512",
        "dim": 1024,
        "title": "BYOL-A (IJCNN 2021), 1024-d",
        "weights": "required",
        "options": {"d": 1024, "filterbank": None},
    },
    "byola-v1-2048": {
        "like": "byola-v1-512",
        "dim": 2048,
        "title": "BYOL-A (IJCNN 2021), 2048-d",
        "weights": "required",
        "options": {"d": 2048, "filterbank": None},
    },
    "byola-v2-2048": {
        "like": "byola-v2",
        "dim": 2048,
        "title": "BYOL-A v2 with half the global features, 2048-d (pre-training preset v2-small)",
        "options": {"d": 2048, "filterbank": None},
    },
}

CHANNELS = 64
TILE_FRAMES = 512
"""On a CPU a clip goes through in tiles of this many log-mel frames, so that activations stay in the cache."""
HALO_FRAMES = 8
"""Frames on both sides of a tile: more than the 7 that three 3x3 convolutions and two halvings see."""
CHUNK_FRAMES = 32768
"""On other devices a batch goes through in chunks of this many log-mel frames: 0.5 GB for each activation."""


class Byola(Encoder):
    """What both versions share: front end, convolution blocks, weights by published names.

    Input: log-mel [B, 64, T], standardised by one scalar mean and deviation. A block halves bands and time; its layer
    `blockN` is [B, T / 2^N, bands * channels], band-major. `fc` is the frame embedding, pooled by max + mean.
    d: size of the embedding; filterbank: a key of `evar.audio.mel.FILTERBANKS`, None for the version's own.
    """

    version = 1
    settings_say_all = True
    sample_rate = SAMPLE_RATE
    default_layers = ("fc",)
    default_pooling = "mean+max"
    needs_normalization = True
    preferred_batch = MappingProxyType({"cpu": 32, "cuda": 256})
    batch_per_core = True
    precisions = ("fp32", "bf16")
    compiled_parts = ("_tile", "_block", "_embed")

    family = "byola"
    n_blocks: int
    own_filterbank: str

    def __init__(self, d: int, filterbank: str | None = None) -> None:
        super().__init__()
        filterbank = filterbank or self.own_filterbank
        if filterbank not in FILTERBANKS:
            raise unknown("mel filterbank", filterbank, FILTERBANKS)
        self.features = nn.Sequential(*[layer for i in range(self.n_blocks) for layer in _block(CHANNELS if i else 1)])
        self.front_end = LogMel(SAMPLE_RATE, **FRONT_END, filterbank=filterbank)
        self.min_samples = max(self.front_end.min_samples, (2**self.n_blocks - 1) * FRONT_END["hop_length"])
        self.settings = {**FRONT_END, "filterbank": filterbank, "d": d}
        blocks = {f"block{i}": i for i in range(1, self.n_blocks + 1)}
        self.layers = {name: CHANNELS * FRONT_END["n_mels"] // 2**i for name, i in blocks.items()} | {"fc": d}
        self.hop_ms = {name: HOP_MS * 2**i for name, i in blocks.items()} | {"fc": HOP_MS * 2**self.n_blocks}

    @classmethod
    def from_weights(cls, weights: str | None, d: int, filterbank: str | None = None) -> Byola:
        """The architecture, with the weights of a safetensors file of ours or a published .pth file if one is given.

        A file of ours decides the filterbank and brings normalisation statistics; raises EvarError where `filterbank`
        contradicts it or the tensors have other shapes.
        """
        if weights is None:
            return cls(d, filterbank)
        found = read_weights(weights)
        written_for = found.metadata.get("encoder", "")
        if written_for and written_for.partition("-")[0] != cls.family:  # the same tensors, trained by another loss
            raise EvarError(f"{found.path} holds the encoder {written_for}: give {written_for}@{found.path}")
        front_end = found.metadata.get("frontend") or {}
        known = {**FRONT_END, "sample_rate": SAMPLE_RATE, "filterbank": filterbank}
        for key, value in front_end.items():
            if key not in known:
                raise unknown("front end key", key, known, f"in {found.path}")
            wanted = known[key]
            if wanted is not None and wanted != value:
                raise EvarError(f"{found.path} was trained with {key} {value!r}, not {wanted!r}: leave the option out")
        encoder = cls(d, front_end.get("filterbank", filterbank))
        found = unwrapped(found, encoder, encoder.name)
        preset = fitting_preset(found.state)
        hint = f"the file fits {preset}@{found.path}" if preset else "the file is no BYOL-A encoder"
        if preset == encoder.name:  # it is that one, and not whole
            hint = "the file is cut or was changed: save or download it again"
        load_by_name(encoder, found, encoder.name, hint)
        encoder.weights_kind, encoder.weights_sha256 = "trained", found.sha256
        encoder.trained_on = tuple(found.metadata.get("trained_on") or ())
        if stats := found.metadata.get("normalization"):
            encoder.normalization = checked_normalization(stats, str(found.path))
        return encoder

    def network(self, log_mel: Tensor) -> Tensor:
        """Frame embeddings [B, T', d] of standardised log-mel [B, 64, T], differentiable: what pre-training trains."""
        features = self.features(log_mel[:, None])
        return self._embed(features.permute(0, 3, 2, 1).flatten(2))

    def _embed(self, local: Tensor) -> Tensor:
        """Local features [..., bands * channels] -> frame embeddings [..., d]."""
        raise NotImplementedError

    def _log_mel(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.front_end(wav, lengths)

    def _frames_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Frames]:
        log_mel, frames = self._log_mel(wav, lengths)
        log_mel = (log_mel - self.normalization["mean"]) / self.normalization["std"]
        wanted = [f"block{i}" in layers or (i == self.n_blocks and "fc" in layers) for i in range(1, self.n_blocks + 1)]
        blocks = self._clip_by_clip if log_mel.device.type == "cpu" else self._together
        outputs = {}
        for i, features in blocks(log_mel, frames, wanted).items():
            times = frame_times(features.shape[1], HOP_MS * 2**i, wav.device, first_ms=HOP_MS * (2**i - 1) / 2)
            outputs[f"block{i}"] = Frames(features, times, frames // 2**i)
        if "fc" in layers:
            local = outputs[f"block{self.n_blocks}"]
            outputs["fc"] = replace(local, features=self._embed_valid(local))
        return outputs

    def _embed_valid(self, local: Frames) -> Tensor:
        """Embed the valid frames only: in a mixed batch the linear layers are most of the work."""
        n_frames = local.features.shape[1]
        if bool((local.valid == n_frames).all()):
            return self._embed(local.features)
        valid = torch.arange(n_frames, device=local.valid.device) < local.valid[:, None]
        values = self._embed(local.features[valid])
        embedded = values.new_zeros(*valid.shape, self.layers["fc"])
        embedded[valid] = values
        return embedded

    def _clip_by_clip(self, log_mel: Tensor, frames: Tensor, wanted: list[bool]) -> dict[int, Tensor]:
        """Blocks on a CPU: each clip alone, at its own length, in tiles; nothing to mask and all in the cache.

        Time is the image's height and channels come last in memory, so block features need no copy at the end, and
        the first convolution (one input channel, for which oneDNN has no fast kernel) is a product of matrices.
        Measured on 2 cores: the three blocks take 1.1 ms for a second of audio; `features` in batches of 8 takes 3.0 ms.
        """
        batch, n_frames = len(frames), log_mel.shape[2]
        kernels = [self._folded(i) for i in range(self.n_blocks)]
        sizes = {i: (n_frames // 2**i, self.layers[f"block{i}"]) for i, want in enumerate(wanted, start=1) if want}
        outputs = {i: log_mel.new_zeros(batch, *size) for i, size in sizes.items()}
        for row, n_valid in enumerate(frames.tolist()):
            clip = log_mel[row, :, :n_valid].T
            for start in range(0, n_valid, TILE_FRAMES):
                low, stop = max(0, start - HALO_FRAMES), min(n_valid, start + TILE_FRAMES)
                for i, features in enumerate(self._tile(clip[low : stop + HALO_FRAMES], kernels), start=1):
                    if i in outputs:
                        skip, first, last = (start - low) // 2**i, start // 2**i, stop // 2**i
                        outputs[i][row, first:last] = features[skip : skip + last - first]
        return outputs

    def _tile(self, x: Tensor, kernels: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Every block's features [T / 2^i, bands * channels] of log-mel frames [T, 64]."""
        found = []
        for kernel, bias in kernels:
            x = functional.conv2d(x, kernel, bias, padding=1) if found else _first_convolution(x, kernel, bias)
            x = functional.max_pool2d(x, 2).relu_()
            found.append(x.permute(0, 2, 3, 1).flatten(2)[0])
        return found

    def _folded(self, i: int) -> tuple[Tensor, Tensor]:
        """Kernel (time first, channels last in memory) and bias of block i with its batch normalisation folded in."""
        conv, norm = self.features[4 * i], self.features[4 * i + 1]
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        kernel = (conv.weight * scale[:, None, None, None]).transpose(2, 3)
        return kernel.contiguous(memory_format=torch.channels_last), norm.bias + (conv.bias - norm.running_mean) * scale

    def _together(self, log_mel: Tensor, frames: Tensor, wanted: list[bool]) -> dict[int, Tensor]:
        """Blocks of a whole padded batch: frames past a clip's end are zeroed before each convolution."""
        chunks: dict[int, list[Tensor]] = {i: [] for i, want in enumerate(wanted, start=1) if want}
        rows = max(1, CHUNK_FRAMES // log_mel.shape[2])
        for x, valid in zip(log_mel.split(rows), frames.split(rows), strict=True):
            mixed = bool((valid < x.shape[2]).any())
            x = x[:, None]
            for i in range(1, self.n_blocks + 1):
                if mixed:
                    past = torch.arange(x.shape[3], device=x.device) >= (valid // 2 ** (i - 1))[:, None]
                    x = x.masked_fill(past[:, None, None], 0.0)
                x = self._block(i, x)
                if i in chunks:
                    chunks[i].append(x.permute(0, 3, 2, 1).flatten(2))
        return {i: torch.cat(parts) for i, parts in chunks.items()}

    def _block(self, i: int, x: Tensor) -> Tensor:
        return self.features[4 * i - 4 : 4 * i](x)


class ByolaV1(Byola):
    """BYOL-A, Niizumi et al., IJCNN 2021: three blocks, one frame per 80 ms; d is 512, 1024 or 2048."""

    n_blocks = 3
    own_filterbank = "htk"

    def __init__(self, d: int = 512, filterbank: str | None = None) -> None:
        super().__init__(d, filterbank)
        self.name = f"byola-v1-{d}"
        local = self.layers["block3"]
        self.fc = nn.Sequential(nn.Linear(local, d), nn.ReLU(), nn.Dropout(0.3), nn.Linear(d, d), nn.ReLU())

    def _embed(self, local: Tensor) -> Tensor:
        return self.fc(local)


class ByolaV2(Byola):
    """BYOL-A, Niizumi et al., TASLP 2023: two blocks, one frame per 40 ms, 1024 local and d - 1024 global features."""

    n_blocks = 2
    own_filterbank = "slaney-norm"

    def __init__(self, d: int = 3072, filterbank: str | None = None) -> None:
        super().__init__(d, filterbank)
        self.name = "byola-v2" if d == 3072 else f"byola-v2-{d}"
        local = self.layers["block2"]
        if d <= local:
            raise EvarError(f"byola-v2: d is more than the {local} local features, found {d}")
        self.fc = nn.Sequential(
            nn.Linear(local, 2048), nn.ReLU(), nn.Dropout(0.3), nn.Linear(2048, d - local), nn.ReLU()
        )

    def _embed(self, local: Tensor) -> Tensor:
        return torch.cat([local, self.fc(local)], dim=-1)


def fitting_preset(state: Mapping[str, Tensor]) -> str | None:
    """The registered BYOL-A encoder whose tensors a state dict holds, or None."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if shapes.get("features.0.weight") != (CHANNELS, 1, 3, 3):
        return None
    blocks = 3 if "features.8.weight" in shapes else 2
    for name, entry in list_encoders().items():
        if entry.module != __name__ or entry.weights == "bundled":  # which takes no file
            continue
        d = entry.options["d"]
        local, hidden, out = (512, d, d) if entry.class_name == "ByolaV1" else (1024, 2048, d - 1024)
        fits = shapes.get("fc.0.weight") == (hidden, local) and shapes.get("fc.3.weight") == (out, hidden)
        if fits and blocks == (3 if entry.class_name == "ByolaV1" else 2):
            return name
    return None


def _block(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.MaxPool2d(2)]


def _first_convolution(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """[T, F] -> [1, C, T, F], channels last in memory: a 3x3 convolution as one product with the 9 shifted copies."""
    n_frames, bands = x.shape
    windows = functional.pad(x, (1, 1, 1, 1)).unfold(0, 3, 1).unfold(1, 3, 1)
    y = torch.addmm(bias, windows.reshape(n_frames * bands, 9), kernel.reshape(len(kernel), 9).T)
    return y.view(1, n_frames, bands, len(kernel)).permute(0, 3, 1, 2)
