"""What a run is made of: its settings, the names it is given, and the identity of one cell (encoder × task × protocol)."""

from __future__ import annotations

import fnmatch
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, nearest, unknown
from evar.words import is_path, is_path_after, split_words

if TYPE_CHECKING:
    from evar.encoders.registry import Entry

NORMS = ("auto", "weights", "task")
PRECISIONS = ("fp32", "bf16")
DURATIONS = ("card", "native")


@dataclass(frozen=True)
class Settings:
    """How cells are measured; the same words as the options of `evar run`.

    data: dataset roots, their parents, or `task=DIR`. seeds: None takes the protocol's. norm: which log-mel statistics
    an encoder is given: `weights` (those in its file), `task` (the task's training clips), `auto` (as the protocol says).
    duration: `card` cuts or zero-pads every clip to the card's seconds, `native` keeps lengths.
    device: one, or several by commas; the first also probes. precision and compile: how the encoder computes.
    train_fraction (0-1) and shots (clips per class) thin the training clips; limit keeps a stratified subset of all clips.
    """

    data: tuple[str, ...] = ()
    tasks_dir: str | None = None
    weights: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    probe: tuple[str, ...] = ("fair",)
    seeds: tuple[int, ...] | None = None
    layers: str | None = None
    pooling: str | None = None
    norm: str = "auto"
    duration: str = "card"
    batch: int | None = None
    results: str = "results"
    embeddings: str = "embeddings"
    train_fraction: float | None = None
    shots: int | None = None
    limit: int | None = None
    partial: bool = False
    skip_bad: bool = False
    mini: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, field.type, getattr(self, field.name))
        words = ("norm", NORMS), ("duration", DURATIONS), ("precision", PRECISIONS)
        for name, value, options in ((name, getattr(self, name), options) for name, options in words):
            if value not in options:
                raise unknown(name, str(value), options)
        if self.train_fraction is not None and not 0 < self.train_fraction <= 1:
            raise EvarError(f"train_fraction: expected a number in (0, 1], found {self.train_fraction}")
        for name, value in (("shots", self.shots), ("limit", self.limit), ("batch", self.batch)):
            if value is not None and value < 1:
                raise EvarError(f"{name}: expected a whole number of at least 1, found {value}")
        if self.shots is not None and self.train_fraction is not None:
            raise EvarError("train_fraction and shots exclude each other: give one of them")

    @classmethod
    def of(cls, **options: Any) -> Settings:
        """Settings from keyword options (lists become tuples, None means the default); EvarError for an unknown one."""
        kinds = {field.name: field for field in fields(cls)}
        given = {}
        for name, value in options.items():
            if name not in kinds:
                near = nearest(name, kinds)
                raise EvarError(f"unknown option {name!r}" + (f"; did you mean {near!r}?" if near else ""))
            if value is None:
                continue
            if name in ("data", "probe") and not isinstance(value, (str, Path, list, tuple)):
                raise EvarError(f"{name}: expected text or a list, found {value!r}")
            if name in ("data", "probe") and isinstance(value, str):
                value = split_words(value, lambda text: is_path(text) or is_path_after("=")(text))
            elif name in ("data", "probe") and isinstance(value, Path):
                value = [value]
            if name == "seeds":
                value = parse_seeds(value)
            if isinstance(value, (list, tuple)):
                value = tuple(value if name == "seeds" else map(str, value))
            given[name] = str(value) if isinstance(value, Path) else value
        return cls(**given)


def _check_type(name: str, kind: str, value: Any) -> None:
    """EvarError unless an option has the type of its field: a grid file can hold anything."""
    if value is None and kind.endswith("| None"):
        return
    kinds = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    wanted = kinds.get(kind.split(" ")[0])
    if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
        raise EvarError(f"{name}: expected {kind.split(' ')[0]}, found {value!r}")
    if name in ("results", "embeddings") and not value.strip():
        raise EvarError(f"{name}: expected a folder, found an empty name")


def parse_seeds(value: str | int | Iterable[int]) -> tuple[int, ...]:
    """`"42,43"`, `42` or `[42, 43]` -> (42, 43); EvarError otherwise."""
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    try:
        seeds = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        raise EvarError(f"seeds: expected whole numbers such as 42,43,44, found {value!r}") from None
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        raise EvarError(f"seeds: expected distinct whole numbers from 0 to 4294967295, found {value!r}")
    return seeds


def split_encoders(names: str | Sequence[Any] | Any) -> list[Any]:
    """Encoder words as a list: a text is split at its commas, but not within a path that is there (`byola-v2@lr=1,bs=2/x.pth`).

    The items of a list (of a grid file, of Python) are words as they stand; objects (an Encoder, a class) pass.
    Raises EvarError for a text that can be read in two ways, and for one whose path is not there.
    """
    if not isinstance(names, str):
        return _listed(
            names, "encoder", lambda word: "," not in _path_of(word) and all(map(_may_be_encoder, word.split(",")))
        )
    words = split_words(names, _is_one_encoder)
    for i, word in enumerate(words):
        before, path = words[i - 1] if i else "", _path_of(word)
        if "," in path:
            pieces = word.split(",")
            if is_path(_path_of(pieces[0])) and all(map(_may_be_encoder, map(str.strip, pieces[1:]))):
                raise EvarError(
                    f"{word} can be read in two ways, as one encoder and as {len(pieces)}: {_path_of(pieces[0])} and {path} "
                    f"are both there; {_AS_AN_ITEM}, or --weights"
                )
        elif i and _path_of(before) and not is_path(_path_of(before)) and not _may_be_encoder(word):
            raise EvarError(
                f"{word!r} is no encoder, and {_path_of(before)},{word} is no file or folder that is there: a path with a "
                f"comma is kept whole where it exists; is it right? Else {_AS_AN_ITEM}, or --weights"
            )
    return words


