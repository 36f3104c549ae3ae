"""Encoding: evar's pipeline against batch-256 padded encoding on mixed lengths, and against the model alone.

Mixed lengths: 300 clips of 0.5 to 8 s, log-uniform, drawn by a fixed seed. The rival pads every batch of 256 clips, in
the order they come, to the longest of the batch, through a DataLoader, and calls the plain network of the paper
(nn.Sequential, float32). Encoders are untrained: speed is that of the architecture.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import finish, median_seconds

from evar.audio.cache import open_waveforms
from evar.embed import batches, embed, preferred_batch
from evar.encoders.registry import load_encoder
from evar.store import Store

N = 300


def make(folder: Path) -> tuple[list[Path], np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(8_000), np.log(128_000), N)).astype(int)
    files = [folder / f"{i:04d}.wav" for i in range(N)]
    for path, n in zip(files, lengths, strict=True):
        soundfile.write(path, rng.normal(0, 0.1, n).astype(np.float32), 16_000, subtype="PCM_16")
    return files, lengths


def padded_256(encoder: object, waves: object) -> None:
    """What a plain script does: batches of 256 in file order, padded to the longest, through the plain network."""

    def collate(indices: list[int]) -> tuple:
        return waves.batch(np.array(indices))

    stats = encoder.normalization
    for wav, lengths in torch.utils.data.DataLoader(range(N), batch_size=256, collate_fn=collate):
        with torch.inference_mode():
            log_mel, frames = encoder.front_end(torch.as_tensor(wav), torch.as_tensor(lengths))
            features = encoder.network((log_mel - stats["mean"]) / stats["std"])
            valid = torch.arange(features.shape[1]) < (frames // 2**encoder.n_blocks)[:, None]
            masked = features * valid[..., None]
            masked.sum(1) / valid.sum(1, keepdim=True) + masked.amax(1)


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files, _ = make(folder)
        arguments = ([path.stem for path in files], files, [0.0] * N, [None] * N, 16_000)
        native = open_waveforms(*arguments, None, folder / "cache")
        one_second = open_waveforms(*arguments, 1.0, folder / "cache")
        for name in ("random:byola-v1-512", "random:byola-v2"):
            encoder = load_encoder(name).with_normalization({"mean": -7.0, "std": 4.0})
            count = iter(range(100))

            def ours(
                waves: object, duration: str, encoder: object = encoder, name: str = name, count: object = count
            ) -> None:
                store = Store(folder / f"store{next(count)}-{name[-3:]}")
                embed(
                    encoder,
                    waves,
                    store,
                    task_name="bench",
                    duration=duration,
                    pairs=[(encoder.default_layer, encoder.default_pooling)],
                )

            pairs = []
            for _ in range(3):  # in turn, so that a drifting machine hits both alike
                begun = time.perf_counter()
                padded_256(encoder, native)
                middle = time.perf_counter()
                ours(native, "native")
                pairs.append((middle - begun, time.perf_counter() - middle))
            rival, mixed = (statistics.median(column) for column in zip(*pairs, strict=True))

            plan = list(batches(one_second, np.arange(N), encoder, "card", None))
            ready = [(torch.as_tensor(wav), torch.as_tensor(lengths)) for _, wav, lengths in plan]

            def model_only(ready: list = ready, encoder: object = encoder) -> None:
                for wav, lengths in ready:
                    encoder.encode(wav, lengths)

            alone = median_seconds(model_only, runs=3)
            whole = median_seconds(lambda ours=ours: ours(one_second, "card"), runs=3)
            rows.append(
                {
                    "encoder": name,
                    "batch": preferred_batch(encoder),
                    "padded 256, mixed, clips/s": round(N / rival),
                    "evar, mixed, clips/s": round(N / mixed),
                    "evar / padded": rival / mixed,
                    "model alone, 1 s, clips/s": round(N / alone),
                    "evar, 1 s, clips/s": round(N / whole),
                    "share of model alone": alone / whole,
                }
            )
    finish("encoding against batch-256 padding and against the model alone", rows)


if __name__ == "__main__":
    main()
