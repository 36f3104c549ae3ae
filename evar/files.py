"""Writing that survives `kill -9`, full disks and neighbours: atomic files, locks, digests."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from evar.errors import EvarError

PATIENCE = 10.0
"""Seconds to wait in silence for a lock that a killed process may have left."""

_REASONS = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again, it continues",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again, it continues",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "operation not permitted: choose a folder that you may write to",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another folder",
    errno.EISDIR: "a folder stands where a file is needed: choose another name",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn an OSError raised while writing `path` into an EvarError that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno is None:
            raise
        reason = _REASONS.get(error.errno, os.strerror(error.errno))
        raise EvarError(f"cannot write {path}: {reason}") from error


def make_folder(path: Path | str) -> Path:
    """Create a folder and its parents; EvarError when that is impossible."""
    path = Path(path)
    with writing(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path)) from None
        except FileNotFoundError:  # parents are made too, so this place takes no folders at all (/proc)
            raise PermissionError(errno.EACCES, "no folder can be made here", str(path)) from None
    return path


def check_writable(folder: Path | str) -> None:
    """EvarError now, rather than after an hour of work, where nothing may be written in `folder`. Nothing is made."""
    there = Path(folder).absolute()
    while not os.path.exists(there) and there != there.parent:  # unlike Path.exists, False where one may not look
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(there).f_flag & os.ST_RDONLY
        with writing(folder):
            raise OSError(errno.EROFS if read_only else errno.EACCES, "", str(folder))


@contextlib.contextmanager
def atomic_writer(path: Path | str, mode: str = "wb", **options: Any) -> Iterator[IO]:
    """Open a temporary neighbour of `path`; it takes the name when the block ends without an error.

    The data reach the disk (fsync) before the rename, so a reader sees the old file or the new one, never a part.
    """
    path = Path(path)
    if not path.name:
        raise EvarError(f"cannot write {str(path)!r}: a folder stands where a file is needed: choose another name")
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    with writing(path):
        try:
            with open(temporary, mode, **options) as stream:
                _sweep(temporary)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except FileNotFoundError as error:
            if error.filename != str(temporary):  # another file, missed by whoever fills this one
                raise
            raise PermissionError(errno.EACCES, "no file can be made here", str(path)) from None  # /proc
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


_TEMPORARY = re.compile(r"\..+\.(\d+)\.[0-9a-f]{8}\.tmp", re.DOTALL)
_swept: set[Path] = set()


def _sweep(temporary: Path) -> None:
    """Remove what killed processes left beside `temporary`, a new file: once per folder, what is a day older than it.

    The age is by the clock of the file system, not by ours.
    """
    if temporary.parent in _swept:
        return
    _swept.add(temporary.parent)
    with contextlib.suppress(OSError), os.scandir(temporary.parent) as entries:
        yesterday = temporary.stat().st_mtime - 86400
        for entry in entries:
            made = _TEMPORARY.fullmatch(entry.name)
            if made and entry.stat(follow_symlinks=False).st_mtime < yesterday and not _is_running(int(made[1])):
                with contextlib.suppress(OSError):
                    os.unlink(entry)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # there is no asking without harm
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Replace the content of `path` in one step; text is written as UTF-8."""
    with atomic_writer(path) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


def append_bytes(path: Path | str, data: bytes) -> None:
    """Append `data` and wait until it is on the disk; a failed append leaves the old length."""
    with writing(path), open(path, "ab") as stream:
        start = stream.tell()
        try:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, start)
            raise


@contextlib.contextmanager
def lock(path: Path | str, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file `path` (created beside what it guards) against other processes and threads.

    On a file system without flock (some NFS and Lustre mounts) the file `PATH.held` is the lock, and is there as long as it
    is held; one left by a killed process of another machine has to be removed by hand, which a warning says.
    Raises EvarError when `timeout` seconds (-1: wait for ever) pass while another process holds it.
    """
    import filelock

    path = Path(path)
    make_folder(path.parent)
    with writing(path):
        if _has_flock(path.parent.resolve()):
            held = filelock.FileLock(str(path))
        else:
            held = filelock.SoftFileLock(f"{path}.held")
        told_after = PATIENCE if isinstance(held, filelock.SoftFileLock) and not 0 <= timeout <= PATIENCE else timeout
        try:
            try:
                held.acquire(timeout=told_after)
            except filelock.Timeout:
                if told_after == timeout:
                    raise
                warnings.warn(f"waiting for another evar, which holds {held.lock_file}: if none runs, remove that file")
                held.acquire(timeout=timeout if timeout < 0 else timeout - told_after)
        except filelock.Timeout:
            raise EvarError(f"{held.lock_file} is held by another evar process: wait for it, or stop it") from None
    try:
        yield
    finally:
        held.release()


@functools.cache
def _has_flock(folder: Path) -> bool:
    """Whether files in `folder` can be locked by flock: tried once, on a file without a name."""
    import tempfile

    try:
        import fcntl
    except ImportError:  # Windows locks in another way, always
        return True
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
    return True  # where no file can be made, the lock itself says why


def require_space(path: Path | str, n_bytes: int, what: str) -> None:
    """Raise EvarError when the disk of `path` has less than `n_bytes` (plus 1 %) free for `what`."""
    folder = Path(path)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < n_bytes * 1.01:
        raise EvarError(
            f"not enough disk for {what} in {path}: needs {human_bytes(n_bytes)}, {human_bytes(free)} free; "
            "free some space or choose another folder"
        )


def human_bytes(n: float) -> str:
    """`1234567` -> `1.2 MB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n) < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError("unreachable")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: Path | str, read: Callable[[int], None] | None = None) -> str:
    """SHA-256 (64 hex digits) of a file's content; `read` is told of every so many bytes."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            sha256.update(block)
            if read:
                read(len(block))
    return sha256.hexdigest()
