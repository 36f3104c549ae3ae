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


AUDIOSET = "AudioSet (1.9 M clips)"
QUICK = {"tau": 0.97, "export_fc": "initial"}
QUICK_V1 = {**QUICK, "export_fc": "identity", "augmentation": V1_AUGMENTATION}


def _published(name: str, encoder: str, lr: float, augmentation: Mapping[str, Any] | None, **told: str) -> Preset:
    """As in the papers: 100 epochs at a constant rate; BYOL-A in batches of 256, COLA (no augmentation) of 1,024.

    An epoch of ours is a crop for each second of audio, theirs one for each clip: docs/reproduce-byola.md.
    """
    method, batch = ("byol", 256) if augmentation else ("cola", 1024)
    options = {"augmentation": augmentation} if augmentation else {}
    return Preset(name, encoder, method, epochs=100, batch=batch, lr=lr, options=options, **told)


def _quick(
    name: str, encoder: str, method: str, batch: int, steps: int, options: Mapping[str, Any], lr: float = 1e-3
) -> Preset:
    """For a few hours of audio on a CPU: how the bundled weights were trained, chosen on inner scores (our choice)."""
    return Preset(
        name,
        encoder,
        method,
        epochs=0,
        batch=batch,
        lr=lr,
        corpus="2.5 h of openly licensed sounds (the bundled weights' model card)",
        expect="results/pretrained/README.md",
        options=options,
        steps=steps,
        schedule="cosine",
        warmup=steps // 20,
    )


def _all() -> list[Preset]:
    v1_corpus, v1 = f"{AUDIOSET} or FSD50K (dev, 41 k clips)", "IJCNN 2021 Table 1"
    sizes = (512, 1024, 2048)
    return [
        *(
            _published(
                f"v1-{d}",
                f"byola-v1-{d}",
                3e-4,
                V1_AUGMENTATION,
                corpus=v1_corpus,
                expect=f"{v1}, d = {d}: evar table byola-v1",
            )
            for d in sizes
        ),
        _published(
            "v2",
            "byola-v2",
            1e-4,
            V2_AUGMENTATION,
            corpus=AUDIOSET,
            expect="nine-task average 72.4 (TASLP 2023): evar table byola-v2",
        ),
        _published(
            "v2-small",
            "byola-v2-2048",
            1e-4,
            V2_AUGMENTATION,
            corpus="any",
            expect="not published: 2048-d, for small corpora and machines (our choice)",
        ),
        _published("cola", "cola", 1e-4, None, corpus="AudioSet", expect="ICASSP 2021: evar table cola"),
        *(
            _published(
                f"cola-prime-{d}",
                f"cola-prime-{d}",
                1e-4,
                None,
                corpus="AudioSet",
                expect=f"{v1}, COLA', d = {d}: evar table byola-v1",
            )
            for d in sizes
        ),
        _quick("quick-v1-512", "byola-v1-512", "byol", 64, 4500, QUICK_V1),
        _quick("quick-v2", "byola-v2", "byol", 64, 1300, {**QUICK, "augmentation": V2_AUGMENTATION}),
        _quick("quick-cola", "cola", "cola", 64, 2000, {}, lr=5e-4),
        _quick("quick-cola-prime-512", "cola-prime-512", "cola", 256, 480, {}),
    ]


PRESETS = {preset.name: preset for preset in _all()}


def get_preset(name: str) -> Preset:
    """The preset of that name; EvarError when there is none."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
