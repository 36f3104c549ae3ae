"""Procedural sounds for the mini datasets: classes that can be learnt by ear, drawn from a key, the same on every run.

A sound is a function of (seed, what it is, take). What it is fixes a recipe (pitch range, spectrum, modulation,
envelope); the take varies level, pitch, onset, tilt and background noise, so that classes overlap as real ones do.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from evar.files import atomic_write

_TOP = (
    3500.0  # Hz: recipes stay below the Nyquist frequency of 8 kHz files, so that a class sounds the same at any rate
)
_COARSE = 32  # samples between two values of a formant's contour
_LEAST = 16  # samples: the shortest sound made


def clip(
    class_index: int, take: int, seconds: float, sample_rate: int = 16000, seed: int = 0, noise: float = 1.0
) -> np.ndarray:
    """One sound of class `class_index`: float32 [round(seconds * sample_rate)] in [-1, 1].

    `noise` scales how far takes differ from their class (0: hardly, 1: neighbouring classes overlap).
    """
    recipe = _generator(seed, "clip", class_index)
    low = np.exp(recipe.uniform(np.log(90), np.log(700)))
    tilt, odd_only = recipe.uniform(0.3, 1.8), recipe.random() < 0.3
    centre, width = np.exp(recipe.uniform(np.log(300), np.log(3000))), recipe.uniform(0.15, 0.6)
    noisiness = recipe.uniform(0.1, 0.9)
    am_rate, am_depth = np.exp(recipe.uniform(np.log(1.5), np.log(18))), recipe.uniform(0, 0.9)
    glide, vibrato = recipe.uniform(-0.8, 0.8), recipe.uniform(0, 0.06)
    attack, decay = recipe.uniform(0.005, 0.2), np.exp(recipe.uniform(np.log(0.15), np.log(3)))

    take_of = _generator(seed, "clip", class_index, "take", take)
    time = _time(seconds, sample_rate)
    shift = 2 ** (noise * take_of.normal(0, 0.35))
    pitch = low * shift * 2 ** (glide * time / max(seconds, 0.1))
    pitch = pitch * (1 + vibrato * np.sin(2 * np.pi * (5.5 * time + take_of.random())))
    orders = np.arange(1, 25, 2 if odd_only else 1)
    tone = _harmonics(pitch, orders, orders**-tilt, sample_rate, take_of)
    middle = centre * 2 ** (noise * take_of.normal(0, 0.3))
    band = _band_noise(len(time), middle / 2**width, middle * 2**width, sample_rate, take_of)
    share = np.clip(noisiness + noise * take_of.normal(0, 0.15), 0.02, 0.98)
    sound = (1 - share) * _unit(tone) + share * _unit(band)
    sound *= 1 - am_depth * (0.5 + 0.5 * np.sin(2 * np.pi * (am_rate * time + take_of.random())))
    onset = take_of.uniform(0, 0.3) * seconds
    sound *= _envelope(time - onset, attack, decay * np.exp(noise * take_of.normal(0, 0.3)))
    return _finish(sound, sample_rate, take_of, noise)


def note(
    midi: int,
    timbre: int,
    take: int,
    seconds: float,
    sample_rate: int = 16000,
    seed: int = 0,
    family: int | None = None,
    noise: float = 1.0,
) -> np.ndarray:
    """A note of pitch `midi` (69 is 440 Hz) on instrument `timbre`: float32 [round(seconds * sample_rate)] in [-1, 1].

    Instruments of one `family` (default: each is its own) share a spectrum and an envelope and differ in detail.
    """
    recipe = _generator(seed, "family", timbre if family is None else family)
    tilt, even = recipe.uniform(0.4, 2.0), recipe.uniform(0.1, 1.0)
    attack, decay = np.exp(recipe.uniform(np.log(0.004), np.log(0.2))), np.exp(recipe.uniform(np.log(0.2), np.log(3)))
    vibrato, breath = recipe.uniform(0, 0.008), recipe.uniform(0.0, 0.25)
    peak = np.exp(recipe.uniform(np.log(300), np.log(2500)))
    own = _generator(seed, "instrument", timbre)
    tilt, peak = tilt * np.exp(own.normal(0, 0.12)), peak * np.exp(own.normal(0, 0.15))
    attack, decay = attack * np.exp(own.normal(0, 0.2)), decay * np.exp(own.normal(0, 0.2))

    take_of = _generator(seed, "note", timbre, midi, "take", take)
    time = _time(seconds, sample_rate)
    f0 = 440.0 * 2 ** ((midi - 69 + take_of.normal(0, 0.25 * noise)) / 12)
    pitch = f0 * (1 + vibrato * np.sin(2 * np.pi * (5 * time + take_of.random())))
    orders = np.arange(1, 21)
    levels = orders**-tilt * np.where(orders % 2 == 0, even, 1.0)
    levels = levels * (0.2 + np.exp(-0.5 * (np.log2(orders * f0 / peak) / 0.8) ** 2))
    sound = _unit(_harmonics(pitch, orders, levels, sample_rate, take_of))
    sound += breath * _unit(_band_noise(len(time), peak / 1.5, peak * 1.5, sample_rate, take_of))
    sound *= _envelope(time - take_of.uniform(0, 0.05), attack, decay)
    return _finish(sound, sample_rate, take_of, 0.3 * noise)


def speech(
    speaker: int,
    word: int,
    take: int,
    seconds: float,
    sample_rate: int = 16000,
    seed: int = 0,
    emotion: int | None = None,
    noise: float = 1.0,
) -> np.ndarray:
    """A voice-like sound: `speaker` says `word` (in the manner `emotion`): float32 [round(seconds * sample_rate)] in [-1, 1].

    The speaker sets pitch, size of the vocal tract and roughness; the word a chain of formant targets and hisses; the
    emotion pitch level and range, tempo, brightness, tremor and breath. So each of the three can be learnt.
    """
    voice = _generator(seed, "speaker", speaker)
    base, tract = np.exp(voice.uniform(np.log(85), np.log(250))), voice.uniform(0.82, 1.22)
    tilt, breath = voice.uniform(0.7, 1.4), voice.uniform(0.02, 0.2)
    lexicon = _generator(seed, "word", word)
    n_sounds = int(lexicon.integers(3, 6))
    formants = np.stack([lexicon.uniform(low, high, n_sounds) for low, high in ((280, 850), (900, 2200), (2300, 3200))])
    hiss = np.where(lexicon.random(n_sounds) < 0.35, lexicon.uniform(0.4, 1.0, n_sounds), 0.0)
    hiss_centre = lexicon.uniform(1500, _TOP, n_sounds)
    raised, swing, tempo, brightness, tremor, tremor_rate, whisper = _manner(seed, emotion)

    take_of = _generator(seed, "speech", speaker, word, -1 if emotion is None else emotion, "take", take)
    time = _time(seconds, sample_rate)
    length = max(seconds, 0.01)
    spoken = float(np.clip(0.7 / tempo * np.exp(noise * take_of.normal(0, 0.12)), 0.3, 1.0)) * length
    onset = take_of.uniform(0, 1) * (length - spoken)
    where = np.clip((time - onset) / spoken, 0, 1)
    pitch = base * raised * np.exp(noise * take_of.normal(0, 0.07))
    pitch = pitch * (1 + swing * np.sin(2 * np.pi * (1.5 * where + 0.2 * take_of.normal())) - 0.12 * where)

    steps = np.linspace(0, 1, n_sounds)
    tracks = [np.interp(where, steps, row * tract * np.exp(noise * take_of.normal(0, 0.05))) for row in formants]
    orders = np.arange(1, int(min(40, _TOP // base)) + 1)
    coarse = slice(None, None, _COARSE)
    frequency = orders[:, None] * pitch[coarse]
    levels = orders[:, None] ** -(tilt - brightness) * 0.05
    for track, loud, wide in zip(tracks, (1.0, 0.6, 0.35), (90.0, 130.0, 200.0), strict=True):
        levels = levels + loud / (1 + ((frequency - track[coarse]) / wide) ** 2)
    levels = np.repeat(levels, _COARSE, axis=1)[:, : len(time)]
    voiced = 1 - np.interp(where, steps, hiss)
    sound = voiced * _unit(_harmonics(pitch, orders, levels, sample_rate, take_of))
    for centre, loud, step in zip(hiss_centre, hiss, steps, strict=True):
        if loud:
            near = np.exp(-0.5 * ((where - step) * n_sounds) ** 2)
            sound += loud * near * _unit(_band_noise(len(time), centre / 1.4, centre * 1.4, sample_rate, take_of))
    sound += (breath + whisper) * _unit(_band_noise(len(time), 500, _TOP, sample_rate, take_of))
    sound *= 1 - tremor * (0.5 + 0.5 * np.sin(2 * np.pi * tremor_rate * time))
    sound *= np.clip(np.minimum(time - onset, onset + spoken - time) / 0.03, 0, 1)
    return _finish(sound, sample_rate, take_of, 0.5 * noise)


def mixture(
    class_indices: list[int], take: int, seconds: float, sample_rate: int = 16000, seed: int = 0, noise: float = 1.0
) -> np.ndarray:
    """Several classes at once, for multi-label tasks: float32 [round(seconds * sample_rate)] in [-1, 1]."""
    take_of = _generator(seed, "mixture", *sorted(class_indices), "take", take)
    parts = [
        clip(c, take, seconds, sample_rate, seed, noise) * take_of.uniform(0.5, 1.0) for c in sorted(class_indices)
    ]
    total = np.sum(parts, axis=0)
    return (total * (0.7 / max(np.abs(total).max(), 0.7))).astype(np.float32)


def write_wav(path: Path | str, x: np.ndarray, sample_rate: int, subtype: str = "PCM_16") -> None:
    """Write `x` ([N] or [N, channels], in [-1, 1]) as a WAV file in one step; `subtype` as in soundfile."""
    import soundfile

    made = io.BytesIO()  # libsndfile would swallow what a full disk raises
    soundfile.write(made, x, sample_rate, subtype=subtype, format="WAV")
    atomic_write(path, made.getvalue())


def _manner(seed: int, emotion: int | None) -> tuple[float, ...]:
    """Pitch factor, pitch swing, tempo, brightness, tremor depth and rate (Hz), breath of an emotion (None: plain)."""
    if emotion is None:
        return 1.0, 0.08, 1.0, 0.0, 0.0, 6.0, 0.0
    mood = _generator(seed, "emotion", emotion)
    raised = float(np.exp(mood.uniform(-0.4, 0.6)))
    low, high = (0.02, 0.6, -0.9, 0.0, 4.0, 0.0), (0.45, 1.5, 0.9, 0.85, 16.0, 0.7)
    return raised, *mood.uniform(low, high)


def _generator(*key: object) -> np.random.Generator:
    """A generator seeded by a digest of `key`: the same on every machine and in every process."""
    text = "\x1f".join(map(str, key))
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")))


def _time(seconds: float, sample_rate: int) -> np.ndarray:
    """Sample times in seconds."""
    return np.arange(max(_LEAST, round(seconds * sample_rate))) / sample_rate


def _harmonics(
    pitch: np.ndarray, orders: np.ndarray, levels: np.ndarray, sample_rate: int, generator: np.random.Generator
) -> np.ndarray:
    """A sum of partials, evenly spaced `orders` x `pitch` ([N], Hz), with `levels` ([orders] or [orders, N])."""
    levels = levels if levels.ndim == 2 else levels[:, None]
    ceiling = min(_TOP * 1.1, 0.45 * sample_rate)
    turn = np.exp(2j * np.pi * np.cumsum(pitch) / sample_rate)
    step = turn ** int(orders[1] - orders[0]) if len(orders) > 1 else turn
    partial, total = turn ** int(orders[0]), np.zeros(len(pitch))
    for order, level, start in zip(orders, levels, generator.uniform(0, 2 * np.pi, len(orders)), strict=True):
        total += np.where(order * pitch < ceiling, level, 0.0) * (partial * np.exp(1j * start)).imag
        partial = partial * step
    return total


def _band_noise(n: int, low: float, high: float, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Noise [n] between `low` and `high` Hz with soft edges."""
    spectrum = np.fft.rfft(generator.standard_normal(n))
    frequency = np.maximum(np.fft.rfftfreq(n, 1 / sample_rate), 1.0)
    centre, width = np.sqrt(low * high), 0.5 * np.log(high / low)
    return np.fft.irfft(spectrum * np.exp(-0.5 * (np.log(frequency / centre) / width) ** 2), n)


def _envelope(since_onset: np.ndarray, attack: float, decay: float) -> np.ndarray:
    """Linear rise over `attack` seconds from the onset, then an exponential fall with time constant `decay`."""
    rise = np.clip(since_onset / attack, 0, 1)
    return rise * np.exp(-np.maximum(since_onset - attack, 0) / decay)


def _finish(sound: np.ndarray, sample_rate: int, generator: np.random.Generator, noise: float) -> np.ndarray:
    """Add a room: background noise of random colour and level, then a random loudness with headroom."""
    colour = np.exp(generator.uniform(np.log(150), np.log(2500)))
    background = _unit(_band_noise(len(sound), colour / 4, colour * 4, sample_rate, generator))
    sound = _unit(sound) + noise * 10 ** (generator.uniform(-30, -8) / 20) * background
    peak = np.abs(sound).max()
    return (sound * (10 ** (generator.uniform(-12, -1) / 20) / max(peak, 1e-9))).astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    """`x` at unit root mean square (silence stays silence)."""
    return x / max(float(np.sqrt(np.mean(x**2))), 1e-9)
