"""Unpacking archives that nobody has to trust: nothing outside the folder, no links, no bombs, nothing half-made.

The archive is read twice. First every entry is checked and counted, before one byte is written; then the files go into
a hidden folder in the destination and take their places when all of them are there.
"""

from __future__ import annotations

import contextlib
import filecmp
import gzip
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from evar import files
from evar.errors import EvarError

KINDS = ("zip", "tar.gz", "tar")
MAX_RATIO = 200  # expanded bytes per archive byte; audio compresses 1 to 10 fold
SMALL = 32 * 2**20  # bytes: an archive that expands to less is no bomb, whatever its ratio
MAX_ENTRIES = 2_000_000
MAX_HEADER = 2**20  # bytes of one tar extension header, which tarfile reads into memory
BLOCK = 2**20
MAX_DEPTH = 64  # folders in folders; shutil.rmtree gives up on a thousand, and they would stay
TAR_BUFFER = 2**14  # tarfile copies what is left of it at every read

Progress = Callable[[int, int], None]
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, OSError, ValueError)
_BROKEN += (NotImplementedError, RuntimeError, OverflowError, IndexError, KeyError)  # zipfile, on damaged fields


def unpack(archive: Path, destination: Path, kind: str, progress: Progress | None = None) -> dict[str, int]:
    """Unpack `archive` (a zip, tar.gz or tar, as `kind` says) into the folder `destination`, which may exist.

    Returns the top-level names of the archive with the number of files under each. `progress(done, total)` counts
    archive bytes worked through. Owners, permissions and times of the archive are ignored. A file that is there with
    the same content stays; one with other content is an error before anything is moved. What a `kill -9` leaves is a
    hidden folder, which the next call removes. The caller keeps two processes from unpacking one archive at once.

    Raises EvarError: not such an archive, damaged or cut short; an entry that is absolute, has `..`, a drive letter,
    control characters or more than `MAX_DEPTH` folders, is a link or a device, or occurs twice; more than `MAX_ENTRIES`
    entries or `MAX_RATIO` times the archive's size; not enough disk; a different file in the way.
    """
    archive, destination = Path(archive), Path(destination)
    if kind not in KINDS:
        raise EvarError(f"cannot unpack {archive}: unknown kind {kind!r}; expected {', '.join(KINDS)}")
    if not archive.is_file():
        raise EvarError(f"cannot unpack {archive}: there is no such file")
    progress = progress or (lambda done, total: None)
    size = archive.stat().st_size
    listing = 0 if kind == "zip" else size  # a tar has no table of contents: listing it reads all of it
    plan = _plan(archive, kind, lambda done: progress(min(done, listing), listing + size))
    total = sum(plan.sizes.values())
    files.require_space(destination, total, f"{archive.name} unpacked")
    files.make_folder(destination)
    temporary = destination / f".{archive.name}.unpacking"
    if temporary.name in plan.tops:
        raise _refusal(archive, temporary.name, "has the name of the temporary folder")
    _remove(temporary)
    try:
        written = 0
        for done in _write(archive, kind, plan, temporary):
            written += done
            progress(listing + size * written // max(total, 1), listing + size)
        _place(temporary, destination, archive)
    finally:
        _remove(temporary)
    progress(listing + size, listing + size)
    return plan.tops


def safe_parts(name: str) -> tuple[str, ...] | None:
    """The path components of an entry's name; () for the folder itself, None for a name that may lead elsewhere.

    >>> safe_parts("./audio//1.wav"), safe_parts("../1.wav"), safe_parts("C:1.wav")
    (('audio', '1.wav'), None, None)
    """
    if name.startswith("/") or "\\" in name or any(unicodedata.category(character) == "Cc" for character in name):
        return None
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if len(parts) > MAX_DEPTH or any(
        part == ".." or re.match(r"[A-Za-z]:", part) or not _is_file_name(part) for part in parts
    ):
        return None
    return parts


def _is_file_name(part: str) -> bool:
    """False for a name that is too long, and for a lone surrogate, which has no bytes."""
    try:
        return len(os.fsencode(part)) <= 255
    except UnicodeEncodeError:
        return False


# --- what the archive says -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """One entry: its name as stored, declared size in bytes, and what it is: "file", "folder" or a reason to refuse."""

    name: str
    size: int
    what: str
    open: Callable[[], IO[bytes] | None]


@dataclass(frozen=True)
class _Plan:
    """Declared size of each file by path; the empty folders' and all other folders' paths; files per top-level name."""

    sizes: dict[tuple[str, ...], int]
    folders: set[tuple[str, ...]]
    tops: dict[str, int]


def _plan(archive: Path, kind: str, progress: Callable[[int], None]) -> _Plan:
    """Check every entry of the archive, before anything is written."""
    sizes: dict[tuple[str, ...], int] = {}
    folders: set[tuple[str, ...]] = set()
    limit = max(SMALL, MAX_RATIO * archive.stat().st_size)
    total = 0
    for n, entry in enumerate(_entries(archive, kind, progress), start=1):
        if n > MAX_ENTRIES:
            raise EvarError(f"{archive} has more than {MAX_ENTRIES} entries: refused, nothing was unpacked")
        parts = safe_parts(entry.name)
        if parts is None:
            raise _refusal(
                archive,
                entry.name,
                "has a name that is not safe (absolute, '..', drive, backslash, control character, too long or too deep)",
            )
        if entry.what not in ("file", "folder"):
            raise _refusal(archive, entry.name, f"is {entry.what}")
        folders.update(parts[:depth] for depth in range(1, len(parts)))
        if entry.what == "folder":
            folders.add(parts)
            continue
        if parts in sizes or not parts:
            raise _refusal(archive, entry.name, "occurs twice" if parts else "has no name")
        sizes[parts] = entry.size
        total += entry.size
        if total > limit:
            raise EvarError(
                f"{archive} ({files.human_bytes(archive.stat().st_size)}) would expand to more than "
                f"{files.human_bytes(limit)}: it looks like a decompression bomb; nothing was unpacked"
            )
    both = folders & sizes.keys()
    if both:
        raise _refusal(archive, "/".join(min(both)), "is a file and a folder")
    if not sizes:
        raise EvarError(f"{archive} holds no files: it is not the archive that was meant; delete it and get it again")
    tops = {parts[0]: 0 for parts in sorted(folders | sizes.keys()) if parts}
    for parts in sizes:
        tops[parts[0]] += 1
    return _Plan(sizes, folders, tops)


def _refusal(archive: Path, name: str, why: str) -> EvarError:
    return EvarError(f"refused to unpack {archive}: its entry {name[:120]!r} {why}; nothing was unpacked")


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turn what the standard library raises on a broken archive into one line."""
    try:
        yield
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise EvarError(
            f"cannot unpack {archive}: it is damaged, cut short or another kind of file ({reason[:120]}); "
            "delete it and get it again"
        ) from error


def _entries(archive: Path, kind: str, progress: Callable[[int], None]) -> Iterator[_Entry]:
    """The archive's entries in order; each may be opened until the next one is asked for."""
    entries = _zip_entries(archive) if kind == "zip" else _tar_entries(archive, kind, progress)
    while True:
        with _reading(archive):
            entry = next(entries, None)
        if entry is None:
            return
        yield entry


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(archive) as opened:
        declared = _declared_count(archive)  # zipfile itself does not look
        if declared != 0xFFFF and declared != len(opened.infolist()) % 2**16:
            raise ValueError("its table of contents does not have the declared number of entries")
        for info in opened.infolist():
            unix = stat.S_IFMT(info.external_attr >> 16)
            what = "folder" if info.is_dir() or unix == stat.S_IFDIR else "file"
            if unix not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "a link" if unix == stat.S_IFLNK else "a device or another special file"
            elif what == "folder" and info.file_size:
                what = "a folder with content"
            elif info.flag_bits & 1:
                what = "encrypted"
            # orig_filename: `filename` is cut at a NUL byte
            yield _Entry(info.orig_filename, info.file_size, what, lambda info=info: opened.open(info))


def _declared_count(archive: Path) -> int:
    """The number of entries by the zip's end record (APPNOTE 4.3.16); 0xFFFF where it is too large for two bytes."""
    with open(archive, "rb") as stream:
        stream.seek(max(0, archive.stat().st_size - 2**16 - 22))
        tail = stream.read()
    end = tail.rindex(b"PK\x05\x06")
    return struct.unpack_from("<H", tail, end + 10)[0]


def _tar_entries(archive: Path, kind: str, progress: Callable[[int], None]) -> Iterator[_Entry]:
    with open(archive, "rb") as raw, gzip.open(raw) if kind == "tar.gz" else raw as plain:
        opened = tarfile.open(fileobj=plain, mode="r|", bufsize=TAR_BUFFER, tarinfo=_StrictHeader)  # noqa: SIM115
        while (member := opened.next()) is not None:
            opened.members.clear()  # it would keep hundreds of thousands of headers in memory
            progress(raw.tell())
            what = "folder" if member.isdir() else "file" if member.isreg() else "a device or another special file"
            if member.issym() or member.islnk():
                what = "a link"
            elif member.issparse():
                what = "a sparse file"
            yield _Entry(member.name, member.size, what, lambda member=member: opened.extractfile(member))
        while plain.read(BLOCK):  # to the end, where gzip has its checksum
            progress(raw.tell())


class _StrictHeader(tarfile.TarInfo):
    """A tar header that takes no damaged header for the end of the archive, and no giant extension header."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # the block of zeros that ends every archive
            raise
        except tarfile.HeaderError as error:
            raise ValueError(f"at byte {archive.offset}: {error}") from None

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _EXTENSIONS and self.size > MAX_HEADER:
            raise ValueError(f"at byte {archive.offset}: an extension header of {self.size} bytes")
        return super()._proc_member(archive)


_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
_EXTENSIONS += (tarfile.SOLARIS_XHDTYPE,)


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(archive: Path, kind: str, plan: _Plan, folder: Path) -> Iterator[int]:
    """Write the planned files into `folder`; yields the number of bytes after each block."""
    files.make_folder(folder)
    for parts in sorted(plan.folders):
        files.make_folder(folder.joinpath(*parts))
    left = dict(plan.sizes)
    for entry in _entries(archive, kind, lambda done: None):
        if entry.what == "folder":
            continue
        parts = safe_parts(entry.name)
        if entry.what != "file" or left.pop(parts, None) != entry.size:
            raise EvarError(f"{archive} changed while it was unpacked; run the same command again")
        path = folder.joinpath(*parts)
        with files.writing(path):
            if os.path.lexists(path):  # only where the file system takes two names for one
                raise _refusal(archive, entry.name, "occurs twice on this file system (upper and lower case)")
            with open(path, "xb") as stream:
                for block in _blocks(archive, entry):
                    stream.write(block)
                    yield len(block)
    if left:
        raise EvarError(f"{archive} changed while it was unpacked; run the same command again")


def _blocks(archive: Path, entry: _Entry) -> Iterator[bytes]:
    """The content of one entry: exactly the declared number of bytes, else EvarError."""
    done = 0
    with _reading(archive):
        stream = entry.open()
    while True:
        with _reading(archive):
            block = stream.read(BLOCK)
            done += len(block)
            if done > entry.size or (not block and done < entry.size):
                raise ValueError(f"{entry.name[:120]!r} declares {entry.size} bytes and holds {done}")
        if not block:
            return
        yield block


def _place(source: Path, destination: Path, archive: Path) -> None:
    """Move what is in `source` to `destination`: whole top-level entries where there is none of that name, else the
    files that are missing. Looks for different files first."""
    moves: list[tuple[Path, Path]] = []
    different: list[Path] = []
    with files.writing(destination):
        _compare(source, destination, moves, different)
        if different:
            raise EvarError(
                f"{len(different)} files or folders in {destination} differ from those in {archive.name}, the first is "
                f"{different[0]}: move them away or choose another folder; nothing was changed"
            )
        for here, there in moves:
            os.rename(here, there)


def _compare(source: Path, target: Path, moves: list[tuple[Path, Path]], different: list[Path]) -> None:
    with os.scandir(source) as listed:
        entries = sorted(listed, key=lambda entry: entry.name)
    for entry in entries:
        here, there = Path(entry.path), target / entry.name
        if not os.path.lexists(there):
            moves.append((here, there))
        elif there.is_symlink():
            different.append(there)  # following it would write outside the destination
        elif entry.is_dir() and there.is_dir():
            _compare(here, there, moves, different)
        elif not (entry.is_file() and there.is_file() and filecmp.cmp(here, there, shallow=False)):
            different.append(there)


def _remove(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        with files.writing(folder):
            folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
