"""Anybody's dataset as folders: `{part}/{class}/*.wav`, or `{class}/*.wav` with a split file or a drawn split."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from evar.audio.listing import shortened
from evar.datasets import part_words
from evar.datasets.card import find_split_file
from evar.datasets.class_folders import ClassFolders
from evar.datasets.drawn_split import drawn
from evar.datasets.recognise import holds_classes, holds_listed_files, holds_parts
from evar.datasets.tables import read_csv, relative, without_extension
from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS = {
    "parts": {},  # folder -> train, valid, test or fold number; default: by their names, where those are plain
    "draw": False,  # true: {class}/*.wav without any split; evar draws one, the same every time
    "leave_out": [],  # folders that are not read: parts, classes or what lies below, such as [extra, train/noise]
}
MARKERS: tuple[str, ...] = ()


def read(root: Path, card: Card) -> DataFrame:
    """The audio files below `root`; the label is the class folder, however deep below it a file lies.

    Without `split_file` and `draw`: `{part}/{class}/...`. Parts are the folders that `parts` names, else folders whose
    names can mean nothing else (`Train`, `val`, `testing`; `fold1`, `Fold_01`, `1`, or from 0 on); others are refused.
    With a split file (csv with the columns path, split or fold, perhaps label, group): any depth that it names, the label
    being the folder that holds the file. With `draw: true`: `{class}/...`, dealt by `drawn_split.drawn`. A drawn split
    is for data of your own: two recordings of one source may land on both sides.

    Links without a target are clips that are missing. What else is not taken is named in one warning; EvarError where
    leaving it out would change what is measured.
    """
    part_column = "fold" if card.split == "folds" else "split"
    _check_group(card)
    if card.split_file is not None:
        return _from_split_file(root, card, part_column)
    draw = card.options["draw"]
    tree = ClassFolders(root, card.name, depth=1 if draw else 2, leave_out=card.options["leave_out"])
    if draw:
        _refuse_parts(tree, card)
        clips = _table(tree.rows({"": ""}), part_column)
        tree.say()
        return clips.assign(**{part_column: drawn(clips, card.name, card.folds)}) if len(clips) else clips
    parts = _parts(tree, card)
    rows = tree.rows(parts)
    tree.say()
    _refuse_other_classes(rows, parts, root, card)
    clips = _table(rows, part_column)
    if part_column == "split" and not isinstance(card.classes, tuple):
        untaught = sorted(set(clips["label"]) - set(clips["label"][clips["split"] == "train"]))
        if untaught and (clips["split"] == "train").any():
            where = ", ".join(sorted(set(clips["split"][clips["label"].isin(untaught)])))
            raise EvarError(
                f"{card.name}: {root}: {shortened(untaught)} {'have' if len(untaught) > 1 else 'has'} clips in {where} "
                "and none in train: a class that is tested needs training clips"
            )
    return clips


def idle(card: Card) -> str | None:
    """Which option of the card cannot have an effect beside another."""
    options = card.options
    other = "split_file" if card.split_file is not None else "draw" if options.get("draw") else None
    beside = {"split_file": ("parts", "draw", "leave_out"), "draw": ("parts",), None: ()}[other]
    given = next((name for name in beside if options.get(name)), None)
    return f"{given!r} has no effect beside {other!r}" if given else None


def _check_group(card: Card) -> None:
    """EvarError for a group that nothing can give."""
    if card.group is not None and card.split_file is None:
        raise EvarError(
            f"{card.path or card.name}: the group {card.group!r} is not found: folders name no groups; give the card a "
            "split_file with a column group, or use the layout csv_columns"
        )


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
            f"the columns path,{part_column}[,label][,group]"
        )
    table = read_csv(path, ["path", part_column], optional=["label", "group"])
    if part_column == "split":
        table = table.assign(split=table["split"].map(lambda word: part_words.plain_part(word) or word))
    if card.group is not None and "group" not in table:
        raise EvarError(
            f"{path}: the group {card.group!r} is not found: expected a column group beside path,{part_column}"
        )
    clips = table.assign(clip_id=table["path"].map(lambda entry: without_extension(relative(entry, path))))
    if "label" in clips:
        return clips
    for entry in table["path"]:
        if "/" not in entry:
            raise EvarError(f"{path}: {entry!r} is in no class folder; expected CLASS/FILE, or a column label")
    if len(depths := set(table["path"].str.count("/"))) > 1:
        deepest = table["path"][table["path"].str.count("/").idxmax()]
        raise EvarError(
            f"{path}: paths of {len(depths)} depths, such as {deepest!r}: which folder is the class? Add a column label"
        )
    return clips.assign(label=table["path"].map(lambda entry: entry.split("/")[-2]))


def _table(rows: list[tuple[str, str, str]], part_column: str) -> DataFrame:
    import pandas as pd

    clips = pd.DataFrame(rows, columns=["path", "label", part_column], dtype=str)
    return clips.assign(clip_id=clips["path"].map(lambda path: without_extension(unicodedata.normalize("NFC", path))))


# --- parts -----------------------------------------------------------------------------------------------------------


def _parts(tree: ClassFolders, card: Card) -> dict[str, str]:
    """Folder -> part or fold; EvarError, naming the option, where a folder's name leaves it open."""
    root = tree.root
    given = {name.strip("/"): value for name, value in card.options["parts"].items()}
    if given:
        absent = [name for name in given if name not in tree.listing.folders]
        if absent:
            known = sorted(name for name in tree.listing.folders if name)
            raise EvarError(f"{card.name}: 'options': 'parts': {unknown('folder', absent[0], known)} in {root}")
        plain = str if card.split == "folds" else lambda value: part_words.plain_part(str(value)) or str(value)
        return {name: plain(value) for name, value in given.items()}
    found = _by_name(card, tree.tops)
    if not found:
        raise _no_parts(tree, card)
    empty = [name for name in tree.kept(tree.listing.folders) if part_words.part_of(name) and name not in tree.tops]
    tree.note("part folders without audio", empty)
    others = [name for name in tree.tops if name not in found]
    if others:
        what = _wanted(card)
        raise EvarError(
            f"{card.name}: {root}: {shortened(others)} {'are no parts' if len(others) > 1 else 'is no part'} ({what}), beside "
            f"{shortened(list(found))}: say what each is with {_suggested(tree, card, found)}"
            f", or leave out with options: {{leave_out: [{', '.join(others[:3])}]}}"
        )
    twice = [name for name in found if list(found.values()).count(found[name]) > 1]
    if twice:
        raise EvarError(
            f"{card.name}: {root}: {' and '.join(twice[:3])} are both {found[twice[0]]}: keep one, or say that both are with "
            f"{_suggested(tree, card, found)}"
        )
    if card.split == "folds":
        renamed = {name: part for name, part in found.items() if part_words.fold_number(name) != int(part)}
    else:
        renamed = {name: part for name, part in found.items() if name != part}
    if renamed:
        read_as = ", ".join(
            f"{name} as {'fold ' if card.split == 'folds' else ''}{part}" for name, part in renamed.items()
        )
        warnings.warn(f"{card.name}: {root}: read {read_as}", part_words.ReadAs)
    return found


