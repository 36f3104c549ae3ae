"""One audio file in, one mono waveform out: read, mixed down, resampled, cut.

libsndfile reads wav, flac, ogg, mp3, au, aiff and more; soxr (HQ) resamples. libsndfile quietly shortens a wav, au,
aiff or ogg file that was cut off in a copy, so the sizes that those headers promise are checked here.

The commonest file, a WAV of 16-bit samples and nothing else, is read without libsndfile: the same numbers in a quarter
of the time, most of which threads would spend handing the interpreter over at each of a dozen calls.

mp3, Opus and Vorbis depend on where a decoder begins (libsndfile 1.2.2: mp3 and Vorbis at times by more than half of full
scale, with mp3's complaints on stderr; Opus by 2e-3), so these are read from their beginning and then cut (`Tape`).
"""

from __future__ import annotations

import io
import math
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from evar.audio.containers import HEADER_SLACK, missing_bytes
from evar.audio.forward import forward_class
from evar.audio.pointers import missing_link, what_is
from evar.errors import EvarError

if TYPE_CHECKING:
    import soundfile

RATES = (1_000, 768_000)  # Hz; a header outside of this is damage, not audio
MAX_CHANNELS = 64
FULL_SCALE = 32768.0  # what libsndfile divides 16-bit samples by
_BLOCK = 1 << 20  # samples of all channels read at once: a header that lies about its length costs no memory
_UNKNOWN = 1 << 48  # libsndfile reports 2 ** 63 - 1 frames where a stream does not say its length
_FILTER = 512  # samples, at the lower rate, that soxr's HQ filter looks ahead (6e-8 at 256)
_ROUNDED = (0.05, 0.01)  # seconds, share of the segment: how far a rounded `stop` may lie beyond the end
_MP3_SLACK = 1152  # frames: an mp3's length tag may count one packet of padding too many
_NOTHING = np.zeros(0, np.float32)


def decode(
    path: Path | str,
    sample_rate: int,
    start: float = 0.0,
    stop: float | None = None,
    seconds: float | None = None,
    tape: Tape | None = None,
) -> np.ndarray:
    """Read a clip as float32 [N] mono at `sample_rate` Hz, 1.0 being full scale (float files may go beyond).

    Args:
        path: a file that libsndfile reads, at any rate, width and number of channels; channels are averaged.
        sample_rate: Hz; soxr HQ resamples where the file has another rate.
        start, stop: the segment in seconds; None or NaN means the end. A `stop` that is rounded beyond the end, by no more
            than 50 ms or a hundredth of the segment, is the end.
        seconds: what lasts longer is cut at `round(seconds * sample_rate)` samples; shorter clips are not padded.
        tape: one for several segments of a file.

    A segment is, at the rate of the file, bit for bit the same cut of the whole decoded file. It alone is then resampled,
    so what lies around it in the file does not leak in: it equals a file that holds only the segment. A cut to `seconds`
    equals cutting the fully resampled segment. Only the part that is needed is decoded, where the format allows.

    Raises EvarError, naming the file, when it is missing, a folder, not audio, empty, truncated, holds NaN or infinite
    samples, claims an absurd rate or number of channels, or ends before `start` or `stop`.
    """
    if tape:
        return _decode(tape, path, sample_rate, start, stop, seconds, exact=False)
    with Tape() as alone:
        return _decode(alone, path, sample_rate, start, stop, seconds, exact=False)


def decode_int16(
    path: Path | str,
    sample_rate: int,
    start: float = 0.0,
    stop: float | None = None,
    seconds: float | None = None,
    tape: Tape | None = None,
) -> tuple[np.ndarray, float]:
    """`decode` as (int16 [N], scale): the waveform is `samples * (scale / 32768)`.

    16-bit (and 8-bit) mono files that already have the rate come out bit for bit. `scale` is 1.0 unless the waveform
    goes beyond full scale; then it is the peak, so nothing is clipped. tape: one for all segments of a file.
    """
    if tape:
        samples = _decode(tape, path, sample_rate, start, stop, seconds, exact=True)
    else:
        with Tape() as alone:
            samples = _decode(alone, path, sample_rate, start, stop, seconds, exact=True)
    if samples.dtype == np.int16:
        return samples, 1.0
    scale = max(1.0, float(samples.max()), -float(samples.min()))
    samples *= np.float32(FULL_SCALE / scale)
    np.rint(samples, out=samples)
    return np.clip(samples, -FULL_SCALE, FULL_SCALE - 1, out=samples).astype(np.int16), scale


