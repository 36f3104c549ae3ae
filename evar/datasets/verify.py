"""Is this folder the dataset that its card describes? Says what is missing, altered or not official, all of it at once."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from evar.audio import listing
from evar.audio.listing import Listing, list_audio, shortened
from evar.datasets import findings, layouts
from evar.datasets.card import Card, find_card
from evar.datasets.locate import locate
from evar.datasets.part_words import ReadAs
from evar.datasets.tables import first_names, list_sha256
from evar.datasets.task import SYNTHETIC_FILE, dangling, load_task, resolve_files, synthetic_counts
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 20  # names that `str(report)` lists of each kind
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What `verify` found in the folder `root` for the card called `card`.

    `n_expected` clips by the card (or the lists in the folder, where the card gives no number), `n_found` of them
    there. `missing`: ids of clips that are known by name and have no file. `extra`: number of other audio files, which
    is no fault. `altered`: `PATH: WHY` for files that are empty, unreadable, or a pointer or web page in place of audio.
    `messages`: whatever else is wrong. `official`: real data under the card's split lists.

    `findings`: what is no fault of the folder and makes a score doubtful: files that the layout leaves out, copies, silence,
    classes without test clips, few groups. `copies`: groups of clips' files with the same content. `silent`: files of digital
    silence. `notes`: what is worth knowing and nothing wrong. `left_out`: kind -> names of files that are no clips.
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
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    copies: tuple[tuple[str, ...], ...] = ()
    silent: tuple[str, ...] = ()
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True when the folder is complete and nothing is missing or altered (a complete synthetic stand-in is, too).

        There may be findings: data can be what its card describes and hold copies.
        """
        return not (self.missing or self.altered or self.messages) and self.n_found == self.n_expected

    def __str__(self) -> str:
        kind = "" if self.official else ", NOT the official data"
        lines = [f"{self.card}: {self.root}: {self.n_found} of {self.n_expected} clips{kind}"]
        lines += [*self.messages, *_listed("missing", self.missing), *_listed("altered", _by_reason(self.altered))]
        if self.extra:
            lines.append(f"{self.extra} other audio files, which {self.card} does not use")
        if beside := Listing(self.root, (), (), self.left_out).said((listing.OTHER, listing.JUNK)):
            lines.append(f"beside the audio: {beside.removeprefix('left out: ')}")
        lines += [*self.notes, *self.findings]
        n = len(self.findings)
        found = f", but: {n} {'finding' if n == 1 else 'findings'} above" if n else ", nothing wrong"
        return "\n".join([*lines, f"complete{found}" if self.ok else "not in order"])


