"""CREMA-D (Cao et al. 2014): `AudioWAV/{actor}_{sentence}_{emotion}_{level}.wav`, a split by actors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evar.datasets.card import find_split_file
from evar.datasets.tables import first_names, read_csv
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS = {"leave_out": []}  # clips without sound or with a fault, by name without extension
MARKERS = ("AudioWAV",)
_ACTORS = tuple(str(actor) for actor in range(1001, 1092))
_SENTENCES = ("DFA", "IEO", "IOM", "ITH", "ITS", "IWL", "IWW", "MTI", "TAI", "TIE", "TSI", "WSI")
_EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
_LEVELS = ("LO", "MD", "HI")  # of sentence IEO, but for neutral; XX otherwise
# What was never recorded: (actor, sentence) in all emotions, and single clips.
_ABSENT_SENTENCES = {("1008", "WSI"), ("1009", "MTI"), ("1019", "ITH")}
_ABSENT = {"1002_TIE_NEU_XX", "1076_ITS_NEU_XX"}
_LIST = "SentenceFilenames.csv"
_MINI_ACTORS = ("1002", "1003", "1005", "1006", "1007", "1008", "1010", "1012", "1009", "1011", "1001", "1004", "1017")
_MINI_SENTENCES = ("DFA", "IOM", "ITS")


def read(root: Path, card: Card) -> DataFrame:
    """The 7,442 official names less the card's `leave_out`; the part comes from the actor, who is the group.

    The card's `split_file` has the columns split, actors (separated by spaces). The official names follow a rule;
    where `SentenceFilenames.csv` lies beside `AudioWAV`, it says which there are.
    """
    import pandas as pd

    part_of = _parts(root, card)
    names = _listed(root / _LIST) if (root / _LIST).is_file() else official_names()
    unheard_of = sorted(set(card.options["leave_out"]) - set(official_names()))
    if unheard_of:
        raise EvarError(f"{card.path}: 'leave_out': {first_names(unheard_of)} is no clip of CREMA-D")
    rows = []
    for name in names:
        if name not in card.options["leave_out"]:
            actor, _, emotion, _ = name.split("_")
            clip_id = f"AudioWAV/{name}"
            rows.append((clip_id, f"{clip_id}.wav", emotion, part_of[actor], actor))
    return pd.DataFrame(rows, columns=["clip_id", "path", "label", "split", "group"])


def official_names() -> list[str]:
    """The 7,442 official clip names without extension, sorted."""
    return sorted(
        name
        for actor in _ACTORS
        for sentence in _SENTENCES
        if (actor, sentence) not in _ABSENT_SENTENCES
        for emotion in _EMOTIONS
        for level in (_LEVELS if sentence == "IEO" and emotion != "NEU" else ("XX",))
        if (name := f"{actor}_{sentence}_{emotion}_{level}") not in _ABSENT
    )


def _listed(path: Path) -> list[str]:
    names = list(read_csv(path, ["Filename"])["Filename"])
    strange = sorted(set(names) - set(official_names()))
    if strange:
        raise EvarError(f"{path}: {first_names(strange)} is no clip of CREMA-D; restore the official file")
    return names


def _parts(root: Path, card: Card) -> dict[str, str]:
    """Actor -> part, from the card's split file; each of the 91 actors is in one part."""
    path = find_split_file(card, root)
    if path is None:
        raise EvarError(f"{card.name}: its list {card.split_file} is neither in {root} nor beside the card; restore it")
    part_of: dict[str, str] = {}
    for row in read_csv(path, ["split", "actors"]).itertuples(index=False):
        for actor in row.actors.split():
            if actor not in _ACTORS or actor in part_of:
                raise EvarError(f"{path}: actor {actor!r} in {row.split!r}: expected each of 1001-1091 once")
            part_of[actor] = row.split
    left = sorted(set(_ACTORS) - set(part_of))
    if left:
        raise EvarError(f"{path}: actors {first_names(left)} are in no part; expected each of 1001-1091 once")
    return part_of


def write_mini(root: Path, card: Card) -> None:
    """Thirteen actors (8 train, 2 valid, 3 test) say three sentences in six emotions, 0.9 s each."""
    from evar.datasets import synth
    from evar.files import atomic_write

    lines = ['"Stimulus_Number","Filename"']
    for actor in sorted(_MINI_ACTORS):
        for word, sentence in enumerate(_MINI_SENTENCES):
            for emotion, label in enumerate(_EMOTIONS):
                name = f"{actor}_{sentence}_{label}_XX"
                sound = synth.speech(int(actor), word, 0, 0.9, emotion=emotion, noise=0.6)
                synth.write_wav(root / "AudioWAV" / f"{name}.wav", sound, 16000)
                lines.append(f'{len(lines)},"{name}"')
    atomic_write(root / _LIST, "\n".join(lines) + "\n")