def samples_after_decoding(
    path: Path | str, sample_rate: int, start: float = 0.0, stop: float | None = None, seconds: float | None = None
) -> int:
    """About how many samples `decode` gives, from the header alone; 0 for what cannot be read."""
    try:
        with _open(path) as sound:
            duration = sound.frames / sound.samplerate
    except EvarError:
        return 0
    end = duration if _is_open(stop) else min(duration, stop)
    length = max(0.0, end - start)
    return math.ceil((length if seconds is None else min(length, seconds)) * sample_rate)


def reads_forward(path: Path | str) -> bool:
    """Whether the segments of a file come from one reading from its beginning; False for what cannot be read."""
    try:
        with _open(path) as sound:
            return not _can_seek(sound)
    except EvarError:
        return False


def segment_fault(path: Path | str, segments: Iterable[tuple[float, float | None]]) -> list[str]:
    """Why segments, (start, stop) in seconds, cannot be cut from a file: a line for each, from the header alone."""
    faults = []
    try:
        with _open(path) as sound:
            for start, stop in segments:
                try:
                    _segment(path, sound, start, stop)
                except EvarError as error:
                    faults.append(str(error))
    except EvarError as error:
        return [str(error)]
    return faults


class Tape:
    """An open file from which segments are cut. In order of their starts, a format that cannot seek is decoded only once.

    Of such a file the last segment is held in memory, since the next one may overlap it. Close it, or use `with`.
    """

    def __init__(self, hold: bool = False) -> None:
        self._hold = hold
        self.path: Path | str | None = None
        self._sound: soundfile.SoundFile | _PlainWav | None = None
        self._held, self._at = _NOTHING, 0  # the frames from `_at` up to where the file is read

    def __enter__(self) -> Tape:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        sound, self._sound, self._held, self._at = self._sound, None, _NOTHING, 0
        if sound:
            sound.__exit__(None, None, None)

    def open(self, path: Path | str) -> soundfile.SoundFile | _PlainWav:
        """The sound in `path`; the one that is open, where it is of that file."""
        if self._sound is None or self.path != path:
            self.close()
            self.path, self._sound = path, _open(path)
        return self._sound

    def read(self, path: Path | str, first: int, count: int, dtype: str) -> np.ndarray:
        """[count] frames of the file from `first` on, mixed to mono."""
        sound = self.open(path)
        if _can_seek(sound):
            if first or self._hold:
                sound.seek(first)
            return _read(path, sound, first, count, dtype)
        if first < self._at:
            self.close()
        try:
            return self._forward(path, self.open(path), first, count)
        except EvarError:
            self.close()  # where it stopped is not known
            raise

    def _forward(self, path: Path | str, sound: soundfile.SoundFile, first: int, count: int) -> np.ndarray:
        now = self._at + len(self._held)
        block = _BLOCK // sound.channels
        while now < first:  # nothing of what is held is needed
            self._held, self._at = _NOTHING, now
            now += len(_read(path, sound, now, min(block, first - now), "float32"))
            self._at = now
        held = self._held[first - self._at :]
        if len(held) < count:
            new = _read(path, sound, now, count - len(held), "float32", len(held))
            held = np.concatenate([held, new]) if len(held) else new
        if self._hold:
            self._held, self._at = held, first
            return held[:count].copy()
        return held


