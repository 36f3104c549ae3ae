"""A tree of class folders, with or without parts above them: its clips, and what is left out, refused or said."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from evar.audio import listing
from evar.audio.listing import Listing, counted, list_audio, shortened
from evar.audio.pointers import missing_link
from evar.datasets.own_values import near_names
from evar.datasets.tables import SYNTHETIC_FILE, without_extension
from evar.errors import EvarError, unknown


class ClassFolders:
    """What lies below the root of a dataset of class folders: clips by path, and what is not taken, with the reason.

    clips: posix paths relative to the root, sorted, links without a target among them (clips that are missing). tops: the
    folders in the root that hold clips. depth: names from the root to a class folder. leave_out: folders not to be read.
    Raises EvarError where something that may hold clips cannot be read, and where one folder is two classes or parts.
    """

    def __init__(self, root: Path, task: str, depth: int, leave_out: Sequence[str] = ()) -> None:
        self.root, self.task, self.depth = root, task, depth
        self._notes: list[str] = []
        self._out = tuple(name.strip("/") for name in leave_out)
        self.listing: Listing = list_audio(root)
        self._check_left_out()
        self._refuse_what_is_shut()
        left = self.listing.left_out
        named = {without_extension(name) for name in self.listing.files}
        foreign = [name for name in left.get(listing.FOREIGN, ()) if os.path.splitext(name)[0] not in named]
        self._twins = sorted(self.kept(set(left.get(listing.FOREIGN, ())) - set(foreign)))
        gone = [
            name
            for name in left.get(listing.BROKEN, ())
            if listing.is_audio(_last(name)) or listing.is_foreign(_last(name))
        ]
        self.clips = sorted(self.kept([*self.listing.files, *foreign, *gone]))
        self._below: dict[str, list[str]] = {}
        for top, slash, rest in (name.partition("/") for name in self.clips):
            if slash:
                self._below.setdefault(top, []).append(rest)
        self.tops = sorted(self._below)

    def below(self, top: str) -> list[str]:
        """The clips below one of `tops`, relative to it."""
        return self._below[top]

    def rows(self, prefixes: dict[str, str]) -> list[tuple[str, str, str]]:
        """(path, label, part) of the clips below the folders `prefixes` ("": the root itself); others are noted."""
        rows, loose, outside, held = [], [], [], set()
        order = sorted(prefixes, key=len, reverse=True)
        for path in self.clips:
            prefix = next((one for one in order if not one or path.startswith(f"{one}/")), None)
            if prefix is None:
                (outside if "/" in path else loose).append(path)
                continue
            label, slash, _ = path[len(prefix) + 1 if prefix else 0 :].partition("/")
            if slash:
                held.add(f"{prefix}/{label}" if prefix else label)
                rows.append((path, unicodedata.normalize("NFC", label).strip(), str(prefixes[prefix])))
            else:
                loose.append(path)
        self.note("audio files in no class folder", loose)
        self.note("audio files in folders that are no part", outside)
        empty = [
            name for name in self.listing.folders if name and name.rpartition("/")[0] in prefixes and name not in held
        ]
        self.note("class folders without audio", [name for name in self.kept(empty) if name not in prefixes])
        self._near_names({label for _, label, _ in rows})
        return rows

    def say(self) -> None:
        """One warning for all that is not taken, and one for what was read under another name."""
        left = {kind: tuple(self.kept(names)) for kind, names in self.listing.left_out.items()}
        audio = set(self.clips)
        left[listing.BROKEN] = tuple(name for name in left.get(listing.BROKEN, ()) if name not in audio)
        left[listing.OTHER] = tuple(name for name in left.get(listing.OTHER, ()) if name.count("/") >= self.depth)
        left[listing.FOREIGN] = ()
        self.note("audio files without a decoder, each beside one that can be decoded", self._twins)
        said = Listing(self.root, (), (), left).said()
        notes = [*self._notes, *([said.removeprefix("left out: ")] if said else [])]
        if notes:
            warnings.warn(f"{self.task}: {self.root}: left out: {', '.join(notes)}")

    def note(self, what: str, names: Sequence[str]) -> None:
        """Have `say` name what is left out."""
        if names:
            self._notes.append(f"{counted(what, len(names))} ({shortened(names)})")

    def _near_names(self, labels: set[str]) -> None:
        if alike := near_names(labels):
            warnings.warn(f"{self.task}: {self.root}: classes that differ in capitals only: {shortened(alike)}")

    def kept(self, names: Iterable[str]) -> list[str]:
        """The names that are not in `leave_out`, nor below a folder of it."""
        return [name for name in names if not any(name == out or name.startswith(f"{out}/") for out in self._out)]

    def _check_left_out(self) -> None:
        there = {*self.listing.folders, *(name for names in self.listing.left_out.values() for name in names)}
        absent = [name for name in self._out if name not in there]
        if absent and not (self.root / SYNTHETIC_FILE).exists():
            known = sorted(name for name in self.listing.folders if name)
            raise EvarError(
                f"{self.task}: 'options': 'leave_out': {unknown('folder', absent[0], known)} in {self.root}"
            )

    def _refuse_what_is_shut(self) -> None:
        """EvarError for what may hold clips and cannot be read, and for one folder under two parts or classes."""
        left = {kind: self.kept(names) for kind, names in self.listing.left_out.items()}
        way = "or leave it out with options: {{leave_out: [{}]}}"
        for name in left.get(listing.CLOSED, ()):
            raise EvarError(f"{self.task}: {self.root / name} cannot be read: give the right to, {way.format(name)}")
        for name in left.get(listing.BROKEN, ()):
            if name.count("/") < self.depth and not os.path.splitext(name)[1]:
                broken = missing_link(self.root / name)
                raise EvarError(f"{self.task}: {self.root / name} is {broken}; {way.format(name)}")
        for entry in left.get(listing.NAMELESS, ()):
            raise EvarError(
                f"{self.task}: {self.root}: the name {entry!r} is not UTF-8 or holds control characters: rename it"
            )
        for entry in left.get(listing.AGAIN, ()):
            name, _, first = entry.partition(" -> ")
            if name.count("/") < self.depth and first != "." and not name.startswith(f"{first}/"):
                raise EvarError(
                    f"{self.task}: {self.root}: {name} and {first} are one and the same folder: a clip would stand in "
                    f"two parts or classes; remove the link, {way.format(name)}"
                )


def _last(name: str) -> str:
    return name.rpartition("/")[2]
