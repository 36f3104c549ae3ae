"""Kaldi's log-mel filterbank ("fbank"), batched: the front end of AST and of other models trained on Kaldi features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evar.audio.mel import mel_filterbank

EPS = float(torch.finfo(torch.float32).eps)
"""Kaldi's floor of the mel energies before the logarithm."""


class KaldiFbank(nn.Module):
    """ln(max(mel power, epsilon)) of frames as Kaldi's `compute-fbank-feats` makes them, without dither.

    Each frame is treated alone: its mean is removed, then pre-emphasis (the first sample is its own predecessor), a
    symmetric Hann window ("hanning"), the power of an FFT of the next power of two, and triangles that are straight in
    mel = 1127 ln(1 + f / 700). Frames lie wholly inside the clip (`snip_edges`), so padding never reaches one.

    Args:
        sample_rate: Hz of the waveforms.
        n_mels: mel bands.
        f_min, f_max: edges of the lowest and the highest band, Hz; f_max None is half the sample rate.
        frame_ms, hop_ms: length of a frame and the distance between two, ms.
        preemphasis: how much of the previous sample is subtracted.

    Waveforms are taken as they come: Kaldi's own features are those of 16-bit integers, which are 20.8 higher.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mels: int = 128,
        f_min: float = 20.0,
        f_max: float | None = None,
        frame_ms: float = 25.0,
        hop_ms: float = 10.0,
        preemphasis: float = 0.97,
    ) -> None:
        super().__init__()
        self.sample_rate, self.n_mels, self.preemphasis = sample_rate, n_mels, preemphasis
        # Kaldi cuts fractions of a sample off; the small term is for products such as 0.025 * 16000 = 399.99...
        self.win_length = int(sample_rate * frame_ms / 1000 + 1e-9)
        self.hop_length = int(sample_rate * hop_ms / 1000 + 1e-9)
        if self.win_length < 2 or self.hop_length < 1 or not 0.0 <= preemphasis <= 1.0:
            raise ValueError("a Kaldi fbank needs frame_ms and hop_ms of whole samples, and a preemphasis in 0..1")
        self.n_fft = 1 << (self.win_length - 1).bit_length()
        self.min_samples = self.win_length
        top = sample_rate / 2 if f_max is None else f_max
        mel = mel_filterbank(sample_rate, self.n_fft, n_mels, f_min, top, "htk", None, "mel")
        self.register_buffer("_mel", torch.from_numpy(mel).float(), persistent=False)
        window = torch.hann_window(self.win_length, periodic=False, dtype=torch.float64)
        self.register_buffer("_window", window.float(), persistent=False)

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames of clips of `lengths` samples (each at least `min_samples`): those that fit inside."""
        return 1 + (lengths - self.win_length) // self.hop_length

    def forward(self, wav: Tensor) -> Tensor:
        """Log-mel [B, T, n_mels] float32 of wav [B, N]; T = frames(N).

        The first frames(length) of a clip of `length` samples do not depend on what follows it. Raises ValueError for
        another shape and for less than `min_samples` samples.
        """
        if wav.ndim != 2 or wav.shape[1] < self.min_samples:
            raise ValueError(f"expected wav [B, N] of {self.min_samples} samples or more, found {list(wav.shape)}")
        # Half precision would lose the quiet bands, so autocast stops here.
        with torch.autocast(wav.device.type, enabled=False):
            frames = wav.float().unfold(1, self.win_length, self.hop_length)
            frames = frames - frames.mean(dim=2, keepdim=True)
            emphasised = frames * (1.0 - self.preemphasis)
            emphasised[..., 1:] = torch.sub(frames[..., 1:], frames[..., :-1], alpha=self.preemphasis)
            spectrum = torch.view_as_real(torch.fft.rfft(emphasised * self._window, n=self.n_fft))
            power = spectrum[..., 0].square() + spectrum[..., 1].square()
            return (power @ self._mel).clamp_(min=EPS).log_()
