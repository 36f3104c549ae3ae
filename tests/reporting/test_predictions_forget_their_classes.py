"""Which score is of which class: the classes stored with the predictions come back, also those without a test clip."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from compare_data import compared, labelled, record

from evar.errors import EvarError
from evar.probes.metrics import score
from evar.reporting.pairs import load_outcomes
from evar.results import Results, merge

CLASSES = ["label3", "label1", "label2", "label0"]
"""Neither in alphabetical order nor in that of their first clip."""


def stored(folder, number, encoder, quality=0.5):
    """Four scores per clip in the order of CLASSES; no clip has label2."""
    kept = labelled(quality, number)
    truth = np.array([[name in clip for name in CLASSES] for clip in kept["targets"]])
    scores = np.stack(kept["scores"].to_list())[:, [int(name[-1]) for name in CLASSES]]
    truth[:, CLASSES.index("label2")] = False
    kept["targets"] = [[name for name in clip if name != "label2"] for clip in kept["targets"]]
    kept["scores"] = list(scores)
    kept.attrs["classes"] = CLASSES
    return record(folder, encoder, "events", kept, number, metric="mAP", mean=float(score("mAP", truth, scores)))


def test_they_come_back_from_the_results_folder(tmp_path):
    cell = stored(tmp_path, 0, "new")
    assert Results(tmp_path).predictions(cell["cell_id"]).attrs == {"classes": CLASSES}
    found = load_outcomes(Results(tmp_path), cell, "evar run new events")
    assert found.truth.shape == (200, 4)
    assert not found.truth[:, CLASSES.index("label2")].any()


def test_they_survive_a_merge(tmp_path):
    cell = stored(tmp_path / "one", 0, "new")
    merge([tmp_path / "one"], tmp_path / "whole")
    assert Results(tmp_path / "whole").predictions(cell["cell_id"]).attrs == {"classes": CLASSES}


def test_a_comparison_needs_no_dataset(tmp_path):
    first, second = stored(tmp_path, 0, "new", 0.6), stored(tmp_path, 1, "old", 0.3)
    (pair,) = compared(tmp_path, resamples=200).pairs
    assert pair.difference == pytest.approx(first["mean"] - second["mean"], abs=1e-6)


def test_classes_in_another_order_are_noticed(tmp_path):
    """The scores of two classes exchanged: their mAP is not the one in the row."""
    cell = stored(tmp_path, 0, "new")
    swapped = ["label1", "label3", "label2", "label0"]
    with pytest.raises(EvarError, match="do not belong"):
        load_outcomes(Results(tmp_path), cell, "evar run new events", swapped)


def test_the_runner_stores_the_classes_of_the_task(tmp_path):
    from evar.runner import _predictions

    card = SimpleNamespace(multilabel=True)
    cell = SimpleNamespace(task=SimpleNamespace(classes=tuple(CLASSES), card=card))
    clips = pd.DataFrame({"clip_id": ["a", "b"], "group": ["a", "b"], "labels": [("label1",), ("label3", "label0")]})
    run = SimpleNamespace(test=np.array([1, 0]), fold=1, seed=0, scores=np.arange(8, dtype=np.float32).reshape(2, 4))
    _predictions(cell, SimpleNamespace(runs=[run]), clips).to_parquet(tmp_path / "x.parquet", index=False)
    kept = pd.read_parquet(tmp_path / "x.parquet")
    assert kept.attrs == {"classes": CLASSES}
    assert kept["scores"][0].tolist() == [0, 1, 2, 3]
    assert kept["targets"][0].tolist() == ["label3", "label0"]
