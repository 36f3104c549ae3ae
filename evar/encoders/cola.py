"""COLA (Saeed, Grangier, Zeghidour, ICASSP 2021), and COLA': its loss on the BYOL-A encoder (IJCNN 2021, Table 1).

No weights were ever published, so weights are those that `evar pretrain cola` writes.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from evar.audio.mel import LogMel
from evar.encoders.base import Encoder, Frames
from evar.encoders.byola import ByolaV1
from evar.encoders.pooling import frame_times
from evar.encoders.weights import Weights, load_by_name, read_weights
from evar.errors import EvarError, unknown

ENCODERS = {
    "cola": {
        "class": "Cola",
        "sample_rate": 16000,
        "dim": 1280,
        "extra": None,
        "trained_on": [],
        "title": "COLA (ICASSP 2021), EfficientNet-B0, 1280-d",
        "weights": "required",
        "options": {},
    },
    "cola-prime-512": {
        "class": "ColaPrime",
        "sample_rate": 16000,
        "dim": 512,
        "extra": None,
        "trained_on": [],
        "title": "COLA': the loss of COLA on the encoder of BYOL-A v1, 512-d",
        "weights": "required",
        "options": {"d": 512, "filterbank": None},
    },
    "cola-prime-1024": {
        "like": "cola-prime-512",
        "dim": 1024,
        "title": "COLA': the loss of COLA on the encoder of BYOL-A v1, 1024-d",
        "options": {"d": 1024, "filterbank": None},
    },
    "cola-prime-2048": {
        "like": "cola-prime-512",
        "dim": 2048,
        "title": "COLA': the loss of COLA on the encoder of BYOL-A v1, 2048-d",
        "options": {"d": 2048, "filterbank": None},
    },
}

SAMPLE_RATE = 16000
FRONT_END = {
    "n_fft": 1024,
    "win_length": 400,
    "hop_length": 160,
    "n_mels": 64,
    "f_min": 60.0,
    "f_max": 7800.0,
    "power": 1.0,
    "log_floor": 1e-5,
    "floor": "max",
    "center": False,
    "filterbank": "htk-mel",
}
"""ln of the mel magnitude, not below 1e-5. COLA's upper bound of 1e8 is out of reach of a waveform of unit norm."""
WINDOW_SAMPLES = 16000
"""One second, 98 frames: what the network sees at a time, in training and after it."""
WINDOW_MS = 1000.0 * WINDOW_SAMPLES / SAMPLE_RATE
CHUNK_WINDOWS = MappingProxyType({"cpu": 32, "cuda": 256})
"""Windows that go through the network together: on a CPU activations stay in the cache."""

DIM = 1280
STEM_CHANNELS = 32
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
          (6, 320, 1, 1, 3))  # fmt: skip
"""EfficientNet-B0 (Tan, Le, ICML 2019, Table 1): expansion, channels, blocks, stride of the first block, kernel."""


