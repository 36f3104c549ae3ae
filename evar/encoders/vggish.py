"""VGGish (Hershey et al., ICASSP 2017, arXiv 1609.09430) in PyTorch, under the names of the public port's checkpoint.

The port ends in a ReLU and the TensorFlow release does not: `vggish-relu` and `vggish`. `vggish-4k` is the layer before
the last. `vggish-fusion` is the multilayer fusion of layers 10 and 15 (Niizumi et al., EUSIPCO 2022, arXiv 2205.08138).
"""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from evar.audio.mel import LogMel
from evar.encoders.base import Encoder, Frames
from evar.encoders.fingerprint import state_digest
from evar.encoders.pooling import frame_times
from evar.encoders.weights import array_types, load_by_name, read_weights
from evar.errors import EvarError, unknown

ENCODERS = {
    "vggish": {
        "class": "Vggish",
        "sample_rate": 16000,
        "dim": 128,
        "extra": None,
        "trained_on": ["youtube-8m"],
        "title": "VGGish (2017) as released for TensorFlow, without a final ReLU, 128-d",
        "weights": "required",
        "options": {"postprocess": None, "pca_params": None, "width": 64},
        "small": {"width": 4},
        "source": {
            "url": "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
            "file": "vggish-10086976.pth",
            "bytes": 288567937,
            "sha256": "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
            "licence": "Apache-2.0",
            "note": "the PyTorch port's copy of the TensorFlow weights; the licence is that of the repository",
        },
    },
    "vggish-relu": {
        "like": "vggish",
        "class": "VggishRelu",
        "title": "VGGish (2017) as in the PyTorch port, with a final ReLU, 128-d",
    },
    "vggish-4k": {
        "like": "vggish",
        "class": "Vggish4k",
        "dim": 4096,
        "title": "VGGish (2017), the layer before the last, 4096-d",
        "options": {"width": 64},
    },
    "vggish-fusion": {
        "like": "vggish",
        "class": "VggishFusion",
        "dim": 4096,
        "title": "VGGish (2017), layers 10 and 15 fused (EUSIPCO 2022), 4096-d",
        "options": {"width": 64},
    },
}

SAMPLE_RATE = 16000
FRONT_END = {
    "n_fft": 512,
    "win_length": 400,
    "hop_length": 160,
    "n_mels": 64,
    "f_min": 125.0,
    "f_max": 7500.0,
    "power": 1.0,
    "log_floor": 0.01,
    "floor": "add",
    "center": False,
    "filterbank": "htk-mel",
    "float64": True,
}
"""ln(mel magnitude + 0.01), 25 ms windows every 10 ms, the first one at the clip's first sample; upstream is NumPy."""
EXAMPLE_FRAMES = 96
EXAMPLE_HOP = EXAMPLE_FRAMES * FRONT_END["hop_length"]
EXAMPLE_SAMPLES = EXAMPLE_HOP - FRONT_END["hop_length"] + FRONT_END["win_length"]
"""An example starts every 15,360 samples (0.96 s); its windows reach over 15,600."""
FIRST_MS = 1000.0 * FRONT_END["win_length"] / 2 / SAMPLE_RATE
FRAME_MS = 1000.0 * FRONT_END["hop_length"] / SAMPLE_RATE
CHUNK_EXAMPLES = MappingProxyType({"cpu": 16, "cuda": 512})
"""Examples that go through the network together: few on a CPU, so that activations stay near its cache."""

MODULES = {"pool2": 2, "pool5": 5, "pool10": 10, "pool15": 15, "fc17": 17, "fc19": 19}
"""Layer -> its module, counted from 0 through `features` (0 to 15) and on through `embeddings` (16 to 20, or 21)."""
N_FEATURES = 16
DIM = 128
PCA_BYTES = 2**20  # of the PCA's file; the published ones have 66 and 132 kB
PCA_LIMIT = 2.0
"""What post-processing clips to before it quantises: [-2, 2] becomes 0 to 255."""
QUANTISERS = {"truncate": torch.floor, "round": torch.round}
"""TensorFlow's release casts to 8 bits, which truncates; the PyTorch port rounds."""


