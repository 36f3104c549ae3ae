"""Anybody's dataset: one csv with a row per clip, the columns named by the card (or the card's `split_file`)."""

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

OPTIONS = {
    "file": "clips.csv",  # relative to the dataset's folder; a card's `split_file` takes its place
    "path": "path",  # column of the audio file
    "label": "label",  # column of the label, or of all labels where `separator` splits them
    "part": "",  # column of split or fold; empty: `split` or `fold`, as the card's split is
    "group": "",  # column of the group; empty: `group` where the csv has one
    "separator": "",  # between the labels of a multi-label clip, such as "," or ";"
    "folder": "",  # audio folder that the paths are relative to
    "extension": "",  # added to every path, such as ".wav"
    "delimiter": ",",
    "parts": {},  # other words for train, valid and test: {"dev": "train", "1": "test"}
}
MARKERS = ("{file}",)


def read(root: Path, card: Card) -> DataFrame:
    """One row per row of the csv. Raises EvarError for a missing file or column, an empty value, an unsafe path."""
    options = card.options
    path = root / options["file"] if card.split_file is None else find_split_file(card, root)
    part = options["part"] or ("fold" if card.split == "folds" else "split")
    group = options["group"] or "group"
    if path is None:
        raise EvarError(
            f"{card.name}: its list {card.split_file} is neither in {root} nor beside the card; bring the "
            f"published list as a csv with the columns {options['path']},{options['label']},{part}[,{group}] (evar "
            "draws no split of its own under a published name)"
        )
    wanted = [options["path"], options["label"], part] + ([group] if options["group"] else [])
    table = read_csv(path, wanted, optional=[] if options["group"] else [group], delimiter=options["delimiter"])
    paths = table[options["path"]].map(lambda entry: relative(entry, path) + options["extension"])
    if options["folder"]:
        paths = relative(options["folder"], card.path or card.name).rstrip("/") + "/" + paths
    clips = table[[part]].rename(columns={part: "fold" if card.split == "folds" else "split"})
    if card.split == "parts":
        clips["split"] = clips["split"].map(lambda word: options["parts"].get(word, word))
    clips = clips.assign(clip_id=paths.map(without_extension), path=paths)
    if group in table:
        clips["group"] = table[group]
    if card.multilabel:
        separator = options["separator"] or ","
        return clips.assign(labels=table[options["label"]].map(lambda text: _split_labels(text, separator)))
    return clips.assign(label=table[options["label"]].str.strip())


def holds(root: Path, card: Card) -> bool:
    """Whether files of the list are in `root`: for lists that lie beside the card."""
    return holds_listed_files(read, root, card)


def _split_labels(text: str, separator: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label.strip() for label in text.split(separator) if label.strip()))


def write_mini(root: Path, card: Card) -> None:
    """Four clips per class and part (or fold) of one second, in the columns that the card names."""
    import csv
    import io

    from evar.datasets import synth
    from evar.files import atomic_write

    options = {key: card.options.get(key, default) for key, default in OPTIONS.items()}
    n_classes = min(card.n_classes or 6, 6)
    names = (
        list(card.classes)[:n_classes] if isinstance(card.classes, tuple) else [f"class{i}" for i in range(n_classes)]
    )
    words = {word: other for other, word in options["parts"].items()}
    folds = [str(k) for k in range(1, (card.folds or 0) + 1)]
    parts = folds or ["train", "train", "train", "valid", "test"]
    part_column = options["part"] or ("fold" if folds else "split")
    text = io.StringIO()
    table = csv.writer(text, delimiter=options["delimiter"], lineterminator="\n")
    table.writerow([options["path"], options["label"], part_column, options["group"] or "group"])
    for index, label in enumerate(names):
        for number in range(4 * len(parts)):
            part = parts[number // 4]
            name = f"{label}_{number:03d}"
            file = Path(options["folder"]) / f"{name}{options['extension'] or '.wav'}"
            synth.write_wav(root / file, synth.clip(index, number, 1.0), 16000)
            entry = name if options["extension"] else f"{name}.wav"
            table.writerow([entry, label, words.get(part, part), f"{part}-{number % 4}"])
    atomic_write(root / (card.split_file or options["file"]), text.getvalue())
