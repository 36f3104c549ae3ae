"""evar's encoders as a module of the HEAR 2021 API, for HEAR's own evaluator and everything else that speaks it.

    python -m heareval.embeddings.runner evar.hear                           # byola, the bundled checkpoint
    python -m heareval.embeddings.runner evar.hear --model-options '{"model_file_path": "byola-v2@my.pth"}'
    python -m heareval.embeddings.runner evar.hear --model my.safetensors    # a weights file of `evar pretrain`

The runner hands its `--model-options` to `load_model` as keywords, so any name that `evar run` takes goes there; its
`--model` is a path that must exist.
Scene embeddings are what `Encoder.encode` gives (default layers and pooling), timestamp embeddings the frames of the
same layers, as far as the sound reaches. The API has no training audio to measure normalisation statistics on: an
encoder that needs some and whose weights hold none takes them from the environment, EVAR_HEAR_NORM=MEAN,STD (of the
log-mel, as `evar encode --norm`).

API: hearbenchmark.com/hear-api.html; Turian et al., "HEAR: Holistic Evaluation of Audio Representations", PMLR 176.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from evar.encoders.base import Encoder
from evar.encoders.registry import WEIGHTS_SUFFIXES, list_encoders, load_encoder
from evar.encoders.weights import read_weights
from evar.errors import EvarError

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

DEFAULT = "byola"
NORM = "EVAR_HEAR_NORM"
AUDIO_SECONDS = {"cpu": 120.0, "cuda": 600.0}
"""Audio that goes through at once: HEAR hands over up to 20 minutes and allows 16 GB."""


class HearModel(nn.Module):
    """An encoder as HEAR sees it: a torch module with its rate in Hz and the sizes of both embeddings.

    Where the encoder's default layers are one vector per clip, timestamps come from its last layer that has frames;
    `timestamp_embedding_size` is 0 where there is none.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.sample_rate = encoder.sample_rate
        self.scene_embedding_size = encoder.embedding_dim
        of_frames = [layer for layer in encoder.layers if layer in encoder.hop_ms]
        default = all(layer in encoder.hop_ms for layer in encoder.default_layers)
        self.frame_layers = tuple(encoder.default_layers) if default else tuple(of_frames[-1:])
        self.timestamp_embedding_size = sum(encoder.layers[layer] for layer in self.frame_layers)
        self.trained_on = tuple(encoder.trained_on)
        self.encoder_fingerprint = encoder.fingerprint()

    def forward(self, audio: Tensor) -> Tensor:
        """Scene embeddings float32 [n_sounds, scene_embedding_size] of audio float [n_sounds, n_samples]."""
        return torch.cat([self.encoder.encode(part) for part in self.batches(audio)])

    def batches(self, audio: Tensor) -> tuple[Tensor, ...]:
        """Audio [n_sounds, n_samples] in parts that fit into memory."""
        if not isinstance(audio, Tensor) or audio.ndim != 2 or 0 in audio.shape:
            found = list(audio.shape) if isinstance(audio, Tensor) else type(audio).__name__
            raise EvarError(f"{self.encoder.label}: expected audio as a tensor [n_sounds, n_samples], found {found}")
        device = "cuda" if self.encoder.device.type == "cuda" else "cpu"
        at_once = int(AUDIO_SECONDS[device] * self.sample_rate) // audio.shape[1]
        return audio.split(max(1, min(at_once, self.encoder.preferred_batch.get(device, 8))))


def load_model(model_file_path: str = "") -> HearModel:
    """An encoder as a HEAR model, on the CPU.

    model_file_path: the name of an encoder as `evar run` takes it (`byola`, which is also what an empty string means;
    `byola-v2@FILE`, `random:byola-v1-512` ...), or a weights file of evar's own, which says what it is for.
    Raises EvarError: unknown names, weights that do not fit, no normalisation statistics.
    """
    encoder = load_encoder(_encoder_name(str(model_file_path) or DEFAULT))
    if encoder.needs_normalization and (given := os.environ.get(NORM)):
        try:
            mean, std = map(float, given.split(","))
        except ValueError:
            raise EvarError(f"{NORM}: expected MEAN,STD such as -7.1,4.2, found {given!r}") from None
        encoder = encoder.with_normalization({"mean": mean, "std": std})
    if encoder.needs_normalization and encoder.normalization is None:
        raise EvarError(
            f"{encoder.label}: its weights hold no normalisation statistics, and HEAR has no audio to measure them on:"
            f" set {NORM}=MEAN,STD (of the log-mel), or give weights that hold them, such as {DEFAULT}"
        )
    return HearModel(encoder)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One vector per sound: float32 [n_sounds, model.scene_embedding_size], on the model's device.

    audio: float [n_sounds, n_samples] in [-1, 1] at model.sample_rate. Raises EvarError for other audio.
    """
    return _ours(model)(audio)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Frames of every sound, and where each is centred.

    audio: as in `get_scene_embeddings`. Gives float32 [n_sounds, n_timestamps, model.timestamp_embedding_size], and
    float32 [n_sounds, n_timestamps] in ms. Frames of padding (a window of 30 s) are left out; where an encoder counts
    other frames for some sounds of one length, the fewest are given. Raises EvarError for other audio, for an encoder
    without frames, and for sounds that fill none.
    """
    model = _ours(model)
    if not model.frame_layers:
        raise EvarError(f"{model.encoder.label} has no frames, only one vector per clip: use get_scene_embeddings")
    frames = [model.encoder.encode_frames(part, layers=model.frame_layers) for part in model.batches(audio)]
    n_frames = min(int(part.valid.min()) for part in frames)  # the API has no place for a count, padding would be sound
    if n_frames == 0:
        raise EvarError(f"{model.encoder.label} gives no frame for {audio.shape[1]} samples: pad the sounds with zeros")
    times = frames[0].times_ms[:n_frames].float().repeat(len(audio), 1)
    return torch.cat([part.features[:, :n_frames] for part in frames]), times


def _encoder_name(given: str) -> str:
    """An encoder's name; for a weights file (or run folder) of ours, the name that its metadata gives, with the file."""
    path = Path(given).expanduser()
    plain_file = path.suffix.lower() in WEIGHTS_SUFFIXES and "@" not in given and ":" not in given
    if given in list_encoders() or not (plain_file or path.exists()):
        return given
    weights = read_weights(path)
    if not (name := weights.metadata.get("encoder")):
        raise EvarError(f"{path} does not say which encoder it is for: give NAME@{path}, such as byola-v2@{path}")
    return f"{name}@{path}"


def _ours(model: HearModel) -> HearModel:
    if not isinstance(model, HearModel):
        raise EvarError(
            f"evar.hear: expected the model that evar.hear.load_model gives, found a {type(model).__name__}"
        )
    return model
