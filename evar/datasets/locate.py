"""Where a task's dataset lies: the `--data` values, then `EVAR_DATA`, then `./data`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from evar.datasets import part_words
from evar.datasets.card import Card, find_split_file
from evar.datasets.layouts import lies
from evar.datasets.tables import SYNTHETIC_FILE
from evar.errors import EvarError


def locate(card: Card, layout: ModuleType, options: Mapping[str, object], data: Sequence[str] = ()) -> Path:
    """The dataset folder of `card`.

    Each value of `data` is a dataset root, the parent folder of one, or `TASK=DIR` (which settles it for that task).
    A root is recognised by the layout's markers, by its name, or by what it holds (the layout's `holds`); one level below
    a parent by the card's folder names first and the markers second. Places are tried in turn: `data`, `EVAR_DATA`
    (split at os.pathsep), `./data`; the first with a match wins. Raises EvarError: two different matches in one place,
    none anywhere, a value that is not a folder.
    """
    named, general = _split_values(card, data)
    if len(named) > 1:
        raise EvarError(f"{card.name}: two folders are given: {' and '.join(map(str, named))}; keep one")
    if named:
        _say_what_lies_beside(named[0], card)
        return named[0]
    signs = _Signs(card, layout, options)
    from_environment = [Path(p) for p in os.environ.get("EVAR_DATA", "").split(os.pathsep) if p]
    default = [Path("data")] if Path("data").is_dir() else []
    for origin, folders in (("--data", general), ("EVAR_DATA", from_environment), ("./data", default)):
        found: dict[tuple[int, int], tuple[int, Path]] = {}
        for folder in folders:
            if not folder.is_dir():
                raise EvarError(
                    f"{origin} {folder} is not a folder; give a dataset's folder or the folder that holds it"
                )
            rank, matches = _matches(folder, signs)
            for match in matches:
                found.setdefault(_identity(match), (rank, match))
        best = [match for rank, match in found.values() if rank == min(rank for rank, _ in found.values())]
        if len(best) > 1:
            listed = " and ".join(map(str, best))
            raise EvarError(f"{card.name}: more than one folder matches: {listed}; choose with --data {card.name}=DIR")
        if best:
            return best[0]
    if len(general) == 1 and (error := _list_not_found(card, layout, signs.markers, general[0])):
        raise error
    raise _not_found(card, signs.markers, [*general, *from_environment, Path("data")])


def _split_values(card: Card, data: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The folders that are given for this very task, and those for any task."""
    named: dict[tuple[int, int], Path] = {}
    general = []
    for value in map(os.fspath, data):
        task, equals, folder = value.partition("=")
        if not equals or not re.fullmatch(r"[\w.-]+", task) or Path(value).exists():
            general.append(Path(value).expanduser())
        else:  # one for another task is not looked for here, but a folder that is not there is of no use to any
            path = Path(folder).expanduser()
            if not path.is_dir():
                raise EvarError(f"--data {value}: {path} is not a folder")
            if task == card.name:
                named.setdefault(_identity(path), path)
    return list(named.values()), general


class _Signs:
    """By what a dataset's folder is known: files of the layout (certain), its name, and what it holds (a good guess)."""

    def __init__(self, card: Card, layout: ModuleType, options: Mapping[str, object]) -> None:
        self.card, self.layout = replace(card, options=options), layout
        self.names = card.folders or (card.name,)
        self.markers = (
            list(layout.markers(options))
            if hasattr(layout, "markers")
            else [marker.format(**options) for marker in layout.MARKERS]
        )
        if card.split_file is not None:
            if find_split_file(card, None) is None:  # it is in the dataset's folder, or nowhere
                self.markers = [card.split_file]
            elif hasattr(layout, "markers") or any(
                "{" in marker for marker in layout.MARKERS
            ):  # what the markers name is not read
                self.markers = []

    def marked(self, folder: Path) -> bool:
        """Whether the layout's own files are there."""
        return bool(self.markers) and all(lies(self.layout, folder, marker).exists() for marker in self.markers)

    def holds(self, folder: Path) -> bool:
        """Whether a folder looks like the dataset, by its layout's own judgement; never an error."""
        if self.marked(folder) or _is_mini_of(folder, self.card):
            return True
        look = getattr(self.layout, "holds", None)
        if look is None:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return look(folder, self.card)
            except (EvarError, OSError):
                return False


_CERTAIN, _BY_NAME, _BY_LOOK = range(3)


