"""EmoDB (Burkhardt et al. 2005): `wav/SStttEv.wav` = speaker, text, emotion's letter, version; five folds of speakers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from evar.audio.listing import is_audio
from evar.datasets.recognise import holds_listed_files
from evar.datasets.tables import without_extension
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS: dict = {}
MARKERS: tuple[str, ...] = ()  # a folder `wav` alone says little
_EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
_FOLDS = (("03", "08"), ("10", "09"), ("11", "13"), ("12", "14"), ("15", "16"))  # one man, one woman each
_NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z])")
_MINI_TEXTS = ("a01", "a02", "b01")


def read(root: Path, card: Card) -> DataFrame:
    """The files in `wav/`; label, speaker (the group) and fold are in the name. No list comes with the set."""
    import pandas as pd

    folder = root / "wav"
    if not folder.is_dir():
        raise EvarError(f"{card.name}: {root} has no folder wav; expected wav/03a01Fa.wav ...")
    fold_of = {speaker: fold for fold, pair in enumerate(_FOLDS, start=1) for speaker in pair}
    rows = []
    for name in sorted({without_extension(entry) for entry in os.listdir(folder) if is_audio(entry)}):
        parts = _NAME.fullmatch(name)
        if parts is None or parts[1] not in fold_of:
            raise EvarError(f"{folder}: {name!r} is not named as EmoDB's files are (03a01Fa: speaker, text, emotion)")
        clip_id = f"wav/{name}"
        rows.append((clip_id, f"{clip_id}.wav", _EMOTIONS[parts[3]], fold_of[parts[1]], parts[1]))
    return pd.DataFrame(rows, columns=["clip_id", "path", "label", "fold", "group"])


def holds(root: Path, card: Card) -> bool:
    """Whether `root` has a folder `wav` with files named as EmoDB's are."""
    return holds_listed_files(read, root, card)


def write_mini(root: Path, card: Card) -> None:
    """Ten speakers, three texts, seven emotions, 1.0 s each."""
    from evar.datasets import synth

    for speaker in (name for pair in _FOLDS for name in pair):
        for word, text in enumerate(_MINI_TEXTS):
            for number, letter in enumerate(_EMOTIONS):
                sound = synth.speech(int(speaker), word, 0, 1.0, emotion=number, noise=0.6)
                synth.write_wav(root / "wav" / f"{speaker}{text}{letter}a.wav", sound, 16000)
