"""UrbanSound8K (Salamon et al. 2014): `audio/fold1..10/` and `metadata/UrbanSound8K.csv`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evar.datasets.layouts import lies
from evar.datasets.tables import read_csv, relative, without_extension
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS: dict = {}
MARKERS = ("metadata/UrbanSound8K.csv", "audio")
# Kaggle's copy: fold1 to fold10 and the csv beside them, without the folders `audio` and `metadata`.
ELSEWHERE = {"metadata/UrbanSound8K.csv": ("UrbanSound8K.csv",), "audio": ("fold1",)}
_COLUMNS = ("slice_file_name", "fsID", "fold", "classID", "class")
_IN_ORDER = (
    "air_conditioner car_horn children_playing dog_bark drilling engine_idling gun_shot jackhammer siren street_music"
)
_NAMES = _IN_ORDER.split()


def read(root: Path, card: Card) -> DataFrame:
    """The rows of `metadata/UrbanSound8K.csv`, under the official ten folds; the group is the Freesound id (`fsID`).

    In Kaggle's copy the csv and the folders fold1 to fold10 lie in the root; ids are the official ones either way.

    File names are `{fsID}-{classID}-{occurrence}-{slice}.wav`: a row that says otherwise is an EvarError.
    """
    path = lies(sys.modules[__name__], root, "metadata/UrbanSound8K.csv")
    table = read_csv(path, _COLUMNS)
    for row in table.itertuples(index=False):
        relative(row.slice_file_name, path)
        relative(f"fold{row.fold}", path)
        known = row.classID.isdecimal() and int(row.classID) < len(_NAMES)
        named = known and _NAMES[int(row.classID)] == row[_COLUMNS.index("class")]
        if not named or row.slice_file_name.split("-")[:2] != [row.fsID, row.classID]:
            raise EvarError(f"{path}: {row.slice_file_name} and its row disagree; restore the official file")
    official = "audio/fold" + table["fold"] + "/" + table["slice_file_name"]
    paths = official if (root / "audio").is_dir() else official.str.removeprefix("audio/")
    clips = table[["fold"]].assign(clip_id=official.map(without_extension), path=paths)
    return clips.assign(label=table["class"], group=table["fsID"])


def write_mini(root: Path, card: Card) -> None:
    """Two clips per class and fold, of one to two seconds, at several sample rates as the real set has."""
    from evar.datasets import synth
    from evar.files import atomic_write

    columns = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
    lines = [",".join(columns)]
    for target, label in enumerate(_NAMES):
        for fold in range(1, 11):
            for take in range(2):
                source = 100000 + 1000 * fold + 10 * target + take
                name = f"{source}-{target}-0-0.wav"
                seconds, sample_rate = 1.0 + (target + fold) % 3 / 2, (44100, 16000, 22050)[(fold + take) % 3]
                sound = synth.clip(target, 2 * fold + take, seconds, sample_rate)
                synth.write_wav(root / "audio" / f"fold{fold}" / name, sound, sample_rate)
                lines.append(f"{name},{source},0.0,{seconds},1,{fold},{target},{label}")
    atomic_write(root / "metadata" / "UrbanSound8K.csv", "\n".join(lines) + "\n")
