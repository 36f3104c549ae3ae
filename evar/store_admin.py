"""Looking after stored embeddings: what is there, whether it is whole, removing what is not wanted."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from evar.errors import EvarError
from evar.files import lock, make_folder, sha256_file, writing
from evar.store import counted
from evar.store_format import DAMAGED, JOURNAL, committed, damaged_folders, read_meta, set_folders


def list_sets(root: Path) -> list[dict]:
    """One row per set, as `Store.list_sets` says; those that were put aside too.

    A set without a readable meta.json has empty fields and a `problem`.
    """
    rows = []
    for folder in [*set_folders(root), *damaged_folders(root)]:
        row = {
            "encoder": folder.parts[-3],
            "task": folder.parts[-2],
            "clips": 0,
            "matrices": [],
            "bytes": _bytes(folder),
            "complete": False,
            "created": "",
            "key": folder.name,
            "path": str(folder),
            "problem": "",
        }
        try:
            meta = None if folder.name.endswith(DAMAGED) else read_meta(folder)
        except EvarError as error:
            row["problem"] = str(error)
        else:
            if folder.name.endswith(DAMAGED):
                row["problem"] = f"{folder} was damaged and is put aside"
            elif meta is None:
                row["problem"] = f"{folder} has no meta.json"
            else:
                row |= {"encoder": meta.label, "task": meta.task, "clips": meta.n_clips}
                row |= {"complete": meta.complete, "created": meta.created}
                row["matrices"] = [(matrix.layer, matrix.pooling, matrix.dim) for matrix in meta.matrices]
        rows.append(row)
    return rows


def verify(root: Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """One line per problem, as `Store.verify` says."""
    problems, folders = [], set_folders(root)
    read = counted(progress, sum(_bytes(folder) for folder in folders))
    for folder in folders:
        mend = f"a run that needs it makes it anew, 'evar store prune --key {folder.name}' removes it"
        try:
            meta = read_meta(folder)
        except EvarError as error:
            problems.append(str(error))
            continue
        if meta is None:
            problems.append(f"{folder}: meta.json is missing: {mend}")
        elif not meta.complete:
            written = len(committed(folder, meta)[0])
            problems.append(
                f"{folder}: incomplete, {written} of {meta.n_clips} clips: run the same command again, it continues"
            )
        else:
            for name in meta.lasting_files():
                path = folder / name
                if not path.exists():
                    problems.append(f"{path}: missing: {mend}")
                elif sha256_file(path, read) != meta.sha256.get(name):
                    problems.append(f"{path}: altered or truncated since it was written: {mend}")
    return problems


def prune(
    root: Path,
    predicate: Callable[[dict], bool] | None,
    key: str | None,
    older_days: float | None,
    incomplete: bool,
    dry_run: bool,
) -> int:
    """Remove sets, as `Store.prune` says; returns the bytes freed."""
    if predicate is None and key is None and older_days is None and not incomplete:
        raise EvarError("nothing to prune was named: give a key, an age or 'incomplete'")
    trash = _trash(root)
    now, freed, matches = datetime.datetime.now(datetime.timezone.utc), 0, 0
    for row in list_sets(root):
        fits = (
            (predicate is None or predicate(row))
            and (key is None or key in (row["key"], row["key"].partition("-")[0]))
            and (older_days is None or _age_days(row, now) >= older_days)
            and not (incomplete and row["complete"])
        )
        matches += fits
        if fits and _remove(root, Path(row["path"]), dry_run):
            freed += row["bytes"]
    if key is not None and not matches:
        raise EvarError(f"no set with key {key!r} in {root}: 'evar store list' shows the keys")
    if trash.is_dir() and not dry_run:
        shutil.rmtree(trash, ignore_errors=True)
        left = [path for path in trash.glob("*") if path.is_dir()]  # what is still open stays for another time
        freed = max(0, freed - sum(map(_bytes, left)))
    return freed


def _remove(root: Path, folder: Path, dry_run: bool) -> bool:
    """Remove a set unless a writer holds it: out of sight in one step, so that a kill leaves no half of it.

    What a linked folder leads to is left alone.
    """
    if folder.parent.is_symlink() or folder.parent.parent.is_symlink():
        return False
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(root / ".locks" / f"{folder.name.partition('-')[0]}.lock", timeout=0))
        except EvarError:
            if dry_run or os.access(root / ".locks", os.W_OK):
                return False
            raise
        if not dry_run:
            throw_away(root, folder)
            for parent in (folder.parent, folder.parent.parent):
                with contextlib.suppress(OSError):
                    parent.rmdir()  # only when it is empty
    return True


def throw_away(root: Path, path: Path) -> None:
    """Take a folder (or what stands in its place) out of sight in one step, then remove what can be removed.

    A network file system keeps a folder as long as a file in it is open; it can be renamed, and goes another time.
    """
    away = make_folder(_trash(root)) / f"{path.name}.{os.urandom(4).hex()}"
    with writing(path):
        path.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _trash(root: Path) -> Path:
    trash = root / ".trash"
    if trash.is_symlink():
        raise EvarError(f"{trash} is a link, and evar clears what is in it: remove the link")
    return trash


def _age_days(row: dict, now: datetime.datetime) -> float:
    if row["created"]:
        written = datetime.datetime.fromisoformat(row["created"])
    else:
        written = datetime.datetime.fromtimestamp(Path(row["path"]).stat().st_mtime, datetime.timezone.utc)
    return max((now - written).total_seconds() / 86400, 0.0)  # a clock that went back makes nothing younger than new


def _bytes(folder: Path) -> int:
    """What the set takes on the disk; an unfinished set's files are sparse."""
    total = 0
    sparse = (folder / JOURNAL).exists()
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            total += min(status.st_size, status.st_blocks * 512) if sparse else status.st_size
    return total