def _decode(
    tape: Tape, path: Path | str, sample_rate: int, start: float, stop: float | None, seconds: float | None, exact: bool
) -> np.ndarray:
    """float32 [N], or int16 [N] where `exact` is asked for and no arithmetic is needed."""
    sound = tape.open(path)
    rate = sound.samplerate
    first, count = _segment(path, sound, start, stop)
    wanted = None if seconds is None else max(1, round(seconds * sample_rate))
    if wanted is not None:
        reach = 0 if rate == sample_rate else math.ceil(_FILTER * max(1.0, rate / sample_rate)) + 1
        count = min(count, math.ceil(wanted * rate / sample_rate) + reach)
    narrow = sound.subtype in ("PCM_16", "PCM_U8", "PCM_S8")
    as_stored = exact and narrow and sound.channels == 1 and rate == sample_rate
    samples = tape.read(path, first, count, "int16" if as_stored else "float32")
    whole_numbers = sound.subtype.startswith("PCM_")
    if as_stored:
        return samples
    if not whole_numbers and not np.isfinite(samples).all():
        raise EvarError(f"{path} holds NaN or infinite samples: write it again, or leave it out")
    if rate != sample_rate:
        import soxr

        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
        if len(samples) == 0:
            raise EvarError(f"{path} is too short: {count} frames at {rate} Hz are no sample at {sample_rate} Hz")
    return samples[:wanted]


def _segment(
    path: Path | str, sound: soundfile.SoundFile | _PlainWav, start: float, stop: float | None
) -> tuple[int, int]:
    """(first frame, number of frames) of the segment in an open file."""
    rate, frames = sound.samplerate, sound.frames
    if frames == 0:
        raise EvarError(f"{path} holds no samples (a clip of zero length): replace it, or leave it out")
    if not (math.isfinite(start) and start >= 0) or not (_is_open(stop) or stop > start):
        raise EvarError(f"{path}: the segment from {start} to {stop} s is none; expected 0 <= start < stop")
    first = round(start * rate)
    last = frames if _is_open(stop) else round(stop * rate)
    slack = 0.0 if _is_open(stop) else max(_ROUNDED[0], _ROUNDED[1] * (stop - start))
    if first >= frames or last > frames + math.ceil(slack * rate):
        raise EvarError(
            f"{path} lasts {_plain(frames / rate)} s; the segment from {_plain(start)} to "
            f"{'its end' if _is_open(stop) else _plain(stop) + ' s'} lies beyond its end (times are in seconds, not "
            "milliseconds; an empty stop is the end of the file)"
        )
    last = min(last, frames)
    if first >= last:
        raise EvarError(f"{path}: the segment from {start} to {stop} s is shorter than one sample at {rate} Hz")
    return first, last - first