class Vggish(Encoder):
    """VGGish: 0.96-s examples of a 64-band log-mel, six convolutions, three fully connected layers.

    A clip is cut into examples of 96 frames that do not overlap; what is left after the last whole one is dropped, as
    upstream does. A clip of fewer than 15,600 samples (0.975 s) is zero-padded to them, so there is always one example.

    Layers, named after the module that gives them (counted from 0, as the checkpoint counts):
    `pool2`, `pool5`, `pool10`, `pool15`: max-pooled features as [frames, mel x channels], mel-major, 2048 values every
    20, 40, 80 and 160 ms (48, 24, 12 and 6 frames an example). `fc17`, `fc19`: 4096 values an example, after their ReLU
    (modules 1 and 3 of `embeddings`). `embedding`: 128 values an example.

    EUSIPCO 2022 fuses "10 and 15": here modules of `features` counted from 0, which are the last two pools, 256 channels
    x 8 mel = 2048 and 512 x 4 = 2048, 4096 fused. Counted from 1 they would be the ReLUs before them: 4096 + 4096.

    The default pooling is the mean over examples; published rows use mean+max (`--pooling mean+max`).

    Args:
        postprocess: None, or "truncate" / "round": PCA, clipping to [-2, 2] and 8 bits (0 to 255, as float32), as for
            the embeddings published with AudioSet; applied to `embedding` only. A value that lies on the edge of two
            steps can then differ by one step between batches.
        pca_params: file of the PCA: `vggish_pca_params.npz` of TensorFlow, or the port's .pth.
        width: channels of the first convolution; all else is in proportion. 64 is VGGish.

    Raises EvarError for an unknown value, or a PCA file that is missing, damaged or another's.
    """

    name = "vggish"
    version = 1
    settings_say_all = True
    sample_rate = SAMPLE_RATE
    default_layers: tuple[str, ...] = ("embedding",)
    default_pooling = "mean"
    trained_on = ("youtube-8m",)
    min_samples = EXAMPLE_SAMPLES
    preferred_batch = MappingProxyType({"cpu": 16, "cuda": 128})
    precisions = ("fp32", "bf16")
    compiled_parts = ("network",)
    final_relu = False

    def __init__(self, width: int = 64, postprocess: str | None = None, pca_params: str | None = None) -> None:
        super().__init__()
        if not isinstance(width, int) or width < 1:
            raise EvarError(f"{self.name}: width is a whole number above 0, found {width!r}")
        self.features, self.embeddings = _network(width, self.final_relu)
        self.front_end = LogMel(SAMPLE_RATE, **FRONT_END)
        pools = dict.fromkeys(("pool2", "pool5", "pool10", "pool15"), 32 * width)
        self.layers = {**pools, "fc17": 64 * width, "fc19": 64 * width, "embedding": DIM}
        self._hops = {"pool2": 2, "pool5": 4, "pool10": 8, "pool15": 16}  # in log-mel frames
        self.hop_ms = {layer: FRAME_MS * self._hops.get(layer, EXAMPLE_FRAMES) for layer in self.layers}
        self.postprocess = postprocess
        if postprocess is not None and postprocess not in QUANTISERS:
            raise unknown("postprocess", postprocess, QUANTISERS, "or None for none")
        if (postprocess is None) != (pca_params is None):
            raise EvarError(
                f"{self.name}: post-processing needs both options, postprocess ('truncate' or 'round') and pca_params"
                " (a file such as vggish_pca_params.npz)"
            )
        if pca_params is not None:
            vectors, means = read_pca(pca_params)
            self.register_buffer("_pca_vectors", vectors, persistent=False)
            self.register_buffer("_pca_means", means, persistent=False)
        self.settings = {
            **FRONT_END, "example_frames": EXAMPLE_FRAMES, "width": width, "final_relu": self.final_relu,
            "postprocess": postprocess,
        }  # fmt: skip
        if pca_params is not None:
            self.settings |= {"pca_params": state_digest({"vectors": vectors, "means": means})}

    @classmethod
    def from_weights(cls, weights: str | None, **options: object) -> Vggish:
        """The architecture, with weights by name: the port's checkpoint, a folder that holds it, or a file of ours.

        Raises EvarError for a file of another model, and for one that has the published file's name but not its
        content.
        """
        encoder = cls(**options)
        if weights is None:
            return encoder
        published = Path(weights).expanduser() / ENCODERS["vggish"]["source"]["file"]
        found = read_weights(published if published.is_file() else weights)
        written_for = found.metadata.get("encoder", cls.name)
        if written_for not in ENCODERS:
            raise EvarError(f"{found.path} holds the encoder {written_for}: give {written_for}@{found.path}")
        hint = "expected VGGish under the PyTorch port's names: features.0 to 13 and embeddings.0, 2 and 4"
        load_by_name(encoder, found, encoder.name, hint)
        encoder.weights_kind, encoder.weights_sha256 = "trained", found.sha256
        if found.metadata:
            encoder.trained_on = tuple(found.metadata.get("trained_on") or ())
        return encoder

    def network(self, log_mel: Tensor, layers: frozenset[str] = frozenset({"embedding"})) -> dict[str, Tensor]:
        """The wanted layers of examples: float32 [E, 64, 96] -> {layer: [E, frames, dim]}; what is behind is not run."""
        modules = [*self.features, *self.embeddings]
        ends = {**MODULES, "embedding": len(modules) - 1}
        wanted = {ends[layer]: layer for layer in layers}
        found = {}
        # Time goes first in the kernels. Channels last in memory: faster on a CPU, and the order that `fc` wants.
        x = log_mel.transpose(1, 2)[:, None].contiguous(memory_format=torch.channels_last)
        for i, module in enumerate(modules[: max(wanted) + 1]):
            if i == N_FEATURES:
                x = x.permute(0, 2, 3, 1).flatten(1)
            x = module(x)
            if i in wanted:
                found[wanted[i]] = x.permute(0, 2, 3, 1).flatten(2) if i < N_FEATURES else x[:, None]
        if "embedding" in found and self.postprocess is not None:
            found["embedding"] = self._quantised(found["embedding"])
        return found

    def _quantised(self, embedding: Tensor) -> Tensor:
        projected = (embedding - self._pca_means) @ self._pca_vectors.T
        steps = (projected.clamp(-PCA_LIMIT, PCA_LIMIT) + PCA_LIMIT) * (255.0 / (2 * PCA_LIMIT))
        return QUANTISERS[self.postprocess](steps)

    def _frames_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Frames]:
        windows = wav.unfold(1, EXAMPLE_SAMPLES, EXAMPLE_HOP)
        batch, n_examples = windows.shape[:2]
        examples = (lengths - EXAMPLE_SAMPLES) // EXAMPLE_HOP + 1
        present = torch.arange(n_examples, device=wav.device) < examples[:, None]
        chunks: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        for chunk in windows[present].split(CHUNK_EXAMPLES.get(wav.device.type, 256)):
            log_mel, _ = self.front_end(chunk, torch.full((len(chunk),), EXAMPLE_SAMPLES, device=wav.device))
            for layer, values in self.network(log_mel, layers).items():
                chunks[layer].append(values)
        frames = {}
        for layer in layers:
            values = torch.cat(chunks.pop(layer))
            per_example = values.shape[1]
            features = values.new_zeros(batch, n_examples, *values.shape[1:])
            features[present] = values
            hop = self.hop_ms[layer]
            times = frame_times(n_examples * per_example, hop, wav.device, FIRST_MS + (hop - FRAME_MS) / 2)
            frames[layer] = Frames(features.flatten(1, 2), times, examples * per_example)
        return frames


