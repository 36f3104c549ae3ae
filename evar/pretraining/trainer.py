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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evar.errors import EvarError
from evar.files import require_space
from evar.pretraining.checkpoint import FILE, check_same_run, load_checkpoint, pack_checkpoint, write_checkpoint
from evar.pretraining.corpus import Corpus
from evar.pretraining.feed import read_ahead
from evar.pretraining.health import COLLAPSED_STD, embedding_std, uniformity
from evar.pretraining.log import Log
from evar.pretraining.method import Method
from evar.pretraining.norms import world_size
from evar.pretraining.processes import agree
from evar.pretraining.processes import rank as own_rank
from evar.products import with_fast_linears

CHECKPOINT_MINUTES = 10.0
FINITE_EVERY = 25
"""On a GPU the loss is looked at this often only: each look waits for the device."""
SHOW_SECONDS = 1.0


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
    """How a run ended. reason: `finished`, `time` (--max-hours) or `interrupted`; seconds: trained, over all parts.

    signal: the number of the signal that interrupted it, else 0. first: steps that were done when this part began.
    """

    step: int
    seconds: float
    reason: str
    loss: float
    signal: int = 0
    first: int = 0


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
    checkpoint_every: int | None = None,
    tensorboard: bool = False,
    on_step: Callable[[Step], None] | None = None,
    probe_every: int = 0,
    on_probe: Callable[[int], None] | None = None,
) -> Outcome:
    """Train `method` on `corpus`; checkpoints and log.csv stand in `folder`.

    settings: JSON values that a resumed run must share with the checkpoint. max_hours: of this call. checkpoint_every:
    steps between checkpoints, ten minutes by default. probe_every: steps between calls of `on_probe(step)`, in rank 0
    only. SIGTERM and Ctrl-C end the run after the step in hand, with a checkpoint.
    Raises EvarError: a batch that the processes cannot share, a loss that is not finite (the last good checkpoint
    stays), a checkpoint of another run, a disk too small for the checkpoint.
    """
    target = torch.device(device)
    world, rank = world_size(), own_rank()
    if training.batch % world or training.batch // world < 2:
        raise EvarError(
            f"a batch of {training.batch} cannot be shared by {world} processes: give a multiple, 2 or more each"
        )
    with_fast_linears(method).to(target, memory_format=torch.channels_last).train()
    if world > 1 and target.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(method)
    optimizer = torch.optim.Adam(_groups(method), lr=training.lr, fused=True)
    step, seconds, loss = _restore(folder, settings, method, optimizer) if resume else (0, 0.0, math.nan)
    first = saved_step = step
    if first < training.steps and rank == 0:
        require_space(folder / FILE, _checkpoint_bytes(method), "the checkpoint")
    network = nn.parallel.DistributedDataParallel(method, broadcast_buffers=False) if world > 1 else method
    log = Log(folder, first, tensorboard) if rank == 0 else None
    began = saved = time.monotonic()
    watch = _Watch(training, len(corpus.pieces), began - seconds, log_every, log, on_step)
    reason, by_signal, packed, waiting = "finished", 0, None, False

    def pack() -> memoryview | None:
        state = method.state_dict()
        local = {name: value for name, value in state.items() if name.startswith("augmentation.")}
        whole = {
            "settings": dict(settings),
            "step": step,
            "seconds": seconds + time.monotonic() - began,
            "loss": loss,
            "method": state,
            "optimizer": optimizer.state_dict(),
        }
        return pack_checkpoint(whole, local if world > 1 else {})

    todo = range(first, training.steps)
    with (
        _asked_to_stop() as asked,
        read_ahead(method, corpus, training.batch, todo, training.seed, rank, world) as batches,
    ):
        for step, wav in batches:
            rate = training.lr_at(step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            numbers = torch.Generator().manual_seed(_seed(training.seed, step, rank, 1))
            torch.manual_seed(_seed(training.seed, step, rank, 2))  # dropout
            views = method.views(wav.to(target, non_blocking=True), numbers)
            result, embeddings = network(views)
            last = step + 1 == training.steps
            if target.type == "cpu" or step % FINITE_EVERY == 0 or last or waiting:
                loss = float(result.detach())
            now = time.monotonic()
            over = max_hours is not None and now - began >= max_hours * 3600
            due = (step + 1) % checkpoint_every == 0 if checkpoint_every else now - saved > CHECKPOINT_MINUTES * 60
            broken, by_signal, over, due = agree([not math.isfinite(loss), asked(), over, due])
            if broken:
                raise _diverged(f"the loss is not finite at step {step + 1}", folder, saved_step, training)
            if waiting:  # a checkpoint is good when the loss of the step after it is finite
                write_checkpoint(folder, packed)
                packed, waiting, saved_step = None, False, step
            result.backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_step()
            step += 1
            watch.step(step, rate, result.detach(), embeddings)
            if probe_every and on_probe and (step % probe_every == 0 or last):
                if rank == 0:
                    on_probe(step)
                    method.train()
                agree([0])  # the others wait
                watch.restart()
            if (by_signal or over) and not last:
                reason = "interrupted" if by_signal else "time"
                break
            if due and not last:
                packed, waiting, saved = pack(), True, time.monotonic()
    if step > first:
        loss = float(result.detach())
        if agree([not _is_finite(method)])[0]:
            raise _diverged(f"the weights are not finite after step {step}", folder, saved_step, training)
        write_checkpoint(folder, pack())
    if log:
        log.close()
    trained = seconds + time.monotonic() - began if step > first else seconds
    return Outcome(step, trained, reason, loss, by_signal if reason == "interrupted" else 0, first)


def _groups(method: Method) -> list[dict[str, Any]]:
    """The parameters to train, apart by the share of the learning rate that they get."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            share = next((value for start, value in method.lr_shares.items() if name.startswith(start)), 1.0)
            groups.setdefault(share, []).append(parameter)
    return [{"params": parameters, "share": share} for share, parameters in groups.items() if share > 0]


def _restore(
    folder: Path, settings: Mapping[str, Any], method: Method, optimizer: torch.optim.Optimizer
) -> tuple[int, float, float]:
    """Put a checkpoint's content in its place: (steps done, seconds trained, last loss)."""
    state = load_checkpoint(folder)
    check_same_run(state["settings"], settings, folder)
    try:
        method.load_state_dict(state["method"])
        method.load_state_dict(state["ranks"][own_rank()], strict=False)
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EvarError(
            f"the checkpoint in {folder} does not fit this evar ({str(error)[:200]}): start a new run in another --out"
        ) from error
    return state["step"], state["seconds"], state.get("loss", math.nan)


def _checkpoint_bytes(method: Method) -> int:
    """About what a checkpoint takes: all tensors, and Adam's two for each parameter that is trained."""
    held = sum(tensor.nbytes for tensor in method.state_dict().values())
    return held + 2 * sum(parameter.nbytes for parameter in method.parameters() if parameter.requires_grad)


def _is_finite(method: Method) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in method.state_dict().values())


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _diverged(what: str, folder: Path, saved_step: int, training: Training) -> EvarError:
    kept = "no checkpoint was due yet"
    if saved_step:
        kept = f"the last good checkpoint, of step {saved_step}, stays in {folder}"
    if saved_step and training.schedule == "constant":
        kept += f"; --resume --steps {saved_step} writes its weights"
    return EvarError(f"{what} ({kept}): start again with a lower --lr (now {training.lr:g}), or look for damaged audio")


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], int]]:
    """SIGINT and SIGTERM are noted: the callable gives the signal's number, else 0. A second one acts as ever."""
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
        yield lambda: asked[0] if asked else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Watch:
    """What is told of the steps: rows of the log, and `on_step` when a row is due or a second has passed (rank 0)."""

    def __init__(
        self,
        training: Training,
        pieces: int,
        zero: float,
        every: int,
        log: Log | None,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self.training, self.pieces, self.zero, self.every = training, pieces, zero, every
        self.log, self.on_step, self.shown = log, on_step, 0.0
        self.restart()

    def restart(self) -> None:
        """Measure the rate anew: something else than training took time."""
        self._ticks = [(time.monotonic(), 0)]

    def step(self, step: int, lr: float, loss: Tensor, embeddings: Tensor) -> None:
        """After each step: `step` steps are done."""
        now = time.monotonic()
        self._ticks = [*self._ticks[-50:], (now, self._ticks[-1][1] + self.training.batch)]
        logged = step % self.every == 0 or step == self.training.steps
        if self.log is None or not (logged or now - self.shown > SHOW_SECONDS):
            return
        self.shown = now
        (start, before), (end, after) = self._ticks[0], self._ticks[-1]
        rate = (after - before) / max(end - start, 1e-9)
        seen, std = float(loss), embedding_std(embeddings)
        if logged:
            self.log.add(
                step=step,
                epoch=step * self.training.batch / self.pieces,
                seconds=now - self.zero,
                loss=seen,
                lr=lr,
                samples_per_s=rate,
                embedding_std=std,
                uniformity=uniformity(embeddings),
            )
        if self.on_step:
            self.on_step(Step(step, self.training.steps, self.training.batch, seen, rate, std < COLLAPSED_STD))
