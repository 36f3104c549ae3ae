"""Anybody's dataset as folders: `{part}/{class}/*.wav`, or `{class}/*.wav` with a split file or a drawn split."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from evar.datasets.card import find_split_file
from evar.datasets.recognise import holds_classes, holds_listed_files, holds_parts
from evar.datasets.tables import AUDIO_EXTENSIONS, read_csv, relative, without_extension
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS = {
    "parts": {},  # folder -> train, valid, test or fold number; default: folders train, valid, test or fold1, ...
    "draw": False,  # true: {class}/*.wav without any split; evar draws one, the same every time
}
MARKERS: tuple[str, ...] = ()


def read(root: Path, card: Card) -> DataFrame:
    """The audio files below `root`; the label is the folder that holds them.

    Without `split_file` and `draw`: `{part}/{class}/*`, parts being folders. With a split file (csv with the columns
    path, split or fold, perhaps group): `{class}/*` or any depth that it names. With `draw: true`: `{class}/*`, and in
    each class the clips in the order of sha1(clip id) are dealt to the folds, or 8 of 10 to train, one each to valid
    and test. A drawn split is for data of your own: two recordings of one source may land on both sides.
    """
    part_column = "fold" if card.split == "folds" else "split"
    if card.split_file is not None:
        return _from_split_file(root, card, part_column)
    if card.options["draw"]:
        rows = [(path, label, "") for label in _folders(root) for path in _audio(root, label)]
        clips = _table(rows, part_column)
        return clips.assign(**{part_column: _drawn(clips, card.folds)}) if len(clips) else clips
    default = [f"fold{k}" for k in range(1, (card.folds or 0) + 1)] or ["train", "valid", "test"]
    parts = card.options["parts"] or {name: name.removeprefix("fold") for name in default}
    found = [name for name in _folders(root) if name in parts]
    if not found:
        raise EvarError(
            f"{card.name}: {root} has none of the folders {', '.join(parts)}; expected PART/CLASS/*.wav; for "
            "CLASS/*.wav give the card a split_file (columns path,split), or `options: {draw: true}`"
        )
    rows = [
        (path, label, str(parts[name]))
        for name in found
        for label in _folders(root / name)
        for path in _audio(root, f"{name}/{label}")
    ]
    return _table(rows, part_column)


def holds(root: Path, card: Card) -> bool:
    """Whether `root` looks like the dataset itself, and not like the folder that holds it."""
    if card.split_file is not None:
        return holds_listed_files(read, root, card)
    return holds_classes(root) if card.options["draw"] else holds_parts(root, card.options["parts"])


def _from_split_file(root: Path, card: Card, part_column: str) -> DataFrame:
    path = find_split_file(card, root)
    if path is None:
        raise EvarError(
            f"{card.name}: its list {card.split_file} is neither in {root} nor beside the card; expected a csv with "
            f"the columns path,{part_column}[,group]"
        )
    table = read_csv(path, ["path", part_column], optional=["group"])
    for entry in table["path"]:
        if "/" not in relative(entry, path):
            raise EvarError(f"{path}: {entry!r} is in no class folder; expected CLASS/FILE")
    clips = table.assign(clip_id=table["path"].map(without_extension))
    return clips.assign(label=table["path"].map(lambda entry: entry.split("/")[-2]))


def _table(rows: list[tuple[str, str, str]], part_column: str) -> DataFrame:
    import pandas as pd

    clips = pd.DataFrame(rows, columns=["path", "label", part_column], dtype=str)
    return clips.assign(clip_id=clips["path"].map(without_extension))


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] not in "._")


def _audio(root: Path, folder: str) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(root / folder) if entry.is_file() and entry.name[0] != ".")
    return [
        relative(f"{folder}/{name}", root) for name in names if os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS
    ]


def _drawn(clips: DataFrame, folds: int | None) -> list[str]:
    """Fold or part of each clip, dealt within its class in the order of sha1(clip id)."""
    order = clips["clip_id"].map(lambda clip_id: hashlib.sha1(clip_id.encode()).hexdigest())
    ranks = order.groupby(clips["label"]).rank(method="first").astype(int) - 1
    if folds:
        return [str(rank % folds + 1) for rank in ranks]
    return [{8: "valid", 9: "test"}.get(rank % 10, "train") for rank in ranks]


def write_mini(root: Path, card: Card) -> None:
    """Ten one-second clips per class (six classes at most) and part."""
    from evar.datasets import synth
    from evar.files import atomic_write

    names = list(card.classes) if isinstance(card.classes, tuple) else [f"class{i}" for i in range(card.n_classes or 6)]
    folds = [f"fold{k}" for k in range(1, (card.folds or 0) + 1)]
    parts = list(card.options.get("parts", {})) or folds or ["train", "valid", "test"]
    flat = card.split_file is not None or card.options.get("draw", False)
    lines = [f"path,{'fold' if folds else 'split'}"]
    for index, label in enumerate(names[:6]):
        for place, part in enumerate(parts):
            for take in range(10):
                number = 10 * place + take
                name = f"{label}/{number:03d}.wav" if flat else f"{part}/{label}/{take:03d}.wav"
                synth.write_wav(root / name, synth.clip(index, number, 1.0), 16000)
                lines.append(f"{name},{part.removeprefix('fold')}")
    if card.split_file is not None:
        atomic_write(root / card.split_file, "\n".join(lines) + "\n")
