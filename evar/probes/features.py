"""The feature matrix as the probes see it: centred and scaled once, in memory when it is small, streamed when it is not.

The one centring and scaling by statistics of all training clips keeps float32 exact enough for features of large offset;
the StandardScaler of each fold is applied on top of it, from that fold's training clips alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from evar.errors import EvarError
from evar.products import product

RESIDENT_BYTES = 1 << 30  # a larger matrix stays where it is and is read in chunks
CHUNK_BYTES = 64 << 20
CACHED_BYTES = 1 << 18  # rows that are read, scaled and summed while a processor's cache holds them
SAMPLE = 4096  # training rows from which the principal axes are estimated


class Features:
    """Rows of X (float32 [N, D], array, memory map or row source) in units of (x - mean) / scale, on `device`.

    mean, scale: float64 [D], from the rows `training` (int64 indices). A feature that is constant there has scale 1.
    """

    def __init__(self, X: Any, training: np.ndarray, device: str = "cpu") -> None:
        self.n, self.d = (int(size) for size in X.shape)
        self.device = torch.device(device)
        self.resident = self.n * self.d * 4 <= RESIDENT_BYTES
        self.spare_bytes = (
            0 if self.resident else RESIDENT_BYTES
        )  # where it is streamed, its place is free for other things
        self.chunk = max(1, CHUNK_BYTES // (4 * self.d))
        self._training, self._X = training, X
        self.mean, self.scale = moments(self._raw(part) for part in self._parts(training))
        if self.resident:
            self._X = torch.from_numpy(self._scaled(np.arange(self.n))).to(self.device)

    def rows(self, indices: np.ndarray) -> torch.Tensor:
        """float32 [len(indices), D] on the device."""
        if self.resident:
            return self._X[torch.as_tensor(indices, device=self.device)]
        return torch.from_numpy(self._scaled(indices)).to(self.device)

    def chunks(self, indices: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
        """(position in `indices`, rows) in order, each at most 64 MiB. Read only: rows in memory are not copied if in a row."""
        for start in range(0, len(indices), self.chunk):
            part = slice(start, min(start + self.chunk, len(indices)))
            some = indices[part]
            ordered = self.resident and bool((np.diff(some) == 1).all())
            yield part, self._X[some[0] : some[-1] + 1] if ordered else self.rows(some)

    @functools.cached_property
    def principal_axes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Orthonormal axes [D, D] (columns) and the variance along each [D], from at most 4096 training rows, evenly spaced.

        Coordinates for the solvers: any orthonormal axes give the same solution, these give it in few iterations.
        """
        some = np.linspace(0, len(self._training) - 1, min(len(self._training), SAMPLE)).astype(np.int64)
        rows = self.rows(self._training[some])
        variance, axes = torch.linalg.eigh(product(rows.T, rows) / len(rows))
        return axes, variance.clamp_min(0)

    def standardizer(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """StandardScaler of these rows in these units: mean and scale, float64 [D] on the device.

        A feature that is constant there keeps the scale of X, as in scikit-learn.
        """
        size = max(1, CACHED_BYTES // (4 * self.d))
        parts = (part.numpy() for _, rows in self.chunks(indices) for part in rows.cpu().split(size))
        mean, scale = moments(parts, 1.0 / self.scale)
        return torch.from_numpy(mean).to(self.device), torch.from_numpy(scale).to(self.device)

    def _parts(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        size = max(1, CACHED_BYTES // (4 * self.d))
        return (indices[start : start + size] for start in range(0, len(indices), size))

    def _raw(self, indices: np.ndarray) -> np.ndarray:
        rows = np.asarray(self._X[indices], dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(rows.sum())
        if suspicious and not np.isfinite(rows).all():
            bad = int(indices[np.flatnonzero(~np.isfinite(rows).all(1))[0]])
            raise EvarError(f"the embedding of clip {bad} (counted from 0) holds NaN or infinity: encode it again")
        return rows

    def _scaled(self, indices: np.ndarray) -> np.ndarray:
        # float32 is enough: the difference of near numbers is exact, and a rounded mean or scale is the same for all rows
        mean, scale = self.mean.astype(np.float32), self.scale.astype(np.float32)
        rows, start = np.empty((len(indices), self.d), np.float32), 0
        for part in self._parts(indices):
            block = rows[start : start + len(part)]
            np.divide(np.subtract(self._raw(part), mean, out=block), scale, out=block)
            start += len(part)
        return rows


def moments(parts: Iterator[np.ndarray], constant: float | np.ndarray = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (population; `constant` where there is none) over rows given in parts: float64 [D] each.

    Chan's update of (count, mean, squared deviations), so that large offsets cancel nothing.
    """
    count, mean, squares = 0, 0.0, 0.0
    for part in parts:
        rows = part.astype(np.float64)
        shift = rows.mean(0)
        deviation = ((rows - shift) ** 2).sum(0)
        total = count + len(rows)
        delta = shift - mean
        squares = squares + deviation + delta**2 * (count * len(rows) / total)
        mean = mean + delta * (len(rows) / total)
        count = total
    # float32 features that differ by less than their own rounding are constant
    variance = squares / count
    return mean, np.where(variance <= 1e-15 * mean**2, constant, np.sqrt(variance))
