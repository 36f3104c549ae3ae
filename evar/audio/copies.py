"""Copies: does one recording hold a passage of another? An answer that can be shown to a reader.

A `Finder` holds the clips, `Finder.search(wav)` gives the passages of `wav` that are passages of a clip. Landmarks
(evar.audio.landmarks) name candidates; here each one is held to the waveform itself. Both recordings are flattened (each
time-frequency cell divided by the local level, so a fade, a filter or a gain does not count), aligned to an eighth of a
sample, and correlated. A copy that went through a lossy codec keeps the phases of what can be heard and correlates at
0.7 to 1.0; two recordings of the same kind of sound do not correlate at all, with two exceptions.

Tones: two steady notes of one pitch correlate, whoever plays them. What a correlation r is worth follows from its spread
sigma under chance, which Bartlett's formula gives from the two autocorrelations (M. S. Bartlett, "On the theoretical
specification and sampling properties of autocorrelated time-series", JRSS Supplement 8, 1946): for noise of 2 s sigma
is 0.02, for a note 0.2, for a sine about 1. Fisher's atanh(r) has to be `EVIDENCE` times sigma. So a pure tone is never
a proof, and a note must agree nearly perfectly.

Short sounds: one speaker says one digit twice so alike that 0.3 s of it correlate at up to 0.8. So the smallest score of
a copy falls from `SHORT` to `LONG` with the seconds that agree. How well this works on real audio: docs/leaks.md.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.fft import next_fast_len
from scipy.ndimage import maximum_filter1d, uniform_filter

from evar.audio.decode import Tape, decode, samples_after_decoding
from evar.audio.landmarks import FLOOR, HOP, RATE, Candidate, Index

SHORT, LONG = (0.4, 0.85), (1.0, 0.65)  # (seconds, smallest score of a copy); a straight line between the two
EVIDENCE = 8.0  # smallest atanh(score) / sigma
CERTAIN = 0.995  # a higher correlation counts as this one: two sines agree to the last digit, and prove nothing
SHORTEST = RATE // 10  # samples of sound (silence aside) that must agree
STRETCH, OVERLAP = 300.0, 10.0  # seconds of a long file that are in memory at once, and how far stretches overlap
HOPELESS = 0.2  # a candidate whose voted stretch correlates less is dropped without a closer look

_FRAME, _STEP = 256, 64  # samples: 32 ms and 8 ms
_LOW, _HIGH = 3, 110  # bins of 31 Hz: 94 to 3410 Hz
_AROUND = (9, 33)  # frames (72 ms) and bins (1 kHz) over which the level is flattened
_MASKED = 0.01  # what lies 40 dB below the loudest of half a second is left low: codecs drop it
_SLACK = 2 * HOP  # samples: how far the voted lag may be off
_BLOCK = 256  # samples: 32 ms, the grain of a passage's ends
_OTHER = 0.35  # a block of a copy correlates near 1; one below this counts against the passage
_WINDOW = np.sqrt(np.hanning(_FRAME + 1)[:-1]).astype(np.float32)


@dataclass(frozen=True)
class Copy:
    """A passage of a recording held against a passage of a clip: a copy when it is `proven`.

    clip: its number in the Finder. start, stop: seconds in the recording. clip_start, clip_stop: seconds in the clip.
    score: correlation of the flattened waveforms over the passage, 0 to 1. evidence: atanh(score) / sigma.
    """

    clip: int
    start: float
    stop: float
    clip_start: float
    clip_stop: float
    score: float
    evidence: float

    @property
    def closeness(self) -> float:
        """1 or more: proven. Less: how much of the score and of the evidence that are asked for is there."""
        needed = np.interp(self.stop - self.start, *zip(SHORT, LONG, strict=True))
        return float(min(self.score / needed, self.evidence / EVIDENCE))

    @property
    def proven(self) -> bool:
        return self.closeness >= 1


class Finder:
    """Clips to be looked for. Only hashes stay in memory; the waveforms of candidates are read again by `read`.

    read: clip number -> float32 [N] at `RATE` Hz. keep: samples of flattened clips that are remembered between
    searches (4 bytes each).
    """

    def __init__(self, read: Callable[[int], np.ndarray], keep: int = 64_000_000) -> None:
        self._read, self._keep, self._kept = read, keep, 0
        self._index = Index()
        self._flat: OrderedDict[int, np.ndarray] = OrderedDict()

    def add(self, wav: np.ndarray) -> int:
        """Index the next clip, float32 [N] at `RATE` Hz; its number, from 0."""
        return self._index.add(wav)

    def search(self, wav: np.ndarray, doubtful: bool = False) -> list[Copy]:
        """The passages of `wav`, float32 [N] at `RATE` Hz, that are copies, in order of time; at most three per clip.

        doubtful: also those that are not proven, to show how near the innocent come.
        """
        candidates = self._index.search(wav)
        if not candidates:
            return []
        flat = flatten(wav)
        copies = [confirm(flat, self._clip(candidate.clip), candidate) for candidate in candidates]
        found: list[Copy] = []
        for copy in sorted(filter(None, copies), key=lambda copy: -copy.closeness):
            if (copy.proven or doubtful) and not any(_same(copy, other) for other in found):
                found.append(copy)
        return sorted(found, key=lambda copy: (copy.start, copy.clip))

    def search_file(self, path: Path | str, doubtful: bool = False) -> tuple[list[Copy], float]:
        """`search` over an audio file, `STRETCH` seconds at a time: (copies in order of time, seconds of the file).

        Raises EvarError when the file cannot be decoded.
        """
        length = samples_after_decoding(path, RATE) / RATE
        found: list[Copy] = []
        start = seconds = 0.0
        with Tape(hold=True) as tape:
            while True:
                last = start + STRETCH + OVERLAP >= length
                wav = decode(path, RATE, start, None if last else start + STRETCH + OVERLAP, tape=tape)
                for copy in self.search(wav, doubtful):
                    _join(found, replace(copy, start=copy.start + start, stop=copy.stop + start))
                seconds = start + len(wav) / RATE
                if last:
                    return sorted(found, key=lambda copy: (copy.start, copy.clip)), seconds
                start += STRETCH

    def _clip(self, clip: int) -> np.ndarray:
        if clip not in self._flat:
            self._flat[clip] = flatten(self._read(clip))
            self._kept += len(self._flat[clip])
            while self._kept > self._keep and len(self._flat) > 1:
                self._kept -= len(self._flat.popitem(last=False)[1])
        self._flat.move_to_end(clip)
        return self._flat[clip]


def _same(a: Copy, b: Copy) -> bool:
    """One clip, and overlapping in the recording: what repeats itself agrees with its own copy at several lags."""
    return a.clip == b.clip and a.start < b.stop and b.start < a.stop


def _join(found: list[Copy], copy: Copy) -> None:
    """Append a copy; where two stretches overlap, its two halves are one (the same clip at the same lag)."""
    for i, other in enumerate(found):
        same_lag = abs((copy.start - copy.clip_start) - (other.start - other.clip_start)) < 0.01
        if _same(copy, other) and same_lag:
            first, last = (copy, other) if copy.start < other.start else (other, copy)
            found[i] = replace(
                max(copy, other, key=lambda c: c.evidence),
                start=first.start,
                clip_start=first.clip_start,
                stop=max(first.stop, last.stop),
                clip_stop=max(first.clip_stop, last.clip_stop),
            )
            return
    found.append(copy)


def flatten(wav: np.ndarray) -> np.ndarray:
    """A waveform float32 [N] with every time-frequency cell at about the same level, 94-3410 Hz; silence stays silent."""
    padded = np.pad(wav, (_FRAME, 2 * _FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_STEP]
    cells = np.fft.rfft(frames * _WINDOW, axis=1)
    cells[:, :_LOW] = 0
    cells[:, _HIGH:] = 0
    power = np.abs(cells) ** 2
    level = np.sqrt(np.maximum(uniform_filter(power, _AROUND, mode="nearest"), 0))
    loudest = maximum_filter1d(np.sqrt(power.max(axis=1)), RATE // _STEP)
    cells /= np.maximum(level, np.maximum(FLOOR * _WINDOW.sum() / 2, _MASKED * loudest)[:, None])
    pieces = np.fft.irfft(cells, _FRAME, axis=1) * (_WINDOW * (2 * _STEP / _FRAME))
    flat = np.zeros(len(frames) * _STEP + _FRAME, np.float32)
    for part in range(_FRAME // _STEP):
        columns = pieces[:, part * _STEP : (part + 1) * _STEP]
        flat[part * _STEP : part * _STEP + columns.size] += columns.reshape(-1)
    return flat[_FRAME : _FRAME + len(wav)]


def confirm(recording: np.ndarray, clip: np.ndarray, candidate: Candidate) -> Copy | None:
    """The passage that agrees best near a candidate's lag, both waveforms flattened; None where nothing agrees."""
    aligned = _align(recording, clip, candidate)
    if aligned is None:
        return None
    lag, fraction, sign = aligned
    low, high = max(0, lag), min(len(recording), lag + len(clip))
    n_blocks = (high - low) // _BLOCK
    if n_blocks * _BLOCK < SHORTEST:
        return None
    high = low + n_blocks * _BLOCK
    x = recording[low:high].reshape(n_blocks, _BLOCK)
    y = sign * _delayed(clip, low - lag, high - lag, fraction).reshape(n_blocks, _BLOCK)
    product, energy_x, energy_y = (x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1)
    first, last = _passage(product, np.sqrt(energy_x * energy_y))
    if first == last:
        return None
    x, y, energy_x, energy_y = x[first:last], y[first:last], energy_x[first:last], energy_y[first:last]
    both = energy_x * energy_y
    # Blocks that carry the product: (sum a)^2 / sum a^2 is their number where all are alike.
    n_sounding = np.sqrt(both).sum() ** 2 / max(both.sum(), 1e-20)
    if n_sounding * _BLOCK < SHORTEST:
        return None
    score = float(product[first:last].sum() / np.sqrt(energy_x.sum() * energy_y.sum()))
    evidence = math.atanh(min(score, CERTAIN)) / _sigma(x, y, energy_x, energy_y)
    start, stop = low + first * _BLOCK, low + last * _BLOCK
    times = (start / RATE, stop / RATE, (start - lag) / RATE, (stop - lag) / RATE)
    return Copy(candidate.clip, *times, min(score, 1.0), evidence)


