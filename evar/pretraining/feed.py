"""Batches of crops for the loop, read one step ahead in a thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from evar.pretraining.corpus import Corpus
from evar.pretraining.method import Method


@contextlib.contextmanager
def read_ahead(
    method: Method, corpus: Corpus, batch: int, steps: range, seed: int, rank: int, world: int
) -> Iterator[Iterator[tuple[int, Tensor]]]:
    """(step, crops [batch / world, method.crops, method.crop_samples]) of each of `steps`.

    Step s of process r draws from (seed, s, r) alone, whatever was read before.
    """
    share = batch // world
    orders: dict[int, np.ndarray] = {}

    def clips_of(step: int) -> np.ndarray:
        positions = step * batch + rank * share + np.arange(share)
        epochs, places = np.divmod(positions, len(corpus.pieces))
        for epoch in np.unique(epochs).tolist():
            if epoch not in orders:
                orders[epoch] = corpus.order(seed, epoch)
        for epoch in [old for old in orders if old < epochs.min()]:
            del orders[epoch]
        return np.concatenate([orders[epoch][places[epochs == epoch]] for epoch in np.unique(epochs).tolist()])

    def read(step: int) -> Tensor:
        random = np.random.default_rng([seed, step, rank, 3])
        wav = torch.from_numpy(corpus.crops(clips_of(step), method.crops, method.crop_samples, random))
        return wav.pin_memory() if torch.cuda.is_available() else wav

    with ThreadPoolExecutor(1, thread_name_prefix="crops") as pool:

        def batches() -> Iterator[tuple[int, Tensor]]:
            following: Future | None = pool.submit(read, steps[0]) if steps else None
            for step in steps:
                wav = following.result()
                following = pool.submit(read, step + 1) if step + 1 < steps.stop else None
                yield step, wav

        yield batches()
