"""Modules with the API of HEAR 2021 (Turian et al., PMLR 176, hearbenchmark.com/hear-api.html) as encoders.

    load_model(model_file_path="") -> model        # with sample_rate, scene_embedding_size, timestamp_embedding_size
    get_scene_embeddings(audio [B, N], model) -> float32 [B, D]
    get_timestamp_embeddings(audio [B, N], model) -> (float32 [B, T, D], timestamps in ms [B, T])

Models are PyTorch modules, TensorFlow modules, or objects around one. evar imports no TensorFlow for them: where the
module has done so, audio goes in as its tensors, and whatever comes out passes through numpy.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evar.encoders.base import CLIP, Encoder, Frames
from evar.encoders.fingerprint import state_digest
from evar.encoders.foreign import (
    calling,
    declared_corpora,
    declared_rate,
    finite_floats,
    import_own,
    model_source,
    probe_noise,
    shortest_clip,
)
from evar.encoders.registry import WEIGHTS_SUFFIXES
from evar.errors import EvarError
from evar.files import digest, sha256_file

SCHEMES = {
    "hear": {
        "class": "HearModule",
        "extra": None,
        "title": "hear:MODULE[@WEIGHTS], a module with the HEAR 2021 API (load_model, get_scene_embeddings, ...)",
    },
}

FUNCTIONS = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")
PROBE_SECONDS = 2
REGULAR_MS = 1.0
"""Timestamps are regular when no step differs by more from the mean step: the tolerance of HEAR's own validator."""
FRAMEWORKS = ("tensorflow", "keras", "tf_keras")


