"""The training rows of all folds as a linear operator for `lbfgs.solve`, in coordinates where the Hessian is nearly diagonal.

Both designs standardise each fold exactly as scikit-learn's StandardScaler would on its training rows, and rotate the
features to the principal axes: rotation changes neither the penalty nor the solution, and it makes the inverse spectrum
a good first guess of the inverse Hessian (about four times fewer iterations on correlated features).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from evar.probes.cross_entropy import Problems
from evar.probes.features import Features
from evar.products import product

STACKED_BYTES = 1 << 30
BLOCK = 1 << 24  # logits of rows that are computed, used and forgotten


class Stacked:
    """One matrix per fold, in memory: the fold's rows in rotated coordinates and a column of ones.

    Where a fold has fewer rows than features the solution lies in the rows' span, so n coordinates carry all of it. Where
    the folds' own decompositions would cost more than one of all features, the axes are those of all training clips, which
    are nearly those of the fold.
    """

    def __init__(self, features: Features, parts: list[np.ndarray]) -> None:
        self.n = max(len(part) for part in parts)
        few = sum(len(part) ** 3 for part in parts) <= features.d**3
        spans = [_span(features, part) if few or 2 * len(part) <= features.d else None for part in parts]
        self.d = 1 + max(features.d if span is None else span[0].shape[1] for span in spans)
        self._X = torch.zeros(len(parts), self.n, self.d, device=features.device)
        self._spectrum = torch.zeros(len(parts), 1, self.d, device=features.device)
        self._axes, self._mean, self._scale = [], [], []
        for f, (part, span) in enumerate(zip(parts, spans, strict=True)):
            rows, axes, mean, scale = _rotated(features, part) if span is None else span
            self._X[f, : len(rows), : rows.shape[1]] = rows
            self._X[f, : len(rows), -1] = 1
            self._spectrum[f, 0] = (self._X[f] ** 2).sum(0) / len(rows)
            self._axes.append(axes)
            self._mean.append(mean)
            self._scale.append(scale)

    def spectrum(self, fold: torch.Tensor) -> torch.Tensor:
        return self._spectrum[fold]

    def logits(self, W: torch.Tensor, problems: Problems, out: torch.Tensor) -> None:
        for f, mine in problems.runs:
            out[mine].view(-1, self.n).copy_(product(W[mine].flatten(0, 1), self._X[f].T))

    def gradient(self, R: torch.Tensor, problems: Problems) -> torch.Tensor:
        G = torch.empty(*R.shape[:2], self.d, device=R.device)
        for f, mine in problems.runs:
            G[mine].view(-1, self.d).copy_(product(R[mine].flatten(0, 1), self._X[f]))
        return G

    def coefficients(self, W: torch.Tensor, problems: Problems) -> torch.Tensor:
        """[P, K, d] here to float64 [P, K, D + 1] on the rows of `Features`, intercept last."""
        raw = torch.empty(*W.shape[:2], len(self._mean[0]) + 1, dtype=torch.float64, device=W.device)
        for f, mine in problems.runs:
            axes = self._axes[f]
            rotated = product(W[mine][..., : axes.shape[1]].flatten(0, 1), axes.T)
            weight = rotated.view(*W[mine].shape[:2], -1).double() / self._scale[f]
            raw[mine, :, :-1] = weight
            raw[mine, :, -1] = W[mine][..., -1].double() - weight @ self._mean[f]
        return raw


def _rotated(features: Features, part: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Rows in the principal axes of all training clips, the axes [D, D], and the fold's mean and scale."""
    mean, scale = features.standardizer(part)
    rows = features.rows(part).sub_(mean.float()).div_(scale.float())
    axes, _ = features.principal_axes
    return product(rows, axes), axes, mean, scale


