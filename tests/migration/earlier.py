"""A store and results as evar left them before schema 2, made of today's by the recipes of that time."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from evar.encoders import load_encoder
from evar.encoders.fingerprint_v1 import fingerprints_v1
from evar.migration import v1
from evar.results import Results
from evar.results_files import RUN_COLUMNS, SINCE_2, csv_bytes, read_rows
from evar.store_format import read_meta, set_folders, write_meta


def age(folder: Path) -> None:
    """Turn `folder`/results and `folder`/emb, made by `evar run`, into those of an earlier evar."""
    before: dict[tuple[str, str], str] = {}
    loaded: dict[str, str] = {}
    for path in set_folders(folder / "emb"):
        meta = read_meta(path)
        told = dict(meta.settings)
        statistics = told.pop("normalization")
        encoder = load_encoder(meta.label)
        loaded[meta.label], full = fingerprints_v1(
            encoder, [encoder.normalization, statistics or encoder.normalization]
        )
        before[meta.label, repr(statistics)] = full
        old = replace(meta, settings=told | {"encoder_fingerprint": full})
        target = path.with_name(old.folder_name)
        path.rename(target)
        write_meta(target, old)
    age_results(folder / "results", loaded, before)


def age_results(folder: Path, loaded: dict[str, str], before: dict[tuple[str, str], str]) -> None:
    columns = [column for column in RUN_COLUMNS if column not in SINCE_2]
    rows, moved = [], {}
    for row, *_ in read_rows(folder / "runs.csv"):
        held = dict(zip(RUN_COLUMNS, row, strict=True))
        statistics = {"mean": float(held["norm_mean"]), "std": float(held["norm_std"])} if held["norm_mean"] else None
        lr = float(held["learning_rate"]) if held["learning_rate"] else None
        protocol = v1.PROTOCOLS[held["protocol"]]
        new = v1.cell_id_v1(row, loaded[held["encoder"]], held["clips_fingerprint"], protocol, lr)
        moved[held["cell_id"]] = new
        full = before[held["encoder"], repr(statistics)]
        held |= {"schema": "1", "cell_id": new, "encoder_fingerprint": full}
        rows.append([held[column] for column in columns])
    (folder / "runs.csv").write_bytes(csv_bytes([columns, *rows]))
    (folder / "leaderboard.csv").unlink()
    for old, new in moved.items():
        (folder / "predictions" / f"{old}.parquet").rename(folder / "predictions" / f"{new}.parquet")
    with open(folder / "runs.csv", newline="") as stream:
        assert next(csv.reader(stream)) == columns
    assert len(Results(folder).leaderboard()) == len(moved)
