"""BYOL for audio (Niizumi et al., arXiv 2103.06695 and 2204.07402): one crop, two augmented views, no negatives."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from evar.encoders.byola import Byola
from evar.errors import EvarError, unknown
from evar.pretraining.augment import Augmentation
from evar.pretraining.forward import Patches, frame_embeddings
from evar.pretraining.method import Method
from evar.pretraining.norms import BatchNorm1d

UNIT_SAMPLES = 15200
"""0.95 s at 16 kHz: 96 frames of the centred log-mel."""
UNIT_FRAMES = 96
EXPORTS = ("trained", "initial", "identity")


class Head(nn.Sequential):
    """Projector or predictor: Linear -> BatchNorm -> ReLU, `depth` times (1 in the papers), -> Linear."""

    def __init__(self, size_in: int, hidden: int = 4096, size_out: int = 256, depth: int = 1) -> None:
        layers = []
        for size in [size_in, *[hidden] * (depth - 1)]:
            layers += [nn.Linear(size, hidden), BatchNorm1d(hidden), nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, size_out))


class Branch(nn.Module):
    """Encoder and projector: what the online and the target network have in common."""

    def __init__(self, encoder: Byola, hidden: int, size_out: int, depth: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = Head(encoder.embedding_dim, hidden, size_out, depth)

    def forward(self, view: Tensor | Patches) -> tuple[Tensor, Tensor]:
        """(projection [B, 256], clip embedding [B, d]: mean + maximum over time)."""
        frames = frame_embeddings(self.encoder, view)
        embedding = frames.mean(1) + frames.amax(1)
        with torch.autocast(embedding.device.type, embedding.dtype, enabled=embedding.dtype == torch.bfloat16):
            return self.projector(embedding), embedding


class ByolMethod(Method):
    """BYOL-A. The target is a moving average of the online parameters; it stays in training mode, without gradient.

    Its batch-norm statistics follow its own passes, and each view goes through separately (our choice, where the
    papers are silent).

    encoder: the online encoder, with the corpus's normalisation statistics. tau: decay of the moving average.
    fc_lr: share of the learning rate that the encoder's linear layers get.
    export_fc: the linear layers of the exported encoder: `trained`; `initial`, those that it began with; or `identity`,
    which pass the last block through (it is never negative, so ReLU leaves it alone), where both are square: d = 512 of
    v1. In the last two the trained ones count as part of the projector: our choice for short runs, where they throw away
    what the convolutions have learned (docs/pretraining-notes.md). Training is the same in all three.
    hidden, projection, depth: sizes of the heads, hidden layers of the projector.
    augmentation: keywords of `Augmentation`. dtype: of the convolutions (bfloat16 or float32).
    Raises EvarError: an unknown `export_fc`, or `identity` where the layers are not square.
    """

    crop_samples = UNIT_SAMPLES
    crops = 1

    def __init__(
        self,
        encoder: Byola,
        *,
        tau: float = 0.99,
        fc_lr: float = 1.0,
        export_fc: str = "trained",
        hidden: int = 4096,
        projection: int = 256,
        depth: int = 1,
        augmentation: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.tau, self.dtype = tau, dtype
        _check_export(export_fc, encoder)
        # Batch normalisation takes this bias out again: its gradient is zero, and the folded first block gives none.
        encoder.features[0].bias.requires_grad_(False)
        self.online = Branch(encoder, hidden, projection, depth)
        self.predictor = Head(projection, hidden, projection)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.augmentation = Augmentation((encoder.front_end.n_mels, UNIT_FRAMES), **(augmentation or {}))
        if export_fc == "initial":
            self.initial_fc = copy.deepcopy(encoder.fc).requires_grad_(False)
        self.export_fc = export_fc
        self.lr_shares = {"online.encoder.fc.": fc_lr}
        self.settings = {
            "tau": tau,
            "fc_lr": fc_lr,
            "hidden": hidden,
            "projection": projection,
            "depth": depth,
            "augmentation": dict(augmentation or {}),
        }
        self.exports = {"export_fc": export_fc}

    @property
    def encoder(self) -> Byola:
        """The online encoder: what is exported."""
        return self.online.encoder

    def exported(self) -> dict[str, Tensor]:
        """The online encoder's tensors, with the linear layers that `export_fc` says."""
        state = self.encoder.state_dict()
        if self.export_fc == "initial":
            state |= {f"fc.{name}": value for name, value in self.initial_fc.state_dict().items()}
        elif self.export_fc == "identity":
            for name, layer in _linear_layers(self.encoder):
                state[f"fc.{name}.weight"] = torch.eye(layer.out_features)
                state[f"fc.{name}.bias"] = torch.zeros(layer.out_features)
        return state

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As ever; a checkpoint kept for another `export_fc` fits too: the same seed begins with the same layers."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith("initial_fc.")}
        kept = {name: value for name, value in state.items() if name in own or not name.startswith("initial_fc.")}
        return super().load_state_dict(own | kept, strict, assign)

    @torch.no_grad()
    def views(self, wav: Tensor, generator: Generator) -> Tensor:
        """Crops float32 [B, 1, 15200] -> two augmented views of their log-mel, float32 [2, B, 64, 96]."""
        wav = wav[:, 0]
        log_mel, _ = self.encoder.front_end(wav, torch.full((len(wav),), wav.shape[1], device=wav.device))
        stats = self.encoder.normalization
        return self.augmentation((log_mel - stats["mean"]) / stats["std"], generator)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Symmetric loss, 2 - 2 cos for each direction, averaged over the batch and summed over the two."""
        first, second = (self._prepared(view) for view in views)
        # One direction after the other, so that one view's activations are gone before the next is seen in backward.
        predictions, embeddings, goals = [], [], []
        for view in (first, second):
            projection, embedding = self.online(view)
            with torch.autocast(projection.device.type, self.dtype, enabled=self.dtype == torch.bfloat16):
                predictions.append(self.predictor(projection))
            embeddings.append(embedding)
            with torch.no_grad():
                goals.append(self.target(view)[0])
        loss = byol_loss(predictions[0], goals[1]) + byol_loss(predictions[1], goals[0])
        return loss, embeddings[0].detach().float()

    def _prepared(self, view: Tensor) -> Tensor | Patches:
        return Patches.of(view, self.dtype) if view.device.type == "cpu" else view.to(self.dtype)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the target's parameters towards the online ones: t <- tau t + (1 - tau) o. Buffers are left alone."""
        targets, online = list(self.target.parameters()), list(self.online.parameters())
        torch._foreach_lerp_(targets, online, 1.0 - self.tau)


def _linear_layers(encoder: Byola) -> list[tuple[str, nn.Linear]]:
    return [(name, layer) for name, layer in encoder.fc.named_children() if isinstance(layer, nn.Linear)]


def _check_export(export_fc: str, encoder: Byola) -> None:
    if export_fc not in EXPORTS:
        raise unknown("export_fc", export_fc, EXPORTS)
    sizes = [(layer.in_features, layer.out_features) for _, layer in _linear_layers(encoder)]
    if export_fc == "identity" and any(size_in != size_out for size_in, size_out in sizes):
        found = " and ".join(f"{size_in} to {size_out}" for size_in, size_out in sizes)
        raise EvarError(
            f"export_fc identity is for square linear layers (byola-v1-512): those of {encoder.name} are {found};"
            " expected export_fc initial or trained"
        )


def byol_loss(prediction: Tensor, goal: Tensor) -> Tensor:
    """2 - 2 cos(prediction, goal), averaged over the batch: 0 for equal directions, 4 for opposite ones."""
    cosine = functional.cosine_similarity(prediction.float(), goal.float(), dim=-1, eps=1e-8)
    return (2.0 - 2.0 * cosine).mean()
