"""What does not compare is refused in one line; of several stored rows the right ones are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from compare_data import FOLDS, compared, frame, labelled, mean_average_precision, outcomes, record, rows_of

from evar.errors import EvarError
from evar.reporting.compare_rows import select
from evar.results import Results


@pytest.mark.parametrize(
    ("changed", "values"),
    [
        ({"protocol": "knn"}, "protocol is fair and knn"),
        ({"protocol_version": 2}, "protocol version is 1 and 2"),
        ({"task_fingerprint": "other"}, "task fingerprint is sounds0042 and other"),
        ({"task_version": 3}, "task version is 1 and 3"),
        ({"duration": "native"}, "duration is 5 and native"),
        ({"synthetic": True}, "audio is real and synthetic"),
        ({"partial": True}, "clips is whole and partial"),
        ({"limit": 100}, "limit is none and 100"),
        ({"train_fraction": 0.5}, "train_fraction is none and 0.5"),
        ({"shots": 4}, "shots is none and 4"),
        ({"skipped": 2}, "clips skipped as undecodable is 0 and 2"),
        ({"metric": "mAP"}, "metric is accuracy and mAP"),
    ],
)
def test_unlike_rows_are_refused_with_both_values(tmp_path, changed, values):
    record(tmp_path, "new", "sounds", frame(outcomes(0.8, 1)), 0)
    record(tmp_path, "old", "sounds", frame(outcomes(0.6, 2)), 1, **changed)
    with pytest.raises(EvarError) as refused:
        compared(tmp_path)
    assert f"sounds: new and old were not measured alike: {values};" in str(refused.value)


def test_another_number_of_seeds_is_refused(tmp_path):
    record(tmp_path, "new", "sounds", frame(outcomes(0.8, 1)), 0)
    record(tmp_path, "old", "sounds", frame(np.stack([outcomes(0.6, 2)] * 3)), 1)
    with pytest.raises(EvarError, match="number of seeds is 1 and 3"):
        compared(tmp_path)


def _other_clip(kept):
    kept.loc[7, ["clip_id", "group"]] = "zzz"


def _other_label(kept):
    kept.loc[7, "target"] = "owl"


def _other_fold(kept):
    kept["fold"] = kept["fold"] % FOLDS + 1


def _other_group(kept):
    kept.loc[7, "group"] = "someone"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_other_clip, r"other clips: 400 and 400, '0007' only by new"),
        (_other_label, r"the label of clip '0007' is dog and owl"),
        (_other_fold, r"the fold of clip '0000' is 1 and 2"),
        (_other_group, r"the group of clip '0007' is 0007 and someone"),
    ],
)
def test_other_clips_labels_folds_or_groups_are_refused(tmp_path, spoil, says):
    record(tmp_path, "new", "sounds", frame(outcomes(0.8, 1)), 0)
    kept = frame(outcomes(0.6, 2))
    spoil(kept)
    record(tmp_path, "old", "sounds", kept, 1)
    with pytest.raises(EvarError, match=says):
        compared(tmp_path)


def _parquet(folder: Path) -> Path:
    (row,) = [row for row in rows_of(folder) if row["encoder"] == "old"]
    return folder / "predictions" / f"{row['cell_id']}.parquet"


def _removed(path):
    path.unlink()


def _cut(path):
    path.write_bytes(path.read_bytes()[:200])


def _without_column(path):
    pd.read_parquet(path).drop(columns="predicted").to_parquet(path)


def _with_gaps(path):
    kept = pd.read_parquet(path)
    kept.loc[3, "predicted"] = None
    kept.to_parquet(path)


def _twice(path):
    kept = pd.read_parquet(path)
    pd.concat([kept, kept.iloc[:1]]).to_parquet(path)


def _of_another_cell(path):
    frame(outcomes(0.3, 99)).to_parquet(path)


def _empty(path):
    pd.read_parquet(path).iloc[:0].to_parquet(path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_removed, "'evar run old sounds' makes them again"),
        (_cut, "torn: 'evar run old sounds' makes them again"),
        (_without_column, "lack predicted"),
        (_with_gaps, "have gaps"),
        (_twice, "each clip once per seed"),
        (_of_another_cell, "do not belong together"),
        (_empty, "are empty"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_predictions_that_are_missing_or_wrong_are_one_line(two, spoil, says):
    folder, _ = two
    spoil(_parquet(folder))
    with pytest.raises(EvarError, match=says):
        compared(folder)


def test_of_several_stored_ways_the_shared_and_plainest_is_taken(tmp_path):
    for number, encoder in enumerate(("new", "old")):
        record(tmp_path, encoder, "sounds", frame(outcomes(0.8, number)), number, synthetic=True)
        record(tmp_path, encoder, "sounds", frame(outcomes(0.7, number)), number)
    record(tmp_path, "new", "sounds", frame(outcomes(0.7, 3)), 5, duration="native")
    rows, notes = select(Results(tmp_path).leaderboard(), ["new", "old"], ["sounds"], "fair")
    assert [(row["encoder"], row["synthetic"], row["duration"]) for row in rows] == [
        ("new", False, "5"),
        ("old", False, "5"),
    ]
    assert not notes


def test_a_newer_version_is_taken_and_said_another_pooling_is_asked_for(tmp_path):
    record(tmp_path, "old", "sounds", frame(outcomes(0.6, 1)), 0)
    record(tmp_path, "new", "sounds", frame(outcomes(0.7, 2)), 1)
    record(tmp_path, "new", "sounds", frame(outcomes(0.8, 3)), 2, encoder_fingerprint="changed")
    board = Results(tmp_path).leaderboard()
    rows, notes = select(board, ["new", "old"], ["sounds"], "fair")
    assert rows[0]["encoder_fingerprint"] == "changed"
    assert "2 times under this name" in notes[0]
    record(tmp_path, "old", "sounds", frame(outcomes(0.6, 4)), 3, pooling="max")
    board = Results(tmp_path).leaderboard()
    with pytest.raises(EvarError, match="old is stored with pooling max and mean: choose with '--prefer pooling=max'"):
        select(board, ["new", "old"], ["sounds"], "fair")
    rows, _ = select(board, ["new", "old"], ["sounds"], "fair", {"pooling": "mean"})
    assert {row["pooling"] for row in rows} == {"mean"}


def test_stored_rows_that_share_nothing_are_refused_with_both_values(tmp_path):
    record(tmp_path, "new", "sounds", frame(outcomes(0.8, 1)), 0, duration="native")
    record(tmp_path, "old", "sounds", frame(outcomes(0.6, 2)), 1)
    with pytest.raises(EvarError, match="duration is native and 5"):
        select(Results(tmp_path).leaderboard(), ["new", "old"], ["sounds"], "fair")


def test_map_whose_classes_cannot_be_known_is_refused(tmp_path):
    for number, encoder in enumerate(("new", "old")):
        kept = labelled(0.5, number)
        mean = mean_average_precision(kept)
        kept["targets"] = [[label for label in labels if label != "label2"] for labels in kept["targets"]]
        record(tmp_path, encoder, "events", kept, number, metric="mAP", mean=mean)
    with pytest.raises(EvarError, match="4 scores per clip and 3 labels"):
        compared(tmp_path)


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": 1.5}, {"resamples": 3}, {"baseline": "nobody"}])
def test_bad_options_are_one_line(two, options):
    with pytest.raises(EvarError):
        compared(two[0], **options)


def test_one_encoder_is_no_comparison(tmp_path):
    record(tmp_path, "new", "sounds", frame(outcomes(0.8, 1)), 0)
    with pytest.raises(EvarError, match="two encoders"):
        compared(tmp_path)
