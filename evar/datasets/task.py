"""A task in hand: the clips of a dataset folder under the card's official split, every promise of the card checked."""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from evar.audio.pointers import missing_link
from evar.datasets import layouts, own_values
from evar.datasets.card import Card, find_card
from evar.datasets.locate import locate
from evar.datasets.on_disk import Folders, other_capitals
from evar.datasets.tables import (
    SYNTHETIC_FILE,
    clean,
    first_names,
    list_sha256,
    read_text,
)
from evar.errors import EvarError
from evar.files import digest

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame, Series

OWN_CARD = "write a card with a name of its own for it (docs: `base:`)"


@dataclass(frozen=True, eq=False)
class Task:
    """Clips, labels and split of one task.

    `clips` has a RangeIndex, is sorted by `clip_id` and has the columns `clip_id` (str: official relative path without
    extension), `path` (str: the file that is there, relative to `root`), `start`, `stop` (seconds; 0.0 and NaN: the
    whole file), `label` (str) or `labels` (tuple of str), `split` (train, valid, test) or `fold` (int from 1), and
    `group` (str). `missing` lists the official clips that are known by name and are not there (only with `partial`).
    """

    name: str
    card: Card
    root: Path
    clips: DataFrame
    classes: tuple[str, ...]
    fingerprint: str
    synthetic: bool = False
    partial: bool = False
    missing: tuple[str, ...] = ()
    limit: int | None = None

    def targets(self) -> np.ndarray:
        """int64 [N] indices into `classes`, or float32 [N, C] multi-hot for a multi-label task."""
        import numpy as np

        index = {name: i for i, name in enumerate(self.classes)}
        if "label" in self.clips:
            return np.array([index[label] for label in self.clips["label"]], dtype=np.int64)
        hot = np.zeros((len(self.clips), len(self.classes)), dtype=np.float32)
        for row, labels in enumerate(self.clips["labels"]):
            hot[row, [index[label] for label in labels]] = 1.0
        return hot

    def files(self) -> list[Path]:
        """The absolute path of each clip's file, in the order of `clips`."""
        root = self.root.absolute()
        return [root / path for path in self.clips["path"]]

    def limited(self, n: int, seed: int = 0) -> Task:
        """A subset of `n` clips, stratified over class × split (or fold), with `limit` set.

        Strata keep their shares and at least one clip each where `n` allows. Which clips: the first in the order of
        sha1(seed, clip_id), whatever the order of rows. A task of `n` clips or fewer is returned as it is.
        Raises EvarError for n < 1.
        """
        from evar.datasets.subset import stratified

        if n < 1:
            raise EvarError(f"--limit {n}: expected a number of clips from 1")
        if n >= len(self.clips):
            return self
        clips = self.clips.iloc[stratified(self.clips, n, seed)].reset_index(drop=True)
        return _with_fingerprint(replace(self, clips=clips, limit=n))

    def inner(self) -> Task:
        """The task `NAME:inner`, on which recipes may be chosen.

        Parts: no test clip is in it; the valid part is tested, or where there is none, a tenth of the training clips by
        group, in sha1 order of the group's name. Folds: each clip is tested once, so none can stay out for good; fold 1
        is left out and the others cross-validate among themselves, of two folds the halves of the second, by group.
        """
        clips = self.clips
        if "fold" in clips:
            clips = clips[clips["fold"] != 1]
            if clips["fold"].nunique() == 1:
                clips = clips.assign(fold=_taken(clips, 0.5).map({True: 2, False: 3}))
        else:
            clips = clips[clips["split"] != "test"]
            tested = clips["split"] == "valid"
            if not tested.any():
                tested = _taken(clips, 0.1)
            clips = clips.assign(split=tested.map({True: "test", False: "train"}))
        name = f"{self.name}:inner"
        return _with_fingerprint(replace(self, name=name, clips=clips.reset_index(drop=True)))


def _taken(clips: DataFrame, fraction: float) -> Series:
    """Whole groups that hold `fraction` of the clips; single clips where all are of one group."""
    from evar.datasets.subset import by_group

    return by_group(clips["group" if clips["group"].nunique() > 1 else "clip_id"], fraction)


