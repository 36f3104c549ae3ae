"""Named recipes: what is trained, on what, for how long, and the score to expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evar.errors import unknown


@dataclass(frozen=True)
class Preset:
    """One recipe.

    encoder: registered name. method: `byol` or `cola`. options: keywords of the method. epochs (or steps), batch, lr,
    schedule, warmup: as published, or as the bundled weights were trained; the command line overrides them.
    corpus: what it was made for. expect: the score to expect.
    """

    name: str
    encoder: str
    method: str
    epochs: int
    batch: int
    lr: float
    corpus: str
    expect: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    schedule: str = "constant"
    warmup: int = 0


V1_AUGMENTATION = {"mixup": 0.4, "crop": True, "fader": 0.0, "norm": "views"}
V2_AUGMENTATION = {"mixup": 0.2, "crop": True, "fader": 1.0, "norm": "batch"}


def _v1(d: int, expect: str) -> Preset:
    return Preset(
        f"v1-{d}",
        f"byola-v1-{d}",
        "byol",
        epochs=100,
        batch=256,
        lr=3e-4,
        corpus="AudioSet (1.9 M clips) or FSD50K (dev, 41 k clips)",
        expect=expect,
        options={"augmentation": V1_AUGMENTATION},
    )


def _quick(name: str, encoder: str, method: str, batch: int, steps: int, options: Mapping[str, Any]) -> Preset:
    """For a few hours of audio on a CPU: how the bundled weights were trained, chosen on inner validation (our choice)."""
    return Preset(
        name,
        encoder,
        method,
        epochs=0,
        batch=batch,
        lr=1e-3,
        corpus="2.5 h of openly licensed sounds (the bundled weights' model card)",
        expect="results/pretrained/README.md",
        options=options,
        steps=steps,
        schedule="cosine",
        warmup=steps // 20,
    )


QUICK = {"tau": 0.97, "export_fc": "initial"}

PRESETS = {
    preset.name: preset
    for preset in (
        _v1(512, "IJCNN 2021 Table 1, d = 512: evar table byola-v1"),
        _v1(1024, "IJCNN 2021 Table 1, d = 1024: evar table byola-v1"),
        _v1(2048, "IJCNN 2021 Table 1, d = 2048: evar table byola-v1"),
        Preset(
            "v2",
            "byola-v2",
            "byol",
            epochs=100,
            batch=256,
            lr=1e-4,
            corpus="AudioSet (1.9 M clips)",
            expect="nine-task average 72.4 (TASLP 2023): evar table byola-v2",
            options={"augmentation": V2_AUGMENTATION},
        ),
        Preset(
            "v2-small",
            "byola-v2-2048",
            "byol",
            epochs=100,
            batch=256,
            lr=1e-4,
            corpus="any",
            expect="not published: 2048-d, for small corpora and machines (our choice)",
            options={"augmentation": V2_AUGMENTATION},
        ),
        _quick("quick-v1-512", "byola-v1-512", "byol", 64, 2000, {**QUICK, "augmentation": V1_AUGMENTATION}),
        _quick("quick-v2", "byola-v2", "byol", 64, 1300, {**QUICK, "augmentation": V2_AUGMENTATION}),
        _quick("quick-cola", "cola", "cola", 256, 180, {}),
        _quick("quick-cola-prime-512", "cola-prime-512", "cola", 256, 480, {}),
        Preset(
            "cola",
            "cola",
            "cola",
            epochs=100,
            batch=1024,
            lr=1e-4,
            corpus="AudioSet",
            expect="ICASSP 2021: evar table cola",
        ),
        *(
            Preset(
                f"cola-prime-{d}",
                f"cola-prime-{d}",
                "cola",
                epochs=100,
                batch=1024,
                lr=1e-4,
                corpus="AudioSet",
                expect=f"IJCNN 2021 Table 1, COLA', d = {d}: evar table byola-v1",
            )
            for d in (512, 1024, 2048)
        ),
    )
}


def get_preset(name: str) -> Preset:
    """The preset of that name; EvarError when there is none."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
