"""What a run would cost, said before it starts (`evar run --dry-run`)."""

from __future__ import annotations

import time
from typing import Any

from evar.cells import Settings
from evar.embed import preferred_batch
from evar.runner import Reporter, prepare


def estimate(encoders: Any, tasks: Any, *, reporter: Reporter | None = None, **options: Any) -> list[dict]:
    """What `run` would do, without doing it: one dict per cell (clips, hours, bytes, seconds, finished embeddings unknown).

    Seconds are estimated from one timed batch of noise per encoder and task length, on this machine.
    """
    import torch

    settings = Settings.of(**options)
    run, loaded_tasks, shelf = prepare(encoders, tasks, settings, reporter or Reporter())
    cells = []
    for task in loaded_tasks:
        for encoder in shelf:
            batch, seconds = settings.batch or preferred_batch(encoder), task.card.seconds
            pairs = encoder.choices(settings.layers, settings.pooling)
            wav = torch.randn(batch, round(seconds * encoder.sample_rate), generator=torch.Generator().manual_seed(0))
            if encoder.needs_normalization and encoder.normalization is None:
                encoder = encoder.with_normalization({"mean": 0.0, "std": 1.0})
            encoder = run.computing.ready(encoder)
            encoder.encode_pairs(wav if settings.compile else wav[:1], None, pairs)
            begun = time.perf_counter()
            encoder.encode_pairs(wav, None, pairs)
            if encoder.device.type == "cuda":
                torch.cuda.synchronize(encoder.device)
            per_clip = (time.perf_counter() - begun) / batch / len(run.computing.devices)
            clips = len(task.clips)
            for protocol in run.protocols:
                cells.append(
                    {
                        "encoder": encoder.label,
                        "task": task.name,
                        "protocol": protocol.name,
                        "clips": clips,
                        "hours": clips * seconds / 3600,
                        "bytes_waveforms": int(clips * seconds * encoder.sample_rate * 2),
                        "bytes_embeddings": clips * sum(encoder.dim(*pair) for pair in pairs) * 4,
                        "seconds_encode": clips * per_clip,
                    }
                )
    return cells
