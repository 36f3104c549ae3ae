"""Landmarks: which stretch of one recording might be a stretch of another? Candidates for `evar.audio.copies`.

After A. Wang, "An industrial-strength audio search algorithm", ISMIR 2003: the peaks of a spectrogram survive lossy
codecs, resampling and gain; a pair of near peaks (frequency, frequency, time between) is a hash; many equal hashes at
one time offset mean that two recordings may share a passage.

Why not a library: Chromaprint (pyacoustid) needs a C library and is made to tell whole tracks apart, by chroma, which
says little about rain or a spoken digit; dejavu needs a database server, audfprint is a program with librosa and docopt.
None has the second, exact stage, without which notes of one pitch accuse each other.

Everything here works on float32 waveforms at `RATE` Hz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter, maximum_filter1d, uniform_filter1d

RATE = 8000  # Hz: what every codec keeps as a waveform lies below 4 kHz
N_FFT = 512  # samples: 64 ms, bins of 15.6 Hz
HOP = 128  # samples: 16 ms
SHIFTS = 4  # an excerpt does not start on our hops: clips are indexed at four offsets within one hop
LOWEST, HIGHEST = 6, 220  # bins: 94 to 3440 Hz, inside of what a 7 kHz recording keeps
NEAR_BINS, NEAR_FRAMES = 5, 5  # a peak is the largest within +-5 bins and +-5 frames: at most about 100 a second
SWELL = 15  # frames (0.24 s): a peak is large against its own bin's mean over this time, so a held tone has peaks too
MASKED = 0.3  # ... and not 10 dB below a neighbour, whose noise a codec would put in its place
FLOOR = 1e-5  # amplitude of a sine (-100 dB of full scale) below which there is nothing to hear
DYNAMIC = 3e-3  # and -50 dB below the loudest within half a second
PARTNERS = 12  # each peak is paired with at most the 12 next ones ...
FAR_BINS, FAR_FRAMES = 63, 63  # ... that lie within 1 kHz and 1 s
VOTES = 5  # fewest hashes that must agree on one offset; more where chance alone gives many
STRETCH = 3 * RATE  # samples: the part of the recording that a candidate points at is at most this long

_WINDOW = np.hanning(N_FFT + 1)[:-1].astype(np.float32)


@dataclass(frozen=True)
class Candidate:
    """A clip that may share a passage with the recording that was searched for.

    lag: samples; the clip's sample 0 lies at this sample of the recording (negative: before its start).
    votes: different hashes that agree. first, last: samples of the recording between which they lie.
    """

    clip: int
    lag: int
    votes: int
    first: int
    last: int


def peaks(wav: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spectral peaks of a waveform float32 [N]: (frames int64 [P], bins int64 [P]), by frame, then by bin.

    Frame t starts at sample t * HOP. What is shorter than one frame is padded with zeros; silence has no peaks.
    """
    wav = np.pad(wav, (0, max(0, N_FFT - len(wav))))
    frames = np.lib.stride_tricks.sliding_window_view(wav, N_FFT)[::HOP]
    level = np.abs(np.fft.rfft(frames * _WINDOW, axis=1)[:, : HIGHEST + NEAR_BINS]).astype(np.float32)
    level *= 2 / _WINDOW.sum()
    level[:, :LOWEST] = 0
    loudest = maximum_filter1d(level.max(axis=1), RATE // HOP)
    heard = level > np.maximum(FLOOR, DYNAMIC * loudest)[:, None]
    heard &= level >= MASKED * maximum_filter1d(level, 2 * NEAR_BINS + 1, axis=1)
    swell = np.where(heard, level / np.maximum(uniform_filter1d(level, SWELL, axis=0), FLOOR / SWELL), 0)
    keep = heard & (swell == maximum_filter(swell, (2 * NEAR_FRAMES + 1, 2 * NEAR_BINS + 1), mode="constant"))
    keep[:, HIGHEST:] = False
    return np.nonzero(keep)


def hashes(wav: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of a waveform float32 [N]: (keys int64 [H] below 2 ** 22, frames int64 [H] of their first peaks)."""
    t, f = peaks(wav)
    keys, frames = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for step in range(1, PARTNERS + 1):
        dt, df = t[step:] - t[:-step], f[step:] - f[:-step]
        near = (dt >= 1) & (dt <= FAR_FRAMES) & (np.abs(df) <= FAR_BINS)
        keys.append((f[:-step] << 14 | (df + 64) << 7 | dt)[near])
        frames.append(t[:-step][near])
    return np.concatenate(keys), np.concatenate(frames)


class Index:
    """The hashes of many clips, sorted. About 1 kB per second of sound and 8 bytes per entry.

    >>> index = Index(); index.add(wav_of_clip_0); index.add(wav_of_clip_1); index.search(wav, votes=6)
    """

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._keys = self._clips = self._frames = np.zeros(0, np.int32)
        self._lengths: list[int] = []

    def add(self, wav: np.ndarray) -> int:
        """Index a clip, float32 [N] at `RATE`; its number is returned."""
        clip, rows = self.n_clips, []
        for shift in range(SHIFTS):
            ahead = shift * HOP // SHIFTS
            keys, frames = hashes(wav[ahead:])
            # The frame on the common grid of whole hops, so that equal hashes of several shifts are one entry.
            rows.append(np.stack([keys, np.full_like(keys, clip), frames + (2 * ahead >= HOP)], axis=1))
        self._parts.append(np.unique(np.concatenate(rows).astype(np.int32), axis=0))
        self._lengths.append(len(wav) // HOP)
        return clip

    @property
    def n_clips(self) -> int:
        return len(self._lengths)

    def search(self, wav: np.ndarray, votes: int = VOTES, per_clip: int = 3) -> list[Candidate]:
        """Clips that share more hashes at one time offset (+-1 hop) with `wav`, float32 [N], than chance would give.

        Chance: where m hashes of a clip agree with `wav` at any offset, and there are n offsets, 3 m / n of them fall
        on three neighbouring ones; `votes` or that, with four of its standard deviations, are asked for. At most
        `per_clip` offsets of each clip are given, those with the most votes.
        """
        self._sort()
        keys, frames = hashes(wav)
        low, high = np.searchsorted(self._keys, keys, "left"), np.searchsorted(self._keys, keys, "right")
        count = high - low
        query = np.repeat(np.arange(len(keys)), count)
        entry = np.arange(count.sum()) + np.repeat(low - np.cumsum(count) + count, count)
        clips, offsets = self._clips[entry].astype(np.int64), frames[query] - self._frames[entry]
        chance = 3 * np.bincount(clips, minlength=self.n_clips)
        chance = chance / (len(wav) // HOP + np.array(self._lengths) + 1)
        needed = np.maximum(votes, 3 + chance + 4 * np.sqrt(chance))
        return _most_voted(clips, offsets, query, frames, needed, per_clip)

    def _sort(self) -> None:
        if self._parts:
            rows = np.concatenate([np.stack([self._keys, self._clips, self._frames], axis=1), *self._parts])
            self._parts = []
            rows = rows[np.argsort(rows[:, 0], kind="stable")]
            self._keys, self._clips, self._frames = (np.ascontiguousarray(column) for column in rows.T)


def _most_voted(
    clips: np.ndarray, offsets: np.ndarray, query: np.ndarray, frames: np.ndarray, needed: np.ndarray, per_clip: int
) -> list[Candidate]:
    """Peaks of the histogram over (clip, offset), neighbouring offsets counted together."""
    reach = 1 << 30
    bins = clips * (2 * reach) + offsets + reach
    # A hash votes once for each bin, however many entries of the index say so.
    order = np.lexsort((query, bins))
    bins, query = bins[order], query[order]
    first = np.ones(len(bins), bool)
    first[1:] = (bins[1:] != bins[:-1]) | (query[1:] != query[:-1])
    bins, query = bins[first], query[first]
    values, start, count = np.unique(bins, return_index=True, return_counts=True)
    if not len(values):
        return []
    left = np.r_[0, np.where(np.diff(values) == 1, count[:-1], 0)]
    right = np.r_[np.where(np.diff(values) == 1, count[1:], 0), 0]
    total = count + left + right
    owner = values // (2 * reach)
    enough = np.flatnonzero(total >= needed[owner])
    found: dict[int, list[Candidate]] = {}
    for i in enough[np.argsort(-total[enough], kind="stable")]:
        clip, lag = int(owner[i]), (int(values[i] % (2 * reach)) - reach) * HOP
        kept = found.setdefault(clip, [])
        if len(kept) == per_clip or any(abs(lag - other.lag) <= 2 * HOP for other in kept):
            continue
        begin = start[i - 1] if left[i] else start[i]
        end = start[i] + count[i] + right[i]
        times = frames[query[begin:end]] * HOP
        middle = int(np.median(times))
        first, last = max(int(times.min()), middle - STRETCH // 2), min(int(times.max()) + N_FFT, middle + STRETCH // 2)
        kept.append(Candidate(clip, lag, int(total[i]), first, last))
    return sorted((c for kept in found.values() for c in kept), key=lambda c: (-c.votes, c.clip, c.lag))
