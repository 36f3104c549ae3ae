"""Checkpoints of a pre-training run: everything that the next step depends on, in one file, written atomically."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from evar.errors import EvarError
from evar.files import atomic_write, require_space
from evar.pretraining.norms import world_size

FORMAT = 1
FILE = "checkpoint.pt"


def save_checkpoint(folder: Path, state: Mapping[str, Any], local: Mapping[str, torch.Tensor]) -> None:
    """Write `state` (the same in all processes) and every process's `local` tensors (its mixup bank), from rank 0."""
    ranks = [dict(local)]
    if world_size() > 1:
        ranks = [None] * world_size()
        dist.all_gather_object(ranks, dict(local))
        if dist.get_rank() > 0:
            dist.barrier()
            return
    buffer = io.BytesIO()
    torch.save({**state, "format": FORMAT, "ranks": ranks}, buffer)
    require_space(folder / FILE, buffer.tell(), "the checkpoint")
    atomic_write(folder / FILE, buffer.getvalue())
    if world_size() > 1:
        dist.barrier()


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint in a run's folder; nothing in it is run. Raises EvarError: none there, damaged, another format."""
    path = folder / FILE
    if not path.is_file():
        raise EvarError(f"no checkpoint in {folder}: expected {FILE}; leave --resume out to start a new run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise EvarError(f"{path} is damaged or no checkpoint of evar: delete it to start this run again") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise EvarError(f"{path} has another checkpoint format than {FORMAT}, which this evar reads: start a new run")
    return state


def check_same_run(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """EvarError naming the first setting in which a checkpoint differs from the run that wants to go on."""
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise EvarError(
                f"the checkpoint in {folder} is of another run: {key} was {found.get(key)!r}, now {wanted[key]!r};"
                " give the same options, or another --out"
            )
