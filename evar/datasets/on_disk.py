"""The file that a path means on this disk: the name itself, a stand-in of another audio format, another form of Unicode."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evar.datasets.tables import AUDIO_EXTENSIONS, clean, without_extension


@dataclass(frozen=True)
class _Names:
    """What a folder holds: names of files; audio files by name without extension, .wav before stand-ins; and both, and
    the folders, by how they are written in composed form, where that is not ambiguous."""

    files: frozenset[str] = frozenset()
    stand_ins: dict[str, str] | None = None
    alike: dict[str, str | None] | None = None
    stand_ins_alike: dict[str, str | None] | None = None
    folders_alike: dict[str, str | None] | None = None


class Folders:
    """The folders below a root, each listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, _Names] = {}
        self._there: dict[str, str | None] = {"": ""}

    def find(self, path: str) -> str | None:
        """The path of the file on the disk, relative to the root; None where there is none.

        An exact name comes first, then a stand-in; where there is neither, names that are the same text: in composed or
        decomposed Unicode (macOS), with a space at an end.
        """
        folder, _, name = path.rpartition("/")
        folder = self._folder(folder)
        if folder is None:
            return None
        names = self._listed(folder)
        stem = without_extension(name)
        found = name if name in names.files else (names.stand_ins or {}).get(stem)
        if found is None:
            found = (names.alike or {}).get(clean(name)) or (names.stand_ins_alike or {}).get(clean(stem))
        return None if found is None else _below(folder, found)

    def _folder(self, folder: str) -> str | None:
        if folder not in self._there:
            above, _, name = folder.rpartition("/")
            above = self._folder(above)
            if above is not None and (self._root / above / name).is_dir():
                self._there[folder] = _below(above, name)
            else:
                alike = None if above is None else (self._listed(above).folders_alike or {}).get(clean(name))
                self._there[folder] = None if alike is None else _below(above, alike)
        return self._there[folder]

    def _listed(self, folder: str) -> _Names:
        if folder not in self._names:
            self._names[folder] = _list(self._root / folder)
        return self._names[folder]


def other_capitals(root: Path, paths: Iterable[str]) -> str:
    """Which of the first missing `paths` is there in other capitals, and what to do; "" where none is."""
    for path in list(paths)[:20]:
        there = ""
        for piece in path.split("/"):
            try:
                names = sorted(os.listdir(root / there))
            except OSError:
                names = []
            wanted = without_extension(clean(piece)).casefold()
            found = next((name for name in names if without_extension(clean(name)).casefold() == wanted), None)
            if found is None:
                break
            there = _below(there, found)
        else:
            return f"{path} is there as {there}: capitals count, write the names as they are on the disk"
    return ""


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _list(folder: Path) -> _Names:
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (files if entry.is_file() else folders).append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return _Names()
    files.sort()
    audio = [name for name in files if os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS]
    audio.sort(key=lambda name: AUDIO_EXTENSIONS.index(os.path.splitext(name)[1].lower()), reverse=True)
    stand_ins = {without_extension(name): name for name in audio}
    return _Names(
        frozenset(files),
        stand_ins,
        _by_text({name: name for name in files}),
        _by_text(stand_ins),
        _by_text({name: name for name in folders}),
    )


def _by_text(names: dict[str, str]) -> dict[str, str | None]:
    """Names by their `clean` form; None for a form that two of them have."""
    found: dict[str, str | None] = {}
    for written, name in names.items():
        form = clean(written)
        found[form] = None if form in found else name
    return found
