"""The encoders that stored things are of: loaded by their labels, or by the names that the user gives."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError
from evar.store_format import read_meta, set_folders

if TYPE_CHECKING:
    from evar.encoders.base import Encoder

Statistics = Mapping[str, float] | None


@dataclass(frozen=True)
class Known:
    """What one encoder is called now, and what it was called.

    fingerprint: of the encoder as it is loaded. before: fingerprints of that time, each with the log-mel statistics of a
    task that the encoder had been given (None: none); `loaded_before` is the one of the encoder as it is loaded.
    """

    label: str
    name: str
    version: int
    weights_kind: str
    weights_sha256: str
    fingerprint: str
    loaded_before: str
    before: Mapping[str, Statistics]


class Encoders:
    """Encoders by label, each loaded once and let go."""

    def __init__(self, names: Sequence[str], embeddings: Path) -> None:
        """names: encoders that cannot be loaded by their label (`byola-v2@FILE`). Raises EvarError for a wrong one."""
        self._statistics = list(_statistics(embeddings))
        self._known: dict[str, Known | str] = {}
        self._given = [self._loaded(name) for name in names]

    def of(self, label: str, fingerprint: str, weights_sha256: str = "") -> Known:
        """The encoder that a fingerprint of that time is of, as far as can be known, whatever it was called.

        Of those that were given, the one of this fingerprint or these weights; else the one that is loaded by the label.
        EvarError where there is none.
        """
        for known in self._given:
            same_weights = known.label == label or (weights_sha256 and known.weights_sha256 == weights_sha256)
            if fingerprint in (known.fingerprint, *known.before) or same_weights:
                return known
        if label not in self._known:
            try:
                self._known[label] = self._loaded(label)
            except EvarError as error:
                self._known[label] = (
                    f"it is not loaded by its label ({error}): name it, as in NAME@FILE or py:MODULE:CLASS"
                )
        known = self._known[label]
        if isinstance(known, str):
            raise EvarError(known)
        return known

    def _loaded(self, name: str) -> Known:
        from evar.encoders import load_encoder
        from evar.encoders.fingerprint_v1 import fingerprints_v1

        encoder: Encoder = load_encoder(name)
        given = [encoder.normalization, *(self._statistics if encoder.needs_normalization else ())]
        loaded_before, *others = fingerprints_v1(encoder, given)
        before: dict[str, Statistics] = dict(zip(others, given[1:], strict=True))
        return Known(
            encoder.label,
            encoder.name,
            encoder.version,
            encoder.weights_kind,
            encoder.weights_sha256,
            encoder.fingerprint(),
            loaded_before,
            before | {loaded_before: None},
        )


def _statistics(embeddings: Path) -> Iterable[dict[str, float]]:
    """All log-mel statistics that were ever measured for this store, each once."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((embeddings / "normalization").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            one = json.loads(path.read_bytes())["statistics"]
            found[repr(one)] = {"mean": float(one["mean"]), "std": float(one["std"])}
    for folder in set_folders(embeddings):
        with contextlib.suppress(EvarError, KeyError, TypeError):
            meta = read_meta(folder)
            if meta is not None and meta.settings.get("normalization"):
                one = meta.settings["normalization"]
                found[repr(one)] = {"mean": float(one["mean"]), "std": float(one["std"])}
    return found.values()