class VggishRelu(Vggish):
    """`vggish` with a ReLU after the last layer, as the PyTorch port computes it; most likely the published rows'."""

    name = "vggish-relu"
    final_relu = True


class Vggish4k(Vggish):
    """`vggish` up to the 4096-d layer before the last, after its ReLU; published rows pool it by mean+max."""

    name = "vggish-4k"
    default_layers = ("fc19",)


class VggishFusion(Vggish):
    """The fusion `10+15` of EUSIPCO 2022: 2048 + 2048 values every 160 ms, mean+max over time; 4096-d."""

    name = "vggish-fusion"
    default_layers = ("pool10", "pool15")
    default_pooling = "mean+max"


def read_pca(path: str | Path) -> tuple[Tensor, Tensor]:
    """PCA of the 128-d embedding: float32 eigenvectors [128, 128], one in each row, and means [128].

    path: .npz with the arrays `pca_eigen_vectors` and `pca_means` (TensorFlow), or a PyTorch file with a mapping of the
    same names to tensors or arrays (the port). Nothing in the file is run. Raises EvarError, one line each.
    """
    path = Path(path).expanduser()
    expected = "expected vggish_pca_params.npz of TensorFlow's VGGish, or the PyTorch port's .pth"
    if not path.is_file():
        raise EvarError(f"PCA file {path} does not exist: {expected}")
    try:
        expanded = sum(i.file_size for i in zipfile.ZipFile(path).infolist()) if zipfile.is_zipfile(path) else 0
        if max(expanded, path.stat().st_size) > PCA_BYTES:
            raise EvarError(f"PCA file {path} holds more than {PCA_BYTES:,} bytes: {expected}")
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                content = {name: archive[name] for name in archive.files}
        else:
            # Plain arrays beside tensors: still no code. The warnings are about old pickle protocols.
            with torch.serialization.safe_globals(array_types("f4", "f8")), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise EvarError(f"PCA file {path} holds a {type(content).__name__}: {expected}")
        for name in (names := ("pca_eigen_vectors", "pca_means")):
            if name not in content:
                held = ", ".join(map(str, content))
                raise EvarError(f"PCA file {path} has no {name!r} among {held}: {expected}")
        found = [content[name] for name in names]
        if all(math.prod(array.shape) <= DIM * DIM for array in found):  # a view can claim terabytes of one number
            found = [np.asarray(array, dtype=np.float32) for array in found]
    except EvarError:
        raise
    except pickle.UnpicklingError as error:
        raise EvarError(
            f"PCA file {path} is damaged, or holds more than arrays, and was not loaded: {expected}"
        ) from error
    except Exception as error:  # a broken archive raises anything at all
        raise EvarError(f"PCA file {path} cannot be read ({type(error).__name__}): {expected}") from error
    vectors, means = found
    if tuple(vectors.shape) != (DIM, DIM) or math.prod(means.shape) != DIM:
        raise EvarError(
            f"PCA file {path}: pca_eigen_vectors should be [{DIM}, {DIM}] and pca_means [{DIM}], they are"
            f" {list(vectors.shape)} and {list(means.shape)}"
        )
    if not (np.isfinite(vectors).all() and np.isfinite(means).all()):
        raise EvarError(f"PCA file {path} holds NaN or infinity: it is damaged")
    return torch.from_numpy(vectors.copy()), torch.from_numpy(means.reshape(DIM).copy())


def _network(width: int, final_relu: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """`features` [E, 1, 96, 64] -> [E, 8 width, 6, 4] and `embeddings` [E, 192 width] -> [E, 128], initialised by He.

    He's normal initialisation with zero biases (ICCV 2015) is our choice: under PyTorch's default the biases drown the
    signal after nine layers, and all clips have nearly the same untrained embedding.
    """
    convolutions: list[nn.Module] = []
    channels = 1
    for block in ((1,), (2,), (4, 4), (8, 8)):
        for factor in block:
            convolutions += [nn.Conv2d(channels, factor * width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = factor * width
        convolutions.append(nn.MaxPool2d(2))
    hidden = 64 * width
    connected: list[nn.Module] = [nn.Linear(6 * 4 * channels, hidden), nn.ReLU(inplace=True)]
    connected += [nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, DIM)]
    if final_relu:
        connected.append(nn.ReLU(inplace=True))
    for module in (*convolutions, *connected):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return nn.Sequential(*convolutions), nn.Sequential(*connected)
