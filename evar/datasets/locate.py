"""Where a task's dataset lies: the `--data` values, then `EVAR_DATA`, then `./data`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from evar.datasets.card import Card, find_split_file
from evar.datasets.tables import SYNTHETIC_FILE
from evar.errors import EvarError


def locate(card: Card, layout: ModuleType, options: Mapping[str, object], data: Sequence[str] = ()) -> Path:
    """The dataset folder of `card`.

    Each value of `data` is a dataset root, the parent folder of one, or `TASK=DIR` (which settles it for that task).
    A root is recognised by the layout's markers, or one level below a parent by the card's folder names first and the
    markers second. Places are tried in turn: `data`, `EVAR_DATA` (split at os.pathsep), `./data`; the first with a
    match wins. Raises EvarError: two different matches in one place, none anywhere, a value that is not a folder.
    """
    named, general = _split_values(card, data)
    if len(named) > 1:
        raise EvarError(f"{card.name}: two folders are given: {' and '.join(map(str, named))}; keep one")
    if named:
        return named[0]
    markers = _markers(card, layout, options)
    from_environment = [Path(p) for p in os.environ.get("EVAR_DATA", "").split(os.pathsep) if p]
    default = [Path("data")] if Path("data").is_dir() else []
    for origin, folders in (("--data", general), ("EVAR_DATA", from_environment), ("./data", default)):
        found: dict[tuple[int, int], Path] = {}
        for folder in folders:
            if not folder.is_dir():
                raise EvarError(
                    f"{origin} {folder} is not a folder; give a dataset's folder or the folder that holds it"
                )
            for match in _matches(folder, card, markers):
                found.setdefault(_identity(match), match)
        if len(found) > 1:
            listed = " and ".join(map(str, found.values()))
            raise EvarError(f"{card.name}: more than one folder matches: {listed}; choose with --data {card.name}=DIR")
        if found:
            return next(iter(found.values()))
    raise _not_found(card, markers, [*general, *from_environment, Path("data")])


def _split_values(card: Card, data: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The folders that are given for this very task, and those for any task."""
    named: dict[tuple[int, int], Path] = {}
    general = []
    for value in map(os.fspath, data):
        task, equals, folder = value.partition("=")
        if not equals or not re.fullmatch(r"[\w.-]+", task) or Path(value).exists():
            general.append(Path(value).expanduser())
        elif task == card.name:
            path = Path(folder).expanduser()
            if not path.is_dir():
                raise EvarError(f"--data {value}: {path} is not a folder")
            named.setdefault(_identity(path), path)
    return list(named.values()), general


def _markers(card: Card, layout: ModuleType, options: Mapping[str, object]) -> list[str]:
    """The layout's markers, with `{option}` filled in; a split file in the data root marks it too."""
    if card.split_file is not None and find_split_file(card, None) is None:
        return [card.split_file]
    if hasattr(layout, "markers"):
        return list(layout.markers(options))
    return [marker.format(**options) for marker in layout.MARKERS]


def _matches(folder: Path, card: Card, markers: list[str]) -> list[Path]:
    """The dataset roots at `folder` or one level below, from the best kind of evidence that there is."""

    def marked(path: Path) -> bool:
        return bool(markers) and all((path / marker).exists() for marker in markers)

    if marked(folder):
        return [folder]
    names = card.folders or (card.name,)
    by_name = [folder / name for name in names if (folder / name).is_dir()]
    marked_by_name = [path for path in by_name if marked(path)]
    if marked_by_name:
        return marked_by_name
    try:
        below = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise EvarError(f"cannot read {folder}: {error.strerror}") from None
    by_markers = [path for path in below if marked(path) and not _is_mini_of_another(path, card)]
    return by_markers or by_name or ([folder] if folder.resolve().name in names else [])


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
