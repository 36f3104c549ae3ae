"""PANNs' CNN14 (Kong et al., TASLP 2020, arXiv 1912.10211): ten layers of convolutions trained to tag AudioSet.

The network is the class of panns-inference, so published checkpoints load by name; the log-mel in front of it and the
order of the computation are ours (any batch of any lengths, only the blocks that are wanted, on any device).
"""

from __future__ import annotations

import builtins
import functools
import importlib.util
import sys
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evar.audio.mel import LogMel
from evar.encoders.base import CLIP, Encoder, Frames
from evar.encoders.pooling import frame_times, pool
from evar.encoders.registry import list_encoders
from evar.encoders.weights import Weights, array_types, load_by_name, read_weights, unwrapped
from evar.errors import EvarError

ENCODERS = {
    "cnn14": {
        "class": "Cnn14",
        "sample_rate": 32000,
        "dim": 2048,
        "extra": None,
        "trained_on": ["audioset"],
        "title": "PANNs CNN14 (TASLP 2020), 32 kHz, 2048-d",
        "weights": "required",
        "options": {"width": 64},
        "small": {"width": 4},
        "source": {
            "url": "https://zenodo.org/records/3987831/files/Cnn14_mAP%3D0.431.pth?download=1",
            "file": "Cnn14_mAP=0.431.pth",
            "bytes": 327428481,
            "sha256": "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
            "md5": "541141fa2ee191a88f24a3219fff024e",
            "licence": "CC-BY-4.0",
            "note": "mAP 0.431 on AudioSet",
        },
    },
    "cnn14-16k": {
        "like": "cnn14",
        "class": "Cnn14At16k",
        "sample_rate": 16000,
        "title": "PANNs CNN14 (TASLP 2020), 16 kHz, 2048-d: the model of the published tables",
        "source": {
            "url": "https://zenodo.org/records/3987831/files/Cnn14_16k_mAP%3D0.438.pth?download=1",
            "file": "Cnn14_16k_mAP=0.438.pth",
            "bytes": 358668570,
            "sha256": "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
            "md5": "362fc5ff18f1d6ad2f6d464b45893f2c",
            "licence": "CC-BY-4.0",
            "note": "mAP 0.438 on AudioSet",
        },
    },
    "cnn14-fusion": {
        "like": "cnn14-16k",
        "class": "Cnn14Fusion",
        "dim": 6144,
        "title": "PANNs CNN14, blocks 3 and 6 fused (EUSIPCO 2022), 16 kHz, 6144-d",
        "source": {
            "url": "https://zenodo.org/records/3987831/files/Cnn14_16k_mAP%3D0.438.pth?download=1",
            "file": "Cnn14_16k_mAP=0.438.pth",
            "bytes": 358668570,
            "sha256": "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
            "md5": "362fc5ff18f1d6ad2f6d464b45893f2c",
            "licence": "CC-BY-4.0",
            "note": "mAP 0.438 on AudioSet; the file of cnn14-16k",
        },
    },
}

FRONT_ENDS = {
    32000: {"n_fft": 1024, "win_length": 1024, "hop_length": 320, "n_mels": 64, "f_min": 50.0, "f_max": 14000.0},
    16000: {"n_fft": 512, "win_length": 512, "hop_length": 160, "n_mels": 64, "f_min": 50.0, "f_max": 8000.0},
}
"""By sample rate: 10 log10 of the mel power (Slaney's filterbank), not below 1e-10, every 10 ms."""
POWER_FLOOR = 1e-10
DB = 10.0 / float(np.log(10.0))
HOP_MS = 10.0

WIDTH = 64
"""Channels of the first block; each further block doubles them."""
CLASSES = 527
N_BLOCKS, N_HALVINGS = 6, 5
"""Blocks, and how many of them halve time and bands: all but the last."""
FC = "fc"

EARLY = 4
"""On a CPU, blocks 1 to 4 (few weights, large images) take one clip at a time, the others (75 of 80 million weights,
which oneDNN copies into its own layout at each call) a chunk of clips. Measured on one core, batches of 32 clips of 5 s:
130 ms a clip, panns-inference's own forward 186 ms."""
TILE_FRAMES = 512
"""Log-mel frames that go through the early blocks together: activations stay in the cache, also of long clips."""
HALO_FRAMES = 32
"""Frames on both sides of a tile: no fewer than the 30 that the early blocks see, a multiple of their 16."""
CHUNK_FRAMES = MappingProxyType({"cpu": 16384, "cuda": 32768})
"""Log-mel frames of a chunk of clips."""

