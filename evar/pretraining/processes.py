"""Several processes that train together, started by `torchrun`: set up, agree with each other, fail with one line."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from evar.errors import EvarError
from evar.pretraining.norms import world_size

PATIENCE = datetime.timedelta(hours=12)
"""Processes wait this long for each other: one node may decode its audio, or score a checkpoint, for hours."""


def rank() -> int:
    """This process's number among those that train together; 0 logs, saves and talks."""
    return dist.get_rank() if world_size() > 1 else 0


def agree(flags: Sequence[int]) -> list[int]:
    """The largest of all processes' values, for each flag: they must leave the loop and save together."""
    if world_size() == 1:
        return list(flags)
    shared = torch.tensor(flags)  # on the CPU: a GPU would have to finish its step first
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return shared.tolist()


def check_same(value: str, what: str) -> None:
    """EvarError where the processes hold different values (a damaged copy of the corpus on one node)."""
    if world_size() == 1:
        return
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise EvarError(f"{what} differs between processes: {values[0]} in process 0, {other} in process {number}")


@contextlib.contextmanager
def processes(device: str) -> Iterator[str]:
    """This process's device; under `torchrun` the group of processes is set up first and taken down after.

    Where one process fails, the others end too, and one of them tells why.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        index = int(os.environ["LOCAL_RANK"])
        if index >= torch.cuda.device_count():
            raise EvarError(f"process {index + 1} of this machine finds {torch.cuda.device_count()} GPUs: start fewer")
        device = f"cuda:{index}"
        torch.cuda.set_device(device)
    store, number, world = next(dist.rendezvous("env://", timeout=PATIENCE))
    # Flags go by gloo also on GPUs, so that nobody waits for a device to agree on them.
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=world, timeout=PATIENCE)
    try:
        yield device
        dist.barrier()
    except Exception as error:
        if not _first_to_fail(store):
            raise SystemExit(EvarError.exit_code) from None
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise EvarError(
                "another process of this run is gone: give --resume to go on from the checkpoint"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def _first_to_fail(store: dist.Store) -> bool:
    """False where another process has told the reason already, or the process that kept the store is gone."""
    try:
        return store.add("evar/failed", 1) == 1
    except RuntimeError:
        return False