def _matches(folder: Path, signs: _Signs) -> tuple[int, list[Path]]:
    """The dataset roots at `folder` or one level below, from the best kind of evidence that there is, and its rank."""
    if signs.marked(folder):
        return _CERTAIN, [folder]
    names = signs.names
    is_named = folder.resolve().name in names
    by_name = [folder / name for name in names if (folder / name).is_dir()]
    below = [path for path in by_name if signs.holds(path)]
    if signs.holds(folder):
        return (_BY_NAME if is_named else _BY_LOOK), [folder, *below]
    part = next((path for path in by_name if _is_one_of_the_parts(path)), None)
    if part is not None:
        raise EvarError(
            f"{signs.card.name}: {folder} holds other parts of a split beside {part.name}, so that it is not certain which "
            f"of the two is the dataset; choose with --data {signs.card.name}={folder} or --data {signs.card.name}={part}"
        )
    if below:
        return _CERTAIN, below
    try:
        inside = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise EvarError(f"cannot read {folder}: {error.strerror}") from None
    by_markers = [path for path in inside if signs.marked(path) and not _is_mini_of_another(path, signs.card)]
    if by_markers:
        return _CERTAIN, by_markers
    return _BY_NAME, by_name or ([folder] if is_named else [])


def _is_one_of_the_parts(folder: Path) -> bool:
    """Whether a folder is called as a part or fold is, and lies beside another such."""

    def is_part(name: str) -> bool:
        return part_words.part_of(name) is not None or re.fullmatch(r"fold[ _-]?\d+", name.lower()) is not None

    return is_part(folder.name) and any(
        is_part(entry.name) and entry.name != folder.name
        for entry in os.scandir(folder.absolute().parent)
        if entry.is_dir()
    )


def _say_what_lies_beside(folder: Path, card: Card) -> None:
    """A part that was chosen as the dataset is read alone: say so, where other parts lie beside it."""
    with contextlib.suppress(OSError):
        if _is_one_of_the_parts(folder):
            warnings.warn(
                f"{card.name}: {folder} is read alone: other parts lie beside it in {folder.absolute().parent}; if that is "
                f"the dataset, give --data {card.name}={folder.absolute().parent}"
            )


def _is_mini_of(folder: Path, card: Card) -> bool:
    return (folder / SYNTHETIC_FILE).exists() and not _is_mini_of_another(folder, card)


def _is_mini_of_another(folder: Path, card: Card) -> bool:
    """Minis of several cards of one layout may lie side by side."""
    try:
        return json.loads((folder / SYNTHETIC_FILE).read_text(encoding="utf-8"))["card"] != card.name
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _identity(folder: Path) -> tuple[int, int]:
    """The same for every name of one folder: links, and other cases on file systems that ignore case."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _list_not_found(card: Card, layout: ModuleType, markers: list[str], folder: Path) -> EvarError | None:
    """What to say of a folder that was given, and has other lists than the card of a dataset of one's own names."""
    if card.is_official or not markers or not (card.split_file or hasattr(layout, "markers")):
        return None
    beside = card.path.parent if card.path else folder
    absent = [name for name in markers if not (folder / name).exists() and not (beside / name).exists()]
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return None
    tables = [name for name in names if name.lower().endswith((".csv", ".tsv"))]
    if not absent or not (tables or card.split_file):
        return None
    there = f"there are {', '.join(tables[:6])}{', ...' if len(tables) > 6 else ''}" if tables else "there is no csv"
    if len(tables) == 1:
        there = f"there is {tables[0]}"
    if card.split_file:
        way = f"name the list by `split_file: {tables[0] if len(tables) == 1 else 'NAME'}`"
    else:
        way = f"name the list by `options: {{file: {_suggested(card, tables)}}}`"
    return EvarError(
        f"{card.name}: {' and '.join(absent)} not found in {folder}, nor beside the card; {there}; {way} in "
        f"{card.path or card.name}, or give the dataset's own folder with --data {card.name}=DIR"
    )


def _suggested(card: Card, tables: list[str]) -> str:
    """The value of the option `file`: the one list, or one for each part or fold where their names say which is which."""
    if len(tables) == 1:
        return tables[0]
    meaning = part_words.fold_number if card.split == "folds" else part_words.part_of
    named = {part: name for name in tables if (part := meaning(Path(name).stem)) is not None}
    wanted = [k for k in (range(1, card.folds + 1) if card.folds else part_words.PARTS) if k in named]
    enough = len(wanted) == card.folds if card.folds else {"train", "test"} <= named.keys()
    word = "fold{}" if card.folds else "{}"  # a bare number is no text in YAML
    return f"{{{', '.join(f'{word.format(part)}: {named[part]}' for part in wanted)}}}" if enough else "NAME"


def _not_found(card: Card, markers: list[str], tried: list[Path]) -> EvarError:
    names = " or ".join(card.folders or (card.name,))
    looked_for = f"a folder {names}" + (f", or one that holds {' and '.join(markers)}" if markers else "")
    ways = [f"give it with --data DIR or --data {card.name}=DIR"]
    if card.fetch:
        ways.append(f"get it with `evar data fetch {card.name}`")
    if card.bring:
        ways.append(f"bring it ({card.bring.strip().rstrip('.')})")
    ways.append(f"make a small synthetic stand-in with `evar data mini {card.name}`")
    where = ", ".join(dict.fromkeys(str(path.absolute()) for path in tried))
    return EvarError(f"{card.name}: no dataset found in {where}; looked for {looked_for}; {'; '.join(ways)}")
