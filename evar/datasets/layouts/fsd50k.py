"""FSD50K (Fonseca et al. 2022): `FSD50K.{dev,eval}_audio/{fname}.wav`, `FSD50K.ground_truth/{dev,eval,vocabulary}.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evar.datasets.official import require_rows
from evar.datasets.tables import first_names, read_csv, read_text
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS: dict = {}
MARKERS = ("FSD50K.ground_truth/dev.csv", "FSD50K.ground_truth/eval.csv")
_TRUTH = "FSD50K.ground_truth"
_PARTS = {"train": "train", "val": "valid"}
# The mini's labels, each with its parent class: the official ground truth names every ancestor of a label.
_MINI_LABELS = {
    "Bark": "Animal",
    "Meow": "Animal",
    "Acoustic_guitar": "Music",
    "Trumpet": "Music",
    "Rain": "Water",
    "Stream": "Water",
}


def read(root: Path, card: Card) -> DataFrame:
    """The clips of `dev.csv` (its split column: train, val) and `eval.csv` (test), with all their labels.

    Raises EvarError for a label that `vocabulary.csv` does not have, or a part that is neither train nor val.
    """
    import pandas as pd

    vocabulary = _vocabulary(root / _TRUTH / "vocabulary.csv")
    tables = []
    for name, columns in (("dev", ["fname", "labels", "split"]), ("eval", ["fname", "labels"])):
        path = root / _TRUTH / f"{name}.csv"
        table = read_csv(path, columns)
        strange = sorted(set(table["fname"][~table["fname"].str.fullmatch(r"[0-9]+")]))
        if strange:
            raise EvarError(f"{path}: {first_names(strange)} is no Freesound id; restore the official file")
        if name == "dev":
            strange = sorted(set(table["split"]) - set(_PARTS))
            if strange:
                raise EvarError(f"{path}: split {first_names(strange)}; expected train or val")
        labels = table["labels"].map(lambda text: tuple(dict.fromkeys(text.split(","))))
        strange = sorted({label for entry in labels for label in entry} - vocabulary)
        if strange:
            raise EvarError(f"{path}: {first_names(strange)} is not in vocabulary.csv; restore the official files")
        clip_ids = f"FSD50K.{name}_audio/" + table["fname"]
        part = table["split"].map(_PARTS) if name == "dev" else "test"
        tables.append(pd.DataFrame({"clip_id": clip_ids, "path": clip_ids + ".wav", "labels": labels, "split": part}))
        if name == "eval":
            require_rows(len(table), card, root, path, "test")
        else:
            for key in _PARTS.values():
                require_rows(int((part == key).sum()), card, root, path, key)
    return pd.concat(tables, ignore_index=True)


def _vocabulary(path: Path) -> set[str]:
    """The labels of `vocabulary.csv`: lines `index,label,mid` without a header."""
    rows = [line.split(",") for line in read_text(path).splitlines() if line.strip()]
    if not rows or any(len(row) != 3 for row in rows):
        raise EvarError(f"{path}: expected lines index,label,mid; restore the official file")
    return {row[1] for row in rows}


def write_mini(root: Path, card: Card) -> None:
    """Six sounds and their three parent classes; 96 train, 24 valid, 48 test clips of one or two sounds, 1.2 s."""
    from evar.datasets import synth
    from evar.files import atomic_write

    sounds = list(_MINI_LABELS)
    vocabulary = sorted({*_MINI_LABELS, *_MINI_LABELS.values()})
    mids = {label: f"/m/mini{i:02d}" for i, label in enumerate(vocabulary)}
    dev, held_out = ["fname,labels,mids,split"], ["fname,labels,mids"]
    for number in range(168):
        first = number % len(sounds)
        chosen = sorted({first, (first + 1 + number // len(sounds)) % len(sounds)} if number % 2 else {first})
        labels = sorted({name for i in chosen for name in (sounds[i], _MINI_LABELS[sounds[i]])})
        row = f'{number + 100},"{",".join(labels)}","{",".join(mids[label] for label in labels)}"'
        place = number // 24  # blocks of 24 hold every sound equally often
        part = "dev" if place < 5 else "eval"
        sound = synth.mixture(chosen, number, 1.2, 16000, noise=0.7)
        synth.write_wav(root / f"FSD50K.{part}_audio" / f"{number + 100}.wav", sound, 16000)
        if part == "dev":
            dev.append(f"{row},{'val' if place == 4 else 'train'}")
        else:
            held_out.append(row)
    lines = [f"{i},{label},{mids[label]}" for i, label in enumerate(vocabulary)]
    for file, content in (("dev", dev), ("eval", held_out), ("vocabulary", lines)):
        atomic_write(root / _TRUTH / f"{file}.csv", "\n".join(content) + "\n")
