"""What a pre-training method is to the loop: crops in, one loss out, something to do after each step."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Generator, Tensor, nn

from evar.encoders.base import Encoder


class Method(nn.Module):
    """A self-supervised objective around an encoder. The loop (trainer.py) knows nothing else of it.

    Everything that a checkpoint must hold is a parameter or a persistent buffer of the module (target network, mixup
    bank ...). Parameters that no optimiser may touch have `requires_grad = False`.

    encoder: what is trained, and what is exported. crop_samples: length of one waveform crop at the encoder's rate.
    crops: crops drawn of one clip per step (1, or 2 where two places of a clip are the positive pair).
    """

    encoder: Encoder
    crop_samples: int
    crops: int = 1
    settings: Mapping[str, Any] = MappingProxyType({})
    """What was trained how, as JSON values: stands in checkpoints and in the exported file's preset."""

    exports: Mapping[str, Any] = MappingProxyType({})
    """How the weights file is made of what was trained, as JSON values: stands in it, and a resumed run may change it."""

    lr_shares: Mapping[str, float] = MappingProxyType({})
    """Start of a parameter's name -> its share of the learning rate, where that is not 1; 0 leaves it as it began."""

    def views(self, wav: Tensor, generator: Generator) -> Tensor:
        """Crops float32 [B, crops, crop_samples] -> the network's two inputs [2, B, ...], without gradient.

        All random numbers come from `generator` (on the CPU), so a resumed run draws what it would have drawn.
        """
        raise NotImplementedError

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Two views [2, B, ...] -> (scalar loss, detached clip embeddings float32 [B, D] for the health report)."""
        raise NotImplementedError

    def exported(self) -> dict[str, Tensor]:
        """The tensors of the weights file, under the encoder's own key names."""
        return self.encoder.state_dict()

    def after_step(self) -> None:
        """What follows the optimiser's step (the moving average of BYOL)."""