def split_tasks(names: str | Sequence[Any] | Any) -> list[Any]:
    """Task words as a list: a text is split at its commas, but not within the path of a card that is there.

    The items of a list are words as they stand. Raises EvarError for a path that is not there, cut at its comma.
    """
    if not isinstance(names, str):
        return _listed(names, "task", lambda word: not word.endswith(_CARDS))
    words = split_words(names, lambda text: text.endswith(_CARDS) and is_path(text))
    for before, word in itertools.pairwise(words):
        if os.sep in before and not before.endswith(_CARDS) and word.endswith(_CARDS) and not is_path(word):
            raise EvarError(
                f"task card not found: {before},{word}; a path with a comma is kept whole where it exists; is it right? "
                f"Else {_AS_AN_ITEM}"
            )
    return words


_CARDS = (".yaml", ".yml")
_AS_AN_ITEM = "give it as an item of a list in a grid file"


def _listed(names: Any, kind: str, is_several: Callable[[str], bool]) -> list[Any]:
    """The items of a list (of lists), none split; EvarError for an item that can only be meant as several."""
    found = []
    for name in names if isinstance(names, (list, tuple)) else [names]:
        if isinstance(name, (list, tuple)):
            found += _listed(name, kind, is_several)
            continue
        name = name.strip() if isinstance(name, str) else name
        if isinstance(name, str) and "," in name and is_several(name):
            items = ", ".join(repr(word.strip()) for word in name.split(","))
            raise EvarError(f"{name!r}: an item of a list is one {kind}: write {items} as items of their own")
        found += [] if isinstance(name, str) and not name else [name]
    return found


def _is_one_encoder(text: str) -> bool:
    """Whether a text with commas names an encoder whose path, with the comma in it, is there."""
    path = _path_of(text)
    return "," in path and is_path(path)


def _path_of(word: str) -> str:
    """What may be a path in an encoder word: what follows its first `@`, else its scheme; "" where there is neither."""
    before, _, path = word.partition("@") if "@" in word else word.partition(":")
    return "" if "," in before else path.strip()


def _may_be_encoder(word: str) -> bool:
    """Whether a word has the form of an encoder's name: registered, of a scheme, or a glob."""
    from importlib.metadata import entry_points

    from evar.encoders.registry import ENTRY_POINTS, list_encoders, parse

    try:
        parsed = parse(word)
    except EvarError:
        return False
    known = parsed.scheme or parsed.name in list_encoders() or _is_glob(parsed.name)
    return bool(known) or parsed.name in {point.name for point in entry_points(group=ENTRY_POINTS)}


def expand_encoders(names: str | Sequence[Any] | Any) -> list[Any]:
    """Encoder words to encoder names: commas and globs (`byola-v1-*`, `random:byola-*`) over the registry.

    Raises EvarError when nothing is named, or a glob matches nothing.
    """
    from evar.encoders.registry import list_encoders

    found: list[Any] = []
    for name in split_encoders(names):
        scheme, _, pattern = name.rpartition(":") if isinstance(name, str) else ("", "", "")
        # Only registered names are matched: paths and handles (hf:, tfhub:, NAME@FILE) may hold these characters.
        if isinstance(name, str) and _is_glob(pattern) and scheme in ("", "random") and "@" not in name:
            matches = [
                f"{scheme}:{key}" if scheme else key
                for key, entry in list_encoders().items()
                if fnmatch.fnmatchcase(key, pattern) and not (scheme and _has_no_untrained_form(entry))
            ]
            if not matches:
                raise EvarError(f"no encoder matches {name!r}: 'evar encoders' lists them")
            found += matches
        else:
            found.append(name)
    if not found:
        raise EvarError("no encoder named: 'evar encoders' lists them")
    return _unique(found)


def expand_tasks(names: str | Sequence[Any] | Any, tasks_dir: str | None = None) -> list[Any]:
    """Task words to task names: commas, suites (`paper9`), globs (`pack-*`), card files (`PATH.yaml`), Task objects.

    Raises EvarError when nothing is named, or a glob matches nothing.
    """
    from evar.datasets import list_cards, list_suites

    suites = list_suites(tasks_dir)
    found: list[Any] = []
    for name in split_tasks(names):
        if isinstance(name, str) and name in suites:
            found += suites[name]
        elif isinstance(name, str) and _is_glob(name) and not name.endswith((".yaml", ".yml")):
            matches = [card for card in list_cards(tasks_dir) if fnmatch.fnmatchcase(card, name)]
            if not matches:
                raise EvarError(f"no task matches {name!r}: 'evar tasks' lists them")
            found += matches
        else:
            found.append(name)
    if not found:
        raise EvarError("no task named: 'evar tasks' lists them")
    return _unique(found)


def _has_no_untrained_form(entry: Entry) -> bool:
    return entry.weights in ("none", "bundled") or not entry.untrained


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _unique(items: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for item in items:
        if not any(item is other or (isinstance(item, str) and item == other) for other in kept):
            kept.append(item)
    return kept
