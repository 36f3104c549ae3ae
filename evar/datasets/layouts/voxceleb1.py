"""VoxCeleb1 (Nagrani et al. 2017) and what shares its layout: `wav/{speaker}/{video}/{utterance}.wav`, `iden_split.txt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evar.datasets.official import require_rows
from evar.datasets.tables import read_list, without_extension
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS: dict = {}
MARKERS = ("iden_split.txt", "wav")
_PARTS = {"1": "train", "2": "valid", "3": "test"}
_MINI_SPEAKERS = 8
_MINI_VIDEOS = {"train": 6, "valid": 2, "test": 3}  # per speaker, two utterances each


def read(root: Path, card: Card) -> DataFrame:
    """The lines `1 id10001/{video}/00001.wav` of `iden_split.txt` (1 train, 2 valid, 3 test).

    The label is the speaker; the group is the video, whose utterances share one recording.
    """
    import pandas as pd

    path = root / "iden_split.txt"
    rows = []
    for line in read_list(path):
        part, _, entry = line.partition(" ")
        places = without_extension(entry.strip()).split("/")
        if part not in _PARTS or len(places) != 3 or not all(places):
            raise EvarError(f"{path}: {line[:80]!r} is not `1|2|3 SPEAKER/VIDEO/UTTERANCE.wav`; restore the list")
        clip_id = "/".join(["wav", *places])
        rows.append((clip_id, f"{clip_id}.wav", places[0], _PARTS[part], f"{places[0]}/{places[1]}"))
    require_rows(len(rows), card, root, path)
    return pd.DataFrame(rows, columns=["clip_id", "path", "label", "split", "group"])


def write_mini(root: Path, card: Card) -> None:
    """Eight speakers, eleven videos each of two utterances of 1.0 s."""
    from evar.datasets import synth
    from evar.files import atomic_write

    lines = []
    for speaker in range(_MINI_SPEAKERS):
        video = 0
        for number, part in _PARTS.items():
            for _ in range(_MINI_VIDEOS[part]):
                for utterance in (1, 2):
                    name = f"id{10001 + speaker}/mini{video:07d}/{utterance:05d}.wav"
                    take = 2 * video + utterance
                    sound = synth.speech(speaker, take % 7, take, 1.0, noise=0.5)
                    synth.write_wav(root / "wav" / name, sound, 16000)
                    lines.append(f"{number} {name}")
                video += 1
    atomic_write(root / "iden_split.txt", "\n".join(lines) + "\n")
