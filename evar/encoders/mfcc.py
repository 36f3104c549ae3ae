"""Mel-frequency cepstral coefficients: the classic hand-made representation, as a baseline."""

from __future__ import annotations

import math
from types import MappingProxyType

import torch
from torch import Tensor

from evar.audio.mel import LogMel
from evar.encoders.base import Encoder, Frames
from evar.encoders.logmel import FRONT_END, HOP_MS, SAMPLE_RATE
from evar.encoders.pooling import frame_times
from evar.errors import EvarError

ENCODERS = {
    "mfcc": {
        "class": "Mfcc",
        "sample_rate": 16000,
        "dim": 40,
        "extra": None,
        "trained_on": [],
        "title": "20 cepstral coefficients of the 64-band log-mel, mean and deviation over time",
        "weights": "none",
        "options": {"coefficients": 20},
    },
}


class Mfcc(Encoder):
    """The first `coefficients` of the orthonormal DCT-II of the `logmel` encoder's bands (Davis, Mermelstein 1980)."""

    name = "mfcc"
    version = 1
    settings_say_all = True
    sample_rate = SAMPLE_RATE
    default_layers = ("mfcc",)
    default_pooling = "mean_std"
    preferred_batch = MappingProxyType({"cpu": 16, "cuda": 256})
    batch_per_core = True

    def __init__(self, coefficients: int = 20) -> None:
        super().__init__()
        bands = FRONT_END["n_mels"]
        if not isinstance(coefficients, int) or not 1 <= coefficients <= bands:
            raise EvarError(f"mfcc: coefficients is a whole number from 1 to {bands}, found {coefficients!r}")
        self.layers, self.hop_ms = {"mfcc": coefficients}, {"mfcc": HOP_MS}
        self.front_end = LogMel(SAMPLE_RATE, **FRONT_END, filterbank="htk")
        self.min_samples = self.front_end.min_samples
        self.settings = {**FRONT_END, "filterbank": "htk", "coefficients": coefficients}
        self.register_buffer("_dct", dct_matrix(bands, coefficients).float(), persistent=False)

    def _frames(self, wav: Tensor, lengths: Tensor) -> dict[str, Frames]:
        log_mel, frames = self.front_end(wav, lengths)
        times = frame_times(log_mel.shape[2], HOP_MS, wav.device)
        return {"mfcc": Frames(log_mel.transpose(1, 2) @ self._dct, times, frames)}


def dct_matrix(bands: int, coefficients: int) -> Tensor:
    """Orthonormal DCT-II as float64 [bands, coefficients]: `x @ matrix` equals scipy's dct(x, norm="ortho")."""
    band = torch.arange(bands, dtype=torch.float64)[:, None] + 0.5
    matrix = torch.cos(math.pi / bands * band * torch.arange(coefficients, dtype=torch.float64))
    matrix[:, 0] *= math.sqrt(0.5)
    return matrix * math.sqrt(2.0 / bands)
