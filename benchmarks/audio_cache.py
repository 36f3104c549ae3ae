"""The int16 waveform cache against decoding every time (what a Dataset that calls load() in __getitem__ does).

400 five-second clips (real ESC-10 audio where ../shared/data is there, else noise), read in batches of 32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import soundfile
from common import SHARED, finish, median_seconds

from evar.audio.cache import open_waveforms
from evar.audio.decode import decode

N, SECONDS, BATCH = 400, 5.0, 32


def clips() -> list[np.ndarray]:
    folder = SHARED / "ESC-50" / "audio"
    if folder.is_dir():
        return [soundfile.read(path, dtype="float32")[0] for path in sorted(folder.glob("*.flac"))[:N]]
    return [np.random.default_rng(i).normal(0, 0.1, 80_000).astype(np.float32) for i in range(N)]


def main() -> None:
    import soxr

    audio, rows = clips(), []
    for name, suffix, rate in (
        ("wav 16 kHz", ".wav", 16_000),
        ("flac 16 kHz", ".flac", 16_000),
        ("wav 44.1 kHz", ".wav", 44_100),
        ("flac 44.1 kHz", ".flac", 44_100),
    ):
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{i}{suffix}" for i in range(N)]
            for path, x in zip(files, audio, strict=True):
                soundfile.write(path, x if rate == 16_000 else soxr.resample(x, 16_000, rate), rate, subtype="PCM_16")

            def decode_every_time(files: list[Path] = files) -> None:
                for i in range(0, N, BATCH):
                    np.stack([decode(path, 16_000, seconds=SECONDS) for path in files[i : i + BATCH]])

            def build(folder: str = folder, files: list[Path] = files) -> object:
                ids = [path.stem for path in files]
                return open_waveforms(ids, files, [0.0] * N, [None] * N, 16_000, SECONDS, Path(folder) / "cache")

            first = median_seconds(build, runs=1, warmup=0)
            waves = build()

            def cached(waves: object = waves) -> None:
                for i in range(0, N, BATCH):
                    waves.batch(np.arange(i, min(i + BATCH, N)), 80_000)

            every, warm = median_seconds(decode_every_time, runs=3), median_seconds(cached, runs=9)
            rows.append(
                {
                    "files": name,
                    "decode every time, clips/s": round(N / every),
                    "cache, first pass, clips/s": round(N / first),
                    "cache, later passes, clips/s": round(N / warm),
                    "ratio later / every": every / warm,
                }
            )
    finish("waveform cache against decode-every-time", rows)


if __name__ == "__main__":
    main()