MEL_KEY, STFT_KEY = "logmel_extractor.melW", "spectrogram_extractor.stft.conv_real.weight"
LOOK_ALIKES = MappingProxyType(
    {"dd3b4043a87d4ec13df8082c0fcfee3fb5084151808e47e060987a95eabdd142": "Cnn14_DecisionLevelMax_mAP=0.385.pth"}
)
"""SHA-256 of published files with CNN14's tensors, name by name, that were trained with another head."""


class Cnn14(Encoder):
    """CNN14 at 32 kHz.

    Six blocks of two 3x3 convolutions; `blockN` are their outputs per frame, [T, channels * bands], channel-major:
    2048 features every 20 ms (block1) to 320 ms (block5), and 4096 every 320 ms (block6, which does not halve). `fc` is
    the clip's embedding: block6 averaged over bands, max + mean over time, a linear layer and ReLU.
    Clips under 31 hops (0.31 s) are zero-padded: they have no frame after five halvings.

    width: channels of the first block, 64 in all published weights; smaller is for tests.
    """

    name = "cnn14"
    version = 1
    settings_say_all = True
    sample_rate = 32000
    default_layers = (FC,)
    default_pooling = CLIP
    preferred_batch = MappingProxyType({"cpu": 32, "cuda": 256})
    precisions = ("fp32", "bf16")
    compiled_parts = ("_block",)

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        if not isinstance(width, int) or width < 1:
            raise EvarError(f"{self.name}: width is the channels of the first block, 1 or more, found {width!r}")
        front_end = FRONT_ENDS[self.sample_rate]
        self.network = network(self.sample_rate, width)
        self.front_end = LogMel(
            self.sample_rate, **front_end, log_floor=POWER_FLOOR, filterbank="slaney-norm", floor="max"
        )
        self.min_samples = (2**N_HALVINGS - 1) * front_end["hop_length"]
        self.settings = {**front_end, "filterbank": "slaney-norm", "width": width}
        blocks = range(1, N_BLOCKS + 1)
        self._shapes = {k: (width * 2 ** (k - 1), front_end["n_mels"] // 2 ** min(k, N_HALVINGS)) for k in blocks}
        self.layers = {f"block{k}": channels * bands for k, (channels, bands) in self._shapes.items()}
        self.layers[FC] = self._shapes[N_BLOCKS][0]
        self.hop_ms = {f"block{k}": HOP_MS * 2 ** min(k, N_HALVINGS) for k in blocks}

    @classmethod
    def from_weights(cls, weights: str | None, width: int = WIDTH) -> Cnn14:
        """The architecture, with the weights of a published checkpoint ({"model": state dict}) if one is given.

        The checkpoint's own filterbank and window, where it holds them, must be those of this sample rate. Raises
        EvarError for a checkpoint of another rate or network.
        """
        encoder = cls(width)
        if weights is None:
            return encoder
        # The 16 kHz file also holds the state of its training sampler, arrays of whole numbers: data, no code.
        with torch.serialization.safe_globals(array_types("i8")):
            found = unwrapped(read_weights(weights), encoder.network, cls.name)
        encoder._check_origin(found)
        load_by_name(encoder.network, found, cls.name, "the file is no CNN14 of PANNs")
        encoder.weights_kind, encoder.weights_sha256 = "trained", found.sha256
        encoder.trained_on = tuple(found.metadata.get("trained_on") or list_encoders()[cls.name].trained_on)
        return encoder

    def _check_origin(self, found: Weights) -> None:
        written_for = found.metadata.get("encoder", "")
        if written_for and written_for.partition("-")[0] != "cnn14":
            raise EvarError(f"{found.path} holds the encoder {written_for}: give {written_for}@{found.path}")
        if found.sha256 in LOOK_ALIKES:
            raise EvarError(
                f"{found.path} is {LOOK_ALIKES[found.sha256]}, a network with CNN14's tensors and another head:"
                f" expected {list_encoders()[self.name].source['file']}"
            )
        ours = {MEL_KEY: self.front_end._mel, STFT_KEY: self.front_end._window}
        for key, expected in ours.items():
            if key not in found.state:
                continue
            theirs = found.state[key]
            if key == STFT_KEY and theirs.ndim == 3 and theirs.numel():
                theirs = theirs[0, 0]  # the cosine of frequency 0: the window itself
            if theirs.shape == expected.shape and torch.allclose(theirs.float(), expected.cpu(), atol=1e-5, rtol=1e-3):
                continue
            shape = list(found.state[key].shape) or [0]
            n_fft = 2 * (shape[0] - 1) if key == MEL_KEY else shape[-1]
            fitting = [name for name, rate in (("cnn14", 32000), ("cnn14-16k", 16000)) if n_fft == _n_fft(rate)]
            other = f": give {fitting[0]}@{found.path}" if fitting and n_fft != _n_fft(self.sample_rate) else ""
            raise EvarError(
                f"{found.path} was trained on another log-mel than {self.name}'s ({self.sample_rate} Hz,"
                f" FFT {_n_fft(self.sample_rate)}): {key} {shape} differs{other}"
            )

    # ---- one pass of the network for all layers that are wanted ----------------------------------------------------

    def _outputs_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Any]:
        """Frame layers and the clip layer from one pass."""
        wanted = {int(name.removeprefix("block")) for name in layers - {FC}}
        frames = self.front_end.frames(lengths)
        longest = int(frames.max())
        features = {
            k: wav.new_zeros(len(wav), longest // 2 ** min(k, N_HALVINGS), self.layers[f"block{k}"]) for k in wanted
        }
        clips = []
        rows = max(1, CHUNK_FRAMES.get(wav.device.type, CHUNK_FRAMES["cuda"]) // longest)
        for start in range(0, len(wav), rows):
            chunk = slice(start, start + rows)
            blocks = self._blocks(wav[chunk], lengths[chunk], wanted | ({N_BLOCKS} if FC in layers else set()))
            for k in wanted:
                features[k][chunk, : blocks[k].shape[2]] = blocks[k].permute(0, 2, 1, 3).flatten(2)
            if FC in layers:
                clips.append(self._clip_embedding(blocks[N_BLOCKS], frames[chunk]))
        outputs: dict[str, Any] = {FC: torch.cat(clips)} if clips else {}
        for k in wanted:
            step = 2 ** min(k, N_HALVINGS)
            times = frame_times(features[k].shape[1], HOP_MS * step, wav.device, first_ms=HOP_MS * (step - 1) / 2)
            outputs[f"block{k}"] = Frames(features[k], times, frames // step)
        return outputs

    def _clip_embedding(self, block6: Tensor, frames: Tensor) -> Tensor:
        """[B, C, T, 2] -> [B, C]: mean over bands, max + mean over the clip's own frames, linear layer, ReLU."""
        x = block6.mean(dim=3).transpose(1, 2)
        times = frame_times(x.shape[1], self.hop_ms["block6"], x.device)
        return self.network.fc1(pool(Frames(x, times, frames // 2**N_HALVINGS), "mean+max")).relu_()

    def _blocks(self, wav: Tensor, lengths: Tensor, wanted: set[int]) -> dict[int, Tensor]:
        """Outputs of the wanted blocks for one chunk of clips, [B, channels, T, bands] each."""
        frames, last = self.front_end.frames(lengths), max(wanted)
        early = min(last, EARLY) if wav.device.type == "cpu" else 0
        kept = self._early_blocks(wav, lengths, {early, *(k for k in wanted if k < early)}) if early else {}
        x = kept[early] if early else self._image(wav, lengths)
        for k in range(early + 1, last + 1):
            valid = frames // 2 ** (k - 1)
            padded = bool((valid < x.shape[2]).any())  # asked here: inside, it would break a compiled graph
            x = self._block(k, x, valid if padded else None)
            if k in wanted:
                kept[k] = x
        return kept

    def _early_blocks(self, wav: Tensor, lengths: Tensor, wanted: set[int]) -> dict[int, Tensor]:
        """As `_blocks`, each clip alone at its own length and in tiles."""
        frames = self.front_end.frames(lengths).tolist()
        kept = {}
        for k in wanted:
            channels, bands = self._shapes[k]
            kept[k] = wav.new_zeros(len(wav), channels, max(frames) // 2**k, bands)
        for row, (length, n_frames) in enumerate(zip(lengths.tolist(), frames, strict=True)):
            image = self._image(wav[row : row + 1, :length], lengths[row : row + 1])
            for start in range(0, n_frames, TILE_FRAMES):
                low, stop = max(0, start - HALO_FRAMES), min(n_frames, start + TILE_FRAMES)
                x = image[:, :, low : stop + HALO_FRAMES]
                for k in range(1, max(wanted) + 1):
                    x = self._block(k, x)
                    if k in kept:
                        skip, first, end = (start - low) // 2**k, start // 2**k, stop // 2**k
                        kept[k][row, :, first:end] = x[0, :, skip : skip + end - first]
        return kept

    def _image(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """The log-mel in dB, each band normalised: [B, 1, T, 64]."""
        log_mel, _ = self.front_end(wav, lengths)
        return self.network.bn0((log_mel * DB)[..., None]).transpose(1, 3).contiguous()

    def _block(self, k: int, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Block k of [B, C, T, F]; frames at and past `valid` are zeroed before each convolution, as if not there."""
        block = getattr(self.network, f"conv_block{k}")
        past = None
        if valid is not None:
            past = (torch.arange(x.shape[2], device=x.device) >= valid[:, None])[:, None, :, None]
        for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
            x = norm(conv(x if past is None else x.masked_fill(past, 0.0))).relu_()
        return functional.avg_pool2d(x, 2) if k <= N_HALVINGS else x


class Cnn14At16k(Cnn14):
    """CNN14 at 16 kHz: window 512, hop 160, 50 to 8000 Hz. The CNN14 of the published tables of BYOL-A."""

    name = "cnn14-16k"
    sample_rate = 16000


class Cnn14Fusion(Cnn14At16k):
    """Multilayer fusion of CNN14 (Niizumi et al., EUSIPCO 2022): blocks 3 and 6, max + mean over time, [B, 6144].

    At 16 kHz, as that paper's CNN14. The 32 kHz network is fused by `cnn14 --layers 3+6 --pooling mean+max`.
    """

    name = "cnn14-fusion"
    default_layers = ("block3", "block6")
    default_pooling = "mean+max"


# ---- panns-inference without what it does on import ----------------------------------------------------------------


def network(sample_rate: int, width: int = WIDTH) -> nn.Module:
    """panns-inference's Cnn14, freshly initialised, without its front end and its classifier."""
    front_end, models = FRONT_ENDS[sample_rate], upstream_models()
    with torch.device("cpu" if width == WIDTH else "meta"):
        cnn14 = models.Cnn14(
            sample_rate=sample_rate,
            window_size=front_end["n_fft"],
            hop_size=front_end["hop_length"],
            mel_bins=front_end["n_mels"],
            fmin=front_end["f_min"],
            fmax=front_end["f_max"],
            classes_num=CLASSES,
        )
    del cnn14.spectrogram_extractor, cnn14.logmel_extractor, cnn14.spec_augmenter, cnn14.fc_audioset
    if width != WIDTH:
        channels = [1, *(width * 2**k for k in range(N_BLOCKS))]
        for k in range(1, N_BLOCKS + 1):
            setattr(cnn14, f"conv_block{k}", models.ConvBlock(channels[k - 1], channels[k]))
        cnn14.bn0, cnn14.fc1 = nn.BatchNorm2d(front_end["n_mels"]), nn.Linear(channels[-1], channels[-1])
        models.init_layer(cnn14.fc1)
    return cnn14


@functools.cache
def upstream_models() -> ModuleType:
    """A private copy of `panns_inference.models`.

    Importing panns_inference itself runs wget in a shell and leaves files in the home folder, and its `models` imports
    matplotlib, which writes a font cache there, and librosa, for a front end that evar does not use. So the package's
    own code is not run, and these imports find nothing. Raises EvarError where the package is missing.
    """
    found = importlib.util.find_spec("panns_inference")
    if found is None or not found.submodule_search_locations:
        raise EvarError("cnn14 needs panns-inference, which is not installed: pip install panns-inference")
    package = ModuleType("_evar_panns_inference")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules[package.__name__] = package
    spec = importlib.util.find_spec(f"{package.__name__}.models")
    if spec is None or spec.loader is None:
        raise EvarError(f"{package.__path__[0]} holds no models.py: pip install --force-reinstall panns-inference")
    models = importlib.util.module_from_spec(spec)
    models.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import_without}
    spec.loader.exec_module(models)
    return models


class _LeftOut(ModuleType):
    """In place of a package that is not wanted: every name in it is a module that does nothing."""

    def __getattr__(self, name: str) -> type[nn.Module]:
        if name.startswith("__"):
            raise AttributeError(name)
        return nn.Identity


def _import_without(name: str, *arguments: Any, **named: Any) -> Any:
    if name.partition(".")[0] in ("matplotlib", "torchlibrosa"):
        return _LeftOut(name)
    return __import__(name, *arguments, **named)


def _n_fft(sample_rate: int) -> int:
    return FRONT_ENDS[sample_rate]["n_fft"]