def verify(
    name: str,
    root: str | os.PathLike | None = None,
    data: Sequence[str] = (),
    tasks_dir: str | os.PathLike | None = None,
    audio: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Compare the folder of the task `name` with its card; `root` and `data` as for `load_task`.

    Of every file the first bytes are read and some from the middle, of those that may be copies all; with `audio=True`
    every sample (`progress(done, total)` counts files).
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

    clips, missing, heard, notes = None, [], [], []
    with _collecting(messages), _hearing(heard, notes, card, root):
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
        with _collecting(messages), _hearing(heard, notes, card, root):
            load_task(name, root, tasks_dir=tasks_dir, partial=True)

    there = [] if clips is None else clips["path"][~clips["clip_id"].isin(set(missing))].tolist()
    looks = _looks(root, list(dict.fromkeys(there)), audio, progress)
    if clips is not None:
        readable = [path for path, look in looks.items() if look.fault is None]
        messages += findings.beyond_the_end(root, clips[clips["path"].isin(readable)])
    copies, silent = findings.equal_files(root, looks, audio)
    tree = list_audio(root)
    lost = set() if clips is None else set(clips["path"])
    left_out = {
        kind: kept for kind, names in tree.left_out.items() if (kept := tuple(n for n in names if n not in lost))
    }
    doubts = list(dict.fromkeys(heard))
    if not any(line.startswith("left out: ") for line in doubts):
        doubts += filter(None, [Listing(root, (), (), left_out).said(_DOUBTFUL)])
    if clips is not None:
        links = dangling(root, clips["path"][clips["clip_id"].isin(set(missing))])
        doubts += [links] if links and not any(links in message for message in messages) else []
        doubts += _doubts(card, clips, copies, silent, audio)
    return Report(
        card=card.name,
        root=root,
        official=not synthetic and not wrong_lists and clips is not None,
        n_expected=counts.get("clips") or sum(counts.values()) or (0 if clips is None else len(clips)),
        n_found=len(there),
        missing=tuple(sorted(missing)),
        extra=_count_other_audio(tree, set(there)),
        altered=tuple(f"{path}: {look.fault}" for path, look in looks.items() if look.fault),
        lists_ok=not wrong_lists,
        groups_ok=not groups,
        messages=tuple(messages),
        findings=tuple(doubts),
        notes=tuple(dict.fromkeys(notes)),
        copies=tuple(copies),
        silent=tuple(silent),
        left_out=left_out,
    )


_DOUBTFUL = tuple(kind for kind in listing.KINDS if kind not in (listing.OTHER, listing.JUNK, listing.AGAIN))


def _doubts(
    card: Card, clips: DataFrame, copies: Sequence[tuple[str, ...]], silent: Sequence[str], audio: bool
) -> Iterator[str]:
    yield from findings.copies(card, clips, copies, "sample by sample" if audio else "byte for byte")
    if silent:
        yield f"silence: {len(silent)} {'clip is' if len(silent) == 1 else 'clips are'} digital silence: {shortened(silent)}"
    yield from findings.untested(card, clips)
    yield from findings.few_groups(card, clips)


def _listed(what: str, names: tuple[str, ...]) -> list[str]:
    lines = [f"{what}: {name}" for name in names[:SHOWN]]
    return lines + ([f"{what}: and {len(names) - SHOWN} more (--format json names all)"] if len(names) > SHOWN else [])


def _by_reason(altered: Sequence[str]) -> tuple[str, ...]:
    """The lines `PATH: WHY`, those of one reason as one line with their number."""
    paths: dict[str, list[str]] = {}
    for line in altered:
        path, _, why = line.partition(": ")
        paths.setdefault(why, []).append(path)
    return tuple(
        f"{f'{len(names)} files: ' if len(names) > 1 else ''}{shortened(names)}: {why}" for why, names in paths.items()
    )


@contextlib.contextmanager
def _collecting(messages: list[str]) -> Iterator[None]:
    """Put an EvarError or OSError of the block into `messages`."""
    try:
        yield
    except EvarError as error:
        messages.append(str(error))
    except OSError as error:
        messages.append(f"cannot read {error.filename}: {error.strerror}")


@contextlib.contextmanager
def _hearing(heard: list[str], notes: list[str], card: Card, root: Path) -> Iterator[None]:
    """Put the warnings of the block into `heard` or `notes`, without the beginning that names card and folder."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for one in caught:
                text = str(one.message).removeprefix(f"{card.name}: ").removeprefix(f"{root}: ")
                if issubclass(one.category, UserWarning):
                    (notes if issubclass(one.category, ReadAs) else heard).append(text)


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


def _looks(root: Path, paths: list[str], audio: bool, progress: Progress | None) -> dict[str, findings.Look]:
    looks = {}
    for done, path in enumerate(paths, start=1):
        looks[path] = findings.look_at(root / path, audio)
        if progress:
            progress(done, len(paths))
    return looks


def _count_other_audio(tree: Listing, used: Iterable[str]) -> int:
    """Audio files of the folder that are not in `used` (posix paths relative to it)."""
    others = set(tree.files) - set(used)
    if others and listing.AGAIN in tree.left_out:  # one file may be used under its other name
        real = {os.path.realpath(tree.root / path) for path in used}
        others = {path for path in others if os.path.realpath(tree.root / path) not in real}
    return len(others)
