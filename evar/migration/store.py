"""Stored embeddings under the names of this evar: a set gets other settings and another folder name, no byte of data moves."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evar.errors import EvarError
from evar.files import lock
from evar.migration.encoders import Encoders
from evar.migration.report import Migrated
from evar.store_format import NEXT_META, Meta, read_meta, rekey, set_folders, settle


def migrate_store(root: str | Path, encoders: Sequence[str] = (), dry_run: bool = False) -> Migrated:
    """Re-key the sets that an earlier evar wrote, finished or not; what cannot be vouched for stays, with the reason.

    encoders: names of those that are not loaded by their label, such as `byola-v2@FILE`. A set is taken for an encoder's
    only where the fingerprint of that time, made again, is the set's own. It may be killed and called again at any time.
    """
    root, known, report = Path(root), Encoders(encoders, Path(root)), Migrated("sets")
    for folder in set_folders(root):
        with contextlib.suppress(EvarError):  # a damaged set: `evar store verify` tells
            meta = read_meta(folder)
            if meta is not None and not meta.is_v1 and not dry_run and (folder / NEXT_META).exists():
                with lock(root / ".locks" / f"{meta.key}.lock", timeout=0):
                    settle(folder)
            if meta is None or not meta.is_v1:
                continue
            what = f"{meta.label} × {meta.task} ({folder.name})"
            try:
                _rekeyed(root, folder, _renamed(meta, known), dry_run)
            except EvarError as error:
                report.left[what] = str(error)
            else:
                report.moved.append(what)
    return report


def _renamed(meta: Meta, encoders: Encoders) -> Meta:
    """The set as this evar describes it; EvarError where its encoder is not at hand."""
    before = meta.settings["encoder_fingerprint"]
    encoder = encoders.of(meta.label, before)
    if before not in encoder.before:
        raise EvarError(
            f"{meta.label} as it is loaded now is not what made them (weights, settings, source or measured log-mel "
            "statistics differ)"
        )
    statistics = encoder.before[before]
    changed = {"encoder_fingerprint": encoder.fingerprint, "normalization": dict(statistics) if statistics else None}
    return replace(meta, settings=meta.settings | changed)


def _rekeyed(root: Path, folder: Path, meta: Meta, dry_run: bool) -> None:
    old = folder.name.partition("-")[0]
    if folder.with_name(meta.folder_name).exists():
        raise EvarError(f"they were encoded again since: 'evar store prune --key {old}' removes these")
    if dry_run:
        return
    with contextlib.ExitStack() as stack:
        for key in sorted({old, meta.key}):
            stack.enter_context(lock(root / ".locks" / f"{key}.lock", timeout=0))
        if folder.with_name(meta.folder_name).exists() or not folder.exists():
            raise EvarError("another evar was faster: run the same command again")
        rekey(folder, meta)
