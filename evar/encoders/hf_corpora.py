"""What models of transformers were trained on, as far as their names and the labels of their heads tell."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evar.encoders.huggingface import read_json

TRAINED_ON = {
    "facebook/wav2vec2-base": ("librispeech",),
    "facebook/wav2vec2-base-*h": ("librispeech",),
    "facebook/wav2vec2-large": ("librispeech",),
    "facebook/wav2vec2-large-960h": ("librispeech",),
    "facebook/wav2vec2-large-lv60": ("libri-light",),
    "facebook/wav2vec2-large-960h-lv60*": ("libri-light", "librispeech"),
    "facebook/hubert-base-ls960": ("librispeech",),
    "facebook/hubert-large-ll60k": ("libri-light",),
    "facebook/hubert-xlarge-ll60k": ("libri-light",),
    "facebook/data2vec-audio-base*": ("librispeech",),
    "microsoft/wavlm-base": ("librispeech",),
    "microsoft/wavlm-base-plus": ("libri-light", "gigaspeech", "voxpopuli"),
    "microsoft/wavlm-large": ("libri-light", "gigaspeech", "voxpopuli"),
    "microsoft/wavlm-base-sv": ("librispeech", "voxceleb1"),
    "microsoft/wavlm-base-plus-sv": ("libri-light", "gigaspeech", "voxpopuli", "voxceleb1"),
    "MIT/ast-finetuned-audioset-*": ("audioset",),
    "MIT/ast-finetuned-speech-commands-*": ("speech-commands",),
    "laion/clap-htsat-*": ("audioset", "freesound"),
}
"""What well-known models were trained on, by name (`*` stands for anything), from their papers; `trained_on=` overrides it."""
COMMANDS = (
    frozenset(["yes", "no", "up", "down", "left", "right", "stop", "go"]),
    frozenset({"marvin", "sheila"}),
)
"""Words of Speech Commands that tell a head of it: those of its smallest task, and names that no other task has."""


def known_corpora(reference: str, folder: Path) -> tuple[str, ...]:
    """The corpora of a well-known model, or of the one that it says it was fine-tuned from; () where evar knows none.

    reference: its name on the hub, or its folder. What it says of itself is `_name_or_path` of its config.json.
    """
    names = [str(reference), folder.name.replace("--", "/")]
    if (folder / "config.json").is_file():
        names.append(str(read_json(folder / "config.json", str(reference)).get("_name_or_path")))
    return merged(*(_by_name(name) for name in names))


def labelled_corpora(config: Any) -> tuple[str, ...]:
    """("speech-commands",) where the labels of a fine-tuned model's head are words of Speech Commands, else ()."""
    words = {str(name).lower().strip("_ ") for name in (getattr(config, "id2label", None) or {}).values()}
    return ("speech-commands",) if any(commands <= words for commands in COMMANDS) else ()


def merged(*corpora: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in order."""
    return tuple(dict.fromkeys(name for some in corpora for name in some))


def _by_name(name: str) -> tuple[str, ...]:
    return next((found for pattern, found in TRAINED_ON.items() if fnmatch.fnmatchcase(name, pattern)), ())
