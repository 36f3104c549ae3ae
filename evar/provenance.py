"""Where and with what a number was made: the volatile columns of its row."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from pathlib import Path

import evar


def here(devices: Sequence[str]) -> dict:
    """host, device, evar_version, torch_version and git_commit of this process.

    devices: of one kind, as `resolve_devices` gives them; several are counted, as in `4 x NVIDIA H200`.
    """
    import torch

    first = devices[0]
    name = torch.cuda.get_device_name(first) if first.startswith("cuda") else f"cpu ({torch.get_num_threads()} threads)"
    return {
        "host": platform.node(),
        "device": name if len(devices) == 1 else f"{len(devices)} x {name}",
        "evar_version": evar.__version__,
        "torch_version": torch.__version__,
        "git_commit": git_commit(),
    }


def git_commit() -> str:
    """The commit of the checkout that evar runs from, read without git; empty for an installed wheel."""
    folder = Path(__file__).resolve().parents[1] / ".git"
    with contextlib.suppress(OSError):
        if folder.is_file():  # a worktree (or submodule): its own HEAD, the refs of the repository that it belongs to
            folder = folder.parent / folder.read_text().strip().removeprefix("gitdir: ")
        head = (folder / "HEAD").read_text().strip()
        if (folder / "commondir").is_file():
            folder = folder / (folder / "commondir").read_text().strip()
        if not head.startswith("ref: "):
            return head[:12]
        with contextlib.suppress(OSError):
            return (folder / head[5:]).read_text().strip()[:12]
        for line in (folder / "packed-refs").read_text().splitlines():
            if line.endswith(head[5:]):
                return line[:12]
    return ""
