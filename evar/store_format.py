"""Store format v1 on the disk: names of sets, meta.json, the journal, and what of an interrupted set can be trusted.

    meta.json     what the set is; once complete also the SHA-256 of every file
    <i>.f32       fixed size: float32 [n_clips, dim], row i is clip i. Ragged: float32 [frames, dim], in the order written
    rows.i64      clip index of each written row, in the order written (a complete fixed-size set no longer needs it)
    offsets.i64   ragged only: first frame of each row, and the end
    times.f32     ragged only: the time of each frame in ms
    journal       one line per committed batch; gone once the set is complete

All numbers are little-endian. A journal line holds `rows frames crc...`: how many rows and frames there are so far, the
CRC-32 of what the batch added to each file (in the order above) and a CRC-32 of the line itself. `kill -9` leaves at
most a torn last line. A power cut can also leave a line whose data never reached the disk: the CRCs find that.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evar.errors import EvarError
from evar.files import atomic_write, canonical_json, digest, writing

FORMAT = 1
FRAMES = "frames"  # the pooling of a ragged matrix: none, one row per frame
MOST_CLIPS = 2**33  # more is damage: a byte per clip is kept while a set is written
FLOAT, INT = np.dtype("<f4"), np.dtype("<i8")
META, JOURNAL, ROWS, OFFSETS, TIMES = "meta.json", "journal", "rows.i64", "offsets.i64", "times.f32"
NEXT_META = "meta.next.json"  # of a set that is being re-keyed
DAMAGED = ".damaged"  # ends the name of a set that was put aside: no longer a set, kept until it is pruned
_FOLDER = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")


class Damaged(EvarError):
    """What is stored is not what was written."""


@dataclass(frozen=True)
class Matrix:
    """One matrix of a set: the layer, its pooling (`frames` for ragged rows), and the row's dimension."""

    layer: str
    pooling: str
    dim: int

    @property
    def pair(self) -> tuple[str, str]:
        """(layer, pooling), the name by which a matrix is asked for."""
        return self.layer, self.pooling


