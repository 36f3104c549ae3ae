"""The loss of `lbfgs.solve`: mean cross-entropy of many problems at once, from their logits a block of rows at a time."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch


class Problems:
    """Which training rows (fold) and which label each of P problems has: int64 [P] each, on the device; folds ascend."""

    def __init__(self, fold: torch.Tensor, label: torch.Tensor) -> None:
        self.fold, self.label = fold, label

    def __len__(self) -> int:
        return len(self.fold)

    def __getitem__(self, rows: torch.Tensor) -> Problems:
        return Problems(self.fold[rows], self.label[rows])

    @functools.cached_property
    def runs(self) -> list[tuple[int, slice]]:
        """(fold, slice of its problems); read once, because a device would wait for it."""
        values, counts = torch.unique_consecutive(self.fold, return_counts=True)
        stops = counts.cumsum(0).tolist()
        return [
            (value, slice(stop - count, stop))
            for value, stop, count in zip(values.tolist(), stops, counts.tolist(), strict=True)
        ]


@dataclass
class Loss:
    """Mean cross-entropy over the rows of non-zero weight.

    targets: softmax: int64 [F, n]; sigmoid: float32 [F, L, n], problem p has label[p].
    weights: float32 [F, n], summing to 1 in every fold. absent: bool [F, K], classes without a row (softmax only), or
    None where there are none.
    """

    targets: torch.Tensor
    weights: torch.Tensor
    absent: torch.Tensor | None = None

    @property
    def softmax(self) -> bool:
        return self.targets.dtype == torch.int64

    def residual(
        self, z: torch.Tensor, problems: Problems, rows: slice, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient of the loss by the logits z [P, K, rows], in `out` if given, and its mean p (1 - p), float64 [P].

        The mean is over the block's share of the rows and over K: blocks add up to the mean over all rows.
        """
        p, w, true = self._probabilities(z, problems), self.weights[problems.fold, rows], self._true(problems, rows)
        # the sum of p is 1 under a softmax
        total = 1.0 if self.softmax else p.sum(1)
        spread = (w * (total - torch.linalg.vecdot(p, p, dim=1))).sum(1, dtype=torch.float64) / z.shape[1]
        if self.softmax:
            p.scatter_add_(1, true, torch.full_like(true, -1.0, dtype=p.dtype))
        else:
            p -= true
        return torch.mul(p, w[:, None], out=p if out is None else out), spread

    def slopes(
        self, z: torch.Tensor, zd: torch.Tensor, step: torch.Tensor, problems: Problems, rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second derivative of the loss by the step at z + step * zd (step float32 [P]): float64 [P] each."""
        p = self._probabilities(torch.addcmul(z, step[:, None, None], zd), problems)
        w, true = self.weights[problems.fold, rows], self._true(problems, rows)
        if self.softmax:
            pz = p * zd
            mean = pz.sum(1)
            first = w * (mean - zd.gather(1, true)[:, 0])
            second = w * (pz.mul_(zd).sum(1) - mean**2)
        else:
            wz = w[:, None] * zd
            first = (wz * (p - true)).sum(1)
            second = (wz * zd * p * (1 - p)).sum(1)
        return first.sum(1, dtype=torch.float64), second.sum(1, dtype=torch.float64)

    def _probabilities(self, z: torch.Tensor, problems: Problems) -> torch.Tensor:
        if not self.softmax:
            return z.sigmoid()
        if self.absent is not None:
            z = z.masked_fill(self.absent[problems.fold][:, :, None], -torch.inf)
        return torch.softmax(z, 1)

    def _true(self, problems: Problems, rows: slice) -> torch.Tensor:
        if self.softmax:
            return self.targets[problems.fold, rows][:, None]
        return self.targets[problems.fold, problems.label, rows][:, None]
