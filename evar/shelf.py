"""The encoders of a run, loaded one at a time where all of them would not fit memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError

if TYPE_CHECKING:
    from evar.cells import Settings
    from evar.compute import Computing
    from evar.encoders.base import Encoder

KEEP_BYTES = 2 << 30
"""Parameters that stay loaded between tasks. Encoders beyond are built again for each task: seconds, not gigabytes."""


class Shelf:
    """The encoders of one run, in order; iterating gives each of them ready to encode.

    All are loaded once at the start, so that what cannot work is said before any work. Raises EvarError for that (an
    unknown layer or pooling too), for two encoders of one label, and when a weights file changes while the run lasts.
    """

    def __init__(
        self, names: Sequence[Any], settings: Settings, computing: Computing, keep_bytes: int = KEEP_BYTES
    ) -> None:
        self._names, self._weights, self._device = list(names), settings.weights, computing.devices[0]
        self._kept: dict[int, Encoder] = {}
        self._known: list[tuple[str, str]] = []
        self.sample_rates: list[int] = []
        for i in range(len(self._names)):
            keep_bytes -= self._admit(i, settings, computing, keep_bytes)
        for label in self.labels:
            if self.labels.count(label) > 1:
                raise EvarError(f"two encoders are called {label!r}: name them apart, as in mine={label}")

    def _admit(self, i: int, settings: Settings, computing: Computing, room: int) -> int:
        """Load and check one encoder, and keep it if there is room; gives its bytes."""
        encoder = self._load(self._names[i])
        self._known.append((encoder.label, encoder.weights_sha256))
        self.sample_rates.append(encoder.sample_rate)
        encoder.choices(settings.layers, settings.pooling)
        computing.check(encoder)
        size = n_bytes(encoder)
        # An object is the caller's: it is in memory anyway.
        if size <= room or not isinstance(self._names[i], str):
            self._kept[i] = encoder
            return size
        return 0

    @property
    def labels(self) -> list[str]:
        """What the leaderboard calls them."""
        return [label for label, _ in self._known]

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Encoder]:
        for i, name in enumerate(self._names):
            if i in self._kept:
                yield self._kept[i]
                continue
            encoder = self._load(name)
            if encoder.weights_sha256 != self._known[i][1]:
                raise EvarError(f"{encoder.label}: its weights changed while this run was at work: run it again")
            yield encoder
            del encoder  # before the next one is loaded; whoever iterates lets go of it too

    def _load(self, name: Any) -> Encoder:
        from evar.encoders.registry import load_encoder

        return load_encoder(name, weights=self._weights, device=self._device)


def n_bytes(encoder: Encoder) -> int:
    """Bytes of an encoder's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*encoder.parameters(), *encoder.buffers()))
