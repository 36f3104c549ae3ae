"""The loop: batches of crops through a `Method`, an optimiser, checkpoints, logs.

The engine is plain PyTorch under `torchrun`: a step of ours is twelve lines, an interrupted run has to continue to
the same bits, and Lightning Fabric would add 6 s to every start for a wrapper around the same calls.

Every random number of step s comes from generators seeded by (seed, s, rank), never from what happened before, so a
resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from evar.errors import EvarError
from evar.pretraining.checkpoint import check_same_run, load_checkpoint, save_checkpoint
from evar.pretraining.corpus import Corpus
from evar.pretraining.health import COLLAPSED_STD, embedding_std, uniformity
from evar.pretraining.log import Log
from evar.pretraining.method import Method
from evar.pretraining.norms import world_size

CHECKPOINT_MINUTES = 10.0
FINITE_EVERY = 25
"""On a GPU the loss is looked at this often only: each look waits for the device."""


@dataclass(frozen=True)
class Training:
    """How long and how: everything but the method and the corpus.

    batch: clips per step over all processes. steps: in all. lr: of Adam at its highest. warmup: steps of linear rise.
    schedule: `constant` (the papers) or `cosine` to zero. seed: of everything random.
    """

    batch: int
    steps: int
    lr: float
    seed: int = 0
    schedule: str = "constant"
    warmup: int = 0

    def lr_at(self, step: int) -> float:
        """Learning rate of step `step` (from 0)."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant":
            return self.lr * rise
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class Step:
    """What the progress bar shows after a step. collapsed: the embeddings are as good as one vector."""

    step: int
    steps: int
    batch: int
    loss: float
    samples_per_s: float
    collapsed: bool


@dataclass(frozen=True)
class Outcome:
    """How a run ended. reason: `finished`, `time` (--max-hours) or `interrupted`; seconds: trained, over all parts."""

    step: int
    seconds: float
    reason: str
    loss: float


