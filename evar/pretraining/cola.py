"""COLA's objective: two crops of one clip are more alike than crops of two clips (Saeed et al., ICASSP 2021)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from evar.encoders.base import Encoder
from evar.encoders.cola import WINDOW_SAMPLES, Cola, ColaPrime, unit_norm
from evar.errors import EvarError
from evar.pretraining.forward import Patches, frame_embeddings
from evar.pretraining.method import Method

PROJECTION = 512
START = 8.0
"""W starts as this times the mean over features of g(x) * g(x'). Measured on COLA'-512 (batch 64, Adam 3e-4, 72 steps,
384 clips): the right one of 64 held-out clips is found in 80 % of cases, from Xavier's uniform start in 52 %."""
PRIME_FRAMES = 100
"""Of the 101 centred frames of a second, COLA' leaves the last one out: even sizes take the fast pass on a CPU."""


class ColaMethod(Method):
    """Contrastive learning with a learned bilinear similarity, around `cola` or `cola-prime-*`.

    h is a crop's embedding: global max pooling of EfficientNet-B0 (`cola`), max + mean over time (COLA'). A head
    g(h) = tanh(LayerNorm(Linear(h))) and a matrix W give the similarity g(x)^T W g(x') of a first and a second crop.
    The loss is the softmax cross-entropy of each first crop over all second crops of the batch, its own clip's being
    the right one: one direction, as in the paper. There is no augmentation but the two random crops.

    Our choices, where the papers are silent: both crops go through the network as one batch; W starts as a multiple of
    the identity (START); with several processes the negatives are those of the own process; in training the waveform
    is scaled to unit norm over the two crops of a clip together, which stand for the clip; COLA' sees 100 frames.

    projection: size of g. dtype: of the network (bfloat16 or float32); head and similarity are float32.
    Raises EvarError for another encoder, and for COLA' without normalisation statistics.
    """

    crop_samples = WINDOW_SAMPLES
    crops = 2

    def __init__(self, encoder: Encoder, *, projection: int = PROJECTION, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if not isinstance(encoder, (Cola, ColaPrime)):
            raise EvarError(f"COLA trains cola and cola-prime-*, not {encoder.label}: give random:cola-prime-512")
        if isinstance(projection, bool) or not isinstance(projection, int) or projection < 1:
            raise EvarError(f"COLA: projection is a whole number above 0, found {projection!r}")
        if encoder.needs_normalization and encoder.normalization is None:
            raise EvarError(f"{encoder.label} has no normalisation statistics: measure them on the pre-training audio")
        if isinstance(encoder, ColaPrime):
            # Batch normalisation takes this bias out again: its gradient is zero, and the fast pass gives none.
            encoder.features[0].bias.requires_grad_(False)
        self.encoder, self.dtype = encoder, dtype
        self.head = nn.Sequential(nn.Linear(encoder.embedding_dim, projection), nn.LayerNorm(projection), nn.Tanh())
        self.similarity_matrix = nn.Parameter(torch.eye(projection) * (START / projection))
        self.settings = {"projection": projection}

    @torch.no_grad()
    def views(self, wav: Tensor, generator: Generator) -> Tensor:
        """Crops float32 [B, 2, 16000] -> log-mel [2, B, 64, T], T = 98 (`cola`) or 100 (COLA', standardised).

        Draws nothing from `generator`: where the crops lie is all that is random. EvarError for fewer than two clips.
        """
        batch, crops, samples = wav.shape
        if crops != self.crops or samples != self.crop_samples:
            raise ValueError(f"expected crops [B, {self.crops}, {self.crop_samples}], found {list(wav.shape)}")
        if batch < 2:
            raise EvarError(f"COLA compares clips with each other and needs batches of 2 or more, found {batch}")
        if isinstance(self.encoder, Cola):
            wav = unit_norm(wav.flatten(1)).view_as(wav)
        wav = wav.transpose(0, 1).reshape(crops * batch, samples)
        lengths = torch.full((crops * batch,), samples, device=wav.device)
        if isinstance(self.encoder, Cola):
            log_mel, _ = self.encoder.front_end(wav, lengths)
        else:
            log_mel, _ = self.encoder.front_end(wav, lengths)
            stats = self.encoder.normalization
            log_mel = (log_mel[:, :, :PRIME_FRAMES] - stats["mean"]) / stats["std"]
        return log_mel.unflatten(0, (crops, batch))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Views [2, B, 64, T] -> (loss, embeddings [B, D] of the first crops, detached, float32)."""
        embeddings = self.embed(views.flatten(0, 1))
        similarity = self.similarity(embeddings)
        loss = functional.cross_entropy(similarity, torch.arange(len(similarity), device=similarity.device))
        return loss, embeddings[: len(similarity)].detach()

    def embed(self, log_mel: Tensor) -> Tensor:
        """Log-mel [N, 64, T] of crops -> embeddings float32 [N, D], differentiable."""
        with torch.autocast(log_mel.device.type, self.dtype, enabled=self.dtype == torch.bfloat16):
            if isinstance(self.encoder, Cola):
                return self.encoder.network(log_mel).float()
            fast = log_mel.device.type == "cpu" and self.training
            frames = frame_embeddings(self.encoder, Patches.of(log_mel, self.dtype) if fast else log_mel).float()
        return frames.amax(dim=1) + frames.mean(dim=1)

    def similarity(self, embeddings: Tensor) -> Tensor:
        """Embeddings [2 B, D], the first crops before the second -> float32 [B, B]; row i is clip i's first crop."""
        # Logits grow to tens, which bfloat16 rounds to steps of a tenth and more.
        with torch.autocast(embeddings.device.type, enabled=False):
            first, second = self.head(embeddings).chunk(2)
            return first @ self.similarity_matrix @ second.T
