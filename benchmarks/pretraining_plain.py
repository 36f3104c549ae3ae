"""BYOL-A pre-training as most users would write it from the papers: what `pretraining.py` holds evar against.

A Dataset decodes a crop of one file with soundfile (only the part that it needs), resamples it, takes its log-mel and
augments it, one clip at a time; a DataLoader; the networks from PyTorch's own layers in their default memory format,
autocast where bfloat16 is asked for, Adam as it comes.
"""

from __future__ import annotations

import copy
import math
import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
import soundfile
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from evar.pretraining.byol import UNIT_SAMPLES, ByolMethod

RATE = 16_000


class PerClip(Dataset):
    """Two augmented views [64, 96] of a random 0.95 s of one file, everything done for this clip alone."""

    def __init__(self, method: ByolMethod, files: list[Path]) -> None:
        self.files = files
        self.front_end, self.stats = copy.deepcopy(method.encoder.front_end), dict(method.encoder.normalization)
        settings = method.settings["augmentation"]
        self.mixup, self.fader, self.norm = settings["mixup"], settings["fader"], settings["norm"]
        self.bank: deque[Tensor] = deque(maxlen=2048)  # each worker has its own

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        wav = torch.from_numpy(self.crop(self.files[index]))
        log_mel, _ = self.front_end(wav[None], torch.tensor([len(wav)]))
        x = (log_mel[0] - self.stats["mean"]) / self.stats["std"]
        views = self.view(x), self.view(x)
        self.bank.append(x)
        return views

    @staticmethod
    def crop(path: Path) -> np.ndarray:
        with soundfile.SoundFile(path) as file:
            frames = math.ceil(UNIT_SAMPLES * file.samplerate / RATE)
            file.seek(random.randint(0, max(0, file.frames - frames)))
            wav, rate = file.read(frames, dtype="float32", always_2d=True).mean(1), file.samplerate
        if rate != RATE:
            import soxr

            wav = soxr.resample(wav, rate, RATE)
        wav = wav[:UNIT_SAMPLES]
        return np.pad(wav, (0, UNIT_SAMPLES - len(wav)))

    def view(self, x: Tensor) -> Tensor:
        if self.bank:
            share = random.uniform(0.0, self.mixup)
            other = random.choice(self.bank)
            x = torch.log((1 - share) * x.exp() + share * other.exp() + torch.finfo(x.dtype).eps)
        x = self.resized_crop(x)
        if self.fader:
            first, last = (random.uniform(-self.fader, self.fader) for _ in range(2))
            x = x + torch.linspace(first, last, x.shape[1])
        return x

    @staticmethod
    def resized_crop(x: Tensor) -> Tensor:
        bands, frames = x.shape
        width = int(1.5 * frames)
        canvas, left = x.new_zeros(bands, width), (width - frames) // 2
        canvas[:, left : left + frames] = x
        h = min(bands, int(bands * random.uniform(0.6, 1.5)))
        w = min(width, int(frames * random.uniform(0.6, 1.5)))
        top, left = random.randint(0, bands - h), random.randint(0, width - w)
        part = canvas[None, None, top : top + h, left : left + w]
        return functional.interpolate(part, size=(bands, frames), mode="bicubic", align_corners=False)[0, 0]


class PlainByol(nn.Module):
    """BYOL from PyTorch's layers and the encoder's own network, with the weights of a fresh `ByolMethod`."""

    def __init__(self, method: ByolMethod) -> None:
        super().__init__()
        self.online = nn.ModuleList([common.plain_linears(method.encoder), plain_head(method.online.projector)])
        self.online.requires_grad_(True)
        self.predictor = plain_head(method.predictor)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.tau = method.tau

    @staticmethod
    def project(branch: nn.ModuleList, view: Tensor) -> Tensor:
        encoder, projector = branch
        frames = encoder.network(view)
        return projector(frames.mean(1) + frames.amax(1))

    def forward(self, views: Tensor) -> Tensor:
        """Views [2, B, 64, 96] -> loss."""
        predictions = [self.predictor(self.project(self.online, view)) for view in views]
        with torch.no_grad():
            goals = [self.project(self.target, view) for view in views]
        pairs = zip(predictions, reversed(goals), strict=True)
        return sum((2 - 2 * functional.cosine_similarity(p.float(), z.float())).mean() for p, z in pairs)

    @torch.no_grad()
    def move_target(self) -> None:
        for old, new in zip(self.target.parameters(), self.online.parameters(), strict=True):
            old.lerp_(new, 1 - self.tau)


def plain_head(head: nn.Sequential) -> nn.Sequential:
    first, _, _, last = head
    plain = nn.Sequential(
        nn.Linear(first.in_features, first.out_features),
        nn.BatchNorm1d(first.out_features),
        nn.ReLU(),
        nn.Linear(last.in_features, last.out_features),
    )
    plain.load_state_dict(head.state_dict())
    return plain


def plain_batches(dataset: PerClip, batch: int, steps: int, workers: int) -> Iterator[Tensor]:
    """Views [2, B, 64, 96], standardised: each view by itself (v1) or both together (v2)."""
    random.seed(0)
    sampler = RandomSampler(dataset, replacement=True, num_samples=batch * steps)
    for pair in DataLoader(dataset, batch_size=batch, sampler=sampler, num_workers=workers):
        views = torch.stack(pair)
        dims = (0, 1, 2, 3) if dataset.norm == "batch" else (1, 2, 3)
        yield (views - views.mean(dims, keepdim=True)) / views.std(dims, keepdim=True)


def plain_training(
    model: PlainByol, batches: Iterator[Tensor], lr: float, dtype: torch.dtype, device: str
) -> Iterator[Tensor]:
    """The loss after each step."""
    model.to(device).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    for views in batches:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(views.to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.move_target()
        yield loss.detach()
