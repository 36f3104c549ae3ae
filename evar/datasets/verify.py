"""Is this folder the dataset that its card describes? Says what is missing, altered or not official, all of it at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from evar.datasets import layouts
from evar.datasets.card import Card, find_card
from evar.datasets.locate import locate
from evar.datasets.tables import AUDIO_EXTENSIONS, first_names, list_sha256
from evar.datasets.task import SYNTHETIC_FILE, load_task, resolve_files, synthetic_counts
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 20  # names that `str(report)` lists of each kind
STREAMED = 0x7FFF_0000  # a RIFF size from here on is what writers put who do not know the size
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What `verify` found in the folder `root` for the card called `card`.

    `n_expected` clips by the card (or the lists in the folder, where the card gives no number), `n_found` of them
    there. `missing`: ids of clips that are known by name and have no file. `extra`: number of other audio files, which
    is no fault. `altered`: `PATH: WHY` for files that are empty or unreadable. `messages`: whatever else is wrong.
    `official`: real data under the card's split lists.
    """

    card: str
    root: Path
    official: bool
    n_expected: int
    n_found: int
    missing: tuple[str, ...]
    extra: int
    altered: tuple[str, ...]
    lists_ok: bool
    groups_ok: bool
    messages: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True when the folder is complete and nothing in it is wrong (a complete synthetic stand-in is, too)."""
        return not (self.missing or self.altered or self.messages) and self.n_found == self.n_expected

    def __str__(self) -> str:
        kind = "" if self.official else ", NOT the official data"
        lines = [f"{self.card}: {self.root}: {self.n_found} of {self.n_expected} clips{kind}"]
        lines += [*self.messages, *_listed("missing", self.missing), *_listed("altered", self.altered)]
        if self.extra:
            lines.append(f"{self.extra} other audio files, which {self.card} does not use")
        return "\n".join([*lines, "complete, nothing wrong" if self.ok else "not in order"])


def verify(
    name: str,
    root: str | os.PathLike | None = None,
    data: Sequence[str] = (),
    tasks_dir: str | os.PathLike | None = None,
    audio: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Compare the folder of the task `name` with its card; `root` and `data` as for `load_task`.

    `audio=True` also reads the header of every file (`progress(done, total)` counts files).
    Raises EvarError only where there is nothing to report on: no such card, a broken card, no such folder.
    """
    card = find_card(name, tasks_dir)
    layout = layouts.load(card)
    options = layouts.options(card, layout)
    if root is None:
        root = locate(card, layout, options, [data] if isinstance(data, str) else data)
    root = Path(root)
    if not root.is_dir():
        raise EvarError(f"{card.name}: {root} is not a folder; give the dataset's folder")
    synthetic = (root / SYNTHETIC_FILE).exists()
    wrong_lists = [] if synthetic else list(_wrong_lists(card, root, layout))
    messages = list(wrong_lists)

    clips, missing = None, []
    with _collecting(messages):
        clips, missing = resolve_files(layout.read(root, replace(card, options=options)), root)
    messages[:] = [str(card.in_its_words(EvarError(message))) for message in messages]
    messages[:] = dict.fromkeys(messages)  # an absent list is met twice
    groups = [] if clips is None else list(_straddling_groups(card, clips))
    messages += groups
    counts = {}
    with _collecting(messages):
        counts = synthetic_counts(root, card) if synthetic else card.counts
    if clips is not None:
        messages += _wrong_counts(card, clips, counts)
    if not messages:  # the checks of `load_task` that are not repeated here: ids, labels, folds, classes
        with _collecting(messages):
            load_task(name, root, tasks_dir=tasks_dir, partial=True)

    there = [] if clips is None else clips["path"][~clips["clip_id"].isin(set(missing))].tolist()
    altered = list(_altered(root, list(dict.fromkeys(there)), audio, progress))
    return Report(
        card=card.name,
        root=root,
        official=not synthetic and not wrong_lists and clips is not None,
        n_expected=counts.get("clips") or sum(counts.values()) or (0 if clips is None else len(clips)),
        n_found=len(there),
        missing=tuple(sorted(missing)),
        extra=_count_other_audio(root, set(there)),
        altered=tuple(altered),
        lists_ok=not wrong_lists,
        groups_ok=not groups,
        messages=tuple(messages),
    )