def train(
    method: Method,
    corpus: Corpus,
    training: Training,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    device: str = "cpu",
    resume: bool = False,
    max_hours: float | None = None,
    log_every: int = 10,
    tensorboard: bool = False,
    on_step: Callable[[Step], None] | None = None,
    probe_every: int = 0,
    on_probe: Callable[[int], None] | None = None,
) -> Outcome:
    """Train `method` on `corpus`; checkpoints and log.csv stand in `folder`.

    settings: JSON values that a resumed run must share with the checkpoint. probe_every: steps between calls of
    `on_probe(step)`, in rank 0 only. SIGTERM and Ctrl-C end the run after the step in hand, with a checkpoint.
    Raises EvarError: a batch larger than the processes can share or the corpus holds, a loss that is not finite (the
    last good checkpoint stays), a checkpoint of another run.
    """
    target = torch.device(device)
    world, rank = world_size(), dist.get_rank() if world_size() > 1 else 0
    if training.batch % world or training.batch // world < 2:
        raise EvarError(
            f"a batch of {training.batch} cannot be shared by {world} processes: give a multiple, 2 or more each"
        )
    method.to(target, memory_format=torch.channels_last).train()
    if world > 1 and target.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(method)
    optimizer = torch.optim.Adam(_groups(method), lr=training.lr, fused=True)
    first, seconds = 0, 0.0
    if resume:
        state = load_checkpoint(folder)
        check_same_run(state["settings"], settings, folder)
        first, seconds = state["step"], state["seconds"]
        method.load_state_dict(state["method"])
        method.load_state_dict(state["ranks"][rank], strict=False)
        optimizer.load_state_dict(state["optimizer"])
    network = nn.parallel.DistributedDataParallel(method, broadcast_buffers=False) if world > 1 else method
    log = Log(folder, first, tensorboard) if rank == 0 else None
    began = saved = time.monotonic()
    loss, reason, window = math.nan, "finished", _Rate()
    step = first

    def save() -> None:
        state = {
            "settings": dict(settings),
            "step": step,
            "seconds": seconds + time.monotonic() - began,
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        local = {name: value for name, value in method.state_dict().items() if name.startswith("augmentation.")}
        save_checkpoint(folder, state, local if world > 1 else {})

    with _asked_to_stop() as stop, _ahead(method, corpus, training, first, rank, world) as batches:
        for step, wav in batches:
            rate = training.lr_at(step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            numbers = torch.Generator().manual_seed(_seed(training.seed, step, rank, 1))
            torch.manual_seed(_seed(training.seed, step, rank, 2))  # dropout
            views = method.views(wav.to(target, non_blocking=True), numbers)
            result, embeddings = network(views)
            last = step + 1 == training.steps
            if target.type == "cpu" or step % FINITE_EVERY == 0 or last:
                loss = float(result.detach())
                if not math.isfinite(loss):
                    raise EvarError(_diverged(folder, step, training.lr))
            result.backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_step()
            step += 1
            window.tick(training.batch)
            if rank == 0 and (step % log_every == 0 or last):
                std = embedding_std(embeddings)
                log.add(
                    step=step,
                    epoch=step * training.batch / len(corpus.pieces),
                    seconds=seconds + time.monotonic() - began,
                    loss=float(result.detach()),
                    lr=rate,
                    samples_per_s=window.rate(),
                    embedding_std=std,
                    uniformity=uniformity(embeddings),
                )
                if on_step:
                    on_step(
                        Step(
                            step,
                            training.steps,
                            training.batch,
                            float(result.detach()),
                            window.rate(),
                            std < COLLAPSED_STD,
                        )
                    )
            if probe_every and on_probe and (step % probe_every == 0 or last):
                if rank == 0:
                    on_probe(step)
                if world > 1:
                    dist.barrier()
                window = _Rate()
            over = max_hours is not None and seconds + time.monotonic() - began >= max_hours * 3600
            ending = _agree(int(stop()) * 2 + int(over))
            if ending and not last:
                reason = "interrupted" if ending >= 2 else "time"
                break
            if _agree(int(time.monotonic() - saved > CHECKPOINT_MINUTES * 60)):
                save()
                saved = time.monotonic()
    save()
    if log:
        log.close()
    return Outcome(step, seconds + time.monotonic() - began, reason, loss)


def _groups(method: Method) -> list[dict[str, Any]]:
    """The parameters to train, apart by the share of the learning rate that they get."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            share = next((value for start, value in method.lr_shares.items() if name.startswith(start)), 1.0)
            groups.setdefault(share, []).append(parameter)
    return [{"params": parameters, "share": share} for share, parameters in groups.items() if share > 0]


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _diverged(folder: Path, step: int, lr: float) -> str:
    kept = (
        f"the last good checkpoint is in {folder}"
        if (folder / "checkpoint.pt").exists()
        else "no checkpoint was due yet"
    )
    return f"the loss is not finite at step {step + 1} ({kept}): lower --lr (now {lr:g}), or look for damaged audio"


def _agree(value: int) -> int:
    """The largest of all processes' values: they must leave the loop together."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM set a flag; a second one acts as ever."""
    asked = []
    before = {}

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: signals are somebody else's
        pass
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _ahead(
    method: Method, corpus: Corpus, training: Training, first: int, rank: int, world: int
) -> Iterator[Iterator[tuple[int, Tensor]]]:
    """(step, crops [B / world, crops, samples]) of all steps to go, read one step ahead in a thread."""
    share = training.batch // world
    orders: dict[int, np.ndarray] = {}

    def clips_of(step: int) -> np.ndarray:
        positions = step * training.batch + rank * share + np.arange(share)
        epochs, places = np.divmod(positions, len(corpus.pieces))
        for epoch in np.unique(epochs).tolist():
            if epoch not in orders:
                orders[epoch] = corpus.order(training.seed, epoch)
        for epoch in [old for old in orders if old < epochs.min()]:
            del orders[epoch]
        return np.concatenate([orders[epoch][places[epochs == epoch]] for epoch in np.unique(epochs).tolist()])

    def read(step: int) -> Tensor:
        random = np.random.default_rng([training.seed, step, rank, 3])
        wav = torch.from_numpy(corpus.crops(clips_of(step), method.crops, method.crop_samples, random))
        return wav.pin_memory() if torch.cuda.is_available() else wav

    with ThreadPoolExecutor(1, thread_name_prefix="crops") as pool:

        def steps() -> Iterator[tuple[int, Tensor]]:
            following: Future | None = pool.submit(read, first) if first < training.steps else None
            for step in range(first, training.steps):
                wav = following.result()
                following = pool.submit(read, step + 1) if step + 1 < training.steps else None
                yield step, wav

        yield steps()


class _Rate:
    """Samples per second over the last steps."""

    def __init__(self) -> None:
        self._ticks = [(time.monotonic(), 0)]

    def tick(self, samples: int) -> None:
        self._ticks = [*self._ticks[-50:], (time.monotonic(), self._ticks[-1][1] + samples)]

    def rate(self) -> float:
        (start, before), (end, after) = self._ticks[0], self._ticks[-1]
        return (after - before) / max(end - start, 1e-9)
