"""What is in order by the card and still makes a score doubtful: copies, silence, classes and groups that are not tested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evar.audio.decode import segment_fault
from evar.audio.forward import forward_class
from evar.audio.listing import shortened
from evar.audio.pointers import HEAD_BYTES, what_begins
from evar.files import sha256_file

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame
    from soundfile import SoundFile

    from evar.datasets.card import Card

FEW_GROUPS = 5  # an interval over fewer groups than these rests on chance
STREAMED = 0x7FFF_0000  # a RIFF size from here on is what writers put who do not know the size
_MIDDLE = 4096  # bytes from the middle of a file: what two files of one size are first compared by
_BLOCK = 1 << 18  # frames


@dataclass(frozen=True)
class Look:
    """One look at a file: `fault` (why it is no good, or None); `key`, the same for files that may be copies; `silent`, where
    that is known. `key` is None where the file is at fault; with `audio` it is of all decoded samples, and settles it.
    """

    fault: str | None
    key: tuple | None = None
    silent: bool | None = None


def look_at(path: Path, audio: bool) -> Look:
    """Look at a clip's file: at its size, its first bytes and some from its middle; with `audio` at each sample."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
            stream.seek(max(0, size // 2 - _MIDDLE // 2))
            middle = stream.read(_MIDDLE)
    except OSError as error:
        return Look(f"cannot be read: {error.strerror}")
    if size == 0:
        return Look("empty file")
    if what := what_begins(head):
        return Look(f"is {what}")
    if audio:
        return _listen(path, head, size)
    # Samples of zeros: what is not compressed shows it, and then it is worth a closer look.
    silent = is_silent(path) if not any(middle) else None
    return Look(None, (size, hashlib.blake2b(middle, digest_size=16).digest()), silent)


def is_silent(path: Path) -> bool | None:
    """Whether every sample of a file is zero; None where it cannot be decoded."""
    try:
        with forward_class()(str(path)) as sound:
            return not any(block.any() for block in _blocks(sound))
    except (OSError, RuntimeError, UnicodeError):
        return None


def _blocks(sound: SoundFile) -> Iterator[np.ndarray]:
    while len(block := sound.read(_BLOCK, dtype="float32")):
        yield block


def _listen(path: Path, head: bytes, size: int) -> Look:
    content, silent = hashlib.blake2b(digest_size=16), True
    try:
        with forward_class()(str(path)) as sound:
            about = sound.frames, sound.samplerate, sound.channels
            if sound.frames <= 0:
                return Look("holds no samples")
            for block in _blocks(sound):
                content.update((block + 0.0).tobytes())  # -0.0 is 0.0
                silent = silent and not block.any()
    except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeError: what soundfile raises
        return Look(f"not readable as audio: {' '.join(str(error).split())}")
    # libsndfile takes a shortened wav for a shorter one; the RIFF header still knows
    promised = int.from_bytes(head[4:8], "little") + 8
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE" and size + 1 < promised < STREAMED:
        return Look(f"cut short: {size} bytes, its header says {promised}")
    return Look(None, (*about, content.digest()), silent)


def beyond_the_end(root: Path, clips: DataFrame) -> list[str]:
    """A line where segments lie beyond the end of their files, by the files' headers."""
    if "start" not in clips and "stop" not in clips:
        return []
    whole = clips.assign(**{name: empty for name, empty in (("start", 0.0), ("stop", None)) if name not in clips})
    cut = whole[(whole["start"] > 0) | whole["stop"].notna()]
    faults = []
    for path, rows in cut.groupby("path", sort=False):
        faults += segment_fault(root / path, zip(rows["start"], rows["stop"], strict=True))
    if not faults:
        return []
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return [f"{len(faults)} of {len(cut)} segments cannot be cut: {'; '.join(faults[:3])}{more}"]


def equal_files(root: Path, looks: dict[str, Look], audio: bool) -> tuple[list[tuple[str, ...]], list[str]]:
    """(groups of files with the same content, silent files), each sorted; silent files are in no group.

    Without `audio` the bytes of files are compared, and silence is found where it shows.
    """
    silent = {path for path, look in looks.items() if look.silent}
    candidates: dict[tuple, list[str]] = {}
    for path, look in looks.items():
        if look.key is not None and path not in silent:
            candidates.setdefault(look.key, []).append(path)
    groups = []
    for key, paths in candidates.items():
        same: dict[object, list[str]] = {}
        for path in paths if len(paths) > 1 else ():
            same.setdefault(key if audio else _content(root / path), []).append(path)
        for found in same.values():
            if len(found) > 1 and not audio and is_silent(root / found[0]):
                silent |= set(found)
            elif len(found) > 1:
                groups.append(tuple(sorted(found)))
    return sorted(groups), sorted(silent)


def _content(path: Path) -> object:
    try:
        return sha256_file(path)
    except OSError:
        return path  # equal to nothing else


def copies(card: Card, clips: DataFrame, groups: Sequence[tuple[str, ...]], how: str) -> Iterator[str]:
    """A line for each kind of copy among the clips: across parts or folds, under two labels, within a part.

    groups: paths of files that are equal; how: `byte for byte` or `sample by sample`.
    """
    part, label = ("fold" if card.split == "folds" else "split"), ("labels" if card.multilabel else "label")
    named = {path for group in groups for path in group}
    by_path = dict(list(clips[clips["path"].isin(named)].groupby("path")))
    across: dict[str, list[str]] = {}
    others, within = [], 0
    for group in groups:
        rows = {path: by_path[path] for path in group if path in by_path}
        parts = {path: set(found[part]) for path, found in rows.items()}
        for a, b in _pairs(parts):
            across.setdefault(_between(*sorted((parts[a] | parts[b]), key=_order)[:2]), []).append(f"{a} = {b}")
        if len({tuple(sorted(map(str, set(found[label])))) for found in rows.values()}) > 1:
            others.append(" = ".join(f"{path} ({_labels(rows[path][label])})" for path in group[:3]))
        within += len(rows) - len({tuple(sorted(map(str, found))) for found in parts.values()})
    for between, pairs in across.items():
        yield f"copies: {len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'} of clips, {how}, {between}: {shortened(pairs)}"
    if others:
        yield f"copies: {len(others)} {'clip' if len(others) == 1 else 'clips'} under different labels: {shortened(others)}"
    if within:
        yield f"copies: {within} {'clip is a copy' if within == 1 else 'clips are copies'} of another in the same {part}"


def _pairs(parts: dict[str, set]) -> Iterator[tuple[str, str]]:
    """Each file with the first one that is in another part, those of train and test first."""
    names = sorted(parts, key=lambda path: (min(map(_order, parts[path])), path))
    for i, path in enumerate(names):
        other = next((one for one in names[:i] if parts[one] != parts[path]), None)
        if other is not None:
            yield other, path


def _order(part: object) -> tuple[int, str]:
    known = ("train", "test", "valid")
    return (known.index(part), "") if part in known else (len(known), f"{part:>9}")


def _between(a: object, b: object) -> str:
    if isinstance(a, str):
        return f"in {a} and {b}"
    return "in two folds (one trains, one is tested)"


def _labels(values: Iterable[object]) -> str:
    return "/".join(sorted({str(value) if isinstance(value, str) else "+".join(value) for value in values}))


def untested(card: Card, clips: DataFrame) -> Iterator[str]:
    """A line for each part or fold that lacks classes, naming them."""
    part, label = ("fold" if card.split == "folds" else "split"), ("labels" if card.multilabel else "label")
    pairs = clips[[label, part]].explode(label).dropna().drop_duplicates()
    classes = set(pairs[label]) | (set(card.classes) if isinstance(card.classes, tuple) else set())
    if part == "split":
        for name, word in (("test", "a test"), ("train", "a training"), ("valid", "a validation")):
            held = set(pairs[label][pairs[part] == name])
            lacking = sorted(classes - held)
            if lacking and held:
                yield f"{_classes(lacking)} without {word} clip: {shortened(lacking, 5)} (of {len(classes)})"
        return
    folds = pairs.groupby(label)[part].nunique().to_dict()
    n_folds = pairs[part].nunique()
    lacking = {name: folds.get(name, 0) for name in sorted(classes) if folds.get(name, 0) < n_folds}
    if lacking:
        named = shortened([f"{name} ({n} of {n_folds})" for name, n in lacking.items()], 5)
        yield f"{_classes(list(lacking))} without a test clip in every fold: {named}"


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'}"


def few_groups(card: Card, clips: DataFrame) -> Iterator[str]:
    """A line where what is tested comes from few groups: an interval over them says little."""
    if card.group is None or "group" not in clips:
        return
    tested = clips if card.split == "folds" else clips[clips["split"] == "test"]
    groups = sorted(set(tested["group"]))
    if 0 < len(groups) < FEW_GROUPS:
        yield (
            f"only {len(groups)} {'group' if len(groups) == 1 else 'groups'} ({card.group}) tested: "
            f"{', '.join(map(str, groups))}; an interval over so few says little"
        )