def _refuse_other_classes(rows: list[tuple[str, str, str]], parts: dict[str, str], root: Path, card: Card) -> None:
    """EvarError where what stands in the place of classes is something else: more parts, or one folder around them."""
    labels = sorted({label for _, label, _ in rows})
    if isinstance(card.classes, tuple) or not labels:
        return
    if len(labels) > 1 and all(part_words.part_of(one) or part_words.looks_like_fold(one) for one in labels):
        raise EvarError(
            f"{card.name}: {root}: the folders below {shortened(list(parts))} are called {shortened(labels)}, as parts are; "
            "expected PART/CLASS/FILE: give --data one of them, or list the files in a csv (split_file)"
        )
    if len(labels) > 1:
        return
    below = [
        path.removeprefix(folder + "/").split("/") for path, _, _ in rows for folder in parts if _is_in(path, folder)
    ]
    inner = {names[1] for names in below if len(names) > 2}
    if len(inner) > 1 and all(len(names) > 2 for names in below):
        named = ", ".join(f"{folder}/{labels[0]}: {part}" for folder, part in list(parts.items())[:12])
        raise EvarError(
            f"{card.name}: {root}: one class, {labels[0]}, and folders in it ({shortened(sorted(inner))}): if these are the "
            f"classes, say so with options: {{parts: {{{named}}}}}"
        )


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _by_name(card: Card, names: list[str]) -> dict[str, str]:
    """The folders whose names can mean one part only; folds all or none."""
    if card.split == "folds":
        numbers = part_words.numbered([name for name in names if part_words.fold_number(name) is not None], card.folds)
        return {name: str(number) for name, number in (numbers or {}).items()}
    return {name: part for name in names if (part := part_words.plain_part(name))}


def _wanted(card: Card) -> str:
    return f"fold1 to fold{card.folds}" if card.split == "folds" else "train, valid, test"


