"""Embeddings in files: npz, npy and parquet, whole vectors or frame by frame. A file appears when it is complete."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, unknown
from evar.files import atomic_writer

if TYPE_CHECKING:
    import numpy as np

FORMATS = (".npz", ".npy", ".parquet")
ABOUT = "evar"
"""Where npz (an array of one string) and parquet (schema metadata) say as JSON how the embeddings were made."""
ROW_GROUP = 1 << 24
"""Numbers (of 4 bytes) that are held until a group of rows is written to a parquet file."""
AddFrames = Callable[[Path, "np.ndarray", "np.ndarray"], None]
"""Takes a file's name, its frames float32 [T, D] and their times in ms, float32 [T]."""


def check_target(path: Path, n_pairs: int) -> None:
    """EvarError where the format that the suffix names cannot hold `n_pairs` matrices."""
    if path.suffix not in FORMATS:
        raise unknown("output format", path.suffix or str(path), FORMATS)
    if path.suffix == ".npy" and n_pairs > 1:
        raise EvarError(
            f"{path.name} holds one matrix, {n_pairs} are chosen: choose one layer and pooling, or .npz, .parquet"
        )


def times_file(path: Path) -> Path:
    """The table beside `x.npy` that says of which file and time each row is: `x.times.csv`."""
    return path.with_name(f"{path.stem}.times.csv")


def write_vectors(
    path: Path, files: Sequence[Path], matrices: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """One row per file. matrices: {`LAYER/POOLING`: float32 [files, D]}.

    npz: `files` and the matrices by name, a single one as `embeddings`. npy: the single matrix. parquet: `file` and a
    block of columns for each matrix, `LAYER/POOLING/0` ..., a single one as `0` ...
    """
    import numpy as np

    names, single = [str(file) for file in files], len(matrices) == 1
    with atomic_writer(path) as stream:
        if path.suffix == ".npy":
            np.save(stream, next(iter(matrices.values())))
        elif path.suffix == ".npz":
            with zipfile.ZipFile(stream, "w") as archive:
                _add(archive, "files", np.array(names))
                for name, matrix in matrices.items():
                    _add(archive, "embeddings" if single else name, matrix)
                _add(archive, ABOUT, np.array(json.dumps(about)))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            columns = {"file": pa.array(names)}
            for name, matrix in matrices.items():
                prefix = "" if single else f"{name}/"
                columns |= {f"{prefix}{i}": pa.array(values) for i, values in enumerate(np.ascontiguousarray(matrix.T))}
            pq.write_table(pa.table(columns, metadata={ABOUT: json.dumps(about)}), stream)


@contextlib.contextmanager
def frames_writer(path: Path, dim: int, about: Mapping[str, Any]) -> Iterator[AddFrames]:
    """Gives a function that adds one file's frames; they go to the disk at once.

    npz: `files`, and for file I `frames_I` [T, D] and `times_I` [T]. npy: one matrix [all frames, D], and beside it
    `NAME.times.csv` with a line `file,frame,time_ms` for each of its rows. parquet: `file`, `frame`, `time_ms`, `0` ...
    """
    writers = {".npz": _npz_frames, ".npy": _npy_frames, ".parquet": _parquet_frames}
    with atomic_writer(path) as stream, writers[path.suffix](path, stream, dim, about) as add:
        yield add


@contextlib.contextmanager
def _npz_frames(path: Path, stream: io.BufferedWriter, dim: int, about: Mapping[str, Any]) -> Iterator[AddFrames]:
    import numpy as np

    names: list[str] = []
    with zipfile.ZipFile(stream, "w") as archive:

        def add(file: Path, features: np.ndarray, times_ms: np.ndarray) -> None:
            _add(archive, f"frames_{len(names)}", features)
            _add(archive, f"times_{len(names)}", times_ms)
            names.append(str(file))

        yield add
        _add(archive, "files", np.array(names))
        _add(archive, ABOUT, np.array(json.dumps(about)))


@contextlib.contextmanager
def _npy_frames(path: Path, stream: io.BufferedWriter, dim: int, about: Mapping[str, Any]) -> Iterator[AddFrames]:
    import numpy as np

    def header(n_frames: int) -> bytes:
        made = io.BytesIO()
        np.lib.format.write_array_header_1_0(made, {"descr": "<f4", "fortran_order": False, "shape": (n_frames, dim)})
        return made.getvalue()

    n_frames = 0
    stream.write(header(0))
    with atomic_writer(times_file(path), "w", newline="", encoding="utf-8") as table:
        lines = csv.writer(table, lineterminator="\n")
        lines.writerow(["file", "frame", "time_ms"])

        def add(file: Path, features: np.ndarray, times_ms: np.ndarray) -> None:
            nonlocal n_frames
            stream.write(np.ascontiguousarray(features, "<f4").tobytes())
            lines.writerows((str(file), frame, f"{time:.9g}") for frame, time in enumerate(times_ms.tolist()))
            n_frames += len(features)

        yield add
        # NumPy leaves room in the header for the first axis to grow (its GROWTH_AXIS_MAX_DIGITS).
        if len(header(n_frames)) != len(header(0)):
            raise EvarError(f"{path}: this NumPy leaves no room in a .npy header: write .npz or .parquet")
        stream.seek(0)
        stream.write(header(n_frames))
        stream.seek(0, io.SEEK_END)


@contextlib.contextmanager
def _parquet_frames(path: Path, stream: io.BufferedWriter, dim: int, about: Mapping[str, Any]) -> Iterator[AddFrames]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("file", pa.string()), ("frame", pa.int32()), ("time_ms", pa.float32())]
    schema = pa.schema(fields + [(str(i), pa.float32()) for i in range(dim)], {ABOUT: json.dumps(about)})
    waiting: list[tuple[str, np.ndarray, np.ndarray]] = []

    def flush(writer: pq.ParquetWriter) -> None:
        files = [file for file, features, _ in waiting for _ in features]
        counts = np.concatenate([np.arange(len(features), dtype=np.int32) for _, features, _ in waiting])
        times_ms = np.concatenate([times_ms for _, _, times_ms in waiting])
        columns = [files, counts, times_ms, *np.ascontiguousarray(np.concatenate([one for _, one, _ in waiting]).T)]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        waiting.clear()

    with pq.ParquetWriter(stream, schema) as writer:

        def add(file: Path, features: np.ndarray, times_ms: np.ndarray) -> None:
            waiting.append((str(file), features, times_ms))
            # A group of rows per file would make the index of a file of short clips larger than the clips.
            if sum(len(one) for _, one, _ in waiting) * dim > ROW_GROUP:
                flush(writer)

        yield add
        if waiting:
            flush(writer)


def _add(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    import numpy as np

    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