class Cola(Encoder):
    """The encoder of COLA: log-mel of a waveform of unit l2 norm, EfficientNet-B0, global max pooling.

    The layer `efficientnet` has one frame per second: a clip is scaled to unit l2 norm as a whole, cut into windows of
    16,000 samples that do not overlap, the last one zero-padded (our choice: the paper says no more than mean), and its
    embedding is the mean over them. A clip of another loudness has the same embedding.
    """

    name = "cola"
    version = 1
    settings_say_all = True
    sample_rate = SAMPLE_RATE
    layers = MappingProxyType({"efficientnet": DIM})
    hop_ms = MappingProxyType({"efficientnet": WINDOW_MS})
    default_layers = ("efficientnet",)
    default_pooling = "mean"
    preferred_batch = MappingProxyType({"cpu": 64, "cuda": 256})
    batch_per_core = True
    precisions = ("fp32", "bf16")
    compiled_parts = ("network",)

    def __init__(self) -> None:
        super().__init__()
        self.features = efficientnet_b0()
        self.front_end = LogMel(SAMPLE_RATE, **FRONT_END)
        self.settings = {**FRONT_END, "window_samples": WINDOW_SAMPLES, "waveform": "unit l2 norm"}

    @classmethod
    def from_weights(cls, weights: str | None) -> Cola:
        """The architecture, with the weights of a file that `evar pretrain cola` wrote if one is given.

        Raises EvarError for a file of another encoder, another front end, or tensors of other shapes.
        """
        encoder = cls()
        if weights is None:
            return encoder
        found = read_weights(weights)
        _check_encoder(found, encoder.name)
        known = {**encoder.settings, "sample_rate": SAMPLE_RATE}
        for key, value in (found.metadata.get("frontend") or {}).items():
            if key not in known:
                raise unknown("front end key", key, known, f"in {found.path}")
            if value != known[key]:
                raise EvarError(f"{found.path} was trained with {key} {value!r}, but cola has {known[key]!r}")
        load_by_name(encoder, found, encoder.name, "the file is no COLA encoder of evar")
        encoder.weights_kind, encoder.weights_sha256 = "trained", found.sha256
        encoder.trained_on = tuple(found.metadata.get("trained_on") or ())
        return encoder

    def network(self, log_mel: Tensor) -> Tensor:
        """Embeddings [B, 1280] of log-mel [B, 64, T], differentiable: what pre-training trains."""
        # Channels last in memory: 1.8 times as fast on a CPU.
        x = log_mel[:, None].to(memory_format=torch.channels_last)
        return self.features(x).amax(dim=(2, 3))

    def _frames(self, wav: Tensor, lengths: Tensor) -> dict[str, Frames]:
        batch, n_samples = wav.shape
        n_windows = -(-n_samples // WINDOW_SAMPLES)
        padded = functional.pad(unit_norm(wav), (0, n_windows * WINDOW_SAMPLES - n_samples))
        valid = (lengths + WINDOW_SAMPLES - 1) // WINDOW_SAMPLES
        present = torch.arange(n_windows, device=wav.device) < valid[:, None]
        windows = padded.view(batch, n_windows, WINDOW_SAMPLES)[present]
        embedded = []
        for chunk in windows.split(CHUNK_WINDOWS.get(wav.device.type, 256)):
            log_mel, _ = self.front_end(chunk, torch.full((len(chunk),), WINDOW_SAMPLES, device=wav.device))
            embedded.append(self.network(log_mel))
        values = torch.cat(embedded)
        features = values.new_zeros(batch, n_windows, DIM)
        features[present] = values
        times = frame_times(n_windows, WINDOW_MS, wav.device, first_ms=WINDOW_MS / 2)
        return {"efficientnet": Frames(features, times, valid)}


class ColaPrime(ByolaV1):
    """COLA': the encoder, front end and pooling of BYOL-A v1, trained with the loss of COLA; d is 512, 1024 or 2048."""

    family = "cola"

    def __init__(self, d: int = 512, filterbank: str | None = None) -> None:
        super().__init__(d, filterbank)
        self.name = f"cola-prime-{d}"

    @classmethod
    def from_weights(cls, weights: str | None, d: int, filterbank: str | None = None) -> ColaPrime:
        """As `Byola.from_weights`, from a file of ours that says that COLA' trained it.

        The tensors are those of BYOL-A, so only the metadata can tell. Raises EvarError where they do not.
        """
        if weights is not None:
            found = read_weights(weights)
            if not found.metadata:
                raise EvarError(
                    f"{found.path} does not say that COLA' trained it, and no such weights were ever published:"
                    f" expected a file of `evar pretrain cola`; if it is BYOL-A, give byola-v1-{d}@{found.path}"
                )
            _check_encoder(found, f"cola-prime-{d}")
        return super().from_weights(weights, d, filterbank)


def unit_norm(wav: Tensor) -> Tensor:
    """Scale each row of float32 [B, N] to unit l2 norm; silence stays silence.

    The norm is summed in float64, so padding does not change its last bit: one bit of it moves every sample's rounding,
    which is 1e-2 in the log-mel of the bands that a codec left empty, and 3e-3 in the embedding.
    """
    norm = torch.linalg.vector_norm(wav, dim=1, keepdim=True, dtype=torch.float64)
    return wav / norm.clamp(min=1e-12).float()


def efficientnet_b0() -> nn.Sequential:
    """EfficientNet-B0 without its classifier: [B, 1, F, T] -> [B, 1280, F / 32, T / 32] (rounded up).

    Tan, Le, ICML 2019, with its "same" padding (of an odd pixel, one more at the end) and batch-norm epsilon. Our choices:
    PyTorch's batch-norm momentum, which suits short trainings, and no drop-connect, of which COLA does not speak.

    It is written here because transformers' model is equally fast but starts with weights under which an untrained
    embedding is exactly 0, pads as if every size were even (98 frames are 49 and 25 further on), and renames tensors
    between versions, which weights files of ours must survive. The tests hold this one to it.
    """
    blocks = [_convolution(1, STEM_CHANNELS, 3, stride=2)]
    channels = STEM_CHANNELS
    for expansion, out, n_blocks, stride, kernel in STAGES:
        for i in range(n_blocks):
            blocks.append(_InvertedBottleneck(channels, out, expansion, stride if i == 0 else 1, kernel))
            channels = out
    network = nn.Sequential(*blocks, _convolution(channels, DIM, 1))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # as the reference network: normal, by fan out
            fan_out = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


class _InvertedBottleneck(nn.Module):
    """MBConv: expand, depthwise convolution, squeeze and excite, project; a shortcut where the shape stays."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.layers = nn.Sequential(
            *([_convolution(channels, wide, 1)] if expansion > 1 else []),
            _convolution(wide, wide, kernel, stride, groups=wide),
            _SqueezeExcite(wide, channels // 4),
            _convolution(wide, out, 1, activation=False),
        )
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.shortcut else y


class _SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the mean of all channels (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(functional.silu(self.reduce(mean))))


class _Halving(nn.Conv2d):
    """A convolution of stride 2 with "same" padding: size / 2 rounded up, an odd pixel of padding at the end."""

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        rows, columns = (kernel - 2 + size % 2 for size in x.shape[2:])
        return super().forward(functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)))


def _convolution(
    channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """Convolution, batch normalisation and, unless switched off, SiLU (swish)."""
    if stride == 1:
        conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)
    else:
        conv = _Halving(channels, out, kernel, stride, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out, eps=1e-3)
    return nn.Sequential(conv, norm, nn.SiLU(inplace=True)) if activation else nn.Sequential(conv, norm)


def _check_encoder(found: Weights, name: str) -> None:
    trained = found.metadata.get("encoder", name)
    if trained != name:
        raise EvarError(f"{found.path} holds the encoder {trained}, not {name}: give {trained}@{found.path}")
