"""Every registered encoder, untrained: clips/s, parameters, dimensions, memory; and what `--layers all` and a fusion cost.

Clips are noise at the encoder's own rate. clips/s: `encode` in the preferred batch, median of `--runs`. Each encoder has a
process of its own, and its peak memory is that of the whole process (VmHWM): Python, torch and the weights included.
Layers: cnn14 and byola-v2 through cache and store (`evar.embed.embed`), all layers in one pass against the default one.

`--quick`: one encoder, one run of two clips.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np

SECONDS = (5, 1)
LAYERS = {"random:cnn14": ("all", "3+6"), "random:byola-v2": ("all", "block1+fc")}
TARGETS = {
    "layers": {"what": "all layers, or a fusion, against the default layer: the dearest", "most": 1.3, "unit": "x"}
}
STATISTICS = {"mean": -7.0, "std": 4.0}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--only", metavar="NAME,NAME", help="these encoders")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(arguments.child, arguments.quick, arguments.runs)))
        return

    from evar.encoders import list_encoders

    wanted = ["byola-v2"] if arguments.quick else [*list_encoders()]
    wanted = arguments.only.split(",") if arguments.only else wanted
    rows = [in_own_process(name, arguments.quick, arguments.runs) for name in wanted]
    costs = layer_costs(arguments.quick, [name for name in LAYERS if name.removeprefix("random:") in wanted])
    found = {"layers": max(row["cost"] for row in costs)} if costs else {}
    title = "all layers, and a fusion, against the default layer"
    common.finish("encoders", rows, TARGETS, found, {title: costs} if costs else {}, audio="noise")
    if failed := [row["encoder"] for row in rows if row.get("note", "").startswith("failed")]:
        sys.exit(f"encoders.py: {', '.join(failed)} failed")


def in_own_process(name: str, quick: bool, runs: int) -> dict:
    """The row of one encoder; why there is none, where it cannot be built here."""
    command = [sys.executable, __file__, "--child", name, "--runs", str(runs), *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"encoder": name, "note": f"failed with exit code {done.returncode}"}
    print(f"{name}: done", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str, quick: bool, runs: int) -> dict:
    import torch

    from evar.embed import keep_freed_memory, preferred_batch
    from evar.encoders import list_encoders, load_encoder
    from evar.errors import EvarError

    entry = list_encoders()[name]
    bare = peak_bytes()
    try:
        encoder = load_encoder(name if entry.weights in ("none", "bundled") else f"random:{name}")
    except EvarError as error:
        return {"encoder": name, "Hz": entry.sample_rate, "dim": entry.dim, "note": str(error)}
    if encoder.needs_normalization and encoder.normalization is None:
        encoder = encoder.with_normalization(STATISTICS)
    keep_freed_memory()
    batch = 2 if quick else preferred_batch(encoder)
    row = {
        "encoder": name,
        "Hz": encoder.sample_rate,
        "dim": encoder.embedding_dim,
        "layers": len(encoder.layers),
        "parameters, M": round(sum(weight.numel() for weight in encoder.parameters()) / 1e6, 2),
        "batch": batch,
    }
    for seconds in SECONDS:
        generator = torch.Generator().manual_seed(0)
        wav = 0.1 * torch.randn(batch, seconds * encoder.sample_rate, generator=generator)
        taken = common.median_seconds(
            lambda wav=wav: encoder.encode(wav), runs=1 if quick else runs, warmup=0 if quick else 1
        )
        row[f"{seconds}-s clips/s"] = batch / taken
    row["peak memory, MB"] = round(peak_bytes() / 1e6)
    row["of that before the encoder, MB"] = round(bare / 1e6)
    row["note"] = "with the bundled weights" if encoder.weights_kind == "bundled" else ""
    return row


def peak_bytes() -> int:
    """The most memory that this process has had resident (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("VmHWM is a Linux figure")


def layer_costs(quick: bool, names: list[str]) -> list[dict]:
    """Seconds of embedding the same clips into a new store: the default layer, all layers, a fusion; in turn."""
    import soundfile

    from evar.audio.cache import open_waveforms
    from evar.embed import embed, preferred_batch
    from evar.encoders import load_encoder
    from evar.store import Store

    rows = []
    for name in names:
        encoder = load_encoder(name)
        encoder = encoder.with_normalization(STATISTICS) if encoder.needs_normalization else encoder
        n = 2 if quick else 2 * preferred_batch(encoder)
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            files = [folder / f"{i:03d}.wav" for i in range(n)]
            for i, file in enumerate(files):
                noise = np.random.default_rng(i).normal(0, 0.1, 5 * encoder.sample_rate)
                soundfile.write(file, noise, encoder.sample_rate, subtype="PCM_16")
            given = ([file.stem for file in files], files, [0.0] * n, [None] * n, encoder.sample_rate)
            waves = open_waveforms(*given, 5.0, folder / "cache")
            words = (None, *LAYERS[name])
            taken: dict[str | None, list[float]] = {word: [] for word in words}
            for run in range(1 if quick else 4):
                for number, word in enumerate(words):
                    store, pairs = Store(folder / f"store-{run}-{number}"), encoder.choices(word)
                    begun = time.perf_counter()
                    embed(encoder, waves, store, task_name="bench", duration="card", pairs=pairs)
                    taken[word].append(time.perf_counter() - begun)
        default = statistics.median(taken[None][1:] or taken[None])  # the first run pays for what is loaded late
        for word in words[1:]:
            seconds = statistics.median(taken[word][1:] or taken[word])
            rows.append(
                {
                    "encoder": name,
                    "--layers": word,
                    "matrices": len(encoder.choices(word)),
                    "dimensions": sum(encoder.dim(*pair) for pair in encoder.choices(word)),
                    "default, clips/s": n / default,
                    "these, clips/s": n / seconds,
                    "cost": seconds / default,
                }
            )
    return rows


if __name__ == "__main__":
    main()
