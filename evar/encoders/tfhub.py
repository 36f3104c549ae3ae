"""Modules of TensorFlow Hub as encoders: VGGish, TRILL, and any SavedModel that takes a waveform.

TensorFlow runs in a worker process (`evar.encoders.tf_worker`), on the CPU, from the first clip that has to be encoded: what
a module gives is measured once and remembered. A SavedModel is a program: its graph may
hold any operation of TensorFlow, also those that read and write files, so load only what you would run as code.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from evar.download import is_offline
from evar.encoders.base import CLIP, Encoder, Frames
from evar.encoders.catalog import hub_folder
from evar.encoders.pooling import frame_times
from evar.encoders.tf_client import GRAPHS, SavedModel, fetch
from evar.encoders.tf_probe import Measured, measure, noise, remembered
from evar.errors import EvarError, unknown
from evar.extras import require
from evar.files import make_folder, writing

ENCODERS = {
    "vggish-tfhub": {
        "class": "VggishTfHub",
        "sample_rate": 16000,
        "dim": 128,
        "extra": "tfhub",
        "trained_on": ["youtube-8m"],
        "title": "VGGish (2017), Google's module of TensorFlow Hub, 128-d",
        "weights": "required",
        "untrained": False,
        "options": {},
        "source": {
            "tfhub": "https://tfhub.dev/google/vggish/1",
            "note": "a SavedModel; its page names no licence or checksum",
        },
    },
    "trill-tfhub": {
        "like": "vggish-tfhub",
        "class": "TrillTfHub",
        "dim": 12288,
        "trained_on": ["audioset"],
        "title": "TRILL (Interspeech 2020), Google's module of TensorFlow Hub, layer19 12288-d (embedding 512-d)",
        "source": {
            "tfhub": "https://tfhub.dev/google/nonsemantic-speech-benchmark/trill/3",
            "note": "a SavedModel; its page names no licence or checksum",
        },
    },
}
SCHEMES = {
    "tfhub": {
        "class": "TfHubModule",
        "extra": "tfhub",
        "title": "tfhub:FOLDER or tfhub:HANDLE, a TensorFlow SavedModel that takes a waveform (?rate=HZ&layer=NAME)",
    },
}

LINKS = ("https://",)
SAMPLE_RATE = 16000
VGGISH_HOP, VGGISH_WINDOW = 15360, 15600
"""Samples: examples of 96 log-mel frames every 10 ms, the last of which has a window of 25 ms."""


class TfHubModule(Encoder):
    """A SavedModel whose outputs are features: layers, hops and the shortest clip are measured on noise, once.

    It is called with one waveform [N], or with a batch [B, N], and with `sample_rate` where it takes that. Layers have
    the names of its outputs; a single output is `embedding`, those of a tuple are `output0`, `output1` ... Outputs
    [T, D] are frames, outputs [D], or with one frame whatever the length, are one vector per clip. The default layer is
    `embedding` where there is one, else the first. A frame's time is the middle of its hop: modules do not say.
    No module knows lengths, so clips of one length go together.
    """

    name = "tfhub"
    version = 1
    sample_rate = SAMPLE_RATE
    default_pooling = "mean"
    equal_lengths_only = True
    preferred_batch = MappingProxyType({"cpu": 8, "cuda": 8})

    @classmethod
    def from_reference(
        cls,
        reference: str,
        weights: str | None,
        random: bool = False,
        sample_rate: int | None = None,
        layer: str | None = None,
    ) -> TfHubModule:
        """The SavedModel of a folder, or of a handle that was fetched before.

        reference: FOLDER or HANDLE, then `?rate=HZ&layer=NAME` where it needs another rate than 16000 Hz, or its
        default layer is another; sample_rate and layer are the same for Python. Raises EvarError, one line each:
        no TensorFlow, no such folder, a handle that is not here, no module that takes a waveform, NaN.
        """
        spec = f"tfhub:{reference}"
        if random:
            raise EvarError(f"random:{spec}: a SavedModel comes with its weights, it has no untrained form")
        if weights is not None:
            raise EvarError(f"{spec} is the weights: remove '@{weights}'")
        place, asked = _split(reference)
        rate = _checked_rate(asked.get("rate", sample_rate or SAMPLE_RATE), spec)
        require("tfhub", spec)
        folder = find_folder(place, spec)
        model = SavedModel(folder, rate, spec)
        encoder = cls(model, _measured(model))
        handle = None if _is_model(Path(place).expanduser()) else full_handle(place)
        encoder.weights_file = hub_folder("tfhub", handle).name if handle else folder.resolve().name
        if layer := asked.get("layer", layer):
            if layer not in encoder.layers:
                raise unknown(f"layer of {spec}", layer, encoder.layers)
            encoder.default_layers = (layer,)
        encoder.default_pooling = "mean" if encoder.default_layers[0] in encoder.hop_ms else CLIP
        return encoder

    def __init__(self, model: SavedModel, measured: Measured) -> None:
        super().__init__()
        self.model, self.sample_rate = model, model.rate
        self.names = {_layer_name(output): output for output in measured.layers}
        self.layers = {name: measured.layers[output] for name, output in self.names.items()}
        self.hop_ms = {
            name: round(1000.0 * measured.hops[output] / model.rate, 4)
            for name, output in self.names.items()
            if output in measured.hops
        }
        self.default_layers = ("embedding" if "embedding" in self.layers else next(iter(self.layers)),)
        self.min_samples = measured.min_samples
        self.weights_kind, self.weights_sha256 = "trained", model.sha256
        self.settings = {"saved_model": self.weights_sha256}

    def _frames_of(self, wav: Tensor, lengths: Tensor, layers: frozenset[str]) -> dict[str, Frames]:
        found = self._outputs(wav, layers)
        result = {}
        for name, features in found.items():
            hop, n_frames = self.hop_ms[name], features.shape[1]
            times = frame_times(n_frames, hop, wav.device, first_ms=hop / 2)
            result[name] = Frames(features, times, torch.full((len(wav),), n_frames, device=wav.device))
        return result

    def _clip(self, wav: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return self._outputs(wav, frozenset(self.layers) - set(self.hop_ms))

    def _outputs(self, wav: Tensor, layers: frozenset[str]) -> dict[str, Tensor]:
        """Layers as the module gives them: float32 [B, T, D], or [B, D] for clip layers; EvarError for anything else."""
        arrays = self.model(wav.cpu().numpy(), [self.names[name] for name in sorted(layers)])
        found = {}
        for name in sorted(layers):
            array, dim = arrays.get(self.names[name]), self.layers[name]
            shape = [] if array is None else list(array.shape)
            if name not in self.hop_ms and len(shape) == 3 and shape[1] == 1:
                array, shape = array[:, 0], [shape[0], shape[2]]
            wanted = [len(wav), dim] if name not in self.hop_ms else [len(wav), *shape[1:2], dim]
            if shape != wanted or 0 in shape:
                expected = f"[{len(wav)}, {dim}]" if name not in self.hop_ms else f"[{len(wav)}, frames, {dim}]"
                raise EvarError(
                    f"{self.label}: its output {self.names[name]!r} for {len(wav)} clips of {wav.shape[1]} samples is"
                    f" {shape or 'not there'}: expected {expected}"
                )
            bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
            if len(bad):
                raise EvarError(
                    f"{self.label}: its output {self.names[name]!r} holds NaN or infinity for clip {bad[0]} of a batch"
                    f" of {len(wav)}"
                )
            found[name] = torch.from_numpy(array).to(wav.device)
        return found


class VggishTfHub(TfHubModule):
    """VGGish (Hershey et al., ICASSP 2017) as published on TensorFlow Hub: layer `vggish`, 128-d every 960 ms.

    The module makes its own log-mel, and drops what does not fill an example of 0.96 s; a clip shorter than 15,600
    samples is zero-padded to them. There is no final ReLU, PCA or quantisation.
    """

    name = "vggish-tfhub"
    trained_on = tuple(ENCODERS[name]["trained_on"])

    @classmethod
    def from_weights(cls, weights: str | None) -> VggishTfHub:
        """The module of a folder or handle. Raises EvarError for one that is not VGGish: 128-d, every 960 ms."""
        model = _published(cls.name, weights)
        measured = remembered(model, cls.name, lambda: _vggish(model))
        encoder = cls(model, measured)
        encoder.names = {"vggish": next(iter(measured.layers))}
        encoder.layers, encoder.hop_ms = {"vggish": 128}, {"vggish": 1000.0 * VGGISH_HOP / SAMPLE_RATE}
        encoder.default_layers = ("vggish",)
        return encoder


class TrillTfHub(TfHubModule):
    """TRILL (Shor et al., Interspeech 2020, arXiv 2002.12764) as published on TensorFlow Hub, trained on AudioSet.

    Layers `layer19`, 12288-d, the default here, and `embedding`, 512-d. Their
    hop is not published; it is measured when the module is loaded. Pooling as in the published rows: max + mean.
    """

    name = "trill-tfhub"
    trained_on = tuple(ENCODERS[name]["trained_on"])
    default_pooling = "mean+max"

    @classmethod
    def from_weights(cls, weights: str | None) -> TrillTfHub:
        """The module of a folder or handle. Raises EvarError for one without TRILL's two outputs as frames."""
        model = _published(cls.name, weights)
        measured = _measured(model)
        found = {name: [dim] for name, dim in measured.layers.items()}
        if found != {"layer19": [12288], "embedding": [512]} or found.keys() != measured.hops.keys():
            raise EvarError(
                f"{model.folder} is not TRILL: expected frames layer19 [12288] and embedding [512], found"
                f" {_shapes(found)}; for any other module give tfhub:{model.folder}"
            )
        encoder = cls(model, measured)
        encoder.default_layers = ("layer19",)
        return encoder