@dataclass(frozen=True)
class Meta:
    """The content of meta.json. `matrices` are sorted; matrix i is in `<i>.f32`."""

    settings: dict[str, Any]
    matrices: tuple[Matrix, ...]
    n_clips: int
    ragged: bool
    label: str
    task: str
    created: str = ""
    complete: bool = False
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The 16 hex digits shared by all sets of the same clips, encoder and settings."""
        return settings_key(self.settings)

    @property
    def folder_name(self) -> str:
        """`<key>-<matrices key>`."""
        return f"{self.key}-{digest([[m.layer, m.pooling, m.dim] for m in self.matrices])[:8]}"

    @property
    def is_v1(self) -> bool:
        """Whether the settings are those of before schema 2 of the results, when fingerprints were made otherwise."""
        return "encoder_fingerprint" in self.settings and "normalization" not in self.settings

    def files(self) -> list[str]:
        """The data files of the set, in the order of the journal's CRCs."""
        names = [f"{i}.f32" for i in range(len(self.matrices))] + [ROWS]
        return [*names, OFFSETS, TIMES] if self.ragged else names

    def lasting_files(self) -> list[str]:
        """The data files that stay when the set is complete."""
        return [name for name in self.files() if self.ragged or name != ROWS]

    def files_of(self, pairs: Iterable[tuple[str, str]]) -> list[str]:
        """The lasting files that are read for these (layer, pooling)."""
        matrices = {f"{self.index(*pair)}.f32" for pair in pairs}
        return [name for name in self.lasting_files() if name in matrices or not name.endswith("f32") or name == TIMES]

    def index(self, layer: str, pooling: str) -> int:
        """The number of the matrix; KeyError when the set has no such matrix."""
        for i, matrix in enumerate(self.matrices):
            if matrix.pair == (layer, pooling):
                return i
        raise KeyError((layer, pooling))

    def same_content(self, other: Meta) -> bool:
        """Whether both describe the same embeddings, whatever label or task they are filed under."""
        return (self.settings, self.matrices, self.n_clips, self.ragged) == (
            other.settings,
            other.matrices,
            other.n_clips,
            other.ragged,
        )


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON (tuples become lists)."""
    return json.loads(canonical_json(settings))


def settings_key(settings: dict[str, Any]) -> str:
    """16 hex digits of the digest of the settings and the format number."""
    return digest({"format": FORMAT, **plain(settings)})[:16]


def readable(name: str) -> str:
    """An encoder label or task name as a folder name: only for humans, so that collisions do no harm."""
    return re.sub(r"[^\w.+=@-]", "_", name)[:80].lstrip(".") or "_"


def set_folders(root: Path, key: str = "*") -> list[Path]:
    """All folders of sets (of one key) under any label and task, sorted."""
    return sorted(path for path in root.glob(f"*/*/{key}-*") if _FOLDER.fullmatch(path.name) and path.is_dir())


def holds_v1(root: Path, label: str, task: str, wanted: Iterable[tuple[str, str]]) -> bool:
    """Whether a set of before schema 2, filed under this label and task, has one of these (layer, pooling)."""
    wanted = set(wanted)
    for path in (root / readable(label) / readable(task)).glob(f"*/{META}"):
        with contextlib.suppress(EvarError):
            meta = read_meta(path.parent)
            if meta is not None and meta.is_v1 and wanted & {matrix.pair for matrix in meta.matrices}:
                return True
    return False


def damaged_folders(root: Path) -> list[Path]:
    """The folders of all sets that were put aside, sorted."""
    found = root.glob(f"*/*/*{DAMAGED}")
    return sorted(path for path in found if _FOLDER.fullmatch(path.name.removesuffix(DAMAGED)) and path.is_dir())


def write_meta(folder: Path, meta: Meta) -> Meta:
    """Write meta.json in one step, stamped with the time; returns what was written."""
    meta = replace(meta, created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"))
    _write(folder / META, meta)
    return meta


def _write(path: Path, meta: Meta) -> None:
    content = {
        "format": FORMAT,
        "settings": meta.settings,
        "matrices": [
            {"layer": m.layer, "pooling": m.pooling, "dim": m.dim, "file": f"{i}.f32"}
            for i, m in enumerate(meta.matrices)
        ],
        "n_clips": meta.n_clips,
        "ragged": meta.ragged,
        "label": meta.label,
        "task": meta.task,
        "created": meta.created,
        "complete": meta.complete,
        "sha256": meta.sha256,
    }
    atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_meta(folder: Path, file: str = META) -> Meta | None:
    """The set in `folder`, or None where it has no meta.json; Damaged when that is damaged or of another format."""
    path = folder / file
    mend = f"a run that needs it makes it anew, 'evar store prune --key {folder.name}' removes it"
    try:
        content = json.loads(path.read_text("utf-8"))
        version = content["format"]
        if version != FORMAT:
            raise Damaged(f"{path}: store format {version}, this evar reads {FORMAT}: {mend}")
        meta = Meta(
            settings=dict(content["settings"]),
            matrices=tuple(Matrix(str(m["layer"]), str(m["pooling"]), int(m["dim"])) for m in content["matrices"]),
            n_clips=int(content["n_clips"]),
            ragged=bool(content["ragged"]),
            label=str(content["label"]),
            task=str(content["task"]),
            created=str(content["created"]),
            complete=bool(content["complete"]),
            sha256=dict(content["sha256"]),
        )
        aware = datetime.datetime.fromisoformat(meta.created).tzinfo is not None
        if not aware or not 0 <= meta.n_clips <= MOST_CLIPS or not all(m.dim > 0 for m in meta.matrices):
            raise ValueError("a number or a time that no writer writes")
        name = meta.folder_name
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise EvarError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise Damaged(f"{path} is damaged: {mend}") from None
    if name != folder.name:
        # A set that was being re-keyed when its process was killed has its new description beside the old one.
        if file == META and (folder / NEXT_META).exists():
            return read_meta(folder, NEXT_META)
        raise Damaged(f"{path} describes another set ({name}): {mend}")
    return meta


def rekey(folder: Path, meta: Meta) -> Path:
    """Give the set in `folder` the settings of `meta` and the name that goes with them; the caller holds both locks.

    The name changes in one step, and from then on the new description counts: a kill leaves the one set or the other.
    """
    target = folder.with_name(meta.folder_name)
    _write(folder / NEXT_META, meta)
    with writing(target):
        folder.rename(target)
        os.replace(target / NEXT_META, target / META)
    return target


def settle(folder: Path) -> None:
    """Finish a re-keying that a kill cut off after the set got its new name; the caller holds the set's lock."""
    with contextlib.suppress(FileNotFoundError, EvarError):
        if read_meta(folder, NEXT_META) is None:
            return
        with writing(folder):
            if Meta(json.loads((folder / META).read_text("utf-8"))["settings"], (), 0, False, "", "").is_v1:
                os.replace(folder / NEXT_META, folder / META)
            else:  # a writer finished the set since, and described it anew
                (folder / NEXT_META).unlink()


