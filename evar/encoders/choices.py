"""From the words of a command line to layers and poolings: `all`, commas, fusions, numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    from evar.encoders.base import Encoder

CLIP = "clip"
"""The pooling of layers that are one vector per clip by the model's own design."""


def choose(encoder: Encoder, layers: str | None, poolings: str | None) -> list[tuple[str, str]]:
    """`Encoder.choices`: the (layer, pooling) pairs, without repetition, in the order of the words."""
    own = "mean" if encoder.default_pooling == CLIP else encoder.default_pooling
    wanted = list(dict.fromkeys(_words(poolings, "pooling", encoder))) if poolings is not None else []
    over_time = [pooling for pooling in wanted if pooling != CLIP]
    pairs: dict[tuple[str, str], None] = {}
    for word in [encoder.default_layer] if layers is None else _words(layers, "layer", encoder):
        for layer in encoder.layers if word == "all" else ["+".join(encoder._parts(word))]:
            of_clip = layer in encoder.layers and layer not in encoder.hop_ms
            if of_clip and (word == "all" or not wanted or CLIP in wanted):
                pairs[layer, CLIP] = None
            else:
                published = "mean+max" if layers is not None and "+" in layer else own  # of fusions (EUSIPCO 2022)
                pairs |= dict.fromkeys((layer, pooling) for pooling in over_time or [published])
    for layer, pooling in pairs:
        encoder.dim(layer, pooling)
    return list(pairs)


def named_layer(encoder: Encoder, word: str) -> str:
    """A layer's full name; a number may stand for it where exactly one layer's name ends in that number."""
    if word in encoder.layers:
        return word
    numbered = [name for name in encoder.layers if word.isdigit() and re.search(r"\d*$", name)[0] == word]
    if len(numbered) != 1:
        raise unknown(f"layer of {encoder.label}", word, encoder.layers)
    return numbered[0]


def _words(text: str, kind: str, encoder: Encoder) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise EvarError(f"{encoder.label}: no {kind} is named in {text!r}")
    return words