def load_task(
    name: str,
    root: str | os.PathLike | None = None,
    *,
    data: Sequence[str] = (),
    tasks_dir: str | os.PathLike | None = None,
    partial: bool = False,
) -> Task:
    """Read the task `name` (or a `.yaml` card) from the folder `root`, or from where `data` (the --data values) leads.

    Every promise of the card is checked: counts, class count, unique ids, complete folds, groups that stay on one
    side, official lists, a file for each clip (`.flac` and the like may stand in for `.wav`).
    `partial=True` accepts a true subset of the official clips under the official lists and marks the task.
    Raises EvarError, one line, for whatever does not hold.
    """
    card = find_card(name, tasks_dir)
    try:
        return _loaded(card, root, [data] if isinstance(data, str) else data, partial)
    except EvarError as error:
        raise card.in_its_words(error) from None


def _loaded(card: Card, root: str | os.PathLike | None, data: Sequence[str], partial: bool) -> Task:
    layout = layouts.load(card)
    options = layouts.options(card, layout)
    if root is None:
        root = locate(card, layout, options, data)
    root = Path(root)
    if not root.is_dir():
        raise EvarError(f"{card.name}: {root} is not a folder; give the dataset's folder")
    stated = synthetic_counts(root, card)
    if stated is None:
        _check_lists(root, card, layout)
    try:
        clips = _checked(layout.read(root, replace(card, options=options)), root, card)
        clips, missing = resolve_files(clips, root)
    except OSError as error:
        raise EvarError(f"{card.name}: cannot read {error.filename or root}: {error.strerror}") from None
    absent = clips["path"][clips["clip_id"].isin(set(missing))]
    links = (dangling(root, absent) or other_capitals(root, absent)) if missing else ""
    if len(missing) == len(clips):
        raise EvarError(
            f"{card.name}: {root} holds no audio file of its {len(clips)} clips (the first is {clips['path'][0]}); "
            f"{links or 'is it the right and complete folder?'}"
        )
    counts = card.counts if stated is None else stated
    n_missing = len(missing) + _count_absent_rows(clips, counts, root, card)
    if n_missing and not partial:
        raise _missing_error(card, root, missing, n_missing, counts.get("clips", len(clips)), links)
    clips = clips[~clips["clip_id"].isin(missing)].sort_values("clip_id", ignore_index=True)
    _check_parts(clips, counts, root, card)
    if card.groups_disjoint:
        _check_groups(clips, root, card)
    is_subset = bool(n_missing) or stated is not None
    task = Task(
        name=card.name,
        card=card,
        root=root,
        clips=clips,
        classes=_classes(clips, root, card, is_subset),
        fingerprint="",
        synthetic=stated is not None,
        partial=bool(n_missing),
        missing=tuple(sorted(missing)),
    )
    return _with_fingerprint(task)


# --- checks ----------------------------------------------------------------------------------------------------------


