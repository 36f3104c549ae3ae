"""GTZAN (Tzanetakis & Cook 2002): `genres/{genre}/{genre}.000NN.wav`, under the fault-filtered lists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evar.datasets.card import find_split_file
from evar.datasets.recognise import holds_listed_files
from evar.datasets.tables import read_csv, relative, without_extension
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS: dict = {}
MARKERS: tuple[str, ...] = ()  # copies name the audio folder differently: found by the card's folder names
_FOLDERS = ("genres", "genres_original", "Data/genres_original")  # the last one: Kaggle's copy
_GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
_MINI_PARTS = ("train",) * 7 + ("valid",) * 2 + ("test",) * 4
_MINI_RATE = 22050  # Hz, as the real set


def read(root: Path, card: Card) -> DataFrame:
    """The tracks of the card's `split_file` (columns path, label, split).

    The lists leave out the repetitions, distortions and mislabellings that Sturm (2013) found. The audio may lie in
    `genres/`, `genres_original/` or `Data/genres_original/` (Kaggle's copy), as `.wav` or `.au`; ids say `genres/`.
    """
    path = find_split_file(card, root)
    if path is None:
        raise EvarError(f"{card.name}: its list {card.split_file} is neither in {root} nor beside the card; restore it")
    folder = next((name for name in _FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise EvarError(f"{card.name}: {root} has no folder {' or '.join(_FOLDERS)}; expected genres/blues/*.wav ...")
    table = read_csv(path, ["path", "label", "split"])
    for entry in table["path"]:
        if not relative(entry, path).startswith("genres/"):
            raise EvarError(f"{path}: {entry!r} is not genres/GENRE/FILE; restore the list")
    paths = folder + table["path"].str.removeprefix("genres")
    return table[["label", "split"]].assign(clip_id=table["path"].map(without_extension), path=paths)


def holds(root: Path, card: Card) -> bool:
    """Whether tracks of the list are in `root`."""
    return holds_listed_files(read, root, card)


def write_mini(root: Path, card: Card) -> None:
    """Ten genres of thirteen pieces of 1.2 s, each a few notes of the genre's own sound, under a list of its own."""
    import numpy as np

    from evar.datasets import synth
    from evar.files import atomic_write

    lines = ["path,label,split"]
    for number, genre in enumerate(_GENRES):
        for take, part in enumerate(_MINI_PARTS):
            name = f"genres/{genre}/{genre}.{take:05d}.wav"
            beats = [synth.clip(number, 4 * take + beat, 0.4, _MINI_RATE, noise=0.8) for beat in range(3)]
            synth.write_wav(root / name, np.concatenate(beats), _MINI_RATE)
            lines.append(f"{name},{genre},{part}")
    atomic_write(root / card.split_file, "\n".join(lines) + "\n")
