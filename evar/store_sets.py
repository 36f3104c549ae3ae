"""A stored set to read from: matrices that stay on the disk, rows by clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evar.store_format import FLOAT, FRAMES, INT, OFFSETS, ROWS, TIMES, Damaged, Meta


class Embeddings:
    """A complete set, memory-mapped read-only."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.path, self.meta = folder, meta
        self.n_clips, self.ragged = meta.n_clips, meta.ragged
        self.matrices = [(matrix.layer, matrix.pooling, matrix.dim) for matrix in meta.matrices]
        if meta.ragged:
            offsets = self._map(OFFSETS, INT, (meta.n_clips + 1,))
            self._starts, self._ends = np.empty(meta.n_clips, np.int64), np.empty(meta.n_clips, np.int64)
            order = self._map(ROWS, INT, (meta.n_clips,))
            self._starts[order], self._ends[order] = offsets[:-1], offsets[1:]
            height = int(offsets[-1])
            self._times = self._map(TIMES, FLOAT, (height,))
        else:
            height = meta.n_clips
        self._data = [self._map(f"{i}.f32", FLOAT, (height, matrix.dim)) for i, matrix in enumerate(meta.matrices)]

    def source(self, layer: str, pooling: str) -> RowSource:
        """The rows of one matrix [n_clips, dim], in clip order, without reading them. KeyError: no such matrix."""
        index = self.meta.index(layer, pooling)
        if self.ragged:
            raise ValueError("a ragged set has frames, not rows: use frames(layer, i)")
        return RowSource(self._data[index])

    def rows(self, layer: str, pooling: str, indices: np.ndarray | None = None) -> np.ndarray:
        """float32 [n, dim] in memory: all clips in clip order, or those of `indices`."""
        return self.source(layer, pooling)[slice(None) if indices is None else indices]

    def frames(self, layer: str, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Clip `i` of a ragged set: (float32 [T, dim], times in ms float32 [T]), both read-only views of the file."""
        span = slice(self._starts[i], self._ends[i])
        return self._data[self.meta.index(layer, FRAMES)][span], self._times[span]

    def _map(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        path, expected = self.path / name, int(np.prod(shape)) * dtype.itemsize
        if (found := path.stat().st_size) != expected:
            raise Damaged(f"{path} has {found:,} bytes, expected {expected:,}")
        return np.asarray(np.memmap(path, dtype, "r", shape=shape)) if expected else np.empty(shape, dtype)


class RowSource:
    """Rows [n, dim] that stay on the disk: has `shape` and `dtype`, gathers by int64 array or slice, walks in chunks."""

    def __init__(self, data: np.ndarray, chosen: np.ndarray | None = None) -> None:
        self._data, self._chosen = data, chosen
        self.shape = (len(data) if chosen is None else len(chosen), data.shape[1])
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        """float32 [n, dim], a copy in memory."""
        return np.array(self._data[indices if self._chosen is None else self._chosen[indices]], np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=False)

    def subset(self, indices: np.ndarray) -> RowSource:
        """These rows only, in this order; still on the disk."""
        indices = np.asarray(indices, np.int64)
        return RowSource(self._data, indices if self._chosen is None else self._chosen[indices])

    def chunks(self, n: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (slice of positions, float32 [<= n, dim]) over all rows, a chunk in memory at a time."""
        for start in range(0, len(self), n):
            part = slice(start, min(start + n, len(self)))
            yield part, self[part]
