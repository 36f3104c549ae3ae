"""Checkpoints of a pre-training run: everything that the next step depends on, in one file, written atomically."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from evar.encoders.weights import refuse_bomb
from evar.errors import EvarError, out_of_memory
from evar.files import atomic_write, require_space
from evar.pretraining.norms import world_size

FORMAT = 1
FILE = "checkpoint.pt"
KEYS = frozenset({"settings", "step", "seconds", "method", "optimizer", "ranks"})


def pack_checkpoint(state: Mapping[str, Any], local: Mapping[str, torch.Tensor]) -> memoryview | None:
    """The file's content: `state` (the same in all processes) and every process's `local` tensors (its mixup bank).

    All processes call it; only rank 0 is given the content, the others None.
    """
    ranks = [dict(local)]
    if world_size() > 1:
        own = {name: tensor.cpu() for name, tensor in local.items()}
        ranks = [None] * world_size() if dist.get_rank() == 0 else None
        dist.gather_object(own, ranks)
        if ranks is None:
            return None
    buffer = io.BytesIO()
    torch.save({**state, "format": FORMAT, "ranks": ranks}, buffer)
    return buffer.getbuffer()


def write_checkpoint(folder: Path, packed: memoryview | None) -> None:
    """Put a packed checkpoint in the place of the run's last one; EvarError when the disk is too small for both."""
    if packed is not None:
        require_space(folder / FILE, packed.nbytes, "the checkpoint")
        atomic_write(folder / FILE, packed)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint in a run's folder; nothing in it is run. Raises EvarError: none there, damaged, another format."""
    path = folder / FILE
    if not path.is_file():
        raise EvarError(f"no checkpoint in {folder}: expected {FILE}; leave --resume out to start a new run")
    try:
        refuse_bomb(path)
        with zipfile.ZipFile(path) as archive:  # torch.load checks no checksums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises anything at all
        if out_of_memory(error):
            raise
        raise EvarError(f"{path} is damaged or no checkpoint of evar: delete it to start this run again") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= KEYS:
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
