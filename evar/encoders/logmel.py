"""The log-mel spectrogram itself as an encoder: the baseline that every learned representation has to beat."""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor

from evar.audio.mel import LogMel
from evar.encoders.base import Encoder, Frames
from evar.encoders.pooling import frame_times

ENCODERS = {
    "logmel": {
        "class": "LogMelStatistics",
        "sample_rate": 16000,
        "dim": 128,
        "extra": None,
        "trained_on": [],
        "title": "64-band log-mel of BYOL-A's front end, mean and deviation over time",
        "weights": "none",
        "options": {},
    },
}

SAMPLE_RATE = 16000
FRONT_END = {
    "n_fft": 1024,
    "win_length": 1024,
    "hop_length": 160,
    "n_mels": 64,
    "f_min": 60.0,
    "f_max": 7800.0,
    "power": 2.0,
}
"""BYOL-A (arXiv 2204.07402, section IV): ln(mel power + float epsilon) every 10 ms."""
HOP_MS = 10.0


class LogMelStatistics(Encoder):
    """Mean and standard deviation over time of each of 64 log-mel bands (16 kHz, torchaudio's filterbank)."""

    name = "logmel"
    version = 1
    settings_say_all = True
    sample_rate = SAMPLE_RATE
    default_layers = ("logmel",)
    default_pooling = "mean_std"
    preferred_batch = MappingProxyType({"cpu": 16, "cuda": 256})
    batch_per_core = True

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.hop_ms = {"logmel": FRONT_END["n_mels"]}, {"logmel": HOP_MS}
        self.front_end = LogMel(SAMPLE_RATE, **FRONT_END, filterbank="htk")
        self.min_samples = self.front_end.min_samples
        self.settings = {**FRONT_END, "filterbank": "htk"}

    def _frames(self, wav: Tensor, lengths: Tensor) -> dict[str, Frames]:
        log_mel, frames = self.front_end(wav, lengths)
        times = frame_times(log_mel.shape[2], HOP_MS, wav.device)
        return {"logmel": Frames(log_mel.transpose(1, 2), times, frames)}