def synthetic_counts(root: Path, card: Card) -> dict[str, int] | None:
    """The counts in the root's EVAR_SYNTHETIC.json; None where the folder holds real data."""
    path = root / SYNTHETIC_FILE
    if not path.exists():
        return None
    again = f"make it again with `evar data mini {card.name}`"
    try:
        stated = json.loads(read_text(path))
        made_for, counts = stated["card"], {key: int(n) for key, n in stated["counts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise EvarError(f'{path}: expected JSON with "card" and "counts"; {again}') from None
    if made_for != card.name:
        raise EvarError(f"{path}: this synthetic stand-in was made for {made_for!r}, not for {card.name!r}; {again}")
    return counts


def _check_lists(root: Path, card: Card, layout: ModuleType) -> None:
    """The official split lists, by checksum: what comes with other lists is another task."""
    for file, expected in card.lists.items():
        path = layouts.lies(layout, root, file)
        found = list_sha256(path)
        if found != expected:
            raise EvarError(
                f"{card.name}: {path} is not the official list (sha256 {expected[:12]}..., "
                f"found {found[:12]}...): other clips or another split are not {card.name}, also not with --partial; "
                f"restore the official list, or {OWN_CARD}"
            )


def _checked(clips: DataFrame, root: Path, card: Card) -> DataFrame:
    """The reader's table with default columns filled in; ids unique, labels and splits plausible."""
    import numpy as np

    if not len(clips):
        raise EvarError(f"{card.name}: {root} holds no clips in the layout {card.layout}")
    if card.group and "group" not in clips:
        raise EvarError(
            f"{card.name}: the card says `group: {card.group}`, and nothing in {root} says which {card.group} a clip is of; "
            "give it a list with a column 'group' (`split_file`, or the layout csv_columns), or remove `group` from the card"
        )
    label, part = ("labels" if card.multilabel else "label"), ("fold" if card.split == "folds" else "split")
    clips = clips.assign(
        start=clips["start"].astype(float) if "start" in clips else 0.0,
        stop=clips["stop"].astype(float) if "stop" in clips else np.nan,
        group=clips["group"] if "group" in clips else clips["clip_id"],
    )
    clips = clips[["clip_id", "path", "start", "stop", label, part, "group"]].reset_index(drop=True)
    clips["clip_id"] = clips["clip_id"].map(lambda clip_id: unicodedata.normalize("NFC", clip_id))
    for name in ("label", "group"):
        if name in clips:
            clips[name] = clips[name].map(clean)
    if card.multilabel:
        clips["labels"] = clips["labels"].map(lambda names: tuple(map(clean, names)))
    for name in ("clip_id", "path", label, "group"):
        empty = clips["clip_id"][clips[name].map(len) == 0]
        if len(empty) and name != "labels":
            raise EvarError(f"{card.name}: {len(empty)} clips in {root} have no {name}: {first_names(empty)}")
    twice = clips["clip_id"][clips["clip_id"].duplicated()]
    if len(twice):
        labels = "" if card.multilabel else own_values.two_labels(clips["clip_id"], clips["label"])
        raise EvarError(
            f"{card.name}: {twice.nunique()} clips occur twice in {root}"
            f"{labels or f': {first_names(twice)}; keep one of each'}"
        )
    where = f"{card.name}: {root}"
    if card.split == "folds":
        clips["fold"] = own_values.folds(clips["fold"].astype(str), card.folds, {}, where).astype("int64")
    else:
        clips["split"] = own_values.parts(clips["split"].astype(str).map(clean), {}, where)
    return clips


def _check_parts(clips: DataFrame, counts: Mapping[str, int], root: Path, card: Card) -> None:
    """No fold and no part is empty: a task without its valid part would be scored by another protocol."""
    if card.split == "folds":
        absent = [f"fold {k}" for k in range(1, card.folds + 1) if not (clips["fold"] == k).any()]
    else:
        needed = ["train", "test"] + (["valid"] if counts.get("valid", 0) else [])
        absent = [part for part in needed if not (clips["split"] == part).any()]
    if absent:
        there = clips["fold"].nunique() if card.split == "folds" else 0
        fewer = there > 1 and not card.is_official and absent[0] == f"fold {there + 1}"
        way = f": put them there, or give `folds: {there}`" if fewer else ""
        raise EvarError(f"{card.name}: {root} holds no {' and no '.join(absent)} clips; every part needs some{way}")


def resolve_files(clips: DataFrame, root: Path) -> tuple[DataFrame, list[str]]:
    """Each clip's `path` as it is on disk, and the ids of clips without a file; each folder is listed once."""
    folders = Folders(root)
    there = [folders.find(path) for path in clips["path"]]
    missing = [clip_id for clip_id, found in zip(clips["clip_id"], there, strict=True) if found is None]
    found = [path if name is None else name for path, name in zip(clips["path"], there, strict=True)]
    return clips.assign(path=found), missing


def _count_absent_rows(clips: DataFrame, counts: Mapping[str, int], root: Path, card: Card) -> int:
    """How many clips the official lists have beyond those read; more than the official number is an EvarError."""
    sizes = clips["fold"].map("fold{}".format) if card.split == "folds" else clips["split"]
    found = {"clips": len(clips)} | sizes.value_counts().to_dict()
    for key, expected in counts.items():
        if found.get(key, 0) > expected:
            what = "clips" if key == "clips" else f"clips in {key}"
            whose = "the official set has" if card.is_official else "the card says"
            raise EvarError(
                f"{card.name}: {root} has {found[key]} {what}, {whose} {expected}: this is "
                f"not {card.name}; restore the official folder, or {OWN_CARD}"
            )
    parts = sum(expected - found.get(key, 0) for key, expected in counts.items() if key != "clips")
    return max(parts, counts.get("clips", 0) - len(clips))


def dangling(root: Path, paths: Iterable[str]) -> str:
    """How many missing clips are links without a target, and the way to get them; "" where none is."""
    found = [(path, broken) for path in paths if (broken := missing_link(root / path))]
    return (
        f"{len(found)} of the missing clips are links without a target: {found[0][0]} is {found[0][1]}" if found else ""
    )


def _missing_error(
    card: Card, root: Path, missing: list[str], n_missing: int, n_clips: int, links: str = ""
) -> EvarError:
    named = f": {first_names(sorted(missing))}" if missing else " (the lists there hold no more)"
    restore = f"`evar data fetch {card.name}`" if card.fetch else "restore the official folder"
    if not card.is_official and not card.fetch:
        restore = "put them there, or take them out of the list"
    restore = links or restore
    return EvarError(
        f"{card.name}: {n_missing} of {n_clips} clips are missing in {root}{named}; {restore}, see "
        f"`evar data verify {card.name}`, or go on without them with --partial (marked in every row)"
    )


def _check_groups(clips: DataFrame, root: Path, card: Card) -> None:
    part = "fold" if card.split == "folds" else "split"
    parts = clips.groupby("group")[part].nunique()
    across = parts[parts > 1].index
    if len(across):
        raise EvarError(
            f"{card.name}: {len(across)} groups ({card.group}) of {root} are in more than one {part}: "
            f"{first_names(across)}; a score would be too good: all clips of a group belong into one {part}"
        )


def _classes(clips: DataFrame, root: Path, card: Card, is_subset: bool) -> tuple[str, ...]:
    """The card's class list, else the sorted labels of the training part (with folds: of all clips)."""
    label = "labels" if card.multilabel else "label"
    every = {name for value in clips[label] for name in (value if card.multilabel else (value,))}
    if isinstance(card.classes, tuple):
        classes = card.classes
    else:
        train = clips[label] if card.split == "folds" else clips[label][clips["split"] == "train"]
        classes = tuple(sorted({name for value in train for name in (value if card.multilabel else (value,))}))
    unknown_labels = sorted(every - set(classes))
    if unknown_labels:
        named = first_names(unknown_labels)
        if not isinstance(card.classes, tuple) and not card.is_official:
            raise EvarError(
                f"{card.name}: {root} has no training clip of the label {named}, and clips of it in other parts; move some "
                f"of them to train, or leave them out{_leave_out(card, unknown_labels)}"
            )
        raise EvarError(f"{card.name}: {root} has labels that are no class of it: {named}")
    unused = [] if is_subset else [name for name in classes if name not in every]
    if unused:
        raise EvarError(f"{card.name}: {root} has no clip of {first_names(unused)}, which the card has as class")
    expected = card.n_classes
    if expected is not None and (len(classes) > expected or (len(classes) < expected and not is_subset)):
        raise EvarError(f"{card.name}: {root} has {len(classes)} classes, expected {expected}")
    if len(classes) < 2:
        raise EvarError(f"{card.name}: {root} has {len(classes)} class; a task needs two")
    return classes


def _leave_out(card: Card, labels: list[str]) -> str:
    """How rows of `labels` are left out, where the card's layout has an option for that."""
    if card.layout != "csv_columns" or card.multilabel:
        return ""
    words = ", ".join(f"'!{label}'" for label in labels[:3]) + (", ..." if len(labels) > 3 else "")
    column = card.options.get("label", "label")
    return f": `options: {{where: {{{column}: {words if len(labels) == 1 else f'[{words}]'}}}}}`"


def _with_fingerprint(task: Task) -> Task:
    """The task with the digest of what is asked: clips, labels, split and settings; not of folder or extension."""
    clips = task.clips
    table = {name: clips[name].tolist() for name in clips.columns if name != "path"}
    table["stop"] = [None if math.isnan(stop) else stop for stop in table["stop"]]
    card = task.card
    asked = {
        "name": task.name,
        "version": card.version,
        "clips": table,
        "classes": task.classes,
        "seconds": card.seconds,
        "metric": card.metric,
        "synthetic": task.synthetic,
        "partial": task.partial,
        "limit": task.limit,
        "card": card.sha if card.shadows else None,
    }
    return replace(task, fingerprint=digest(asked))