# ---- where models are --------------------------------------------------------------------------------------------------


def find_folder(reference: str | Path, label: str) -> Path:
    """The SavedModel meant by a folder, or by a handle: in evar's cache, else in $TFHUB_CACHE_DIR.

    Nothing is downloaded. Raises EvarError, one line each: no folder, no SavedModel in it, a handle that is not here.
    """
    folder = Path(reference).expanduser()
    if _is_model(folder):
        return folder
    if folder.is_dir():
        held = ", ".join(sorted(file.name for file in folder.iterdir())[:4]) or "nothing"
        raise EvarError(f"{label}: {folder} is no SavedModel: expected {GRAPHS[0]} and variables/, it holds {held}")
    if folder.exists():
        raise EvarError(f"{label}: {folder} is a file: give the folder that holds {GRAPHS[0]} and variables/")
    handle = full_handle(str(reference))
    if handle is None:
        raise EvarError(f"{label}: no folder {folder}: expected one with {GRAPHS[0]}, or a handle https://...")
    places = [hub_folder("tfhub", handle)]
    if theirs := os.environ.get("TFHUB_CACHE_DIR"):
        places.append(Path(theirs) / hashlib.sha1(handle.encode()).hexdigest())  # as tensorflow_hub names them
    for place in places:
        if _is_model(place):
            return place
    offline = " where there is a network, and copy the folder here (EVAR_OFFLINE is set)" if is_offline() else ""
    raise EvarError(f"{label}: {handle} is not on this machine: evar weights fetch tfhub:{handle}{offline}")


