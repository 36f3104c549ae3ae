"""Cells as the runner records them, and processes that record many, so that tests can kill them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from evar.files import digest
from evar.results import Results

FOLDS = 5


def cell(number: int = 0, start: int = 0, **changed) -> dict:
    """The common columns of one cell; everything but the volatile columns is a function of its number."""
    made = {
        "cell_id": digest({"number": number, **{k: str(v) for k, v in changed.items()}})[:16],
        "encoder": f"encoder{number:03d}",
        "encoder_fingerprint": "00123e45",
        "weights": "",
        "weights_sha256": "0007",
        "weights_kind": "random",
        "task": "esc50",
        "task_version": 1,
        "task_fingerprint": "0042",
        "clips_fingerprint": "0c11",
        "protocol": "fair",
        "protocol_version": 1,
        "protocol_fingerprint": "0f01",
        "learning_rate": None,
        "layers": "out",
        "pooling": "mean+max",
        "norm": "fold1",
        "norm_mean": -5.25,
        "norm_std": 4.5,
        "duration": "5",
        "precision": "fp32",
        "metric": "accuracy",
        "mean": 0.1 + number / 300,
        "std": 0.01,
        "ci95_low": 0.05 + number / 300,
        "ci95_high": 0.15 + number / 300,
        "macro_f1": 1 / 3,
        "n_folds": FOLDS,
        "n_seeds": 1,
        "seeds": "0",
        "train_fraction": None,
        "shots": None,
        "n_train": 1600,
        "n_valid": 400,
        "n_test": 400 * FOLDS,
        "synthetic": False,
        "partial": False,
        "limit": None,
        "skipped": 0,
        "contaminated": False,
        "seconds_encode": 1.5,
        "seconds_probe": 0.25,
        "started_at": f"2026-01-01T00:00:{start:02d}.000000+00:00",
        "host": "here",
        "device": "cpu (1 threads)",
        "evar_version": "0.1.0",
        "torch_version": "2.11.0",
        "git_commit": "0012ab",
    }
    assert set(changed) <= set(made)
    return made | changed


def runs(of: dict, folds: int = FOLDS) -> list[dict]:
    return [
        {
            "fold": fold,
            "seed": 0,
            "setting": "C=0.1",
            "converged": True,
            "score": of["mean"] + fold / 1000,
            "macro_f1": 0.3,
            "n_train": 1600,
            "n_valid": 400,
            "n_test": 400,
        }
        for fold in range(1, folds + 1)
    ]


def predictions(of: dict) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "clip_id": ["001", "002"],
            "group": ["01", "02"],
            "fold": [1, 2],
            "seed": [0, 0],
            "target": ["dog", "cat"],
            "predicted": ["dog", "dog"],
            "score_true": [of["mean"], 0.5],
        }
    )


def record(folder: Path, number: int = 0, start: int = 0, **changed) -> dict:
    made = cell(number, start, **changed)
    Results(folder).record(made, runs(made), predictions(made))
    return made


def canonical(folder: Path) -> str:
    return Results(folder).leaderboard(canonical=True).to_csv(index=False)


def spawn(folder: Path, first: int, count: int) -> subprocess.Popen:
    """A process that records `count` cells, those that are not finished yet; it prints one line for each."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import pandas, pyarrow.parquet\n"
        "import results_data as d\n"
        "from evar.results import Results\n"
        f"results = Results({str(folder)!r})\n"
        "print('ready', flush=True)\n"
        f"for number in range({first}, {first + count}):\n"
        "    cell = d.cell(number, number % 60)\n"
        "    if results.finished(cell['cell_id']) is None:\n"
        "        results.record(cell, d.runs(cell), d.predictions(cell))\n"
        "        print(number, flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
