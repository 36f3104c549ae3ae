"""Fetching a dataset where an open link exists: continue after a cut, check the checksum, unpack safely.

Archives lie in `DESTINATION/downloads/`, as `evar.download` brings them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from evar import files
from evar.datasets.card import Card, Download
from evar.datasets.unpack import unpack
from evar.download import Progress, download, read_json, size_so_far
from evar.errors import EvarError

DOWNLOADS = "downloads"


def fetch(card: Card, destination: Path, progress: Progress | None = None) -> Path:
    """Download and unpack every file of `card.fetch` below the folder `destination`; returns the dataset's folder.

    What is there is not fetched again: an unpacked archive, an archive with the right checksum, the beginning of
    one. `progress(done, total)` counts bytes (total 0: unknown) and starts anew for each file and its unpacking.
    Raises EvarError: no open link (the card's `bring` text), `EVAR_OFFLINE=1`, not enough disk, a server that does not
    answer or breaks off, a file of another size or checksum, an archive that `unpack` refuses.
    """
    destination = Path(destination)
    if not card.fetch:
        raise EvarError(f"{card.name} has no open link: {card.bring or 'its card says neither fetch nor bring'}")
    waiting = [item for item in card.fetch if not _is_unpacked(item, destination)]
    needed = sum(_bytes_to_come(item, destination) for item in waiting)
    files.require_space(destination, needed, f"the download of {card.name}")
    for item in waiting:
        path = _place_of(item, destination)
        with files.lock(destination / DOWNLOADS / f".{path.name}.lock", timeout=0):
            download(item, path, progress)
            if item.unpack != "none":
                tops = unpack(path, destination / item.into, item.unpack, progress)
                files.atomic_write(_receipt_of(item, destination), json.dumps(_identity(item) | {"files": tops}))
    named = (destination / name for name in card.folders)
    return next((folder for folder in named if folder.is_dir()), destination / card.fetch[0].into)


# --- where things lie ------------------------------------------------------------------------------------------------


def _place_of(item: Download, destination: Path) -> Path:
    """Archives: downloads/, named after the end of the link's path (`archive/master.zip` alone is anybody's)."""
    link = re.sub(r"^\w+://[^/]*|[?#].*", "", item.url)
    steps = [re.sub(r"[^\w.-]", "_", unquote(step)).lstrip(".") for step in link.split("/")]
    steps = [step for step in steps if step] or ["file"]
    if item.unpack == "none":
        return destination / item.into / steps[-1][-200:]
    return destination / DOWNLOADS / "-".join(steps[-4:])[-200:]


def _receipt_of(item: Download, destination: Path) -> Path:
    path = _place_of(item, destination)
    return destination / DOWNLOADS / f"{path.name}.unpacked.json"


def _identity(item: Download) -> dict[str, Any]:
    return {"url": item.url, "md5": item.md5, "sha256": item.sha256, "bytes": item.bytes, "into": item.into}


def _is_unpacked(item: Download, destination: Path) -> bool:
    """True when this very archive was unpacked here and no file has gone since."""
    receipt = read_json(_receipt_of(item, destination))
    tops = receipt.get("files")
    if not isinstance(tops, dict) or {key: receipt.get(key) for key in _identity(item)} != _identity(item):
        return False
    return all(_count_files(destination / item.into / name) >= n for name, n in tops.items())


def _count_files(path: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(path)) if path.is_dir() else int(path.exists())


def _bytes_to_come(item: Download, destination: Path) -> int:
    path = _place_of(item, destination)
    if item.bytes is None or path.exists():
        return 0
    return max(0, item.bytes - size_so_far(path.with_name(path.name + ".part")))
