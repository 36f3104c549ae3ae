"""Minis: small procedural stand-ins in a dataset's official layout, so that the real readers run everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.datasets import layouts
from evar.datasets.tables import SYNTHETIC_FILE, first_names
from evar.errors import EvarError
from evar.files import atomic_write, digest, lock, make_folder, require_space, sha256_file, writing

if TYPE_CHECKING:
    from evar.datasets.card import Card

SEED = 0
_NEEDED = 40_000_000  # bytes: more than any mini takes


def default_root(card: Card, base: Path | str) -> Path:
    """Where the mini of `card` lies below the folder `base`: `BASE/NAME-mini`."""
    return Path(base) / f"{card.name}-mini"


def make(card: Card, root: Path | str) -> Path:
    """Make the mini of `card` in the folder `root`, and return `root`; an intact mini of this card is kept as it is.

    Deterministic: the same card and evar give the same bytes. The folder appears in one step: an interrupted call
    leaves nothing under the name. `EVAR_SYNTHETIC.json` in it marks the data as synthetic and holds the counts that
    `load_task` asserts. An outdated or damaged mini is made again.
    Raises EvarError when `root` holds something else than this mini (it is left as it is), or cannot be written.
    """
    import evar

    root = Path(root)
    layout = layouts.load(card)
    given = replace(card, options=layouts.options(card, layout))
    about = {
        "card": card.name,
        "card_version": card.version,
        "card_sha256": card.sha,
        "seed": SEED,
        "evar_version": evar.__version__,
    }
    # Another process may be putting it there: asked again below.
    with contextlib.suppress(FileNotFoundError, EvarError):
        _refuse_other(root, card)
        if _is_intact(root, about):  # its folder may be one that can only be read
            return root
    make_folder(root.parent)
    with lock(root.with_name(f".{root.name}.lock")):
        _refuse_other(root, card)
        if _is_intact(root, about):
            return root
        require_space(root.parent, _NEEDED, f"the mini of {card.name}")
        for left_over in root.parent.glob(f".{root.name}.*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)
        temporary = make_folder(root.with_name(f".{root.name}.{os.urandom(4).hex()}.tmp"))
        with writing(root):
            try:
                atomic_write(temporary / SYNTHETIC_FILE, json.dumps(about))
                layout.write_mini(temporary, given)
                stated = about | _counted(temporary, layout, given) | {"sizes": _sizes(temporary)}
                stated["digest"] = _digest(temporary, stated)
                atomic_write(temporary / SYNTHETIC_FILE, json.dumps(stated, indent=1) + "\n")
                _put(temporary, root)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return root


def _refuse_other(root: Path, card: Card) -> None:
    """EvarError unless `root` is free (absent or an empty folder) or a mini of this card with no other files in it."""
    if not os.path.lexists(root) or (root.is_dir() and not any(root.iterdir())):
        return
    stated = _stated(root)
    if stated is None:
        raise EvarError(
            f"{root} is in the way and no mini (it has no readable {SYNTHETIC_FILE}); remove it, or choose another folder"
        )
    if stated.get("card") != card.name:
        raise EvarError(f"{root} is the mini of {stated.get('card')!r}, not of {card.name!r}; choose another folder")
    strangers = sorted(set(_sizes(root)) - set(stated.get("sizes", ())))
    if strangers:
        raise EvarError(f"{root} holds files beside its mini ({first_names(strangers)}); move them elsewhere")


def _stated(root: Path) -> dict[str, Any] | None:
    """What a mini says of itself; None where there is none."""
    try:
        stated = json.loads((root / SYNTHETIC_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return stated if isinstance(stated, dict) else None


def _is_intact(root: Path, about: dict[str, Any]) -> bool:
    stated = _stated(root) or {}
    same = all(stated.get(key) == value for key, value in about.items())
    sound = same and stated.get("sizes") == _sizes(root)
    return sound and stated.pop("digest", None) == _digest(root, stated)


def _sizes(root: Path) -> dict[str, int]:
    """Relative path -> bytes of every file, sorted, without the synthetic file itself."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path != root / SYNTHETIC_FILE]
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in files}


def _digest(root: Path, stated: dict[str, Any]) -> str:
    """Of what a mini says of itself and of the content of its files: a disk that flips a bit changes no size."""
    return digest([stated, {name: sha256_file(root / name) for name in _sizes(root)}])


def _counted(root: Path, layout: Any, card: Card) -> dict[str, Any]:
    """What the real reader finds in the mini: `counts` per part or fold, and the number of classes."""
    clips = layout.read(root, card)
    parts = "fold" + clips["fold"].astype(str) if card.split == "folds" else clips["split"]
    labels = clips["labels"].explode() if card.multilabel else clips["label"]
    counts = {"clips": len(clips)} | {part: int(n) for part, n in sorted(parts.value_counts().items())}
    return {"counts": counts, "classes": int(labels.nunique())}


def _put(temporary: Path, root: Path) -> None:
    """Give the finished folder its name; an older mini there makes room first."""
    if os.path.lexists(root) and any(root.iterdir()):
        old = root.with_name(f".{root.name}.{os.urandom(4).hex()}.tmp")
        os.replace(root, old)
        try:
            os.replace(temporary, root)
        except OSError:
            with contextlib.suppress(OSError):
                os.replace(old, root)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(temporary, root)
