"""The training rows of all folds as a linear operator for `lbfgs.solve`, in coordinates where the Hessian is nearly diagonal.

Both designs standardise each fold exactly as scikit-learn's StandardScaler would on its training rows, and rotate the
features to the principal axes: rotation changes neither the penalty nor the solution, and it makes the inverse spectrum
a good first guess of the inverse Hessian (about four times fewer iterations on correlated features).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from evar.probes.features import Features

STACKED_BYTES = 1 << 30


class Stacked:
    """One matrix per fold, in memory: the fold's rows in rotated coordinates and a column of ones.

    Where a fold has far fewer rows than features the solution lies in the rows' span, so n coordinates carry all of it
    (directions of less than 1e-12 of the largest variance are rounding and are dropped). Else the axes are those of all
    training clips, which are nearly those of the fold, at the price of one decomposition.
    """

    def __init__(self, features: Features, parts: list[np.ndarray]) -> None:
        self.n = max(len(part) for part in parts)
        folds = [self._fold(features, part) for part in parts]
        self.d = 1 + max(rows.shape[1] for rows, *_ in folds)
        self._X = torch.zeros(len(parts), self.n, self.d, device=features.device)
        self._spectrum = torch.zeros(len(parts), 1, self.d, device=features.device)
        self._axes, self._mean, self._scale = [], [], []
        for f, (rows, axes, mean, scale) in enumerate(folds):
            self._X[f, : len(rows), : rows.shape[1]] = rows
            self._X[f, : len(rows), -1] = 1
            self._spectrum[f, 0] = (self._X[f] ** 2).sum(0) / len(rows)
            self._axes.append(axes)
            self._mean.append(mean)
            self._scale.append(scale)

    @staticmethod
    def _fold(features: Features, part: np.ndarray) -> tuple[torch.Tensor, ...]:
        rows = features.rows(part)
        mean, scale = features.standardizer(part)
        if 2 * len(part) > features.d:
            axes, _ = features.principal_axes
            return ((rows - mean.float()) / scale.float()) @ axes, axes.double(), mean, scale
        exact = (rows.double() - mean) / scale
        variance, left = torch.linalg.eigh(exact @ exact.T)
        kept = variance > 1e-12 * variance[-1].clamp_min(1e-300)
        length, left = variance[kept].sqrt(), left[:, kept]
        return (left * length).float(), exact.T @ (left / length), mean, scale

    def spectrum(self, fold: torch.Tensor) -> torch.Tensor:
        return self._spectrum[fold]

    def logits(self, W: torch.Tensor, fold: torch.Tensor) -> torch.Tensor:
        Z = torch.empty(*W.shape[:2], self.n, device=W.device)
        for f, mine in _runs(fold):
            torch.mm(W[mine].flatten(0, 1), self._X[f].T, out=Z[mine].view(-1, self.n))
        return Z

    def gradient(self, residual: Callable, fold: torch.Tensor, K: int, block: int) -> torch.Tensor:
        G = torch.zeros(len(fold), K, self.d, device=self._X.device)
        for start in range(0, self.n, block):
            rows = slice(start, min(start + block, self.n))
            R = residual(rows)
            for f, mine in _runs(fold):
                G[mine].view(-1, self.d).addmm_(R[mine].flatten(0, 1), self._X[f, rows])
        return G

    def coefficients(self, W: torch.Tensor, fold: torch.Tensor) -> torch.Tensor:
        """[P, K, d] here to [P, K, D + 1] on the rows of `Features`, intercept last."""
        raw = torch.empty(*W.shape[:2], len(self._mean[0]) + 1, dtype=torch.float64, device=W.device)
        for f, mine in _runs(fold):
            axes = self._axes[f]
            weight = (W[mine][..., : axes.shape[1]].double() @ axes.T) / self._scale[f]
            raw[mine, :, :-1] = weight
            raw[mine, :, -1] = W[mine][..., -1].double() - weight @ self._mean[f]
        return raw


class Streamed:
    """One pass over the rows per product, for matrices too large to copy per fold.

    The folds' standardisers and the rotation are folded into the parameters: X_f w = X (w / s_f) - (m_f / s_f) w.
    """

    def __init__(self, features: Features, parts: list[np.ndarray]) -> None:
        self._features, device = features, features.device
        self.clips = np.unique(np.concatenate(parts))
        self.n, self.d = len(self.clips), features.d + 1
        member = np.stack([np.isin(self.clips, part) for part in parts])
        self.member = torch.from_numpy(member).to(device)
        moments = [features.standardizer(part) for part in parts]
        self._mean, self._scale = (torch.stack(values) for values in zip(*moments, strict=True))
        axes, variance = features.principal_axes
        self._axes = axes.double()
        # axes outside the sample's span have some variance all the same
        floor = variance.mean() * 1e-3
        self._spectrum = torch.cat([variance.clamp_min(floor), variance.new_ones(1)])[None, None]

    def spectrum(self, fold: torch.Tensor) -> torch.Tensor:
        return self._spectrum.expand(len(fold), 1, self.d)

    def logits(self, W: torch.Tensor, fold: torch.Tensor) -> torch.Tensor:
        raw = self.coefficients(W, fold).float().flatten(0, 1)
        Z = torch.empty(*W.shape[:2], self.n, device=W.device)
        flat = Z.view(-1, self.n)
        for rows, X in self._features.chunks(self.clips):
            flat[:, rows] = torch.addmm(raw[:, -1:], raw[:, :-1], X.T)
        return Z

    def gradient(self, residual: Callable, fold: torch.Tensor, K: int, block: int) -> torch.Tensor:
        total = torch.zeros(len(fold) * K, self.d, device=self._axes.device)
        for rows, X in self._features.chunks(self.clips):
            for start in range(rows.start, rows.stop, block):
                part = slice(start, min(start + block, rows.stop))
                R = residual(part).flatten(0, 1)
                total[:, :-1].addmm_(R, X[start - rows.start : part.stop - rows.start])
                total[:, -1] += R.sum(1)
        G = total.view(len(fold), K, self.d).double()
        mean, scale = self._mean[fold][:, None], self._scale[fold][:, None]
        G[..., :-1] = ((G[..., :-1] - G[..., -1:] * mean) / scale) @ self._axes
        return G.float()

    def coefficients(self, W: torch.Tensor, fold: torch.Tensor) -> torch.Tensor:
        """[P, K, d] here to [P, K, D + 1] on the rows of `Features`, intercept last."""
        raw = W.double()
        raw[..., :-1] = (raw[..., :-1] @ self._axes.T) / self._scale[fold][:, None]
        raw[..., -1] -= (raw[..., :-1] * self._mean[fold][:, None]).sum(-1)
        return raw


def fits_stacked(features: Features, parts: list[np.ndarray]) -> bool:
    """Whether a copy of every fold's rows stays within 1 GiB."""
    sizes = [len(part) * (min(len(part), features.d) + 1) for part in parts]
    return features.resident and 4 * sum(sizes) <= STACKED_BYTES


def _runs(fold: torch.Tensor) -> list[tuple[int, slice]]:
    """(fold, slice of its problems) for ascending folds."""
    values, counts = torch.unique_consecutive(fold, return_counts=True)
    stops = counts.cumsum(0).tolist()
    return [
        (value, slice(stop - count, stop))
        for value, stop, count in zip(values.tolist(), stops, counts.tolist(), strict=True)
    ]
