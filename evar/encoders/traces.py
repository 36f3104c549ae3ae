"""What an encoder leaves behind in its process: hidden weights, kept tensors, changed settings, memory."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from evar.encoders.base import Encoder


def process_state() -> dict[str, Any]:
    """Settings of torch that hold for the whole process; the random state is compared, not shown."""
    return {
        "random state": torch.get_rng_state().numpy().tobytes(),
        "gradient mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
    }


def hidden_networks(encoder: Encoder) -> list[str]:
    """Attributes that hold a network with weights where PyTorch does not look: in a container, or another object."""
    own, seen = set(vars(nn.Module())), set(encoder.modules())
    found = []
    for path, module in encoder.named_modules():
        for name, value in vars(module).items():
            networks = [] if name in own else [one for one in _inside(value) if isinstance(one, nn.Module)]
            if any(True for network in networks if network not in seen for _ in network.parameters()):
                found.append(f"{path}.{name}".lstrip("."))
    return found


def _inside(value: Any) -> list[Any]:
    """What a container, or an object's attributes, hold."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set)):
        return list(value)
    return [] if isinstance(value, (type, ModuleType)) else list(getattr(value, "__dict__", {}).values())


def with_other_weights(encoder: Encoder, weight: Tensor) -> str:
    """The fingerprint while `weight` is another one."""
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
        try:
            return encoder.fingerprint()
        finally:
            weight.copy_(kept)


def tensor_bytes() -> int:
    """Bytes of all tensors that Python holds."""
    gc.collect()
    held = {}
    for one in gc.get_objects():
        if issubclass(type(one), Tensor):
            with contextlib.suppress(Exception):  # tensors without storage
                storage = one.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int | None]]:
    """Bytes by which memory rose at most inside the block, in a list of one; None where nobody can tell."""
    peak: list[int | None] = [None]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the high-water mark
    before = _status_bytes("VmRSS")
    yield peak
    after = _status_bytes("VmHWM")
    peak[0] = None if before is None or after is None else max(0, after - before)


def _status_bytes(key: str) -> int | None:
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