def _listed(what: str, names: tuple[str, ...]) -> list[str]:
    lines = [f"{what}: {name}" for name in names[:SHOWN]]
    return lines + ([f"{what}: and {len(names) - SHOWN} more (--format json names all)"] if len(names) > SHOWN else [])


@contextlib.contextmanager
def _collecting(messages: list[str]) -> Iterator[None]:
    """Put an EvarError or OSError of the block into `messages`."""
    try:
        yield
    except EvarError as error:
        messages.append(str(error))
    except OSError as error:
        messages.append(f"cannot read {error.filename}: {error.strerror}")


# --- tables ----------------------------------------------------------------------------------------------------------


def _wrong_lists(card: Card, root: Path, layout: ModuleType) -> Iterator[str]:
    """One message for each split list that is absent or not the official one."""
    for file, expected in card.lists.items():
        path = layouts.lies(layout, root, file)
        try:
            found = list_sha256(path)
        except EvarError as error:
            yield str(error)
            continue
        if found != expected:
            yield (
                f"{path} is not the official list: expected sha256 {expected}, found {found}; restore it, or "
                "write a card of another name for this split"
            )


def _straddling_groups(card: Card, clips: DataFrame) -> Iterator[str]:
    if not card.groups_disjoint or "group" not in clips:
        return
    part = "fold" if card.split == "folds" else "split"
    parts = clips.groupby("group")[part].nunique()
    across = list(parts[parts > 1].index)
    if across:
        yield f"{len(across)} groups ({card.group}) are in more than one {part}: {first_names(across)}"


def _wrong_counts(card: Card, clips: DataFrame, counts: dict[str, int]) -> list[str]:
    """Parts in which the lists of the folder do not have as many clips as the card says."""
    part = clips["fold"].map("fold{}".format) if card.split == "folds" else clips["split"]
    listed = part.value_counts().to_dict() | {"clips": len(clips)}
    wrong = [(key, listed.get(key, 0), n) for key, n in counts.items() if listed.get(key, 0) != n]
    return [f"{key}: the folder's tables have {found} clips, the card says {n}" for key, found, n in wrong]


# --- files -----------------------------------------------------------------------------------------------------------


def _altered(root: Path, paths: list[str], audio: bool, progress: Progress | None) -> Iterator[str]:
    """`PATH: WHY` for each file that is empty and, with `audio`, for each whose header does not hold."""
    for done, path in enumerate(paths, start=1):
        fault = _fault(root / path, audio)
        if fault:
            yield f"{path}: {fault}"
        if progress:
            progress(done, len(paths))


def _fault(path: Path, audio: bool) -> str | None:
    try:
        size = path.stat().st_size
        if size == 0:
            return "empty file"
        if not audio:
            return None
        with open(path, "rb") as stream:
            head = stream.read(12)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    import soundfile

    try:
        frames = soundfile.info(str(path)).frames
    except (soundfile.SoundFileError, RuntimeError, UnicodeError) as error:
        return f"not readable as audio: {' '.join(str(error).split())}"
    if frames <= 0:
        return "holds no samples"
    # libsndfile takes a shortened wav for a shorter one; the RIFF header still knows
    promised = int.from_bytes(head[4:8], "little") + 8
    if head[:4] == b"RIFF" and head[8:] == b"WAVE" and size + 1 < promised < STREAMED:
        return f"cut short: {size} bytes, its header says {promised}"
    return None


def _count_other_audio(root: Path, used: set[str]) -> int:
    """Audio files below `root` that are not in `used` (posix paths relative to it); hidden folders are not entered."""
    n = 0
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inside = Path(folder).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        audio = (name for name in names if os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS)
        n += sum(f"{prefix}{name}" not in used for name in audio)
    return n
