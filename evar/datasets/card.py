"""Task cards: one YAML file per task, validated into a frozen `Card` (schema: docs/architecture.md).

`find_card("esc50")` looks in `--tasks-dir`, `EVAR_TASKS`, `./tasks` and then at the shipped cards; `PATH.yaml` stands
wherever a name does. A card that hides a shipped one of another content warns (`Card.shadows`).
"""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evar.datasets import card_values as values
from evar.datasets.part_words import part_of
from evar.errors import EvarError, nearest, unknown
from evar.files import digest

SUITES_FILE = "suites.yaml"
_RESTORE = re.compile(
    r"restore (?:the official (?:files?|lists?|folder|split)|the list|it)(?:, or write a card [^;]*)?"
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Download:
    """One entry of `fetch:`. `unpack` is zip, tar.gz or none; `into` is a folder relative to the data root."""

    url: str
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    unpack: str = "none"
    into: str = "."


@dataclass(frozen=True)
class Card:
    """A validated task card. `path` is its file; `shadows` is the shipped card of the same name that it hides."""

    name: str
    seconds: float
    split: str
    layout: str
    version: int = 1
    base: str | None = None
    title: str = ""
    asks: str = ""
    metric: str = "accuracy"
    multilabel: bool = False
    folds: int | None = None
    group: str | None = None
    groups_disjoint: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    classes: int | tuple[str, ...] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    fetch: tuple[Download, ...] = ()
    bring: str | None = None
    licence: str | None = None
    citation: str | None = None
    homepage: str | None = None
    corpora: tuple[str, ...] = ()
    paper: Mapping[str, Any] = field(default_factory=dict)
    split_file: str | None = None
    path: Path | None = None
    shadows: Path | None = None

    @property
    def n_classes(self) -> int | None:
        """The number of classes, or None where the card leaves it to the training part."""
        return len(self.classes) if isinstance(self.classes, tuple) else self.classes

    @property
    def is_official(self) -> bool:
        """Whether evar ships this card: what it promises of a dataset is the publisher's, and can be restored."""
        return self.path is not None and self.path.resolve().parent == _shipped()

    def in_its_words(self, error: EvarError) -> EvarError:
        """An error about the card's data; of a user's own nothing official can be restored: it is to be corrected."""
        if self.is_official:
            return error
        return EvarError(_RESTORE.sub(f"correct it there, or the card ({self.path})", str(error)))

    @property
    def sha(self) -> str:
        """SHA-256 (hex) of everything the card says, wherever its file lies."""
        said = asdict(self)
        del said["path"], said["shadows"]
        return digest(said)


def find_card(name: str | os.PathLike, tasks_dir: str | os.PathLike | None = None) -> Card:
    """The card called `name`, or the card in the file `name` when that is a `.yaml` path.

    Raises EvarError: unknown name (suggests the nearest), unreadable or invalid card. Warns of a hidden shipped one.
    """
    name = os.fspath(name)
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise _no_such_card(name, tasks_dir)
    else:
        path = _look_up(name, _folders(tasks_dir))
        if path is None and (cards := _cards_called(name, tasks_dir)):
            raise EvarError(
                f"unknown task {name!r}; did you mean {_or(cards)}? (a path that ends in .yaml is a card file)"
            )
        if path is None:
            raise unknown("task", name, _stems(tasks_dir), "(`evar tasks` lists all; a card of your own: PATH.yaml)")
    return _warn_of_shadow(_read_card(path, tasks_dir))


def list_cards(tasks_dir: str | os.PathLike | None = None) -> dict[str, Card]:
    """All cards by name, sorted; of two with one name the first in look-up order. Imports neither torch nor pandas.

    A broken card in `--tasks-dir` or among the shipped ones is an EvarError; one that lies in `EVAR_TASKS` or `./tasks`
    (which may be a folder of another program) is left out with a warning.
    """
    trusted = {_shipped(), _folder_of(tasks_dir)}
    cards: dict[str, Card] = {}
    for name, path in _stems(tasks_dir).items():
        try:
            cards[name] = _warn_of_shadow(_read_card(path, tasks_dir))
        except EvarError as error:
            if path.parent in trusted:
                raise
            warnings.warn(f"left out: {error}")
    return cards


def list_suites(tasks_dir: str | os.PathLike | None = None) -> dict[str, tuple[str, ...]]:
    """Suites of tasks (`paper9`, ...): name -> task names, from each look-up folder's `suites.yaml`, first one wins."""
    suites: dict[str, tuple[str, ...]] = {}
    for folder in _folders(tasks_dir):
        path = folder / SUITES_FILE
        if path.is_file():
            for name, tasks in values.read_yaml(path).items():
                suites.setdefault(name, values.strings(tasks, f"{path}: {name!r}"))
    return suites


def find_split_file(card: Card, root: Path | None) -> Path | None:
    """The card's `split_file`: beside the card, beside the shipped cards, or in the data root; else None.

    A list that ships is not replaced by one in the data; a synthetic stand-in brings its own. Warns where the data root
    holds another list than the one that is taken.
    """
    if card.split_file is None:
        return None
    folders = [card.path.parent if card.path else None, _shipped(), root]
    if root and (root / "EVAR_SYNTHETIC.json").exists():
        folders.insert(0, root)
    there = [path for folder in folders if folder and (path := folder / card.split_file).is_file()]
    in_data = there[-1] if len(there) > 1 and root and there[-1] == root / card.split_file else None
    if in_data and there[0].read_bytes() != in_data.read_bytes():
        warnings.warn(
            f"{card.name}: there are two lists {card.split_file}, and they differ: {there[0]} is taken, {in_data} is not; "
            "remove one of the two, or name one of them otherwise"
        )
    return there[0] if there else None


# --- look-up ---------------------------------------------------------------------------------------------------------


def _shipped() -> Path:
    """The folder of the packaged cards (`evar._cards`), or the checkout's `tasks/`."""
    spec = find_spec("evar._cards")
    for place in spec.submodule_search_locations if spec else ():
        if Path(place).is_dir():
            return Path(place).resolve()
    return Path(__file__).resolve().parents[2] / "tasks"


def _folder_of(tasks_dir: str | os.PathLike | None) -> Path | None:
    if tasks_dir is None:
        return None
    if not Path(tasks_dir).is_dir():
        raise EvarError(f"--tasks-dir {os.fspath(tasks_dir)} is not a folder; give a folder of task cards (*.yaml)")
    return Path(tasks_dir).resolve()


def _folders(tasks_dir: str | os.PathLike | None) -> list[Path]:
    """The folders of cards in look-up order, each once."""
    named = [_folder_of(tasks_dir)]
    named += [Path(entry).resolve() for entry in os.environ.get("EVAR_TASKS", "").split(os.pathsep) if entry]
    named += [Path("tasks").resolve(), _shipped()]
    return [folder for folder in dict.fromkeys(named) if folder is not None and folder.is_dir()]


_NEAR = 2  # folders deep, below the working directory and --tasks-dir, that a card is looked for in to be named


def _no_such_card(name: str, tasks_dir: str | os.PathLike | None) -> EvarError:
    stem = Path(name).stem
    if cards := _cards_called(stem, tasks_dir):
        return EvarError(f"task card not found: {name}; did you mean {_or(cards)}?")
    if stem in _stems(tasks_dir):
        return EvarError(f"task card not found: {name}; did you mean the task {stem!r}?")
    near = nearest(Path(name).name, [path.name for path in Path(name).parent.glob("*.y*ml")])
    if near:
        return EvarError(f"task card not found: {name}; did you mean {Path(name).with_name(near)}?")
    return EvarError(f"task card not found: {name}; give the name of a task (`evar tasks`) or an existing card")


def _cards_called(name: str, tasks_dir: str | os.PathLike | None) -> list[str]:
    """Files NAME.yaml and NAME.yml that lie near the user (nearest first), as one would type them."""
    stem = Path(name).name
    if not stem or not NAME.fullmatch(stem):
        return []
    starts = [Path(name).parent, Path(), *([Path(tasks_dir)] if tasks_dir is not None else [])]
    found: dict[Path, str] = {}
    for start in starts:
        for depth in range(_NEAR + 1):
            for suffix in (".yaml", ".yml"):
                for path in sorted(start.glob("*/" * depth + glob.escape(stem) + suffix)):
                    if path.is_file() and not any(part.startswith(".") and part != ".." for part in path.parts):
                        text = path.as_posix()
                        found.setdefault(path.resolve(), text if path.is_absolute() or "/" in text else f"./{text}")
    return list(found.values())[:3]


def _or(names: list[str]) -> str:
    return " or ".join(names)


def _stems(tasks_dir: str | os.PathLike | None) -> dict[str, Path]:
    """Card name -> file, sorted by name, the first folder winning."""
    found: dict[str, Path] = {}
    for folder in _folders(tasks_dir):
        for entry in os.listdir(folder):
            if entry.endswith(".yaml") and entry != SUITES_FILE and not entry.startswith("."):
                found.setdefault(entry.removesuffix(".yaml"), folder / entry)
    return dict(sorted(found.items()))


def _look_up(name: str, folders: list[Path]) -> Path | None:
    if not NAME.fullmatch(name) or f"{name}.yaml" == SUITES_FILE:
        return None
    return next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)


