"""ESC-50 (Piczak 2015): `audio/{fold}-{source}-{take}-{target}.wav` and `meta/esc50.csv`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evar.datasets.layouts import lies
from evar.datasets.tables import read_csv, relative, without_extension
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS = {"esc10": False}  # true: only the clips of the ESC-10 subset
MARKERS = ("meta/esc50.csv", "audio")
# Kaggle's copy: esc50.csv in the root, the clips in audio/audio and again, by sample rate, below it.
ELSEWHERE = {"meta/esc50.csv": ("esc50.csv",)}
_AUDIO = ("audio", "audio/audio", "audio/audio/44100", "audio/44100", "audio/audio/16000", "audio/16000")
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
_PER_CLASS_AND_FOLD = 8
# Class names in the order of their target numbers.
_IN_ORDER = (
    "dog rooster pig cow frog cat hen insects sheep crow rain sea_waves crackling_fire crickets "
    "chirping_birds water_drops wind pouring_water toilet_flush thunderstorm crying_baby sneezing clapping "
    "breathing coughing footsteps laughing brushing_teeth snoring drinking_sipping door_wood_knock "
    "mouse_click keyboard_typing door_wood_creaks can_opening washing_machine vacuum_cleaner clock_alarm "
    "clock_tick glass_breaking helicopter chainsaw siren car_horn engine train church_bells airplane "
    "fireworks hand_saw"
)
_NAMES = _IN_ORDER.split()
_ESC10 = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)  # targets of the ten ESC-10 classes


def read(root: Path, card: Card) -> DataFrame:
    """The rows of `meta/esc50.csv`, under the official folds; the group is the source recording (`src_file`).

    The official file names state fold, source, take and target. A row that says otherwise, or a fold with more than
    eight clips of a class, is not ESC-50 and is an EvarError: folds are never redrawn under this name.
    In Kaggle's copy the csv lies in the root and the audio one or two folders deeper; ids are the official ones.
    """
    path = lies(sys.modules[__name__], root, "meta/esc50.csv")
    table = read_csv(path, _COLUMNS)
    for row in table.itertuples(index=False):
        relative(row.filename, path)
        stated = f"{row.fold}-{row.src_file}-{row.take}-{row.target}"
        named = row.target.isdecimal() and int(row.target) < len(_NAMES) and row.category == _NAMES[int(row.target)]
        if without_extension(row.filename) != stated or not named:
            raise EvarError(
                f"{path}: {row.filename} (fold-source-take-target) and its row ({stated}, {row.category}) disagree: "
                "these are not the official folds and labels; restore the official file, or write a card of its own"
            )
    crowded = table.groupby(["fold", "target"]).size()
    if crowded.max() > _PER_CLASS_AND_FOLD:
        fold, target = crowded.idxmax()
        raise EvarError(f"{path}: fold {fold} has {crowded.max()} clips of target {target}, the official file has 8")
    if card.options.get("esc10", False):
        table = table[table["esc10"] == "True"].reset_index(drop=True)
    official = "audio/" + table["filename"]
    paths = _audio_folder(root, set(table["filename"].map(without_extension))) + "/" + table["filename"]
    clips = table[["fold"]].assign(clip_id=official.map(without_extension), path=paths)
    return clips.assign(label=table["category"], group=table["src_file"])


def _audio_folder(root: Path, names: set[str]) -> str:
    """The folder that holds the most of the clips; of equals the first of _AUDIO."""

    def count(folder: str) -> int:
        try:
            return len(names & {without_extension(name) for name in os.listdir(root / folder)})
        except OSError:
            return 0

    return max(_AUDIO, key=count)


def write_mini(root: Path, card: Card) -> None:
    """Ten classes (those of ESC-10), two takes per class and fold, one second each."""
    from evar.datasets import synth
    from evar.files import atomic_write

    lines = [",".join(_COLUMNS)]
    for number, target in enumerate(_ESC10):
        for fold in range(1, 6):
            for take in range(2):
                source = 100000 + 1000 * fold + 10 * number + take
                name = f"{fold}-{source}-A-{target}.wav"
                sound = synth.clip(number, 2 * fold + take, 1.0)
                synth.write_wav(root / "audio" / name, sound, 16000)
                lines.append(f"{name},{fold},{target},{_NAMES[target]},True,{source},A")
    atomic_write(root / "meta" / "esc50.csv", "\n".join(lines) + "\n")
