"""Clips that can be classified by ear, made on the spot (`evar.datasets.synth`), and a task card for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evar.datasets import synth

CLASSES = 10


def write_clips(folder: Path, n: int, seconds: float, rate: int = 16_000, suffix: str = ".wav") -> list[Path]:
    """`n` mono 16-bit files (Vorbis for .ogg), class by class in turn."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:05d}{suffix}" for i in range(n)]
    for i, file in enumerate(files):
        sound = np.clip(synth.clip(i % CLASSES, i // CLASSES, seconds, rate), -0.99, 0.99)
        soundfile.write(file, sound, rate, subtype="VORBIS" if suffix == ".ogg" else "PCM_16")
    return files


def write_task(folder: Path, name: str, n: int, seconds: float = 1.0, rate: int = 16_000) -> Path:
    """`n` clips in `folder/name`, eight of ten for training, and the card `folder/name.yaml`, whose path is returned."""
    files = write_clips(folder / name / "audio", n, seconds, rate)
    lines = ["path,label,split"]
    for i, file in enumerate(files):
        part = {8: "valid", 9: "test"}.get(i // CLASSES % 10, "train")
        lines.append(f"audio/{file.name},class{i % CLASSES},{part}")
    (folder / name / "clips.csv").write_text("\n".join(lines) + "\n")
    card = folder / f"{name}.yaml"
    card.write_text(
        f"name: {name}\nversion: 1\ntitle: Synthetic clips of {CLASSES} classes\nasks: Which recipe made this sound?\n"
        f"seconds: {seconds}\nmetric: accuracy\nsplit: parts\nlayout: csv_columns\nfolders: [{name}]\n"
        f"classes: {CLASSES}\ncounts: {{clips: {n}}}\n"
    )
    return card