def _read(
    path: Path | str, sound: soundfile.SoundFile | _PlainWav, first: int, count: int, dtype: str, had: int = 0
) -> np.ndarray:
    """The next `count` frames of a sound that is at `first`, mixed to mono. had: frames of the segment before them."""
    blocks, found = [], 0
    try:
        while found < count:
            want = min(count - found, _BLOCK // sound.channels)
            block = sound.read(want, dtype=dtype)
            blocks.append(block if block.ndim == 1 else block.mean(axis=1))
            found += len(block)
            if len(block) < want:
                break
    except (OSError, RuntimeError) as error:  # RuntimeError: what soundfile raises
        raise EvarError(
            f"{path} is damaged or truncated: reading stops near frame {first + found} ({_reason(error)}); "
            "copy it again, or leave it out"
        ) from error
    slack = _MP3_SLACK if sound.format == "MP3" else 0
    if found < count - slack or found + had == 0:
        raise EvarError(
            f"{path} is truncated: expected {first + count} frames, found {first + found}; "
            "copy it again, or leave it out"
        )
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _open(path: Path | str) -> soundfile.SoundFile | _PlainWav:
    """The sound in `path`, which is a file and all there, as far as its container can tell."""
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise EvarError(f"{path} is a folder; expected an audio file")
        if not stat.S_ISREG(info.st_mode):
            raise EvarError(f"{path} is not a regular file; expected an audio file")
        if info.st_size == 0:
            raise EvarError(f"{path} is empty (0 bytes): copy it again, or leave it out")
        stream = io.FileIO(path)
        if plain := _PlainWav.of(stream, info.st_size):
            return plain
        with io.BufferedReader(stream) as chunks:
            missing = missing_bytes(chunks, info.st_size)
    except FileNotFoundError:
        if link := missing_link(path):
            raise EvarError(f"{path} is {link}") from None
        raise EvarError(f"{path} is missing: expected an audio file there") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise EvarError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
    if missing > HEADER_SLACK:
        raise EvarError(
            f"{path} is truncated: {missing} of the bytes that it promises are not there ({info.st_size} are); "
            "copy it again, or leave it out"
        )
    return _open_with_libsndfile(path)


class _PlainWav:
    """A WAV file that is a header of 44 bytes and 16-bit samples to its end, with the part of SoundFile that is used here.

    Offers samplerate (Hz), channels, frames, format and subtype; `seek` to a frame and `read` (int16, or float32 in
    [-1, 1)) of [frames] or [frames, channels].
    """

    format, subtype = "WAV", "PCM_16"
    _HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")

    def __init__(self, stream: BinaryIO, samplerate: int, channels: int, frames: int) -> None:
        self._stream, self.samplerate, self.channels, self.frames = stream, samplerate, channels, frames

    @classmethod
    def of(cls, stream: BinaryIO, size: int) -> _PlainWav | None:
        """The sound of an unbuffered stream of `size` bytes; None, the stream at its start, where it is another kind."""
        header, n_bytes = stream.read(cls._HEADER.size), size - cls._HEADER.size
        if 0 < n_bytes < 1 << 32 and len(header) == cls._HEADER.size:
            told, channels, rate = struct.unpack("<4xI14xHI16x", header)
            if RATES[0] <= rate <= RATES[1] and 1 <= channels <= MAX_CHANNELS and n_bytes % (2 * channels) == 0:
                fmt = b"fmt ", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16
                if header == cls._HEADER.pack(b"RIFF", told, b"WAVE", *fmt, b"data", n_bytes):
                    return cls(stream, rate, channels, n_bytes // (2 * channels))
        stream.seek(0)
        return None

    def __enter__(self) -> _PlainWav:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def seek(self, frame: int) -> None:
        self._stream.seek(self._HEADER.size + 2 * self.channels * frame)

    def read(self, frames: int, dtype: str) -> np.ndarray:
        samples = np.empty(frames * self.channels, dtype="<i2")
        room = memoryview(samples).cast("B")
        while room and (n := self._stream.readinto(room)):
            room = room[n:]
        frames -= -(-len(room) // (2 * self.channels))
        block = samples[: frames * self.channels].astype(np.int16, copy=False)
        if dtype == "float32":
            block = block * np.float32(1 / FULL_SCALE)
        return block if self.channels == 1 else block.reshape(frames, self.channels)


def _open_with_libsndfile(path: Path | str) -> soundfile.SoundFile:
    import soundfile

    try:
        sound = forward_class()(os.fspath(path))
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a .raw file, which has no header
        if other := what_is(path):
            raise EvarError(f"{path} is {other}") from error
        raise EvarError(
            f"{path} is not audio that can be read (wav, flac, ogg, mp3, au, aiff): {_reason(error)}"
        ) from error
    if not RATES[0] <= sound.samplerate <= RATES[1] or not 1 <= sound.channels <= MAX_CHANNELS:
        sound.close()
        raise EvarError(
            f"{path} has a damaged header: {sound.samplerate} Hz and {sound.channels} channels; "
            f"expected {RATES[0]} to {RATES[1]} Hz and at most {MAX_CHANNELS} channels"
        )
    if sound.frames > _UNKNOWN:
        sound.close()
        raise EvarError(f"{path} does not say how long it is (it was written to a pipe): encode it again to a file")
    return sound


def _reason(error: Exception) -> str:
    reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
    # libsndfile 1.2 says so of MP3s that it cannot decode, of a file that was found to be there
    return "no frame of it can be decoded" if reason.startswith("File does not exist") else reason


def _can_seek(sound: soundfile.SoundFile | _PlainWav) -> bool:
    """Whether what is read does not depend on where one begins."""
    return sound.subtype.startswith("PCM_") or sound.subtype in ("FLOAT", "DOUBLE", "ULAW", "ALAW")


def _plain(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _is_open(stop: float | None) -> bool:
    return stop is None or math.isnan(stop)
