"""Which files of a folder tree are audio: one walker and one list of endings for all that lists a folder.

What is not taken is counted, named and, by whoever lists, said: nothing that is there is left out in silence.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evar.errors import EvarError

AUDIO_EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3", ".au", ".aiff", ".aif", ".oga", ".opus", ".w64", ".caf")
"""Endings of audio that can be decoded, in capitals or not; where one clip is there twice, the earlier ending is read."""
FOREIGN_EXTENSIONS = (".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".3gp", ".mka", ".ape", ".wv", ".mpc", ".m4b")
"""Endings of audio for which there is no decoder here."""

BROKEN = "links without a target"
FOREIGN = "audio files without a decoder here"
OTHER = "files that are not audio"
HIDDEN = "hidden files or folders"
AGAIN = "linked folders that are read under another name"
CLOSED = "folders that cannot be read"
NAMELESS = "files whose name is not UTF-8 or holds control characters"
JUNK = "files of no concern"
KINDS = (BROKEN, FOREIGN, CLOSED, NAMELESS, AGAIN, HIDDEN, OTHER, JUNK)

_JUNK_NAMES = {"thumbs.db", "desktop.ini", ".ds_store", "icon\r", "evar_synthetic.json"}
_JUNK_STEMS = ("readme", "license", "licence", "licenses", "copying", "citation", "changelog", "authors", "notice")
_TOOLS = (
    "__macosx __pycache__ @eadir lost+found .git .datalad .dvc .svn .hg .idea .vscode .cache .venv .ipynb_checkpoints "
    ".pytest_cache .ruff_cache .mypy_cache .trash .trashes .spotlight-v100 .fseventsd"
)
_JUNK_FOLDERS = set(_TOOLS.split())


@dataclass(frozen=True)
class Listing:
    """The audio below a folder, by posix paths relative to it, sorted by their parts.

    files: those whose ending is in `AUDIO_EXTENSIONS`. folders: all that were entered, "" (the folder itself) first.
    left_out: kind (of `KINDS`) -> names.
    """

    root: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def said(self, kinds: Iterable[str] | None = None) -> str:
        """`left out: 3 links without a target (dog/0.wav, ...)`; "" where nothing is left out that anybody would miss."""
        parts = [part for kind in kinds or KINDS if kind != JUNK for part in _told(kind, self.left_out.get(kind, ()))]
        return f"left out: {', '.join(parts)}" if parts else ""


def is_audio(name: str) -> bool:
    """Whether a file of this name can be decoded, by its ending, and is not hidden."""
    return os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS and not name.startswith(".")


def is_foreign(name: str) -> bool:
    """Whether a file of this name is audio without a decoder, by its ending, and is not hidden."""
    return os.path.splitext(name)[1].lower() in FOREIGN_EXTENSIONS and not name.startswith(".")


def list_audio(folder: Path | str) -> Listing:
    """The audio below `folder`, whatever the depth; linked folders are entered, each folder once.

    Folders proper are walked before linked ones, so that what can be reached both ways keeps its proper name.
    Raises EvarError where `folder` itself cannot be read.
    """
    walk = _Walk(Path(folder))
    return Listing(
        root=walk.root,
        files=tuple(sorted(walk.files, key=lambda name: name.split("/"))),
        folders=tuple(sorted(walk.folders)),
        left_out={kind: tuple(sorted(walk.left_out[kind])) for kind in KINDS if kind in walk.left_out},
    )


def audio_below(folder: Path | str) -> Listing:
    """`list_audio` for who needs some; EvarError, naming what else is there, where there is none."""
    listing = list_audio(folder)
    if not listing.files:
        there = listing.said()
        raise EvarError(
            f"no audio in {folder}: expected files ending in {', '.join(AUDIO_EXTENSIONS)}"
            + (f"; {there}" if there else "")
        )
    return listing


class _Walk:
    """One pass over a tree."""

    def __init__(self, root: Path) -> None:
        self.root, self.files, self.folders = root, [], []
        self.left_out: dict[str, list[str]] = {}
        self._linked: list[str] = []
        self._seen: dict[tuple[int, int], str] = {}
        try:
            os.scandir(root).close()
        except OSError as error:
            raise EvarError(f"cannot read {root}: {error.strerror}") from None
        self._tree("")
        while self._linked:
            linked, self._linked = sorted(self._linked), []
            for place in linked:
                self._tree(place)

    def _leave(self, kind: str, name: str) -> None:
        self.left_out.setdefault(kind, []).append(name)

    def _tree(self, top: str) -> None:
        """The folder `top` and all that lies in it proper; linked folders are put off."""
        waiting = [top]
        while waiting:
            place = waiting.pop()
            path = self.root / place if place else self.root
            try:
                status = os.stat(path)
                if (first := self._seen.setdefault((status.st_dev, status.st_ino), place)) != place:
                    self._leave(AGAIN, f"{place} -> {first or '.'}")
                    continue
                with os.scandir(path) as entries:
                    found = list(entries)
            except OSError:
                self._leave(CLOSED, place)
                continue
            self.folders.append(place)
            for entry in found:
                name = f"{place}/{entry.name}" if place else entry.name
                if folder := self._entry(entry, name):
                    waiting.append(folder)

    def _entry(self, entry: os.DirEntry, name: str) -> str | None:
        """Files one entry; the name of a folder that is to be walked."""
        try:
            is_folder, is_link = entry.is_dir(), entry.is_symlink()
            is_file = entry.is_file()
        except OSError:  # a link that leads in a circle
            is_folder, is_file, is_link = False, False, True
        if not _is_plain(entry.name):
            self._leave(NAMELESS, name.encode("utf-8", "backslashreplace").decode())
        elif _is_junk(entry.name, is_folder):
            self._leave(JUNK, name)
        elif entry.name.startswith("."):
            self._leave(HIDDEN, name)
        elif is_folder:
            if not is_link:
                return name
            self._linked.append(name)
        elif is_link and not is_file:
            self._leave(BROKEN, name)
        elif is_audio(entry.name) and is_file:
            self.files.append(name)
        else:
            self._leave(FOREIGN if is_foreign(entry.name) else OTHER, name)
        return None


def _is_plain(name: str) -> bool:
    """Whether a name can be written into a table."""
    if name.isascii() and name.isprintable():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name == "Icon\r" or not any(ord(char) < 32 or ord(char) == 127 for char in name)


def _is_junk(name: str, is_folder: bool) -> bool:
    low = name.lower()
    if is_folder:
        return low in _JUNK_FOLDERS
    is_sound = os.path.splitext(low)[1] in (*AUDIO_EXTENSIONS, *FOREIGN_EXTENSIONS)
    if low in _JUNK_NAMES or low.startswith("._") or (low.startswith(".") and not is_sound):
        return True
    return low.partition(".")[0] in _JUNK_STEMS and not is_sound


def _told(kind: str, names: Sequence[str]) -> list[str]:
    """`12 files that are not audio (.txt, .json)`, `3 links without a target (dog/0.wav, ...)`."""
    if not names:
        return []
    if kind == OTHER:
        endings = Counter(os.path.splitext(name)[1].lower() for name in names)
        if set(endings) != {""}:
            shown = [ending or "no ending" for ending, _ in endings.most_common()]
            return [f"{counted(kind, len(names))} ({shortened(shown, 4)})"]
    convert = ": convert them to WAV or FLAC" if kind == FOREIGN else ""
    return [f"{counted(kind, len(names))} ({shortened(names)}){convert}"]


def counted(kind: str, n: int) -> str:
    """`1 file that is not audio`, `2 files that are not audio`."""
    if n != 1:
        return f"{n} {kind}"
    for many, one in _SINGULAR:
        kind = kind.replace(many, one)
    return f"1 {kind}"


_SINGULAR = (
    ("links ", "link "),
    ("files or folders", "file or folder"),
    ("files ", "file "),
    ("folders ", "folder "),
    ("classes", "class"),
    ("that are ", "that is "),
)


def shortened(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c, ...`"""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