def _align(recording: np.ndarray, clip: np.ndarray, candidate: Candidate) -> tuple[int, float, float] | None:
    """(lag in samples, fraction of a sample to add, sign) that correlates best over the voted stretch."""
    lag = candidate.lag
    low = max(0, lag, candidate.first - RATE // 4)
    high = min(len(recording), lag + len(clip), candidate.last + RATE // 4)
    if high - low < SHORTEST:
        return None
    begin, end = low - _SLACK, high + _SLACK
    x = np.pad(recording[max(0, begin) : end], (max(0, -begin), max(0, end - len(recording))))
    y = clip[low - lag : high - lag]
    size = next_fast_len(len(x), real=True)  # long enough for the lags within the slack, which alone are looked at
    cross = np.fft.rfft(x, size) * np.conj(np.fft.rfft(y, size))
    correlation = np.abs(np.fft.irfft(cross, size)[: 2 * _SLACK + 1])
    best = int(np.argmax(correlation))
    if correlation[best] <= HOPELESS * math.sqrt(float((x * x).sum()) * float((y * y).sum())):
        return None
    fractions = np.arange(-4, 5) / 8
    turn = 2j * np.pi / size * np.arange(len(cross))
    fine = [float((cross * np.exp(turn * (best + part))).real.sum()) for part in fractions]
    winner = int(np.argmax(np.abs(fine)))
    return lag + best - _SLACK, float(fractions[winner]), math.copysign(1.0, fine[winner])


def _delayed(wav: np.ndarray, first: int, last: int, fraction: float) -> np.ndarray:
    """wav[first:last] delayed by a fraction of a sample."""
    margin = 64
    piece = wav[max(0, first - margin) : last + margin]
    size = 1 << (len(piece) + margin - 1).bit_length()
    bins = np.fft.rfft(piece, size) * np.exp(-2j * np.pi * fraction * np.arange(size // 2 + 1) / size)
    return np.fft.irfft(bins, size)[first - max(0, first - margin) :][: last - first].astype(np.float32)


def _passage(product: np.ndarray, norm: np.ndarray) -> tuple[int, int]:
    """(first, last) of the run of blocks that agrees best: the largest sum of (correlation - _OTHER), J. Bentley 1984."""
    around = np.ones(4)
    local = np.convolve(product, around, "same") / np.maximum(np.convolve(norm, around, "same"), 1e-12)
    gain = np.where(norm > 1e-3 * norm.max(), local - _OTHER, 0.0)
    total = np.concatenate([[0.0], np.cumsum(gain)])
    rise = total - np.minimum.accumulate(total)
    last = int(np.argmax(rise))
    first = last - int(np.argmin(total[last::-1]))  # the latest lowest point: no silence in front
    agree = np.flatnonzero(product[first:last] > _OTHER * norm[first:last])  # the mean has smeared the ends
    return (first + int(agree[0]), first + int(agree[-1]) + 1) if len(agree) else (first, first)


def _sigma(x: np.ndarray, y: np.ndarray, energy_x: np.ndarray, energy_y: np.ndarray) -> float:
    """Standard deviation of the correlation of two independent signals with these spectra and these envelopes.

    Bartlett: variance = 1 / N * sum over lags of rho_x * rho_y, by Parseval a sum over the product of the spectra. For
    sounds that come and go, 1 / N becomes the sum of products of the blocks' shares of energy.
    """
    size = 1 << (2 * x.size - 1).bit_length()
    spectrum_x, spectrum_y = (np.abs(np.fft.rfft(v.ravel(), size)) ** 2 for v in (x, y))
    lags = size / 2 * (spectrum_x * spectrum_y).sum() / (spectrum_x.sum() * spectrum_y.sum())
    times = (energy_x * energy_y).sum() / (energy_x.sum() * energy_y.sum()) / _BLOCK
    return math.sqrt(float(lags * times))
