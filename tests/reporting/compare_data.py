"""Cells with made-up predictions, recorded as the runner records them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evar.files import digest
from evar.reporting.compare import compare
from evar.results import Results

CLIPS, FOLDS, CLASSES = 400, 5, ("cat", "dog", "owl")


def frame(right: np.ndarray, per_group: int = 1, folds: int = FOLDS) -> pd.DataFrame:
    """Predictions of [seeds, clips] outcomes; whole groups share a fold."""
    parts = []
    for seed, row in enumerate(np.atleast_2d(right)):
        clips = [f"{i:04d}" for i in range(len(row))]
        groups = [f"speaker{i // per_group}" for i in range(len(row))] if per_group > 1 else clips
        parts.append(
            pd.DataFrame(
                {
                    "clip_id": clips,
                    "group": groups,
                    "fold": [i // per_group % folds + 1 for i in range(len(row))],
                    "seed": seed,
                    "target": [CLASSES[i % 3] for i in range(len(row))],
                    "predicted": [CLASSES[(i + (not ok)) % 3] for i, ok in enumerate(row)],
                    "score_true": 0.5,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def record(folder: Path, encoder: str, task: str, kept: pd.DataFrame, number: int = 0, **changed) -> dict:
    """One cell with these predictions, as the runner would record it; `changed` are columns of the row."""
    if "target" in kept:
        right = (kept["target"] == kept["predicted"]).groupby(kept["fold"]).mean()
        changed = {"mean": float(right.mean()), **changed}
    folds, seeds = sorted(set(kept["fold"])), sorted(set(kept["seed"]))
    cell = {
        "cell_id": digest(
            {"encoder": encoder, "task": task, "number": number, **{k: str(v) for k, v in changed.items()}}
        )[:16],
        "encoder": encoder,
        "encoder_fingerprint": "00123e45",
        "weights": "",
        "weights_sha256": "",
        "weights_kind": "none",
        "task": task,
        "task_version": 1,
        "task_fingerprint": f"{task}0042",
        "clips_fingerprint": "0c11",
        "protocol": "fair",
        "protocol_version": 1,
        "protocol_fingerprint": "0f01",
        "learning_rate": None,
        "layers": "out",
        "pooling": "mean",
        "norm": "fold1",
        "norm_mean": -5.25,
        "norm_std": 4.5,
        "duration": "5",
        "precision": "fp32",
        "metric": "accuracy",
        "std": 0.01,
        "ci95_low": 0.1,
        "ci95_high": 0.9,
        "macro_f1": 0.5,
        "n_folds": len(folds),
        "n_seeds": len(seeds),
        "seeds": " ".join(map(str, seeds)),
        "train_fraction": None,
        "shots": None,
        "n_train": 320,
        "n_valid": 80,
        "n_test": len(kept) // len(seeds),
        "synthetic": False,
        "partial": False,
        "limit": None,
        "skipped": 0,
        "contaminated": False,
        "seconds_encode": 1.5,
        "seconds_probe": 0.2,
        "started_at": f"2026-01-01T00:00:{number:02d}.000000+00:00",
        "host": "here",
        "device": "cpu",
        "evar_version": "0.1.0",
        "torch_version": "2.11.0",
        "git_commit": "0012ab",
        **changed,
    }
    run = {"setting": "C=1", "converged": True, "macro_f1": 0.5, "n_train": 320, "n_valid": 80, "n_test": 80}
    runs = [{"fold": fold, "seed": seed, "score": cell["mean"], **run} for fold in folds for seed in seeds]
    Results(folder).record(cell, runs, kept)
    return cell


def outcomes(accuracy: float, seed: int, n: int = CLIPS) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < accuracy


def rows_of(folder: Path, **equal) -> list[dict]:
    return Results(folder).leaderboard(**equal).sort_values("started_at").to_dict("records")


def compared(folder: Path, **options):
    return compare(Results(folder), rows_of(folder), **options)


def labelled(quality: float, seed: int, classes: int = 4) -> pd.DataFrame:
    random = np.random.default_rng(seed + 1)
    truth = np.random.default_rng(0).random((200, classes)) < 0.4
    scores = (quality * truth + random.random(truth.shape)).astype(np.float32)
    return pd.DataFrame(
        {
            "clip_id": [f"{i:03d}" for i in range(200)],
            "group": [f"{i:03d}" for i in range(200)],
            "fold": 0,
            "seed": 0,
            "targets": [[f"label{c}" for c in np.flatnonzero(row)] for row in truth],
            "scores": list(scores),
        }
    )


def mean_average_precision(kept: pd.DataFrame) -> float:
    from sklearn.metrics import average_precision_score

    scores = np.stack(kept["scores"].to_list())
    truth = [[f"label{c}" in row for c in range(scores.shape[1])] for row in kept["targets"]]
    return float(average_precision_score(np.array(truth), scores))
