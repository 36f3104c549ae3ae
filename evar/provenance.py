"""Where and with what a number was made: the volatile columns of its row."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import evar


def here(device: str) -> dict:
    """host, device, evar_version, torch_version and git_commit of this process; `device` as `resolve_device` gives it."""
    import torch

    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu ({torch.get_num_threads()} threads)"
    )
    return {
        "host": platform.node(),
        "device": name,
        "evar_version": evar.__version__,
        "torch_version": torch.__version__,
        "git_commit": git_commit(),
    }


def git_commit() -> str:
    """The commit of the checkout that evar runs from, read without git; empty for an installed wheel."""
    folder = Path(__file__).resolve().parents[1] / ".git"
    with contextlib.suppress(OSError):
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:12]
        with contextlib.suppress(OSError):
            return (folder / head[5:]).read_text().strip()[:12]
        for line in (folder / "packed-refs").read_text().splitlines():
            if line.endswith(head[5:]):
                return line[:12]
    return ""
