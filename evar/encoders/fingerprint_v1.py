"""Fingerprints as evar made them before schema 2 of the results: needed to re-key what was stored under them, nothing else.

They held the place of every class, so the places of that time are kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from evar.encoders.fingerprint import digestible, foreign_source, plain_attributes, state_digest
from evar.files import digest

if TYPE_CHECKING:
    from evar.encoders.base import Encoder

_PLACES = {
    "ast_transformer": "Ast AstFusion",
    "byola": "Byola ByolaV1 ByolaV2",
    "cola": "Cola ColaPrime",
    "hear": "HearModule",
    "hf": "HfFeatures",
    "hf_windows": "Clap Whisper",
    "logmel": "LogMelStatistics",
    "mfcc": "Mfcc",
    "panns": "Cnn14 Cnn14At16k Cnn14Fusion",
    "tfhub": "TfHubModule TrillTfHub VggishTfHub",
    "vggish": "Vggish Vggish4k VggishFusion VggishRelu",
    "wav2vec2": "Wav2Vec2 Wav2Vec2C Wav2Vec2CLarge Wav2Vec2F Wav2Vec2FLarge",
}
_PLACE_OF = {name: f"evar.encoders.{file}" for file, names in _PLACES.items() for name in names.split()}
_SINCE_THEN = ("pca_params",)  # keys of `Encoder.settings` that there were not


def fingerprints_v1(encoder: Encoder, statistics: Iterable[Mapping[str, float] | None]) -> list[str]:
    """The fingerprint of that time for the encoder with each of these log-mel statistics (None: none)."""
    settings = {key: value for key, value in encoder.settings.items() if key not in _SINCE_THEN}
    attributes = plain_attributes(encoder, _named)
    if ".settings" in attributes:
        attributes[".settings"] = digestible(settings, _named)
    if "trained_on" in vars(encoder):
        attributes[".trained_on"] = digestible(encoder.trained_on, _named)
    facts = {
        "name": encoder.name,
        "class": _named(type(encoder)),
        "source": foreign_source(type(encoder)),
        "version": encoder.version,
        "sample_rate": encoder.sample_rate,
        "layers": dict(encoder.layers),
        "default": [list(encoder.default_layers), encoder.default_pooling],
        "min_samples": encoder.min_samples,
        "settings": settings,
        "attributes": attributes,
        "weights": state_digest(encoder.state_dict()),
    }
    return [digest({**facts, "normalization": dict(one) if one else None}) for one in statistics]


def _named(kind: type) -> str:
    own = kind.__module__.startswith("evar.encoders.")
    return f"{_PLACE_OF.get(kind.__qualname__, kind.__module__) if own else kind.__module__}.{kind.__qualname__}"