def journal_line(rows: int, frames: int, checksums: Iterable[int]) -> bytes:
    """The line that commits a batch: `rows frames crc... crc-of-the-line`, CRCs in hex."""
    text = " ".join([str(rows), str(frames), *(f"{crc:08x}" for crc in checksums)])
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def committed(folder: Path, meta: Meta) -> tuple[np.ndarray, int, int]:
    """What of an interrupted set is true: (clip indices int64 [rows], frames, length of the good journal in bytes).

    Every CRC is recomputed, so the data files are read once. Trust ends at the first line or batch that does not fit.
    """
    try:
        journal = (folder / JOURNAL).read_bytes()
    except FileNotFoundError:
        return np.empty(0, INT), 0, 0
    batches = _Batches(folder, meta)
    parts = [np.empty(0, INT)]
    n_rows = frames = length = 0
    seen = np.zeros(meta.n_clips, bool)
    for line in journal.splitlines(keepends=True):
        parsed = _parse(line, len(meta.files()))
        if parsed is None or parsed[0] < n_rows or parsed[1] < frames:
            break
        rows_end, frames_end, checksums = parsed
        added = batches.rows(n_rows, rows_end)
        fits = added is not None and ((added >= 0) & (added < meta.n_clips)).all() and not seen[added].any()
        if not fits or batches.checksums(added, n_rows, frames, frames_end) != checksums:
            break
        seen[added] = True
        parts.append(added)
        n_rows, frames, length = rows_end, frames_end, length + len(line)
    return np.concatenate(parts), frames, length


def _parse(line: bytes, n_files: int) -> tuple[int, int, list[int]] | None:
    text, _, own = line.rstrip(b"\n").rpartition(b" ")
    fields = text.split(b" ")
    if not line.endswith(b"\n") or own != f"{zlib.crc32(text):08x}".encode() or len(fields) != 2 + n_files:
        return None
    return int(fields[0]), int(fields[1]), [int(crc, 16) for crc in fields[2:]]


class _Batches:
    """Reads back the parts of each batch from the files of an interrupted set."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self._meta = meta
        self._data = {name: _mapped(folder / name, INT if name.endswith(".i64") else FLOAT) for name in meta.files()}

    def rows(self, start: int, stop: int) -> np.ndarray | None:
        found = self._data[ROWS][start:stop]
        return np.array(found, INT) if len(found) == stop - start else None

    def checksums(self, clips: np.ndarray, start: int, frame: int, frame_end: int) -> list[int]:
        parts = []
        for i, matrix in enumerate(self._meta.matrices):
            data = self._data[f"{i}.f32"]
            data = data[: len(data) // matrix.dim * matrix.dim].reshape(-1, matrix.dim)
            if self._meta.ragged:
                parts.append(data[frame:frame_end])
            else:
                parts.append(data[clips] if len(clips) == 0 or clips.max() < len(data) else data[:0])
        parts.append(clips)
        if self._meta.ragged:
            parts += [self._data[OFFSETS][start + 1 : start + 1 + len(clips)], self._data[TIMES][frame:frame_end]]
        return [checksum(part) for part in parts]


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """A file as a read-only array [n], shorter than expected when it is; empty when it is not there."""
    try:
        n = path.stat().st_size // dtype.itemsize
        return np.asarray(np.memmap(path, dtype, "r", shape=(n,))) if n else np.empty(0, dtype)
    except FileNotFoundError:
        return np.empty(0, dtype)


def checksum(part: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(part).data.cast("B")) if part.size else 0


def write_at(descriptor: int, path: Path, data: np.ndarray | bytes, offset: int) -> None:
    """Write all of `data` at a byte offset; EvarError when the disk does not take it."""
    left = memoryview(data) if isinstance(data, bytes) else np.ascontiguousarray(data).data.cast("B")
    with writing(path):
        while len(left):
            written = os.pwrite(descriptor, left, offset)
            left, offset = left[written:], offset + written
