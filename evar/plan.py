"""What a run would cost, said before it starts (`evar run --dry-run`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evar.cells import Settings
from evar.embed import preferred_batch
from evar.runner import Reporter, prepare

if TYPE_CHECKING:
    from evar.datasets.task import Task
    from evar.probes.protocol import Protocol


def estimate(encoders: Any, tasks: Any, *, reporter: Reporter | None = None, **options: Any) -> list[dict]:
    """What `run` would do, without doing it: one dict per cell (clips, hours, bytes, seconds, finished embeddings unknown).

    Seconds of encoding are estimated from one timed batch of noise per encoder and task length, on this machine (small encoders,
    which take a batch per core in a run, are faster there); those of
    the probe from sizes and the machine's rates, for logistic regression on a CPU (None elsewhere): good to a factor of three.
    """
    import torch

    settings = Settings.of(**options)
    run, loaded_tasks, shelf = prepare(encoders, tasks, settings, reporter or Reporter())
    cells = []
    for task in loaded_tasks:
        for encoder in shelf:
            batch, seconds = settings.batch or preferred_batch(encoder), task.card.seconds
            batch = min(batch, len(task.clips))
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
            clips, dims = len(task.clips), [encoder.dim(*pair) for pair in pairs]
            on_cpu = encoder.device.type == "cpu"
            for protocol in run.protocols:
                cells.append(
                    {
                        "encoder": encoder.label,
                        "task": task.name,
                        "protocol": protocol.name,
                        "clips": clips,
                        "hours": clips * seconds / 3600,
                        "bytes_waveforms": int(clips * seconds * encoder.sample_rate * 2),
                        "bytes_embeddings": clips * sum(dims) * 4,
                        "seconds_encode": clips * per_clip,
                        "seconds_probe": _seconds_probe(protocol, task, settings, dims) if on_cpu else None,
                    }
                )
            del encoder  # the shelf may not have room for two
    return cells


def _seconds_probe(protocol: Protocol, task: Task, settings: Settings, dims: Sequence[int]) -> float | None:
    from evar.probes import estimate_seconds

    if protocol.probe != "logistic":
        return None
    folds, classes = 1, len(task.classes)
    if task.card.split == "folds":
        folds, clips = task.clips["fold"].nunique(), len(task.clips)
    else:
        clips = int((task.clips["split"] == "train").sum())
    if settings.shots:
        clips = min(clips, settings.shots * classes * folds)
    clips = round(clips * (settings.train_fraction or 1.0))
    independent = task.card.multilabel or classes == 2
    return sum(estimate_seconds(clips, dim, classes, folds, len(protocol.strengths), independent) for dim in dims)
