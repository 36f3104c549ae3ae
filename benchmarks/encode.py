"""Encoding through evar, store included, against the model alone and against batch-256 padding, in turn.

The model alone: the encoder's forward on the same one-second clips, in memory, in its preferred batch. What evar adds is
reading the waveform cache, checks and the store. `PyTorch's linear layers`: the same model with torch.nn.Linear as it comes.
Mixed lengths: clips of 0.5 to 8 s, log-uniform; the rival pads every batch of 256 clips, in the order they come, to the
longest of the batch, through a DataLoader, and calls the plain network of the paper (nn.Sequential, float32). `arithmetic`:
the operations that PyTorch counts in convolutions and matrix products (no FFT), per second, as a share of this machine's rate
for square matrix products. Encoders are untrained (speed is that of the architecture); clips are noise.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path

import common
import numpy as np

TARGETS = {
    "alone v1": {
        "what": "encode, cache and store included, random:byola-v1-512: share of the model alone",
        "least": 90,
        "unit": "%",
    },
    "alone v2": {"what": "... random:byola-v2", "least": 90, "unit": "%"},
    "padded v1": {
        "what": "encode mixed lengths against batch-256 padding, random:byola-v1-512",
        "least": 1.8,
        "unit": "x",
    },
    "padded v2": {"what": "... random:byola-v2", "least": 1.8, "unit": "x"},
}
ENCODERS = {"random:byola-v1-512": "v1", "random:byola-v2": "v2", "random:cnn14-16k": None, "random:vggish": None}
ALONE, MIXED = 300, 256
SLOW = 64  # clips of the encoders that take a second for a few dozen
STATISTICS = {"mean": -7.0, "std": 4.0}


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--only", metavar="NAME,NAME", help="these encoders")
    words.add_argument("--runs", type=int, default=5)
    options = words.parse_args()
    names = options.only.split(",") if options.only else list(ENCODERS)[: 1 if options.quick else None]
    runs = 1 if options.quick else options.runs
    alone, mixed, found = [], [], {}
    for name in names:
        key, n = ENCODERS.get(name), 16 if options.quick else ALONE if ENCODERS.get(name) else SLOW
        row = against_model(name, n, runs)
        alone.append(row)
        if key:
            found[f"alone {key}"] = row["share, %"]
            mixed.append(against_padding(name, 16 if options.quick else MIXED, max(1, runs // 2)))
            found[f"padded {key}"] = mixed[-1]["evar / padded"]
    title = "mixed lengths against batch-256 padding"
    common.finish("encoding against the model alone", alone, TARGETS, found, {title: mixed}, audio="synthetic")


def against_model(name: str, n: int, runs: int) -> dict:
    import torch

    from evar.embed import batches, preferred_batch

    encoder = loaded(name)
    with tempfile.TemporaryDirectory() as folder:
        waves = cached(Path(folder), np.full(n, encoder.sample_rate), encoder.sample_rate, 1.0)
        plan = list(batches(waves, np.arange(n), encoder, "card", None))
        ready = [(torch.as_tensor(wav), torch.as_tensor(lengths)) for _, wav, lengths in plan]

        def alone(one) -> None:
            for wav, lengths in ready:
                one.encode(wav, lengths)

        works = {
            "plain": functools.partial(alone, common.plain_linears(encoder)),
            "model": functools.partial(alone, encoder),
            "evar": through_evar(encoder, waves, "card", Path(folder)),
        }
        seconds = common.side_by_side(works, runs)
    gflops = n * operations(encoder) / np.median(seconds["evar"]) / 1e9
    return {
        "encoder": name,
        "clips": n,
        "batch": preferred_batch(encoder),
        "model alone, clips/s": common.rate(n, seconds["model"]),
        "evar, clips/s": common.rate(n, seconds["evar"]),
        "share, %": common.rate(100, common.ratios(seconds["evar"], seconds["model"])),
        "PyTorch's linear layers, clips/s": common.rate(n, seconds["plain"]),
        "evar / these": common.ratio(seconds["plain"], seconds["evar"]),
        "GFLOP/s": gflops,
        "arithmetic, %": 100 * gflops / common.limits()["gemm_gflops"],
    }


def against_padding(name: str, n: int, runs: int) -> dict:
    """What a plain script does: batches of 256 in file order, padded to the longest, through the plain network."""
    import torch

    encoder = loaded(name)
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(8_000), np.log(128_000), n)).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        waves = cached(Path(folder), lengths, encoder.sample_rate, None)

        plain = common.plain_linears(encoder)

        def padded() -> None:
            stats = encoder.normalization
            loader = torch.utils.data.DataLoader(
                range(n), batch_size=256, collate_fn=lambda part: waves.batch(np.array(part))
            )
            for wav, lengths in loader:
                with torch.inference_mode():
                    log_mel, frames = encoder.front_end(torch.as_tensor(wav), torch.as_tensor(lengths))
                    features = plain.network((log_mel - stats["mean"]) / stats["std"])
                    valid = torch.arange(features.shape[1]) < (frames // 2**encoder.n_blocks)[:, None]
                    masked = features * valid[..., None]
                    masked.sum(1) / valid.sum(1, keepdim=True) + masked.amax(1)

        seconds = common.side_by_side(
            {"padded": padded, "evar": through_evar(encoder, waves, "native", Path(folder))}, runs
        )
    return {
        "encoder": name,
        "clips": n,
        "padded 256, clips/s": common.rate(n, seconds["padded"]),
        "evar, clips/s": common.rate(n, seconds["evar"]),
        "evar / padded": common.ratio(seconds["padded"], seconds["evar"]),
    }


def loaded(name: str):
    from evar.embed import keep_freed_memory
    from evar.encoders import load_encoder

    keep_freed_memory()  # for the rivals as well
    encoder = load_encoder(name)
    return encoder.with_normalization(STATISTICS) if encoder.needs_normalization else encoder


def cached(folder: Path, lengths: np.ndarray, rate: int, seconds: float | None):
    """Clips of noise of these lengths (samples), in a waveform cache."""
    import soundfile

    from evar.audio.cache import open_waveforms

    rng, n = np.random.default_rng(0), len(lengths)
    files = [folder / f"{i:04d}.wav" for i in range(n)]
    for path, length in zip(files, lengths, strict=True):
        soundfile.write(path, rng.normal(0, 0.1, length).clip(-1, 1), rate, subtype="PCM_16")
    return open_waveforms([path.stem for path in files], files, [0.0] * n, [None] * n, rate, seconds, folder / "cache")


def through_evar(encoder, waves, duration: str, folder: Path):
    """A work that embeds all clips into a new store each time it is called."""
    from evar.embed import embed
    from evar.store import Store

    fresh, pairs = itertools.count(), [(encoder.default_layer, encoder.default_pooling)]
    made_by = {"encoder_fingerprint": encoder.fingerprint(), "normalization": None}

    def work() -> None:
        store = Store(folder / f"store-{next(fresh)}")
        embed(encoder, waves, store, task_name="bench", duration=duration, pairs=pairs, made_by=made_by)

    return work


def operations(encoder) -> int:
    """Floating-point operations of one second of audio in convolutions and matrix products, front end included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        encoder.encode(torch.zeros(1, encoder.sample_rate) + 0.01 * torch.randn(1, encoder.sample_rate))
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
