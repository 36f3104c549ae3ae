"""Augmentations of log-mel batches, each a small module over the whole batch with parameters drawn for each sample.

All work on log-mel float32 [B, F, T], standardised by the corpus's statistics, on its device. Random numbers come from
the generator given at call time (on the CPU), so that a resumed run draws what it would have drawn. What the papers
(BYOL-A: arXiv 2103.06695, 2204.07402) leave open is marked "our choice".
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

EPS = float(torch.finfo(torch.float32).eps)
CUBIC = -0.75
"""The free parameter of the bicubic kernel (Keys, 1981), as PyTorch and OpenCV have it."""


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator, like: Tensor) -> Tensor:
    """Uniform numbers drawn on the CPU, then moved: the same on every device."""
    return (low + (high - low) * torch.rand(shape, generator=generator)).to(like.device)


class MixupBank(nn.Module):
    """Log-mixup-exp with a FIFO bank of past inputs (BYOL-A, section III-B.1).

    Each sample x is mixed with a bank entry z in linear scale: log((1 - l) e^x + l e^z + eps), l ~ U(0, ratio).
    The bank takes in the unmixed inputs, once per batch and after both views were mixed. While it is empty nothing is
    mixed (our choice). Each process keeps its own bank.

    ratio: 0.4 (v1) or 0.2 (v2). shape: [F, T] of one input. size: entries, 2048 in the paper.
    """

    def __init__(self, ratio: float, shape: tuple[int, int], size: int = 2048) -> None:
        super().__init__()
        self.ratio, self.size = ratio, size
        self.register_buffer("bank", torch.zeros(size, *shape))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64, device="cpu"))
        self._n_seen: int | None = None  # the buffer's value, so that reading it never waits for a device

    def _apply(self, fn, recurse: bool = True):  # noqa: ANN001, ANN202 (torch's own signature)
        super()._apply(fn, recurse)
        self._n_seen = None
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # noqa: ANN002, ANN003 (torch's own signature)
        super()._load_from_state_dict(*args, **kwargs)
        self._n_seen = None

    @property
    def n_seen(self) -> int:
        """Inputs taken in since the start."""
        if self._n_seen is None:
            self._n_seen = int(self.seen)
        return self._n_seen

    def forward(self, x: Tensor, generator: Generator) -> Tensor:
        """One mixed view [B, F, T]; the bank is left as it is."""
        filled = min(self.n_seen, self.size)
        if filled == 0:
            return x
        ratio = uniform((len(x), 1, 1), 0.0, self.ratio, generator, x)
        chosen = torch.randint(filled, (len(x),), generator=generator).to(x.device)
        z = self.bank[chosen]
        return ((1.0 - ratio) * x.exp() + ratio * z.exp() + EPS).log()

    def take_in(self, x: Tensor) -> None:
        """Put a batch in the bank, over the oldest entries."""
        x = x[-self.size :]
        slots = (self.n_seen + torch.arange(len(x))) % self.size
        self.bank[slots.to(x.device)] = x
        self.seen += len(x)
        self._n_seen = self.n_seen + len(x)


class RandomResizeCrop(nn.Module):
    """A random part of a virtual canvas, resized to the input's size: shifts and stretches in pitch and time.

    The canvas is `canvas` = (1.0 x F, 1.5 x T), zero (the mean) around the centred input. The crop is F * U(scale)
    high and T * U(scale) wide, rounded down and clipped to the canvas, at a random place; resized by bicubic
    interpolation (a = -0.75, pixel centres at halves, the crop's border repeated: our choice).

    A resize is a product with one small matrix per axis and sample, so the whole batch is two batched products.
    """

    def __init__(
        self,
        scale_freq: tuple[float, float] = (0.6, 1.5),
        scale_time: tuple[float, float] = (0.6, 1.5),
        canvas: tuple[float, float] = (1.0, 1.5),
    ) -> None:
        super().__init__()
        self.scale_freq, self.scale_time, self.canvas = scale_freq, scale_time, canvas

    def forward(self, x: Tensor, generator: Generator) -> Tensor:
        """One view [B, F, T] of each sample."""
        batch, n_bands, n_frames = x.shape
        rows = self._axis(batch, n_bands, self.scale_freq, self.canvas[0], generator, x)
        columns = self._axis(batch, n_frames, self.scale_time, self.canvas[1], generator, x)
        return rows @ x @ columns.transpose(1, 2)

    @staticmethod
    def _axis(
        batch: int, size: int, scale: tuple[float, float], canvas: float, generator: Generator, like: Tensor
    ) -> Tensor:
        room = int(size * canvas)
        length = (size * uniform((batch,), *scale, generator, like)).long().clamp(1, room)
        start = (torch.rand(batch, generator=generator).to(like.device) * (room - length + 1)).long()
        return resize_matrix(start - (room - size) // 2, length, size)


def resize_matrix(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Bicubic resize of one axis as matrices float32 [B, size, size]: output = matrix @ input.

    start, length: int64 [B], the part of the axis that is spread over the output; it may reach past the input's
    `size`, where the input counts as zero.
    """
    batch, device = len(start), start.device
    centre = (torch.arange(size, device=device) + 0.5) * (length[:, None] / size) - 0.5
    first = centre.floor()
    t = centre - first
    near, far = torch.stack([t, 1 - t]), torch.stack([t + 1, 2 - t])
    inner = ((CUBIC + 2) * near - (CUBIC + 3)) * near * near + 1
    outer = ((CUBIC * far - 5 * CUBIC) * far + 8 * CUBIC) * far - 4 * CUBIC
    weights = torch.stack([outer[0], inner[0], inner[1], outer[1]], dim=-1)
    taps = first.long()[..., None] + torch.arange(-1, 3, device=device)
    source = start[:, None, None] + taps.clamp(min=0).minimum(length[:, None, None] - 1)
    inside = (source >= 0) & (source < size)
    matrix = torch.zeros(batch, size, size, device=device)
    matrix.scatter_add_(2, source.clamp(0, size - 1), weights * inside)
    return matrix


class RandomLinearFader(nn.Module):
    """Adds a straight line in time, from a to b, a and b ~ U(-gain, gain), to the log-mel (BYOL-A v2)."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor, generator: Generator) -> Tensor:
        """One view [B, F, T]."""
        first, last = uniform((2, len(x), 1, 1), -self.gain, self.gain, generator, x)
        return x + first + (last - first) * torch.linspace(0.0, 1.0, x.shape[2], device=x.device)


class GaussianNoise(nn.Module):
    """Mixes in noise in place of other sounds (the v1 paper's ablation): (1 - l) x + l n, l ~ U(0, ratio), n ~ N(0, std).

    On the standardised log-mel, after the crop and the fader; place, ratio and std are our choice.
    """

    def __init__(self, ratio: float = 0.4, std: float = 1.0) -> None:
        super().__init__()
        self.ratio, self.std = ratio, std

    def forward(self, x: Tensor, generator: Generator) -> Tensor:
        """One view [B, F, T]."""
        ratio = uniform((len(x), 1, 1), 0.0, self.ratio, generator, x)
        noise = torch.randn(x.shape, generator=generator).to(x.device) * self.std
        return (1.0 - ratio) * x + ratio * noise


def post_normalize(views: Tensor, together: bool) -> Tensor:
    """Views [2, B, F, T] to zero mean and unit deviation: each view's batch alone (v1), or both `together` (v2).

    With several processes, of the process's own share of the batch (our choice).
    """
    dims = (0, 1, 2, 3) if together else (1, 2, 3)
    mean = views.mean(dim=dims, keepdim=True)
    std = views.std(dim=dims, keepdim=True, correction=0)
    return (views - mean) / std.clamp(min=EPS)


class Augmentation(nn.Module):
    """The chain of one pre-training: mixup, resize crop, fader, noise, post-normalisation; each a switch.

    shape: [F, T] of an input. mixup, fader, noise: their strength, 0 for off. crop: on or off. norm: "views" (v1),
    "batch" (v2) or "none". Two views of each input are drawn apart from each other.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        mixup: float = 0.4,
        crop: bool = True,
        crop_freq: tuple[float, float] = (0.6, 1.5),
        crop_time: tuple[float, float] = (0.6, 1.5),
        fader: float = 0.0,
        noise: float = 0.0,
        norm: str = "views",
        bank: int = 2048,
    ) -> None:
        super().__init__()
        self.mixup = MixupBank(mixup, shape, bank) if mixup else None
        steps = [RandomResizeCrop(tuple(crop_freq), tuple(crop_time))] if crop else []
        steps += [RandomLinearFader(fader)] if fader else []
        steps += [GaussianNoise(noise)] if noise else []
        if norm not in ("views", "batch", "none"):
            raise ValueError(f"norm is 'views', 'batch' or 'none', not {norm!r}")
        self.steps, self.norm = nn.ModuleList(steps), norm

    @torch.no_grad()
    def forward(self, x: Tensor, generator: Generator) -> Tensor:
        """Two views [2, B, F, T] of standardised log-mel [B, F, T]."""
        views = []
        for _ in range(2):
            view = self.mixup(x, generator) if self.mixup else x
            for step in self.steps:
                view = step(view, generator)
            views.append(view)
        if self.mixup:
            self.mixup.take_in(x)
        views = torch.stack(views)
        return views if self.norm == "none" else post_normalize(views, together=self.norm == "batch")
