"""Embeddings on disk: written as they are computed, continued after `kill -9`, read back as memory maps.

    store = Store("embeddings")
    with store.writer(settings, [("out", "mean", 512)], n_clips, "logmel", "esc50") as writer:
        for indices in batches_of(writer.pending):
            writer.write(indices, {("out", "mean"): rows})      # float32 [b, 512]
        writer.finish()
    source = store.find(settings, [("out", "mean")]).source("out", "mean")

A set is known by its settings (encoder, clips, duration, precision) and its matrices; label and task name its folder for
humans only. The format is described in `store_format.py`.

Each file is held to its SHA-256 when it is first wanted from a `Store`, whatever its time stamp says: a disk that rots
leaves time stamps alone, and a probe reads the rows many times anyway. A damaged set is never served; who writes its
matrices next puts it aside (`NAME.damaged`), with a warning, and makes it anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evar.errors import EvarError
from evar.files import lock, make_folder, require_space, sha256_file, writing
from evar.store_format import (
    DAMAGED,
    FLOAT,
    FRAMES,
    INT,
    JOURNAL,
    META,
    OFFSETS,
    ROWS,
    TIMES,
    Damaged,
    Matrix,
    Meta,
    checksum,
    committed,
    journal_line,
    plain,
    read_meta,
    readable,
    set_folders,
    settings_key,
    write_at,
    write_meta,
)
from evar.store_sets import Embeddings, RowSource

__all__ = ["Embeddings", "RowSource", "Store", "Writer"]

Bar = Callable[[str, str, str], AbstractContextManager[Callable[[int, int], None] | None]]
_SYNC_SECONDS = 5.0  # `kill -9` loses nothing anyway; a power cut loses at most what was written since


class Store:
    """The folder of all embeddings. Nothing is created before something is written."""

    def __init__(self, root: Path | str, bar: Bar = lambda stage, what, unit: contextlib.nullcontext()) -> None:
        """bar: shows how far a set is checked: `bar("check", what, "B")` enters to `progress(done, total)` or None."""
        self.root, self._bar = Path(root), bar
        self._whole: set[tuple[Path, int, int, int, int]] = set()  # files whose checksum held: path, inode, size, times

    def writer(
        self,
        settings: dict[str, Any],
        matrices: Sequence[tuple[str, str, int]],
        n_clips: int,
        label: str,
        task: str,
        ragged: bool = False,
    ) -> Writer:
        """A context manager that writes, or continues, the set of these (layer, pooling, dimension) matrices.

        settings: `encoder_fingerprint, clips_fingerprint, duration, precision`. Ragged sets hold frames: every pooling is
        then `frames`. While another process holds the same settings, entering waits; what that one finished is then
        found, and `pending` is empty.
        """
        made = tuple(sorted((Matrix(str(a), str(b), int(c)) for a, b, c in matrices), key=lambda m: m.pair))
        if not made or len({m.pair for m in made}) < len(made) or any((m.pooling == FRAMES) != ragged for m in made):
            raise ValueError(f"matrices must be distinct, with pooling {FRAMES!r} where they are ragged: {matrices}")
        return Writer(self, Meta(plain(settings), made, n_clips, ragged, label, task))

    def find(self, settings: dict[str, Any], wanted: Sequence[tuple[str, str]]) -> Embeddings | None:
        """The complete, undamaged set of these settings that holds all `wanted` (layer, pooling), under any label or task."""
        settings = plain(settings)
        for folder in set_folders(self.root, settings_key(settings)):
            with contextlib.suppress(Damaged):
                if (found := self._opened(folder, settings, wanted)) is not None:
                    return found
        return None

    def _opened(self, folder: Path, settings: dict[str, Any], wanted: Sequence[tuple[str, str]]) -> Embeddings | None:
        """The set in `folder` if it is complete and holds all `wanted`; Damaged when their files are not as written."""
        meta = read_meta(folder)
        if meta is None or not meta.complete or meta.settings != settings:
            return None
        if not set(map(tuple, wanted)) <= {matrix.pair for matrix in meta.matrices}:
            return None
        try:
            stamps = {name: _stamp(folder / name) for name in meta.files_of(wanted)}
            new = {name: stamp for name, stamp in stamps.items() if stamp not in self._whole}
            for name, found in self._checksums(folder, meta, list(new)):
                if found != meta.sha256.get(name):
                    raise Damaged(f"{folder / name} is not what was written")
                self._whole.add(new[name])
            return Embeddings(folder, meta)
        except FileNotFoundError as error:  # lost, or the set is pruned at this very moment
            raise Damaged(f"{error.filename} is missing") from None
        except PermissionError as error:
            raise EvarError(f"{error.filename} cannot be read ({error.strerror})") from None
        except OSError as error:
            if error.errno == errno.EIO:
                raise Damaged(f"{folder} cannot be read ({error.strerror})") from None
            # Too many open files, a stale network handle: the set may well be whole.
            raise EvarError(f"{folder} cannot be read ({error.strerror}): run the same command again") from None

    def _checksums(self, folder: Path, meta: Meta, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(name, SHA-256) of files of a set, with a bar: large ones take a while."""
        if names:
            with self._bar("check", f"{meta.label} × {meta.task}", "B") as progress:
                read = counted(progress, sum((folder / name).stat().st_size for name in names))
                for name in names:
                    yield name, sha256_file(folder / name, read)

    def _put_damaged_aside(self, settings: dict[str, Any], wanted: Sequence[tuple[str, str]]) -> None:
        """Take damaged sets of these settings out of the way, and say so; the caller holds their lock."""
        from evar.store_admin import throw_away

        for folder in set_folders(self.root, settings_key(settings)):
            try:
                self._opened(folder, settings, wanted)
            except Damaged as error:
                aside = folder.with_name(folder.name + DAMAGED)
                if os.path.lexists(aside):  # the last one is kept, not all: they do not pile up
                    throw_away(self.root, aside)
                with writing(folder):
                    folder.rename(aside)
                warnings.warn(f"stored embeddings are damaged ({error}): put aside in {aside}, and encoded again")

    def list_sets(self) -> list[dict]:
        """One row per set: encoder, task, clips, matrices [(layer, pooling, dim)], bytes, complete, created, key, path."""
        from evar.store_admin import list_sets

        return list_sets(self.root)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Recompute every checksum: one line per set that is altered, truncated, unreadable or incomplete.

        progress: takes (bytes read, bytes in all).
        """
        from evar.store_admin import verify

        return verify(self.root, progress)

    def prune(
        self,
        predicate: Callable[[dict], bool] | None = None,
        *,
        key: str | None = None,
        older_days: float | None = None,
        incomplete: bool = False,
        dry_run: bool = False,
    ) -> int:
        """Remove the sets that fit all that is given (predicate: of a row of `list_sets`); returns the bytes freed.

        What another process is writing stays. Processes that have a removed set open keep reading it.
        """
        from evar.store_admin import prune

        return prune(self.root, predicate, key, older_days, incomplete, dry_run)

    def lock_path(self, key: str) -> Path:
        """The lock that a writer of these settings holds."""
        return self.root / ".locks" / f"{key}.lock"


class Writer:
    """Writes one set; made by `Store.writer`. Every `write` is a commit, and a failed one can be repeated."""

    def __init__(self, store: Store, meta: Meta) -> None:
        self._store, self.meta = store, meta
        self._found: Embeddings | None = None
        self._files: dict[str, int] = {}

    def __enter__(self) -> Writer:
        self._exit = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock(self._store.lock_path(self.meta.key)))
            wanted = [matrix.pair for matrix in self.meta.matrices]
            self._found = self._store.find(self.meta.settings, wanted)
            if self._found is None:
                self._store._put_damaged_aside(self.meta.settings, wanted)
                # Never write over a set that is whole after all.
                self._found = self._store.find(self.meta.settings, wanted)
            if self._found is None:
                self._open(stack)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()
        self._files = {}

    @property
    def pending(self) -> np.ndarray:
        """int64: indices of the clips that are not written yet."""
        return np.empty(0, np.int64) if self._found is not None else np.flatnonzero(~self._done)

    def write(self, indices: np.ndarray, blocks: dict[tuple[str, str], np.ndarray]) -> None:
        """Commit the rows of some clips: float32 [b, dim] for each (layer, pooling). EvarError: shape, NaN, full disk."""
        indices = self._checked(indices, blocks, ragged=False)
        parts: dict[str, np.ndarray] = {}
        for i, matrix in enumerate(self.meta.matrices):
            block = np.ascontiguousarray(blocks[matrix.pair], FLOAT)
            _check_block(block, (len(indices), matrix.dim), matrix)
            _check_finite(np.isfinite(block).all(axis=1), indices, matrix)
            parts[f"{i}.f32"] = block
        starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)  # runs of neighbours go in one write
        for name, block in parts.items():
            for start, stop in zip(starts, [*starts[1:], len(indices)], strict=True):
                self._put(name, block[start:stop], int(indices[start]) * block[0].nbytes)
        self._commit(indices, self._frames, parts)

    def write_frames(
        self, indices: np.ndarray, frames: dict[str, Sequence[np.ndarray]], times_ms: Sequence[np.ndarray] | np.ndarray
    ) -> None:
        """Commit the frames of some clips of a ragged set: for each layer a list of float32 [T_i, dim].

        times_ms: a list of float32 [T_i], or one grid [T] that all clips start on. All layers of a set share their frames.
        """
        indices = self._checked(indices, {(layer, FRAMES): block for layer, block in frames.items()}, ragged=True)
        lengths = np.array([len(part) for part in frames[self.meta.matrices[0].layer]], INT)
        n_frames, parts = int(lengths.sum()), {}
        for i, matrix in enumerate(self.meta.matrices):
            rows = [np.asarray(row, FLOAT) for row in frames[matrix.layer]]
            if len(rows) != len(indices) or [len(row) for row in rows] != lengths.tolist():
                raise EvarError(
                    f"layer {matrix.layer!r} has other frames than {self.meta.matrices[0].layer!r}: one set each"
                )
            for row, length in zip(rows, lengths, strict=True):
                _check_block(row, (int(length), matrix.dim), matrix)
            _check_finite(np.array([np.isfinite(row).all() for row in rows], bool), indices, matrix)
            parts[f"{i}.f32"] = np.concatenate(rows) if rows else np.empty((0, matrix.dim), FLOAT)
        shared = isinstance(times_ms, np.ndarray) and times_ms.ndim == 1 and times_ms.dtype != object
        times = [times_ms] * len(indices) if shared else times_ms
        times = [np.asarray(t, FLOAT)[: n if shared else None] for t, n in zip(times, lengths, strict=True)]
        if [len(t) for t in times] != lengths.tolist():
            raise EvarError(f"frame times do not fit: {[len(t) for t in times]} times for {lengths.tolist()} frames")
        ends = self._frames + np.cumsum(lengths, dtype=INT)
        for name, block in parts.items():
            self._put(name, block, self._frames * block.shape[1] * FLOAT.itemsize)
        parts[OFFSETS], parts[TIMES] = ends, np.concatenate([np.empty(0, FLOAT), *times])
        self._put(OFFSETS, ends, (self._n_rows + 1) * INT.itemsize)
        self._put(TIMES, parts[TIMES], self._frames * FLOAT.itemsize)
        self._commit(indices, self._frames + n_frames, parts)

    def finish(self) -> Embeddings:
        """Seal the set: all clips there, on the disk, checksummed, complete. EvarError when clips are missing."""
        if self._found is None:
            if len(self.pending):
                raise EvarError(
                    f"{self.folder}: {len(self.pending)} of {self.meta.n_clips} clips are not written (first: "
                    f"clip index {self.pending[0]}): run the same command again, it continues"
                )
            self._sync()
            sums = dict(self._store._checksums(self.folder, self.meta, self.meta.lasting_files()))
            self._store._whole |= {_stamp(self.folder / name) for name in sums}
            self.meta = write_meta(self.folder, replace(self.meta, complete=True, sha256=sums))
            for name in {JOURNAL, *self.meta.files()} - set(self.meta.lasting_files()):
                with writing(self.folder / name), contextlib.suppress(FileNotFoundError):
                    (self.folder / name).unlink()
            self._found = Embeddings(self.folder, self.meta)
        return self._found

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Open a new set, or the interrupted one of the same content, and cut off what was not committed."""
        meta = self.meta
        self.folder = self._store.root / readable(meta.label) / readable(meta.task) / meta.folder_name
        for folder in set_folders(self._store.root, meta.key):
            there = read_meta(folder)
            if there is not None and not there.complete and there.same_content(meta):
                self.folder, self.meta = folder, there
        rows, self._frames, self._journal_end = (
            committed(self.folder, meta) if (self.folder / META).exists() else ([], 0, 0)
        )
        self._n_rows = len(rows)
        self._done = np.zeros(meta.n_clips, bool)
        self._done[np.asarray(rows, INT)] = True
        if not meta.ragged:
            size = FLOAT.itemsize * sum(matrix.dim for matrix in meta.matrices)
            require_space(self.folder, size * int((~self._done).sum()), "embeddings")
        make_folder(self.folder)
        if not (self.folder / META).exists():
            write_meta(self.folder, meta)
        for name, size in self._sizes().items():
            path = self.folder / name
            with writing(path):
                self._files[name] = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
                stack.callback(os.close, self._files[name])
                os.ftruncate(self._files[name], size)
        if meta.ragged and self._n_rows == 0:
            self._put(OFFSETS, np.zeros(1, INT), 0)
        self._synced = time.monotonic()

    def _sizes(self) -> dict[str, int]:
        """The length in bytes that each file has when exactly the committed rows are in it."""
        meta, rows = self.meta, self._n_rows
        height = self._frames if meta.ragged else meta.n_clips  # fixed-size rows have their place from the start
        sizes = {f"{i}.f32": height * matrix.dim * FLOAT.itemsize for i, matrix in enumerate(meta.matrices)}
        sizes |= {ROWS: rows * INT.itemsize, JOURNAL: self._journal_end}
        if meta.ragged:
            sizes |= {OFFSETS: (rows + 1) * INT.itemsize, TIMES: self._frames * FLOAT.itemsize}
        return sizes

    def _checked(self, indices: np.ndarray, blocks: dict[tuple[str, str], Any], ragged: bool) -> np.ndarray:
        indices = np.asarray(indices, np.int64)
        if self.meta.ragged != ragged:
            raise ValueError("write_frames is for ragged sets, write for the others")
        if set(blocks) != {matrix.pair for matrix in self.meta.matrices}:
            raise ValueError(f"expected {[matrix.pair for matrix in self.meta.matrices]}, found {sorted(blocks)}")
        if not self._files or self._found is not None:
            raise ValueError("nothing is pending: write inside `with`, and only what `pending` names")
        if indices.ndim != 1 or (indices < 0).any() or (indices >= self.meta.n_clips).any():
            raise ValueError(f"clip indices must be in 0..{self.meta.n_clips - 1}")
        if len(np.unique(indices)) < len(indices) or self._done[indices].any():
            raise ValueError("a clip is written twice: write only what `pending` names")
        return indices

    def _put(self, name: str, data: np.ndarray | bytes, offset: int) -> None:
        write_at(self._files[name], self.folder / name, data, offset)

    def _commit(self, indices: np.ndarray, frames: int, parts: dict[str, np.ndarray]) -> None:
        if len(indices) == 0:
            return
        parts = parts | {ROWS: indices.astype(INT)}
        self._put(ROWS, parts[ROWS], self._n_rows * INT.itemsize)
        n_rows = self._n_rows + len(indices)
        line = journal_line(n_rows, frames, [checksum(parts[name]) for name in self.meta.files()])
        self._put(JOURNAL, line, self._journal_end)
        self._journal_end += len(line)
        self._n_rows, self._frames = n_rows, frames
        self._done[indices] = True
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        for name in sorted(self._files, key=lambda name: name == JOURNAL):  # the journal last: it vouches for the rest
            with writing(self.folder / name):
                os.fsync(self._files[name])
        self._synced = time.monotonic()


def counted(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """A function that takes so many more bytes, and tells `progress` how many these are of `total`."""
    done = 0

    def read(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, total)

    return read


def _stamp(path: Path) -> tuple[Path, int, int, int, int]:
    status = path.stat()
    return path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _check_block(block: np.ndarray, shape: tuple[int, int], matrix: Matrix) -> None:
    if block.shape != shape:
        raise EvarError(
            f"embeddings of {matrix.layer}/{matrix.pooling}: expected shape {list(shape)}, found {list(block.shape)}"
        )


def _check_finite(finite: np.ndarray, indices: np.ndarray, matrix: Matrix) -> None:
    if not finite.all():
        bad = indices[~finite]
        raise EvarError(
            f"embeddings of {matrix.layer}/{matrix.pooling} are not finite for {len(bad)} clips (first: clip index "
            f"{bad[0]}): nothing of this batch was stored; look at that clip's audio and at the encoder"
        )