def _warn_of_shadow(card: Card) -> Card:
    """Note (and warn) when a shipped card of this name says something else."""
    shipped = _look_up(card.name, [_shipped()])
    if shipped is None or card.path is None or shipped == card.path.resolve() or _read_card(shipped).sha == card.sha:
        return card
    warnings.warn(f"{card.path} hides the shipped card {card.name!r}; give it a name of its own unless that is meant")
    return Card(**{f.name: getattr(card, f.name) for f in fields(card)} | {"shadows": shipped})


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_card(path: Path, tasks_dir: str | os.PathLike | None = None) -> Card:
    stated = _with_base(path, tasks_dir, ())
    return _card(stated, path)


def _with_base(path: Path, tasks_dir: str | os.PathLike | None, children: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of the card in `path`, over those of its base; the base is looked for beside the card first."""
    stated = values.read_yaml(path)
    for key in stated:
        if key not in _RULES:
            raise EvarError(f"{path}: {unknown('key', key, _RULES)}")
    name = stated.get("name")
    if name != path.stem:
        raise EvarError(
            f"{path}: name is {name!r}, expected {path.stem!r}, as the file is called; rename one of the two"
        )
    base = stated.get("base")
    if base is None:
        return stated
    if path in children:
        chain = " -> ".join(child.stem for child in (*children, path))
        raise EvarError(f"{path}: base goes round in a circle: {chain}")
    folders = [path.parent.resolve(), *_folders(tasks_dir)]
    found = _look_up(values.string(base, f"{path}: 'base'"), folders)
    if found is None:
        raise EvarError(f"{path}: base: {unknown('task', base, [*_stems(tasks_dir), *_names_in(path.parent)])}")
    return _with_base(found, tasks_dir, (*children, path)) | stated


def _names_in(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("*.yaml") if path.name != SUITES_FILE]


def _card(stated: dict[str, Any], path: Path) -> Card:
    """Check every value's type, then what the keys say together. A key that is null is a key that is not given."""
    given = {key: _RULES[key](value, f"{path}: {key!r}") for key, value in stated.items() if value is not None}
    for key in ("seconds", "split", "layout"):
        if key not in given:
            raise EvarError(f"{path}: key {key!r} is missing; a card (or its base) gives seconds, split, layout")
    if not NAME.fullmatch(given["name"]):
        raise EvarError(f"{path}: name {given['name']!r} may hold letters, digits, '.', '_' and '-' only")
    if (given["split"] == "folds") != ("folds" in given):
        raise EvarError(f"{path}: 'folds' (a number) goes with 'split: folds' and with nothing else")
    if given.get("multilabel", False) != (given.get("metric", "accuracy") == "mAP"):
        raise EvarError(f"{path}: 'metric: mAP' goes with 'multilabel: true', 'metric: accuracy' with one label")
    allowed = [f"fold{k}" for k in range(1, given.get("folds", 0) + 1)] or ["train", "valid", "test"]
    for key in given.get("counts", {}):
        if key not in ("clips", *allowed):
            meant = part_of(key)
            if meant in allowed:
                raise EvarError(
                    f"{path}: 'counts': unknown count {key!r}; did you mean {meant!r}? (so evar calls that part)"
                )
            raise EvarError(f"{path}: 'counts': {unknown('count', key, ['clips', *allowed])}")
    if "group" not in given and given.get("groups_disjoint"):
        raise EvarError(f"{path}: 'groups_disjoint: true' needs 'group' (what a group is)")
    if "group" not in given and "groups_disjoint" in given:
        raise EvarError(
            f"{path}: 'groups_disjoint: false' has no effect without 'group' (what a group is): give it, or remove "
            "'groups_disjoint'"
        )
    given.setdefault("groups_disjoint", "group" in given)
    given.setdefault("title", given["name"])
    return Card(**given, path=path)


def _downloads(value: Any, where: str) -> tuple[Download, ...]:
    entries = []
    for i, entry in enumerate(values.listed(value, where)):
        here = f"{where}[{i}]"
        for key in values.mapping(entry, here):
            if key not in _DOWNLOAD_RULES:
                raise EvarError(f"{here}: {unknown('key', key, _DOWNLOAD_RULES)}")
        if not entry.get("url"):
            raise EvarError(f"{here}: 'url' is missing")
        given = {k: _DOWNLOAD_RULES[k](v, f"{here}: {k!r}") for k, v in entry.items() if v is not None}
        entries.append(Download(**given))
    return tuple(entries)


_RULES = {
    "name": values.string,
    "version": values.whole(1),
    "base": values.string,
    "title": values.string,
    "asks": values.string,
    "seconds": values.positive,
    "metric": values.one_of("accuracy", "mAP"),
    "multilabel": values.flag,
    "split": values.one_of("folds", "parts"),
    "folds": values.whole(2),
    "group": values.string,
    "groups_disjoint": values.flag,
    "layout": values.string,
    "options": values.plain_mapping,
    "folders": values.relative_paths,
    "classes": values.classes,
    "counts": values.counts,
    "lists": values.checksums,
    "fetch": _downloads,
    "bring": values.string,
    "licence": values.string,
    "citation": values.string,
    "homepage": values.string,
    "corpora": values.strings,
    "paper": values.paper,
    "split_file": values.relative_path,
}
_DOWNLOAD_RULES = {
    "url": values.link,
    "bytes": values.whole(1),
    "md5": values.hexadecimal(32),
    "sha256": values.hexadecimal(64),
    "unpack": values.one_of("zip", "tar.gz", "none"),
    "into": values.relative_path,
}
