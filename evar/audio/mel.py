"""Mel filterbanks and the batched log-mel front end that encoders share.

Which filterbank is used matters: the same sound differs by 4.5 in natural log between torchaudio's default and
librosa's. The names in FILTERBANKS say which is which.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evar.products import linear

FILTERBANKS = {
    "htk": {"scale": "htk", "norm": None, "triangles": "hz"},  # torchaudio's default: BYOL-A v1
    "slaney-norm": {"scale": "slaney", "norm": "slaney", "triangles": "hz"},  # librosa, nnAudio: BYOL-A v2, CNN14
    "htk-mel": {"scale": "htk", "norm": None, "triangles": "mel"},  # TensorFlow: VGGish, COLA
}
EPS = float(torch.finfo(torch.float32).eps)
WINDOWS = {"cpu": 1 << 9}
"""Windows that are transformed at a time on a kind of device: on a CPU their spectra stay in the cache."""
MOST_WINDOWS = 1 << 15
"""On other devices: 5 minutes at a hop of 10 ms, 0.3 GB."""


class LogMel(nn.Module):
    """Natural logarithm of the mel spectrogram of a padded batch, each clip as if it were alone.

    Args:
        sample_rate: Hz of the waveforms.
        n_fft: FFT size in samples; a window shorter than it is zero-padded.
        win_length: periodic Hann window, samples.
        hop_length: samples between frames.
        n_mels: mel bands.
        f_min, f_max: edges of the lowest and highest band, Hz.
        power: exponent of the magnitude: 2.0 power, 1.0 magnitude.
        log_floor: keeps the logarithm finite.
        filterbank: a key of FILTERBANKS.
        floor: "add": ln(x + log_floor) (BYOL-A, VGGish); "max": ln(max(x, log_floor)) (COLA, CNN14).
        center: True: frame t is centred on sample t * hop and the clip is reflected at both edges by its own length
            (librosa, torchaudio); False: frame t starts at sample t * hop and lies inside the clip (VGGish, COLA).
        float64: take the window and the FFT in double precision, as front ends in NumPy do (VGGish): in float32 the
            loudest bin's rounding is 1e-4 in the log-mel of bands that a recording leaves quiet.
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        win_length: int,
        hop_length: int,
        n_mels: int,
        f_min: float,
        f_max: float,
        power: float = 2.0,
        log_floor: float = EPS,
        filterbank: str = "htk",
        floor: str = "add",
        center: bool = True,
        float64: bool = False,
    ) -> None:
        super().__init__()
        if filterbank not in FILTERBANKS:
            raise ValueError(f"unknown filterbank {filterbank!r}; there are: {', '.join(FILTERBANKS)}")
        if floor not in ("add", "max"):
            raise ValueError(f"floor is 'add' or 'max', not {floor!r}")
        if not 0 < win_length <= n_fft or hop_length < 1 or log_floor <= 0:
            raise ValueError("a log-mel needs 0 < win_length <= n_fft, hop_length >= 1 and log_floor > 0")
        self.sample_rate, self.n_fft, self.win_length, self.hop_length = sample_rate, n_fft, win_length, hop_length
        self.n_mels, self.power, self.log_floor, self.floor, self.center = n_mels, power, log_floor, floor, center
        # Where the first window starts: torch.stft puts a short window in the middle of the FFT frame.
        self._before = n_fft // 2 - (n_fft - win_length) // 2 if center else 0
        self._after = win_length - self._before if center else 0
        self.min_samples = n_fft // 2 + 1 if center else win_length
        mel = mel_filterbank(sample_rate, n_fft, n_mels, f_min, f_max, **FILTERBANKS[filterbank])
        self.register_buffer("_mel", torch.from_numpy(mel).float(), persistent=False)
        window = torch.hann_window(win_length, periodic=True, dtype=torch.float64)
        # The window's precision is that of the spectrum.
        self.register_buffer("_window", window if float64 else window.float(), persistent=False)

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames of clips of `lengths` samples: 1 + length // hop when centred, else the windows that fit inside."""
        return 1 + (lengths if self.center else lengths - self.win_length) // self.hop_length

    def forward(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel of float32 `wav` [B, N], of which row i holds `lengths[i]` samples (int64 [B]) and then padding.

        Returns (log-mel [B, n_mels, T] float32, frames int64 [B]); row i is valid in its first frames[i] columns, the
        rest is finite and means nothing. Raises ValueError when a clip is shorter than `min_samples` or longer than N.
        """
        if wav.ndim != 2 or lengths.shape != wav.shape[:1]:
            raise ValueError(f"expected wav [B, N] and lengths [B], found {list(wav.shape)} and {list(lengths.shape)}")
        if len(wav) == 0:
            raise ValueError("an empty batch has no log-mel")
        shortest, longest = (int(v) for v in torch.stack(lengths.aminmax()).tolist())
        if shortest < self.min_samples:
            raise ValueError(
                f"a clip of {shortest} samples is too short for this log-mel: zero-pad it to at least "
                f"{self.min_samples} samples first"
            )
        if longest > wav.shape[1]:
            raise ValueError(f"a length of {longest} samples is more than the {wav.shape[1]} of the batch")
        # Half precision would lose the quiet bands, so autocast stops here.
        with torch.autocast(wav.device.type, enabled=False):
            wav = wav.double() if self._window.dtype == torch.float64 else wav.float()
            if self.center:
                wav = self._reflect(wav, lengths, shortest)
            windows = wav.unfold(1, self.win_length, self.hop_length)
            most = WINDOWS.get(wav.device.type, MOST_WINDOWS)
            clips = windows.split(max(1, most // windows.shape[1]))
            mel = torch.cat([torch.cat([self._mels(part) for part in clip.split(most, dim=1)], 1) for clip in clips])
            mel = mel + self.log_floor if self.floor == "add" else mel.clamp(min=self.log_floor)
            return mel.log_().transpose(1, 2), self.frames(lengths)

    def _mels(self, windows: Tensor) -> Tensor:
        """Mel spectrum [B, T, n_mels] of windows [B, T, win_length]."""
        return linear(self._spectrum(windows * self._window).to(self._mel.dtype), self._mel.T)

    def _spectrum(self, windows: Tensor) -> Tensor:
        """|FFT| ** power of windows [B, T, win_length] -> [B, T, n_fft // 2 + 1]."""
        spectrum = torch.view_as_real(torch.fft.rfft(windows, n=self.n_fft))
        energy = spectrum[..., 0].square() + spectrum[..., 1].square()
        return energy if self.power == 2.0 else energy.pow(self.power / 2)

    def _reflect(self, wav: Tensor, lengths: Tensor, shortest: int) -> Tensor:
        """Extend [B, N] by what centred windows reach over both edges, mirrored at each clip's own last sample."""
        before, after = self._before, self._after
        if shortest == wav.shape[1]:
            return functional.pad(wav[:, None], (before, after), mode="reflect")[:, 0]
        padded = functional.pad(wav, (before, after))
        padded[:, :before] = wav[:, 1 : before + 1].flip(1)
        step = torch.arange(after, device=wav.device)
        last = lengths.to(wav.device)[:, None] - 1
        return padded.scatter_(1, before + last + 1 + step, wav.gather(1, last - 1 - step))


def mel_filterbank(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    f_min: float,
    f_max: float,
    scale: str = "htk",
    norm: str | None = None,
    triangles: str = "hz",
) -> np.ndarray:
    """Triangular mel filters, float64 [n_fft // 2 + 1, n_mels]: `power_spectrum @ filterbank` is the mel spectrum.

    Args:
        scale: "htk": 2595 log10(1 + f / 700); "slaney": linear to 1 kHz, logarithmic above (Auditory Toolbox).
        norm: None: every triangle peaks at 1; "slaney": every triangle has area 1 in Hz.
        triangles: "hz": the slopes are straight in Hz (torchaudio, librosa); "mel": straight in mel (HTK, VGGish).

    Raises ValueError for a name that is none of these, or 0 <= f_min < f_max <= sample_rate / 2 broken.
    """
    if scale not in ("htk", "slaney") or norm not in (None, "slaney") or triangles not in ("hz", "mel"):
        raise ValueError(f"unknown mel filterbank: scale={scale!r}, norm={norm!r}, triangles={triangles!r}")
    if not 0 <= f_min < f_max <= sample_rate / 2:
        raise ValueError(f"mel bands need 0 <= f_min < f_max <= {sample_rate / 2:g} Hz, found {f_min:g} to {f_max:g}")
    to_mel, to_hz = (_hz_to_htk, _htk_to_hz) if scale == "htk" else (_hz_to_slaney, _slaney_to_hz)
    edges_mel = np.linspace(to_mel(np.float64(f_min)), to_mel(np.float64(f_max)), n_mels + 2)
    edges_hz = to_hz(edges_mel)
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    edges, points = (edges_hz, bins) if triangles == "hz" else (edges_mel, to_mel(bins))
    width = np.diff(edges)
    rising = (points[:, None] - edges[:-2]) / width[:-1]
    falling = (edges[2:] - points[:, None]) / width[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if norm == "slaney":
        filters *= 2.0 / (edges_hz[2:] - edges_hz[:-2])
    return filters


def _hz_to_htk(hz: np.ndarray) -> np.ndarray:
    return 2595.0 * np.log10(1.0 + hz / 700.0)


def _htk_to_hz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


# Slaney's Auditory Toolbox: 200/3 Hz per mel up to 1 kHz (mel 15), then 27 mels for each factor of 6.4.
_LOG_STEP = np.log(6.4) / 27.0


def _hz_to_slaney(hz: np.ndarray) -> np.ndarray:
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, 15.0 + np.log(np.maximum(hz, 1000.0) / 1000.0) / _LOG_STEP)


def _slaney_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp(_LOG_STEP * (np.maximum(mel, 15.0) - 15.0)))