def _suggested(tree: ClassFolders, card: Card, found: dict[str, str]) -> str:
    likely: Callable[[str], object] = part_words.fold_number if card.split == "folds" else part_words.part_of
    guessed = {name: found.get(name) or likely(name) for name in tree.tops}
    pairs = ", ".join(f"{name}: {part}" for name, part in list(guessed.items())[:12] if part is not None)
    return f"options: {{parts: {{{pairs or 'FOLDER: train, ...'}}}}}"


def _no_parts(tree: ClassFolders, card: Card) -> EvarError:
    """Why no folder below the root is a part, and what to do."""
    root = tree.root
    beginning = f"{card.name}: {root} has none of the folders {_wanted(card).replace(' to ', ' ... ')}"
    if len(tree.tops) == 1 and _by_name(card, _folders_in(tree, tree.tops[0])):
        inner = root / tree.tops[0]
        return EvarError(f"{beginning}; they lie one folder deeper: give --data {card.name}={inner}")
    if below := _parts_below_classes(tree):
        return EvarError(f"{beginning} at its top; found CLASS/PART ({below}): {_MOVE}")
    numbers = [name for name in tree.tops if part_words.looks_like_fold(name)]
    numbers.sort(key=lambda name: (part_words.fold_number(name), name))
    if card.split == "folds" and numbers:
        if part_words.numbered(numbers, len(numbers)) is not None and len(numbers) > card.folds:
            extra = numbers[card.folds :]
            return EvarError(
                f"{card.name}: {root}: found {_span(numbers)} and the card says folds: {card.folds}: give `folds: "
                f"{len(numbers)}`, or leave {shortened(extra)} out with options: {{leave_out: [{', '.join(extra)}]}}"
            )
        return EvarError(
            f"{beginning}: found {shortened(numbers, 8)}: give `folds: {len(numbers)}`, or say which is which with "
            f"{_suggested(tree, card, {})}"
        )
    if len(numbers) > 1:
        return EvarError(f"{beginning}; found {shortened(numbers, 8)}: write split: folds and folds: {len(numbers)}")
    if [name for name in tree.tops if part_words.part_of(name)]:
        other = " (split: parts)" if card.split == "folds" else ""
        return EvarError(
            f"{beginning}; found {shortened(tree.tops, 8)}: say what each is with {_suggested(tree, card, {})}{other}"
        )
    found = f"; found {shortened(tree.tops)}" if tree.tops else ""
    return EvarError(
        f"{beginning}{found}; expected PART/CLASS/*.wav; for CLASS/*.wav give the card a split_file (columns "
        "path,split), or `options: {draw: true}`; for parts of other names `options: {parts: {FOLDER: train, ...}}`"
    )


def _span(folds: list[str]) -> str:
    return shortened(folds) if len(folds) < 3 else f"{folds[0]} to {folds[-1]}"


_MOVE = "move the files to PART/CLASS/FILE, or list them in a csv (split_file, columns path,label,split)"


def _folders_in(tree: ClassFolders, top: str) -> list[str]:
    return sorted({rest.split("/")[0] for rest in tree.below(top) if "/" in rest})


def _parts_below_classes(tree: ClassFolders) -> str:
    """`cat/train, cat/test` where every folder holds parts, else ""."""
    inner = {top: _folders_in(tree, top) for top in tree.tops}
    names = {name for found in inner.values() for name in found}
    is_part = all(part_words.part_of(name) or part_words.looks_like_fold(name) for name in names)
    if len(names) < 2 or not is_part:
        return ""
    return shortened([f"{top}/{name}" for top, found in inner.items() for name in found])


def _refuse_parts(tree: ClassFolders, card: Card) -> None:
    """EvarError where `draw: true` would mix a split that is there, or read its parts as classes."""
    root = tree.root
    parts = [name for name in tree.tops if part_words.plain_part(name)]
    distinct = {part_words.plain_part(name) for name in parts}
    only_deeper = [name for name in parts if all("/" in rest for rest in tree.below(name))]
    folds = [name for name in tree.tops if part_words.looks_like_fold(name)]
    if len(distinct) > 1 or only_deeper or len(folds) > 1:
        kind = "folds: N with split: folds" if len(folds) > 1 else "split: parts"
        raise EvarError(
            f"{card.name}: draw: true reads class folders, and {root} holds the parts {shortened(parts or folds)}: leave "
            f"draw out ({kind}) to use them as they are"
        )
    if below := _parts_below_classes(tree):
        raise EvarError(
            f"{card.name}: draw: true would mix the split that {root} holds below its classes ({below}): {_MOVE}"
        )
    if len(tree.tops) == 1 and len(_folders_in(tree, tree.tops[0])) > 1:
        raise EvarError(
            f"{card.name}: {root} holds one folder, {tree.tops[0]}, and the classes below it: give --data "
            f"{card.name}={root / tree.tops[0]}"
        )


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