class HearModule(Encoder):
    """A HEAR 2021 module: layer `scene`, one vector per clip (default), and `timestamp`, its frames.

    Sizes, the shortest clip and the hop are measured on noise when it is loaded; a module whose timestamps are not
    regular (or not in ms) has the layer `scene` only. The API knows no lengths, so clips of one length go together.
    The fingerprint covers the module's source and what it imports beside it (`evar.encoders.foreign`), the WEIGHTS
    file, and the tensors of the model; where a model shows no tensors, what it answers to noise stands for them.
    """

    version = 1
    default_layers = ("scene",)
    default_pooling = CLIP
    equal_lengths_only = True
    preferred_batch = MappingProxyType({"cpu": 8, "cuda": 32})  # HEAR promises no more than 20 minutes of audio a call

    @classmethod
    def from_reference(cls, reference: str, weights: str | None, random: bool = False) -> HearModule:
        """Load MODULE with `load_model(WEIGHTS)`, and measure it on noise.

        weights: handed on as it is: a file or folder, or whatever else the module understands. Raises EvarError, one
        line each: no such module, functions missing, an error inside, embeddings of a wrong type, shape or NaN.
        """
        spec = f"hear:{reference}"
        if random:
            raise EvarError(f"random:{spec}: the HEAR API has no untrained model: write a module that gives one")
        module = import_own(reference, spec)
        _keep_tensorflow_off_the_gpu()
        missing = [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
        if missing:
            raise EvarError(f"{spec} has no {' and no '.join(missing)}: the HEAR 2021 API is {', '.join(FUNCTIONS)}")
        path = _existing(weights, spec)
        model = _load_model(module, str(path) if path else weights, spec)
        return cls(spec, module, model, weights, None if path is None else _content_digest(path))

    def __init__(
        self, spec: str, module: ModuleType, model: Any, weights: str | None = None, weights_sha256: str | None = None
    ) -> None:
        super().__init__()
        self.name = spec
        self.sample_rate = declared_rate(model, spec)
        self.trained_on = declared_corpora(model, spec)
        self.module, self.model = module, model  # a torch module registers itself: moved, frozen, digested
        networks = [model] if isinstance(model, nn.Module) else _inner_networks(model)
        if not isinstance(model, nn.Module):
            self.networks = nn.ModuleList(networks)
        self.layers, self.hop_ms = {}, {}
        probe = self._measure()
        tensors = _foreign_tensors(model)
        opaque = not isinstance(model, nn.Module) and not networks and not tensors and weights_sha256 is None
        self.settings = {
            "source": model_source(module, networks),
            "weights": weights_sha256 or weights,
            "tensors": state_digest(tensors) if tensors else None,
            "answer": _rounded_digest(probe) if opaque else None,
        }
        if weights_sha256 or tensors or opaque or next(self.parameters(), None) is not None:
            self.weights_kind = "trained"
            self.weights_sha256 = weights_sha256 or digest([state_digest(self.state_dict()), self.settings])

    def _measure(self) -> Tensor:
        """Fill in layers, hop and the shortest clip by embedding noise; gives the scene embeddings of it."""
        wav = probe_noise(2, PROBE_SECONDS * self.sample_rate, self.device)
        with self._frozen(), contextlib.redirect_stdout(sys.stderr):
            scene = self._scene(wav)
            self.layers["scene"] = scene.shape[1]
            features, times = self._timestamps(wav)
            hop, self.irregular = _hop(times, 1000.0 * PROBE_SECONDS)
            self.min_samples = shortest_clip(self.sample_rate, self._embed_noise)
        for attribute, found in (
            ("scene_embedding_size", scene.shape[1]),
            ("timestamp_embedding_size", features.shape[2]),
        ):
            declared = getattr(self.model, attribute, found)
            if declared != found:
                raise EvarError(f"{self.name}: {attribute} is {declared!r}, but its embeddings have {found} dimensions")
        if not self.irregular:
            self.layers["timestamp"], self.hop_ms["timestamp"] = features.shape[2], hop
        return scene

    def _embed_noise(self, n_samples: int) -> None:
        """Both layers of one clip: the windows of the two functions may differ, and each clip must pass either."""
        wav = probe_noise(1, n_samples, self.device)
        self._scene(wav)
        if not self.irregular:
            self._timestamps(wav)

    def _clip(self, wav: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return {"scene": self._scene(wav)}

    def _frames(self, wav: Tensor, lengths: Tensor) -> dict[str, Frames]:
        features, times = self._timestamps(wav)
        valid = torch.full((len(wav),), features.shape[1], device=wav.device)
        return {"timestamp": Frames(features, times[0], valid)}

    def _parts(self, layer: str) -> list[str]:
        if self.irregular and "timestamp" in layer.split("+"):
            raise EvarError(f"{self.label} has no layer 'timestamp': {self.irregular}; use the layer 'scene'")
        return super()._parts(layer)

    # ---- the module's answers, checked -----------------------------------------------------------------------------

    def _scene(self, wav: Tensor) -> Tensor:
        """float32 [B, D] on the device of wav, or EvarError."""
        what = f"{self.name}: get_scene_embeddings"
        with calling(f"{what} failed on {list(wav.shape)} samples"):
            answer = self.module.get_scene_embeddings(self._audio(wav), self.model)
        return _checked(answer, what, [len(wav), self.layers.get("scene")], wav.device)

    def _timestamps(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings float32 [B, T, D] and timestamps in ms, float32 [B, T], on the device of wav, or EvarError."""
        what = f"{self.name}: get_timestamp_embeddings"
        with calling(f"{what} failed on {list(wav.shape)} samples"):
            answer = self.module.get_timestamp_embeddings(self._audio(wav), self.model)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise EvarError(f"{what} gives a {type(answer).__name__}: expected (embeddings, timestamps)")
        features = _checked(answer[0], what, [len(wav), None, self.layers.get("timestamp")], wav.device)
        times = _checked(answer[1], f"{what} (timestamps)", list(features.shape[:2]), wav.device, whole=True)
        return features, times

    def _audio(self, wav: Tensor) -> Any:
        """Audio as the model's framework takes it."""
        names = {cls.__module__.partition(".")[0] for cls in type(self.model).__mro__}
        if "tensorflow" in sys.modules and names & set(FRAMEWORKS) and not isinstance(self.model, nn.Module):
            return sys.modules["tensorflow"].convert_to_tensor(wav.cpu().numpy())
        return wav


def _keep_tensorflow_off_the_gpu() -> None:
    """TensorFlow, where the module imported it, would take all of a GPU's memory when it first computes."""
    if "tensorflow" in sys.modules:
        with contextlib.suppress(Exception):  # it computed before: too late to ask
            sys.modules["tensorflow"].config.set_visible_devices([], "GPU")


def _load_model(module: ModuleType, weights: str | None, spec: str) -> Any:
    """What `load_model` gives, built under one seed: a module with random projections is the same every time."""
    if weights is None:
        try:
            inspect.signature(module.load_model).bind()
        except TypeError:
            raise EvarError(f"{spec}: its load_model takes a weights file: give {spec}@FILE") from None
        except ValueError:  # no signature to be seen
            pass
    with (
        calling(f"{spec}: load_model failed"),
        contextlib.redirect_stdout(sys.stderr),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        model = module.load_model() if weights is None else module.load_model(weights)
    if model is None:
        raise EvarError(f"{spec}: load_model gives None: expected the model")
    return model


def _existing(weights: str | None, spec: str) -> Path | None:
    """The file or folder that WEIGHTS names, or None where it names something else (the module knows what)."""
    if weights is None:
        return None
    path = Path(weights).expanduser()
    if path.exists():
        return path
    if path.suffix.lower() in WEIGHTS_SUFFIXES and "@" not in weights:
        raise EvarError(f"weights file {path} does not exist: check the path after {spec}@")
    return None


def _content_digest(path: Path) -> str:
    """SHA-256 of a file; of the names and contents of all files for a folder."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest([[file.relative_to(path).as_posix(), sha256_file(file)] for file in files])


def _inner_networks(model: Any) -> list[nn.Module]:
    """The torch modules that an object around them holds."""
    return [value for _, value in sorted(getattr(model, "__dict__", {}).items()) if isinstance(value, nn.Module)]


def _foreign_tensors(model: Any) -> dict[str, Tensor]:
    """The variables of a TensorFlow or Keras model, {} for others."""
    if isinstance(model, nn.Module):
        return {}
    try:
        return {f"{i:06d}": torch.from_numpy(np.array(value)) for i, value in enumerate(model.variables)}
    except (AttributeError, TypeError, ValueError):  # none, or nothing that numpy and torch know
        return {}


def _rounded_digest(values: Tensor) -> str:
    """Digest of an answer to three digits of its largest value: the same on every run of one machine."""
    largest = float(f"{float(values.abs().max()):.2e}")
    steps = (values.double().cpu() / (largest or 1.0) * 1000).round().long()
    return digest([repr(largest), steps.tolist()])


def _checked(value: Any, what: str, shape: list[int | None], device: torch.device, whole: bool = False) -> Tensor:
    """An answer as a finite float32 tensor of `shape` (None: any size above 0), or EvarError naming the function."""
    value = finite_floats(value, what, device, whole)
    sizes = zip(value.shape, shape, strict=False)
    if value.ndim != len(shape) or any(size == 0 or wanted not in (None, size) for size, wanted in sizes):
        names = ["n_sounds", "n_timestamps", "size"] if len(shape) == 3 else ["n_sounds", "size"]
        wanted = ", ".join(str(size or name) for size, name in zip(shape, names, strict=True))
        raise EvarError(f"{what} gives the shape {list(value.shape)}: expected [{wanted}]")
    return value


def _hop(times: Tensor, duration_ms: float) -> tuple[float, str]:
    """The hop of timestamps [B, T] in ms, and what is wrong with them (empty where they are regular)."""
    if times.shape[1] < 2:
        return 0.0, f"it gives one timestamp for {duration_ms / 1000:g} s"
    steps = times.double().diff(dim=1)
    hop = float(steps.mean())
    if float((steps - hop).abs().max()) > REGULAR_MS or hop <= 0 or float((times - times[0]).abs().max()) > REGULAR_MS:
        return 0.0, "its timestamps are not regular (HEAR asks for steps that agree to 1 ms, the same for all sounds)"
    if hop * times.shape[1] < duration_ms / 100:
        return 0.0, f"its timestamps end at {float(times.max()):g} for {duration_ms / 1000:g} s: HEAR has them in ms"
    return round(hop, 3), ""