def full_handle(reference: str) -> str | None:
    """`google/vggish/1` -> `https://tfhub.dev/google/vggish/1`; a link stays as it is; None for anything else."""
    if reference.startswith(LINKS):
        return reference
    return f"https://tfhub.dev/{reference}" if re.fullmatch(r"[\w-]+(/[\w.-]+)+/\d+", reference) else None


def fetch_model(reference: str, folder: Path | None = None) -> Path:
    """Download the module of a handle into `folder` (default: its place in evar's cache), and return it.

    Raises EvarError offline, without TensorFlow, and where tensorflow_hub cannot resolve the handle.
    """
    handle = full_handle(reference)
    if handle is None:
        raise EvarError(f"tfhub:{reference} is no handle: expected https://tfhub.dev/OWNER/MODEL/VERSION")
    folder = hub_folder("tfhub", handle) if folder is None else Path(folder)
    if _is_model(folder):
        return folder
    if is_offline():
        raise EvarError(f"cannot fetch tfhub:{handle}: EVAR_OFFLINE is set; copy its SavedModel to {folder}")
    require("tfhub", f"tfhub:{handle}")
    part = make_folder(folder.with_name(f"{folder.name}.{os.getpid()}.part"))
    try:
        found = fetch(handle, part)
        if not _is_model(found):
            raise EvarError(f"{handle} is no SavedModel: no {GRAPHS[0]} in what came")
        with writing(folder):
            os.replace(found, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in GRAPHS)


