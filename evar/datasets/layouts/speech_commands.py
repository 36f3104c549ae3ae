"""Speech Commands v0.02 (Warden 2018): `{word}/{speaker}_nohash_{n}.wav`, `validation_list.txt`, `testing_list.txt`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from evar.audio.listing import is_audio
from evar.datasets.tables import read_list, relative, without_extension
from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    from pandas import DataFrame

    from evar.datasets.card import Card

OPTIONS = {
    "words": [],  # the words that are classes; empty: every word
    "unknown": False,  # true: all other words are one class, `_unknown_`; false: they are left out
    "silence": 0,  # seconds of each `_background_noise_` file that become one-second clips of the class `_silence_`
}
MARKERS = ("validation_list.txt", "testing_list.txt")
_LISTS = {"validation_list.txt": "valid", "testing_list.txt": "test"}
_NOISES = ("doing_the_dishes", "dude_miaowing", "exercise_bike", "pink_noise", "running_tap", "white_noise")


def read(root: Path, card: Card) -> DataFrame:
    """The clips of both lists, and as training part every other clip on disk; the group is the speaker.

    `_background_noise_` is no class. With `silence: N` the first N seconds of each of its six files are cut into
    one-second clips: the first 80 % of them train, the next 10 % valid, the last 10 % test, so that no second of noise
    is in two parts. Which excerpts make up silence is our choice: the official set names none.
    """
    import pandas as pd

    split = _listed(root)
    on_disk = _on_disk(root)
    paths = {without_extension(path): path for path in split} | {without_extension(path): path for path in on_disk}
    part = {without_extension(path): name for path, name in split.items()}
    words, known = card.options["words"], {clip_id.partition("/")[0] for clip_id in paths}
    for word in words:
        if word not in known:
            raise EvarError(f"{card.name}: {root}: {unknown('word', word, known)}")
    rows = []
    for clip_id, path in paths.items():
        word, _, name = clip_id.partition("/")
        label = word if not words or word in words else "_unknown_"
        if label == "_unknown_" and not card.options["unknown"]:
            continue
        rows.append((clip_id, path, 0.0, float("nan"), label, part.get(clip_id, "train"), name.split("_nohash_")[0]))
    rows += _silence(card.options["silence"])
    return pd.DataFrame(rows, columns=["clip_id", "path", "start", "stop", "label", "split", "group"])


def _listed(root: Path) -> dict[str, str]:
    """Path -> valid or test, from the two lists."""
    split: dict[str, str] = {}
    for file, part in _LISTS.items():
        for path in read_list(root / file):
            _check_name(path, root / file)
            if path in split:
                raise EvarError(f"{root / file}: {path} is in the other list too; restore the official lists")
            split[path] = part
    return split


def _on_disk(root: Path) -> list[str]:
    """Every clip `{word}/{file}` below `root`, sorted; folders whose names begin with `_` or `.` hold none."""
    found = []
    for word in sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] not in "._"):
        for name in sorted(os.listdir(root / word)):
            if is_audio(name):
                _check_name(f"{word}/{name}", root)
                found.append(f"{word}/{name}")
    return found


def _check_name(path: str, where: Path) -> None:
    word, slash, name = relative(path, where).partition("/")
    speaker, separator, number = without_extension(name).partition("_nohash_")
    if not (slash and word and speaker and separator and number.isdecimal()):
        raise EvarError(f"{where}: {path!r} is not named WORD/SPEAKER_nohash_NUMBER.wav")


def _silence(seconds: int) -> list[tuple]:
    """One-second excerpts of the noise files; each file is a group in each part (of excerpts that do not overlap)."""
    rows = []
    for noise in _NOISES:
        for second in range(seconds):
            share = (second + 0.5) / seconds
            part = "train" if share < 0.8 else "valid" if share < 0.9 else "test"
            clip_id = f"_background_noise_/{noise}"
            stop = second + 1.0
            rows.append(
                (f"{clip_id}@{second}", f"{clip_id}.wav", float(second), stop, "_silence_", part, f"{noise} {part}")
            )
    return rows


def write_mini(root: Path, card: Card) -> None:
    """Ten speakers of one clip per word (35 words, or the card's and three others), and six noise files."""
    import numpy as np

    from evar.datasets import synth
    from evar.files import atomic_write

    words = list(card.options.get("words", []))
    words = [*words, *(word for word in _ALL_WORDS if word not in words)][: len(words) + 3] if words else _ALL_WORDS
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for index, word in enumerate(words):
        for speaker in range(_MINI_SPEAKERS):
            name = f"{word}/{0xA0000 + speaker:08x}_nohash_0.wav"
            sound = synth.speech(speaker, index, speaker, 1.0)
            synth.write_wav(root / name, sound, 16000)
            if speaker >= _MINI_SPEAKERS - 4:
                lists["validation_list.txt" if speaker < _MINI_SPEAKERS - 2 else "testing_list.txt"].append(name)
    for index, noise in enumerate(_NOISES):
        seconds = max(card.options.get("silence", 0), 2)
        hiss = np.random.default_rng(index).standard_normal(16000 * seconds) * 0.02 * (index + 1)
        synth.write_wav(root / "_background_noise_" / f"{noise}.wav", hiss.astype(np.float32), 16000)
    for file, names in lists.items():
        atomic_write(root / file, "\n".join(names) + "\n")


_MINI_SPEAKERS = 10
_IN_ORDER = (
    "backward bed bird cat dog down eight five follow forward four go happy house learn left marvin nine no off on "
    "one right seven sheila six stop three tree two up visual wow yes zero"
)
_ALL_WORDS = _IN_ORDER.split()
