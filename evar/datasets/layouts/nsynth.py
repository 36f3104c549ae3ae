"""NSynth (Engel et al. 2017): `nsynth-{train,valid,test}/examples.json` and `audio/{note}.wav`; one note per file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.datasets.official import require_rows
from evar.datasets.tables import first_names, read_text, relative
from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS = {
    "label": "family",  # family: the instrument's family; pitch: the MIDI pitch in three digits, such as `060`
    "unseen_instruments": True,  # refuse instruments of the training part in the others, as in the official split
    "only_classes_of_train": False,  # true: notes of valid and test whose class never occurs in train are left out
}
MARKERS = ("nsynth-train/examples.json", "nsynth-test/examples.json")
_PARTS = ("train", "valid", "test")
# Of the mini: its families (seven at most, as far as the card has them), one of them in no other part than train.
_FAMILIES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "synth_lead", "reed", "string", "organ", "vocal")
_TRAIN_ONLY = "synth_lead"
_PITCHES = (57, 58, 59, 60, 61, 62, 63, 64)  # every instrument plays all


def read(root: Path, card: Card) -> DataFrame:
    """The notes of the three `examples.json`; the group is the instrument (`instrument_str`).

    Raises EvarError for an unreadable file, a note without the official fields, or (unless `unseen_instruments:
    false`) a training instrument in valid or test. Valid and test share instruments, in the official set too.
    """
    import pandas as pd

    label = card.options["label"]
    if label not in ("family", "pitch"):
        raise EvarError(f"{card.path}: 'options': 'label': {unknown('value', label, ['family', 'pitch'])}")
    rows = []
    for part in _PARTS:
        path = root / f"nsynth-{part}" / "examples.json"
        notes = _notes(path, part, label)
        if part == "train" or not card.options["only_classes_of_train"]:  # else the count is of what remains
            require_rows(len(notes), card, root, path, part)
        rows += notes
    clips = pd.DataFrame(rows, columns=["clip_id", "path", "label", "split", "group"])
    is_train = clips["split"] == "train"
    if card.options["unseen_instruments"]:
        seen = sorted(set(clips["group"][is_train]) & set(clips["group"][~is_train]))
        if seen:
            raise EvarError(
                f"{card.name}: {len(seen)} training instruments of {root} are in valid or test too: "
                f"{first_names(seen)}; this is not the official split: restore it, or write a card of its own"
            )
    if card.options["only_classes_of_train"]:
        clips = clips[is_train | clips["label"].isin(set(clips["label"][is_train]))].reset_index(drop=True)
    return clips


def _notes(path: Path, part: str, label: str) -> list[tuple[str, str, str, str, str]]:
    """One row per note of an `examples.json`, in the order of the file."""
    try:
        notes = json.loads(read_text(path))
    except (ValueError, RecursionError):
        notes = None
    if not isinstance(notes, dict):
        raise EvarError(f"{path} is not a JSON object of notes; restore the official file")
    rows = []
    for name, note in notes.items():
        instrument, value = _field(note, "instrument_str"), _field(note, "instrument_family_str")
        pitch = note.get("pitch") if isinstance(note, dict) else None
        if not instrument or not value or type(pitch) is not int or not 0 <= pitch <= 127 or "/" in name:
            raise EvarError(
                f"{path}: note {name[:60]!r} lacks instrument_str, instrument_family_str or a pitch from 0 to 127; "
                "restore the official file"
            )
        clip_id = relative(f"nsynth-{part}/audio/{name}", path)
        rows.append((clip_id, f"{clip_id}.wav", f"{pitch:03d}" if label == "pitch" else value, part, instrument))
    return rows


def _field(note: Any, key: str) -> str:
    value = note.get(key) if isinstance(note, dict) else None
    return value if isinstance(value, str) else ""


def write_mini(root: Path, card: Card) -> None:
    """Up to seven families of 3 + 1 + 1 instruments, eight pitches each, of 0.7 s."""
    from evar.datasets import synth
    from evar.files import atomic_write

    is_family_task = isinstance(card.classes, tuple) and card.options["label"] == "family"
    families = [family for family in _FAMILIES if not is_family_task or family in card.classes][:7]
    for part, per_family in zip(_PARTS, (3, 1, 1), strict=True):
        notes = {}
        for number, family in enumerate(families):
            for which in range(0 if family == _TRAIN_ONLY and part != "train" else per_family):
                instrument = number * 10 + _PARTS.index(part) * 3 + which
                instrument_str = f"{family}_synthetic_{instrument:03d}"
                for pitch in _PITCHES:
                    name = f"{instrument_str}-{pitch:03d}-100"
                    sound = synth.note(pitch, instrument, 0, 0.7, family=number, noise=0.8)
                    synth.write_wav(root / f"nsynth-{part}" / "audio" / f"{name}.wav", sound, 16000)
                    notes[name] = {
                        "note": len(notes),
                        "note_str": name,
                        "instrument": instrument,
                        "instrument_str": instrument_str,
                        "pitch": pitch,
                        "velocity": 100,
                        "sample_rate": 16000,
                        "instrument_family": number,
                        "instrument_family_str": family,
                        "instrument_source": 2,
                        "instrument_source_str": "synthetic",
                    }
        atomic_write(root / f"nsynth-{part}" / "examples.json", json.dumps(notes, indent=1) + "\n")
