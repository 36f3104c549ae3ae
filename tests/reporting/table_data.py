"""Rows by protocol `paper` as the runner records them, and tables made of them; for the tests of `evar table`."""

from __future__ import annotations

import pandas as pd

from evar.files import digest
from evar.probes import get_protocol
from evar.reporting.published import figures, paper_tables
from evar.reporting.rows import measured
from evar.reporting.table_formats import format_table
from evar.reporting.table_missing import missing
from evar.reporting.table_notes import words
from evar.reporting.tables import build
from evar.results import Results

NINE = ("esc50", "us8k", "spcv2", "vc1", "voxforge", "cremad", "gtzan", "nsynth", "surge")
PUBLISHED = dict(zip(NINE, (83.2, 79.7, 93.1, 57.6, 93.3, 63.8, 70.1, 73.1, 37.6), strict=True))
WEIGHTS = "AudioNTT2022-BYOLA-64x96d2048.pth"
BYOLA = {
    "encoder": "byola-v2@AudioNTT2022-BYOLA-64x96d2048",
    "weights": WEIGHTS,
    "weights_sha256": "ab" * 32,
    "weights_kind": "trained",
    "layers": "fc",
    "pooling": "mean+max",
}
KNOWN = {"byola-v2": "required", "logmel": "none"}


ROW = {
    "encoder": "logmel",
    "encoder_fingerprint": "12",
    "weights": "",
    "weights_sha256": "",
    "weights_kind": "none",
    "task": "esc50",
    "task_version": 1,
    "task_fingerprint": "34",
    "clips_fingerprint": "0c11",
    "protocol": "paper",
    "protocol_version": get_protocol("paper").version,
    "protocol_fingerprint": "0f01",
    "learning_rate": None,
    "layers": "logmel",
    "pooling": "mean_std",
    "norm": "train",
    "norm_mean": -5.25,
    "norm_std": 4.5,
    "duration": "5",
    "precision": "fp32",
    "metric": "accuracy",
    "mean": 0.84,
    "std": 0.005,
    "ci95_low": 0.83,
    "ci95_high": 0.85,
    "macro_f1": 0.5,
    "n_folds": 1,
    "n_seeds": 3,
    "seeds": "42 43 44",
    "train_fraction": None,
    "shots": None,
    "n_train": 1600,
    "n_valid": 400,
    "n_test": 400,
    "synthetic": False,
    "partial": False,
    "limit": None,
    "skipped": 0,
    "contaminated": False,
    "seconds_encode": 1.0,
    "seconds_probe": 1.0,
    "started_at": "2026-01-01T00:00:00.000000+00:00",
    "host": "here",
    "device": "cpu",
    "evar_version": "0.1.0",
    "torch_version": "2.11.0",
    "git_commit": "0012ab",
}
"""A row by protocol `paper`, all columns but the cell's id."""


def record(folder, task="esc50", mean=0.84, start=0, setting="lr=0.001 epoch=9", **changed):
    """One cell by protocol `paper`, as the runner records it; its id."""
    assert set(changed) <= set(ROW)
    made = ROW | {
        "encoder_fingerprint": f"fingerprint of {task}",
        "task": task,
        "task_fingerprint": f"clips of {task}",
        "norm": "fold1" if task in ("esc50", "us8k") else "train",
        "mean": mean,
        "ci95_low": mean - 0.01,
        "ci95_high": mean + 0.01,
        "started_at": f"2026-01-01T00:00:{start:02d}.000000+00:00",
    }
    made |= changed
    made["cell_id"] = digest({"start": start} | {key: str(value) for key, value in made.items()})[:16]
    run = {"fold": 1, "setting": setting, "converged": True, "score": made["mean"], "macro_f1": 0.5}
    runs = [run | {"seed": seed, "n_train": 1600, "n_valid": 400, "n_test": 400} for seed in range(made["n_seeds"])]
    Results(folder).record(made, runs, pd.DataFrame({"clip_id": ["1"]}))
    return made["cell_id"]


def table_of(folder, name="byola-v2", wanted=(), protocol="paper", found=None):
    paper, found = paper_tables()[name], figures() if found is None else found
    rows = measured(Results(folder), protocol=get_protocol(protocol), tasks=paper.tasks)
    return build(paper, found, rows, get_protocol(protocol), wanted)


def line_of(table, model):
    return next(line for line in table.lines if line.model == model)


def drawn(table, form, known=KNOWN):
    return format_table(table, words(table, missing(table, known, NINE), "results", ["--probe", "paper"]), form)


def record_whole(folder):
    """BYOL-A measured on all nine tasks, half a point above the published figures."""
    for task, mean in PUBLISHED.items():
        record(folder, task, (mean + 0.5) / 100, **BYOLA)
    return folder
