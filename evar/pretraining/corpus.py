"""Audio to pre-train on: any folder tree or manifest, decoded once, then random crops of it."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from evar.audio.cache import Waveforms, open_waveforms
from evar.audio.listing import audio_below
from evar.errors import EvarError

PIECE_SECONDS = 1.0
"""A clip stands in an epoch once for each second of its length, at least once: all audio is seen equally often."""
STATISTICS_CROPS = 20_000
"""Log-mel statistics are measured on at most this many crops."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Decoded clips to draw crops from.

    waves: all clips, those that could not be decoded in `waves.bad`. pieces: int64 [P], the clip of each piece of an
    epoch. sources: the folders and manifests as given. digest: SHA-256 of the decoded audio and the clips' names.
    left_out: manifest rows left out for their licence. unused: a line for each folder in which something is no audio.
    """

    waves: Waveforms
    pieces: np.ndarray
    sources: tuple[str, ...]
    left_out: int = 0
    unused: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of names, rate and decoded samples."""
        return self.waves.fingerprint

    @property
    def clips(self) -> int:
        """Clips that could be decoded."""
        return len(self.waves) - len(self.waves.bad)

    @property
    def hours(self) -> float:
        """Length of what could be decoded."""
        return float(self.waves.lengths.sum()) / self.waves.sample_rate / 3600

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The clips of one epoch in random order, int64 [P]: the same for the same seed and epoch."""
        return np.random.default_rng([seed, epoch, 0]).permutation(self.pieces)

    def crops(self, clips: np.ndarray, n_crops: int, samples: int, random: np.random.Generator) -> np.ndarray:
        """float32 [B, n_crops, samples]: uniformly placed parts of each clip; shorter clips are zero-padded."""
        clips = np.repeat(clips, n_crops)
        room = np.maximum(self.waves.lengths[clips] - samples, 0)
        starts = (random.random(len(clips)) * (room + 1)).astype(np.int64)
        return self.waves.crops(clips, starts, samples).reshape(-1, n_crops, samples)

    def statistics_batches(self, samples: int, batch: int = 256):  # noqa: ANN201 (a generator of arrays)
        """(wav [B, samples], lengths [B]) batches for the corpus's log-mel statistics: the same on every call."""
        order = np.random.default_rng(0).permutation(self.pieces)[:STATISTICS_CROPS]
        random = np.random.default_rng(1)
        for first in range(0, len(order), batch):
            clips = order[first : first + batch]
            wav = self.crops(clips, 1, samples, random)[:, 0]
            yield wav, np.minimum(self.waves.lengths[clips], samples)


def open_corpus(
    sources: Sequence[str | Path],
    sample_rate: int,
    cache_dir: str | Path,
    skip_licence: Sequence[str] = (),
    emphasis: Mapping[str, float] = MappingProxyType({}),
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Open folders, audio files and CSV manifests (column `file`, relative to the manifest; `licence` if filtered).

    skip_licence: rows whose licence contains one of these texts, in capitals or not, are left out. emphasis: files whose
    name contains the text stand that many times as often in an epoch. Files that cannot be decoded are left out and
    stand in `corpus.waves.bad`; what is no audio in a folder is named in `corpus.unused`. Linked folders are entered,
    each folder once. Raises EvarError: nothing there, no audio, a manifest without its columns or with
    ragged rows, files that a manifest names and that are missing, nothing that can be decoded.
    """
    names, files, left_out, unused = [], [], 0, []
    for source in sources:
        path = Path(source).expanduser()
        if path.suffix.lower() == ".csv":
            found, rows = _from_manifest(path, skip_licence)
            left_out += rows - len(found)
        elif skip_licence:
            raise EvarError(f"--skip-licence needs a manifest with a licence column, found {path}")
        else:
            found, said = _from_folder(path)
            unused += [f"{path}: {said}"] if said else []
        for name, file in found:
            names.append(name if len(sources) == 1 else f"{path.stem}/{name}")
            files.append(file)
    seen: set[str] = set()
    for file in map(os.path.abspath, files):
        if file in seen:
            raise EvarError(f"--audio names {file} twice: give each file once")
        seen.add(file)
    for text in emphasis:
        if not any(text in name for name in names):
            raise EvarError(f"--emphasis {text}: no file of the corpus has this in its name, such as {names[0]}")
    n = len(files)
    waves = open_waveforms(
        names, files, [0.0] * n, [None] * n, sample_rate, None, cache_dir, skip_bad=True, progress=progress
    )
    seconds = waves.lengths / sample_rate
    factors = [math.prod(by for text, by in emphasis.items() if text in name) for name in names]
    pieces = np.maximum(1, np.round(seconds * factors / PIECE_SECONDS))
    repeats = np.where(waves.lengths > 0, pieces, 0).astype(np.int64)
    return Corpus(waves, np.repeat(np.arange(n), repeats), tuple(map(str, sources)), left_out, tuple(unused))


def _from_folder(path: Path) -> tuple[list[tuple[str, Path]], str]:
    """The audio of a folder, or the file itself, and what was left out in words."""
    if path.is_file():
        return [(path.name, path)], ""
    if not path.is_dir():
        raise EvarError(f"--audio {path} does not exist: expected a folder of audio or a CSV manifest")
    listing = audio_below(path)
    return [(name, path / name) for name in listing.files], listing.said()


def _from_manifest(path: Path, skip_licence: Sequence[str]) -> tuple[list[tuple[str, Path]], int]:
    """The files of a manifest that are not left out, and the number of its rows."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:  # spreadsheets write a byte order mark
            header, *rows = list(csv.reader(stream)) or [[]]
    except OSError as error:
        raise EvarError(f"cannot read the manifest {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvarError(f"{path} is no CSV manifest in UTF-8: {error}") from error
    for column in ["file", *(["licence"] if skip_licence else [])]:
        if column not in header:
            raise EvarError(f"manifest {path} has no column {column!r}: it has {', '.join(header) or 'none'}")
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header) or not row[header.index("file")]:
            raise EvarError(
                f"manifest {path}: row {number} ({','.join(row)[:80]}) has {len(row)} columns, expected {len(header)}"
                " and a file name; quote names that hold commas"
            )
    kept = [row[header.index("file")] for row in rows if not _is_skipped(header, row, skip_licence)]
    if not kept:
        raise EvarError(f"manifest {path} names no files" + (" under other licences" if rows else ""))
    missing = [name for name in kept if not os.path.isfile(path.parent / name)]
    if missing:
        raise EvarError(f"manifest {path}: {len(missing)} of {len(kept)} files are missing, such as {missing[0]}")
    return [(name, path.parent / name) for name in kept], len(rows)


def _is_skipped(header: list[str], row: list[str], skip_licence: Sequence[str]) -> bool:
    if not skip_licence:
        return False
    licence = row[header.index("licence")].casefold()
    return any(text.casefold() in licence for text in skip_licence)
