"""A small set of embeddings and a process that writes it, so that the tests of the store can kill it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from evar.store import Store

SETTINGS = {"encoder_fingerprint": "e1", "clips_fingerprint": "c1", "duration": "card", "precision": "fp32"}
MATRICES = [("block2", "mean", 24), ("out", "mean+max", 8)]
N_CLIPS = 300


def rows(layer: str, indices: np.ndarray, dim: int) -> np.ndarray:
    """float32 [b, dim]: what an encoder would give, a function of the clip's index only."""
    clip = np.asarray(indices, np.float64)[:, None]
    return np.sin(clip * 0.37 + np.arange(dim) * (1 + len(layer))).astype(np.float32)


def blocks(indices: np.ndarray) -> dict:
    return {(layer, pooling): rows(layer, indices, dim) for layer, pooling, dim in MATRICES}


def order(pending: np.ndarray) -> np.ndarray:
    """Longest first: a fixed order that is not that of the clips."""
    return pending[np.argsort((pending * 7919) % 1009, kind="stable")]


def fill(root: Path, batch: int = 3, stop_after: int | None = None, finish: bool = True):
    """Write what is pending; `stop_after` batches leave the set unfinished."""
    with Store(root).writer(SETTINGS, MATRICES, N_CLIPS, "py:my.net:Net", "esc50") as writer:
        todo = order(writer.pending)
        for number, start in enumerate(range(0, len(todo), batch)):
            if number == stop_after:
                return None
            part = todo[start : start + batch]
            writer.write(part, blocks(part))
        return writer.finish() if finish else None


def folder_of(root: Path) -> Path:
    return Path(Store(root).list_sets()[0]["path"])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but meta.json, which holds the time of writing."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "meta.json"}


def spawn(root: Path, pause: float = 0.0) -> subprocess.Popen:
    """A process that writes the set, pausing between batches, and says `go` once it holds the lock."""
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import store_data as d\n"
        "from evar.store import Store\n"
        f"with Store({str(root)!r}).writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, 'other name', 'other task') as w:\n"
        "    todo = d.order(w.pending)\n"
        "    print('go', len(todo), flush=True)\n"
        "    for i in range(0, len(todo), 3):\n"
        "        w.write(todo[i:i+3], d.blocks(todo[i:i+3]))\n"
        f"        time.sleep({pause})\n"
        "    w.finish()\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