# ---- how it is done ----------------------------------------------------------------------------------------------------


def _published(name: str, weights: str | None) -> SavedModel:
    require("tfhub", name)
    if weights is None:
        raise EvarError(f"{name} has no untrained form: give {name}@FOLDER, a SavedModel")
    return SavedModel(find_folder(weights, name), SAMPLE_RATE, name)


def _vggish(model: SavedModel) -> Measured:
    """EvarError unless the module gives an example of 128 numbers for each whole 0.96 s."""
    model.find_way(noise(VGGISH_WINDOW))
    for n_samples in (VGGISH_WINDOW, VGGISH_WINDOW + 2 * VGGISH_HOP - 1, VGGISH_WINDOW + 2 * VGGISH_HOP):
        n_frames = 1 + (n_samples - VGGISH_WINDOW) // VGGISH_HOP
        found = {name: list(array.shape[1:]) for name, array in model(noise(n_samples)[None]).items()}
        if list(found.values()) != [[n_frames, 128]]:
            raise EvarError(
                f"{model.folder} is not VGGish: expected {n_frames} x 128 for {n_samples} samples, found"
                f" {_shapes(found)}; for any other module give tfhub:{model.folder}"
            )
    (output,) = found
    return Measured({output: 128}, {output: VGGISH_HOP}, VGGISH_WINDOW, {})


def _measured(model: SavedModel) -> Measured:
    """Find out how to call the module and what it gives; EvarError where it is no encoder of waveforms."""

    def run(wav: np.ndarray) -> Mapping[str, np.ndarray]:
        if model.way is None:
            model.find_way(wav[0])
        return model(wav)

    return remembered(model, "tfhub", lambda: measure(run, model.rate, f"{model.label}: {model.folder}"))


def _split(reference: str) -> tuple[str, dict[str, str]]:
    """`FOLDER?rate=HZ&layer=NAME` -> FOLDER and {rate, layer}; a folder may have `?` in its name."""
    place, mark, query = reference.rpartition("?")
    if not mark or Path(reference).expanduser().exists():
        return reference, {}
    asked = dict(parse_qsl(query, keep_blank_values=True))
    for key in asked:
        if key not in ("rate", "layer"):
            raise unknown("option", key, ("rate", "layer"), f"in tfhub:{reference}")
    return place, asked


def _checked_rate(rate: Any, spec: str) -> int:
    if not str(rate).isdecimal() or not 1000 <= int(rate) <= 192000:
        raise EvarError(f"{spec}: rate is Hz, from 1000 to 192000, found {rate!r}")
    return int(rate)


def _layer_name(output: str) -> str:
    """An output's name as a layer's: words only."""
    return re.sub(r"[^\w.-]+", "_", output)


def _shapes(found: Mapping[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in found.items()) or "nothing"
