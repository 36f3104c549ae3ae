"""Rows of an earlier evar (schema 1) as rows of this one: what ids are made of is filled in, as far as it can be known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evar.errors import EvarError
from evar.migration import v1
from evar.migration.encoders import Encoders, Known, Statistics
from evar.migration.report import Migrated
from evar.results import Results
from evar.results_files import AT, RUN_COLUMNS, SCHEMA, as_text
from evar.results_identity import cell_id, newest_rows, rekey
from evar.store_format import Meta, read_meta, set_folders

_NO_CLIPS = (
    "which clips they were measured on is not known, so their ids stay, and a run of the same cell measures it again: "
    "give the store that they were measured with as --embeddings"
)


_OF_SET = ("encoder_fingerprint", "clips_fingerprint", "precision", "duration")


def migrate_results(
    folder: str | Path,
    encoders: Sequence[str] = (),
    embeddings: str | Path = "embeddings",
    tasks_dir: str | None = None,
    dry_run: bool = False,
) -> Migrated:
    """Re-key the cells that an earlier evar measured; what cannot be vouched for stays readable as it is, with the reason.

    encoders: names of those that are not loaded by their label, such as `byola-v2@FILE`. embeddings: the store, migrated
    or not, which knows the clips of a row: only with these does it get the id by which a run finds it, and only where they
    give the row's old id, too. It may be killed and called again at any time.
    """
    results, report = Results(folder), Migrated("cells")
    known, stored = Encoders(encoders, Path(embeddings)), _stored(Path(embeddings))
    changes: dict[str, dict[str, str]] = {}
    for row in newest_rows(results):
        if row[AT["clips_fingerprint"]]:
            continue
        what = f"{row[AT['encoder']]} × {row[AT['task']]} ({row[AT['cell_id']]})"
        try:
            changed = _renamed(row, known, stored, tasks_dir)
        except EvarError as error:
            report.left[what] = str(error)
            continue
        if not changed["clips_fingerprint"]:
            report.notes[what] = _NO_CLIPS
        if any(row[AT[column]] != text for column, text in changed.items()):
            changes[row[AT["cell_id"]]] = changed
            report.moved.append(what)
    if not dry_run:
        rekey(results, changes)
    return report


def _renamed(row: list[str], encoders: Encoders, stored: list[Meta], tasks_dir: str | None) -> dict[str, str]:
    """The columns of a row that this evar names otherwise; EvarError where encoder or protocol is not at hand."""
    encoder = encoders.of(*(row[AT[column]] for column in ("encoder", "encoder_fingerprint", "weights_sha256")))
    statistics = _vouched(row, encoder)
    name, version = row[AT["protocol"]], row[AT["protocol_version"]]
    protocol = v1.PROTOCOLS.get(name)
    if protocol is None or int(version) != protocol["version"]:
        raise EvarError(f"the protocol {name} (version {version}) is not one that evar shipped: measure them again")
    lr = _published_rate(row, encoder, protocol, tasks_dir)
    clips, found = _clips(row, encoder, stored, lambda on: v1.cell_id_v1(row, encoder.loaded_before, on, protocol, lr))
    statistics = statistics or found
    from evar.probes.protocol import settings_digest

    changed: dict[str, Any] = {
        "schema": SCHEMA,
        "encoder_fingerprint": encoder.fingerprint,
        "clips_fingerprint": clips,
        "protocol_fingerprint": settings_digest(protocol | v1.SINCE),
        "learning_rate": lr,
        "norm_mean": row[AT["norm_mean"]] or (statistics or {}).get("mean"),
        "norm_std": row[AT["norm_std"]] or (statistics or {}).get("std"),
    }
    texts = {column: as_text(value) for column, value in changed.items()}
    whole = dict(zip(RUN_COLUMNS, row, strict=True)) | texts
    return texts | {"cell_id": cell_id(whole) if clips else row[AT["cell_id"]]}


def _clips(row: list[str], encoder: Known, stored: list[Meta], id_of: Callable[[str], str]) -> tuple[str, Statistics]:
    """(fingerprint of the clips, log-mel statistics of the task) of a row, from the sets that its old id vouches for."""
    clips, statistics = "", {}
    for meta in stored:
        made_by, on, *how = (str(meta.settings.get(name)) for name in _OF_SET)
        of_encoder = made_by in (row[AT["encoder_fingerprint"]], encoder.fingerprint, *encoder.before)
        if not of_encoder or how != [row[AT["precision"]], row[AT["duration"]]] or id_of(on) != row[AT["cell_id"]]:
            continue
        clips, given = on, meta.settings.get("normalization") or encoder.before.get(made_by)
        statistics[repr(given)] = given
    of_task = [one for one in statistics.values() if one]
    return clips, of_task[0] if len(of_task) == 1 and row[AT["norm"]] not in ("none", "weights") else None


def _vouched(row: list[str], encoder: Known) -> Statistics:
    """The log-mel statistics of the row, where known, once it is sure that the row is this encoder's; else EvarError."""
    found, of_task = row[AT["encoder_fingerprint"]], row[AT["norm"]] not in ("none", "weights")
    if found in encoder.before:
        return encoder.before[found]
    # The statistics of the task are in the fingerprint and nowhere in the row: the weights and the code's version tell.
    same = encoder.weights_sha256 == row[AT["weights_sha256"]] != "" and encoder.version == v1.ENCODER_VERSION
    if found == encoder.fingerprint or (of_task and same):
        return None
    raise EvarError(f"{row[AT['encoder']]} as it is loaded now is not what was measured (weights or settings differ)")


def _published_rate(row: list[str], encoder: Known, protocol: dict[str, Any], tasks_dir: str | None) -> float | None:
    if not protocol["learning_rate_by_card"] or encoder.weights_kind not in ("trained", "bundled"):
        return None
    from evar.datasets import find_card

    return find_card(row[AT["task"]], tasks_dir).paper.get("lr", {}).get(encoder.name)


def _stored(root: Path) -> list[Meta]:
    found = []
    for folder in set_folders(root):
        with contextlib.suppress(EvarError):
            if (meta := read_meta(folder)) is not None:
                found.append(meta)
    return found