def _span(features: Features, part: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Rows in the principal axes of their own span, the axes [D, n], and the fold's mean and scale.

    A QR decomposition first: orthonormal axes even where the rows' variance is nothing but rounding.
    """
    mean, scale = features.standardizer(part)
    rows = features.rows(part).sub_(mean.float()).div_(scale.float())
    span, inside = torch.linalg.qr(rows.T)
    _, axes = torch.linalg.eigh(product(inside, inside.T))
    return product(inside.T, axes), product(span, axes), mean, scale


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
        self._axes, variance = features.principal_axes
        # axes outside the sample's span have some variance all the same
        floor = variance.mean() * 1e-3
        self._spectrum = torch.cat([variance.clamp_min(floor), variance.new_ones(1)])[None, None]

    def spectrum(self, fold: torch.Tensor) -> torch.Tensor:
        return self._spectrum.expand(len(fold), 1, self.d)

    def logits(self, W: torch.Tensor, problems: Problems, out: torch.Tensor) -> None:
        flat = out.view(-1, self.n)
        for rows, _, z in self._walk(W, problems, self.n):
            flat[:, rows] = z

    def gradient(self, R: torch.Tensor, problems: Problems) -> torch.Tensor:
        flat, total = R.flatten(0, 1), self._zeros(R)
        for rows, X in self._features.chunks(self.clips):
            _accumulate(total, flat[:, rows].contiguous(), X)
        return self._back(total, problems)

    def blocks(self, W: torch.Tensor, problems: Problems) -> Iterator[tuple[slice, torch.Tensor]]:
        size = max(1, BLOCK // W[..., 0].numel())
        return ((rows, z.view(*W.shape[:2], -1)) for rows, _, z in self._walk(W, problems, size))

    def gradient_by_blocks(self, W: torch.Tensor, residual: Callable, problems: Problems) -> torch.Tensor:
        total, size = self._zeros(W), max(1, BLOCK // W[..., 0].numel())
        for rows, X, z in self._walk(W, problems, size):
            _accumulate(total, residual(z.view(*W.shape[:2], -1), rows).flatten(0, 1), X)
        return self._back(total, problems)

    def coefficients(self, W: torch.Tensor, problems: Problems) -> torch.Tensor:
        """[P, K, d] here to float64 [P, K, D + 1] on the rows of `Features`, intercept last."""
        raw = W.double()
        raw[..., :-1] = (raw[..., :-1] @ self._axes.double().T) / self._scale[problems.fold][:, None]
        raw[..., -1] -= (raw[..., :-1] * self._mean[problems.fold][:, None]).sum(-1)
        return raw

    def _walk(
        self, W: torch.Tensor, problems: Problems, size: int
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """(rows, X [rows, D], logits [P * K, rows]), at most `size` rows at a time."""
        mean, scale = self._moments(problems)
        weight = product(W[..., :-1].flatten(0, 1), self._axes.T).view(*W.shape[:2], -1).div_(scale)
        bias = (W[..., -1] - (weight * mean).sum(-1)).view(-1, 1)
        weight = weight.flatten(0, 1)
        for chunk, X in self._features.chunks(self.clips):
            for start in range(0, len(X), size):
                some = X[start : start + size]
                rows = slice(chunk.start + start, chunk.start + start + len(some))
                yield rows, some, product(weight, some.T).add_(bias)

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(like.shape[0] * like.shape[1], self.d, device=like.device)

    def _back(self, total: torch.Tensor, problems: Problems) -> torch.Tensor:
        """The gradient by the raw weights and biases [P * K, D + 1] to the gradient by W [P, K, d]."""
        G = total.view(len(problems), -1, self.d)
        mean, scale = self._moments(problems)
        weight = (G[..., :-1] - G[..., -1:] * mean).div_(scale)
        G[..., :-1] = product(weight.flatten(0, 1), self._axes).view_as(weight)
        return G

    def _moments(self, problems: Problems) -> tuple[torch.Tensor, torch.Tensor]:
        return self._mean[problems.fold][:, None].float(), self._scale[problems.fold][:, None].float()


def _accumulate(total: torch.Tensor, R: torch.Tensor, X: torch.Tensor) -> None:
    total[:, :-1] += product(R, X)
    total[:, -1] += R.sum(1)


def fits_stacked(features: Features, parts: list[np.ndarray]) -> bool:
    """Whether a copy of every fold's rows stays within 1 GiB."""
    sizes = [len(part) * (min(len(part), features.d) + 1) for part in parts]
    return features.resident and 4 * sum(sizes) <= STACKED_BYTES
