"""Identities as they were before schema 2 of the results, frozen: nothing else may use them.

A protocol's fingerprint held the settings of every probe, a cell's id was no digest of its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evar.files import digest
from evar.results_files import AT

_COMMON = {
    "version": 1,
    "seeds": [0],
    "norm": "weights",
    "validation": "next fold",
    "valid_fraction": 0.1,
    "learning_rate_by_card": False,
    "strengths": [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0],
    "tolerance": 1e-4,
    "max_iterations": 500,
    "learning_rate": 3e-4,
    "batch_size": 200,
    "max_epochs": 200,
    "patience": 20,
    "weight_decay": 1e-8,
    "hidden": 512,
    "neighbours": [1, 3, 5, 10, 20, 50],
}
_BY_SEED = {"seeds": [42, 43, 44], "validation": "drawn"}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "fair": _COMMON | {"name": "fair", "probe": "logistic"},
    "paper": _COMMON | _BY_SEED | {"name": "paper", "probe": "linear", "norm": "task", "learning_rate_by_card": True},
    "mlp": _COMMON | _BY_SEED | {"name": "mlp", "probe": "mlp", "learning_rate": 1e-3},
    "knn": _COMMON | {"name": "knn", "probe": "knn"},
}
"""The shipped protocols, all of version 1."""
SINCE = {"ties": "first", "scaler": "fit", "dropout": 0.0}
"""Settings that protocols have had since, and what those of version 1 did."""

ENCODER_VERSION = 1
"""Of every encoder that evar shipped then."""


def cell_id_v1(row: list[str], encoder: str, clips: str, protocol: Mapping[str, Any], lr: float | None) -> str:
    """The id of that time for a row of runs.csv.

    encoder: the fingerprint of that time, of the encoder as it was loaded; clips: the fingerprint of the waveforms.
    """

    def number(column: str, kind: type) -> Any:
        text = row[AT[column]]
        return kind(float(text)) if text else None

    identity = {
        "label": row[AT["encoder"]],
        "encoder": encoder,
        "clips": clips,
        "task": row[AT["task_fingerprint"]],
        "protocol": digest(protocol),
        "norm": row[AT["norm"]],
        "layers": row[AT["layers"]],
        "pooling": row[AT["pooling"]],
        "lr": lr,
        "seeds": [int(seed) for seed in row[AT["seeds"]].split()],
        "duration": "native" if row[AT["duration"]] == "native" else "card",
        "precision": row[AT["precision"]],
        "train_fraction": number("train_fraction", float),
        "shots": number("shots", int),
        "limit": number("limit", int),
    }
    return digest(identity)[:16]
