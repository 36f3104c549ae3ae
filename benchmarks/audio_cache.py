"""Later passes over the waveform cache, against decoding every time (what a Dataset that calls load() does) and the memory's speed.

400 five-second clips in batches of 32 as float32 at 16 kHz; synthetic, or with `--data DIR` the first 400 files of a folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import numpy as np

TARGETS = {
    "flac 16 kHz": {"what": "cached waveforms against decoding FLAC 16 kHz each time", "least": 20, "unit": "x"},
    "wav 44.1 kHz": {"what": "... WAV 44.1 kHz", "least": 20, "unit": "x"},
    "flac 44.1 kHz": {"what": "... FLAC 44.1 kHz", "least": 20, "unit": "x"},
    "wav 16 kHz": {"what": "... WAV that is 16 kHz already", "least": 20, "unit": "x"},
}
N, SECONDS, BATCH, RATE = 400, 5.0, 32, 16_000


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--data", type=Path, metavar="DIR", help="audio files to take the sounds from")
    words.add_argument("--runs", type=int, default=5)
    options = words.parse_args()
    n, runs = (8, 1) if options.quick else (N, options.runs)
    audio, rows, found = clips(options.data, n), [], {}
    for name in TARGETS:
        suffix, rate = f".{name.split()[0]}", round(1000 * float(name.split()[1]))
        with tempfile.TemporaryDirectory() as folder:
            files = write(Path(folder), audio, suffix, rate)
            seconds = measured(files, Path(folder) / "cache", runs)
        found[name] = common.ratio(seconds["decode every time"], seconds["cache"])
        copied = 6 * round(SECONDS * RATE) * len(files)  # bytes: int16 read, float32 written
        rows.append(
            {
                "files": name,
                **{f"{way}, clips/s": common.rate(len(files), taken) for way, taken in seconds.items()},
                "cache / every time": found[name],
                "cache, GB/s moved": common.rate(1e-9 * copied, seconds["cache"]),
                "memory copy, GB/s": common.limits()["copy_gb_s"],
            }
        )
    common.finish("waveform cache, later passes", rows, TARGETS, found, audio=str(options.data or "synthetic"))


def clips(folder: Path | None, n: int) -> list[np.ndarray]:
    from evar.audio.decode import decode
    from evar.datasets import synth

    if folder is None:
        return [synth.clip(i % 10, i // 10, SECONDS, RATE) for i in range(n)]
    return [
        decode(path, RATE, seconds=SECONDS) for path in sorted(path for path in folder.iterdir() if path.is_file())[:n]
    ]


def write(folder: Path, audio: list[np.ndarray], suffix: str, rate: int) -> list[Path]:
    import soundfile
    import soxr

    files = [folder / f"{i}{suffix}" for i in range(len(audio))]
    for path, x in zip(files, audio, strict=True):
        soundfile.write(path, x if rate == RATE else soxr.resample(x, RATE, rate), rate, subtype="PCM_16")
    return files


def measured(files: list[Path], cache: Path, runs: int) -> dict[str, list[float]]:
    from evar.audio.cache import open_waveforms
    from evar.audio.decode import decode

    n = len(files)
    waves = open_waveforms([path.stem for path in files], files, [0.0] * n, [None] * n, RATE, SECONDS, cache)

    def every_time() -> None:
        for i in range(0, n, BATCH):
            np.stack([decode(path, RATE, seconds=SECONDS) for path in files[i : i + BATCH]])

    def cached() -> None:
        for i in range(0, n, BATCH):
            waves.batch(np.arange(i, min(i + BATCH, n)), round(SECONDS * RATE))

    return common.side_by_side({"decode every time": every_time, "cache": cached}, runs)


if __name__ == "__main__":
    main()
