"""Free Spoken Digit Dataset (Jackson et al.): `recordings/{digit}_{speaker}_{index}.wav`; index 0-4 is the test part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evar.datasets.tables import SYNTHETIC_FILE
from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS = {
    "label": "digit",  # digit or speaker
    "indices": 50,  # recordings per digit and speaker: 0 to indices - 1
}
MARKERS = ("recordings",)
_SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
_N_TEST = 5
_MINI_INDICES = 11


def read(root: Path, card: Card) -> DataFrame:
    """Every digit by every speaker, `indices` times: the official names follow this rule and no list comes with them."""
    import pandas as pd

    label, indices = card.options["label"], card.options["indices"]
    if label not in ("digit", "speaker"):
        raise EvarError(f"{card.path}: 'options': 'label': {unknown('value', label, ['digit', 'speaker'])}")
    if (root / SYNTHETIC_FILE).exists():
        indices = _MINI_INDICES
    rows = []
    for digit in range(10):
        for speaker in _SPEAKERS:
            for index in range(indices):
                clip_id = f"recordings/{digit}_{speaker}_{index}"
                part = "test" if index < _N_TEST else "train"
                rows.append((clip_id, f"{clip_id}.wav", str(digit) if label == "digit" else speaker, part))
    return pd.DataFrame(rows, columns=["clip_id", "path", "label", "split"])


def write_mini(root: Path, card: Card) -> None:
    """All digits and speakers, 11 of the 50 recordings, about 0.4 s at 8 kHz as in the real set."""
    from evar.datasets import synth

    for digit in range(10):
        for number, speaker in enumerate(_SPEAKERS):
            for index in range(_MINI_INDICES):
                sound = synth.speech(number, digit, index, 0.35 + 0.02 * (index % 5), 8000, noise=1.3)
                synth.write_wav(root / "recordings" / f"{digit}_{speaker}_{index}.wav", sound, 8000)
