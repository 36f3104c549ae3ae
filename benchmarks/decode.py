"""The first pass over audio files, decoded to 16 kHz into the waveform cache, against what a script would call.

Rivals: `librosa.load` in a plain loop, as most scripts have it; and, in as many threads as evar uses, `librosa.load`, soundfile
with `scipy.signal.resample_poly`, soundfile with torchaudio's Resample. None of these keeps what it decoded. The limit: soundfile
alone in those threads; nothing is resampled, mixed or written. 200 five-second clips, synthetic; `--data DIR` takes the files
of a folder, as they are.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common

TARGETS = {
    "loop": {"what": "first pass over files, against a `librosa.load` loop: the worst kind", "least": 1, "unit": "x"},
    "best": {
        "what": "first pass over files, cache written, against the best rival in threads: the worst kind",
        "least": 0.5,
        "unit": "x",
    },
}
RATE, SECONDS, CLIPS = 16_000, 5.0, 200
KINDS = [(suffix, rate) for suffix in (".wav", ".flac", ".ogg") for rate in (16_000, 44_100)]
AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au")


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--data", type=Path, metavar="DIR", help="audio files instead of synthetic clips")
    words.add_argument("--runs", type=int, default=3)
    options = words.parse_args()
    rows, runs = [], 1 if options.quick else options.runs
    with tempfile.TemporaryDirectory() as folder:
        for name, files in sources(Path(folder), options):
            rows.append({"files": name, "clips": len(files), **measured(files, Path(folder) / name, runs)})
    worst = {"loop": "evar / librosa loop", "best": "evar / best in threads"}
    found = {key: min((row[column] for row in rows), key=lambda spread: spread.median) for key, column in worst.items()}
    audio = str(options.data) if options.data else "synthetic"
    common.finish("first pass over files, clips/s", rows, TARGETS, found, audio=audio)


def sources(folder: Path, options) -> list[tuple[str, list[Path]]]:
    if options.data:
        files = sorted(path for path in options.data.rglob("*") if path.suffix.lower() in AUDIO)
        return [(options.data.name, files)]
    from synthetic import write_clips

    n, kinds = (8, KINDS[-1:]) if options.quick else (CLIPS, KINDS)
    return [
        (f"{suffix[1:]} {rate / 1000:g} kHz", write_clips(folder / f"{suffix[1:]}-{rate}", n, SECONDS, rate, suffix))
        for suffix, rate in kinds
    ]


def measured(files: list[Path], cache: Path, runs: int) -> dict:
    """Clips per second of each way to read them, taken in turn, and evar's ratios to them."""
    import librosa
    import scipy.signal
    import soundfile
    import torch
    import torchaudio

    from evar.audio.cache import open_waveforms

    n, workers = len(files), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fresh = itertools.count()

    def evar() -> None:
        ids, to = [path.stem for path in files], cache / str(next(fresh))
        open_waveforms(ids, files, [0.0] * n, [None] * n, RATE, SECONDS, to)

    def load(path: Path) -> object:
        return librosa.load(path, sr=RATE)

    def poly(path: Path) -> object:
        wav, rate = soundfile.read(path, dtype="float32")
        divisor = math.gcd(rate, RATE)
        return wav if rate == RATE else scipy.signal.resample_poly(wav, RATE // divisor, rate // divisor, axis=0)

    @functools.cache
    def resampler(rate: int) -> Callable:
        return torchaudio.transforms.Resample(rate, RATE)

    def sinc(path: Path) -> object:
        wav, rate = soundfile.read(path, dtype="float32")
        return resampler(rate)(torch.from_numpy(wav.T))

    def threads(read: Callable) -> Callable[[], None]:
        def work() -> None:
            with ThreadPoolExecutor(workers) as pool:
                for _ in pool.map(read, files):
                    pass

        return work

    ways = {
        "soundfile alone (limit)": threads(soundfile.read),
        "evar": evar,
        "librosa, loop": lambda: [load(path) for path in files],
        "librosa": threads(load),
        "resample_poly": threads(poly),
        "torchaudio": threads(sinc),
    }
    seconds = common.side_by_side(ways, runs)
    rivals = [seconds[name] for name in ("librosa", "resample_poly", "torchaudio")]
    return {
        **{name: common.rate(n, taken) for name, taken in seconds.items()},
        "evar / librosa loop": common.ratio(seconds["librosa, loop"], seconds["evar"]),
        "evar / best in threads": common.ratio([min(round) for round in zip(*rivals, strict=True)], seconds["evar"]),
        "evar / limit": common.ratio(seconds["soundfile alone (limit)"], seconds["evar"]),
    }


if __name__ == "__main__":
    main()
