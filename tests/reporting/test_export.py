"""The tidy tables hold every number that was measured, under documented columns, in documented types."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))
import results_data as d

from evar.errors import EvarError
from evar.reporting.export import PREDICTION_COLUMNS, send, table, write_table
from evar.results import Results
from evar.results_files import LEADERBOARD_COLUMNS, RUN_COLUMNS

SCHEMA = Path(__file__).parents[2] / "docs" / "results-schema.md"


@pytest.fixture
def results(tmp_path):
    d.record(tmp_path, 1, host='a,"b"\n', limit=40)
    d.record(tmp_path, 2, synthetic=True)
    made = d.cell(3, task="fsd50k", metric="mAP")
    kept = {
        "clip_id": ["1"],
        "group": ["1"],
        "fold": [1],
        "seed": [0],
        "targets": [["dog", "cat"]],
        "scores": [[0.25, 0.75]],
    }
    Results(tmp_path).record(made, d.runs(made), pd.DataFrame(kept))
    return Results(tmp_path)


@pytest.mark.parametrize("kind", ["cells", "runs", "predictions"])
def test_parquet_gives_back_what_was_measured(results, tmp_path, kind):
    made = table(results, kind)
    assert write_table(made, tmp_path / "x.parquet") == "parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), made, check_dtype=kind != "predictions")
    expected = {"cells": results.leaderboard(), "runs": results.runs()}
    if kind in expected:
        pd.testing.assert_frame_equal(made, expected[kind])


@pytest.mark.parametrize("kind", ["cells", "runs", "predictions"])
def test_csv_gives_back_every_number(results, tmp_path, kind):
    made = table(results, kind)
    write_table(made, tmp_path / "x.csv")
    back = pd.read_csv(tmp_path / "x.csv", dtype=str, keep_default_na=False)
    assert list(back) == list(made)
    assert len(back) == len(made)
    for name in made.select_dtypes("float"):
        read = pd.to_numeric(back[name]).astype(made[name].dtype)
        pd.testing.assert_series_equal(read, made[name])


def test_predictions_carry_their_cell(results, tmp_path):
    made = table(results, "predictions")
    assert set(made) == set(PREDICTION_COLUMNS)
    assert len(made) == 2 + 2 + 1
    assert made.groupby("cell_id")["task"].nunique().max() == 1
    single = made[made["task"] == "esc50"]
    assert single["predicted"].tolist() == ["dog", "dog"] * 2
    both = made[made["task"] == "fsd50k"].iloc[0]
    assert list(both["targets"]) == ["dog", "cat"]
    write_table(made, tmp_path / "p.csv")
    text = (tmp_path / "p.csv").read_text()
    assert "dog|cat" in text
    assert "0.25|0.75" in text


def test_cells_without_predictions_are_told(results):
    told = []
    (results.folder / "predictions" / f"{results.leaderboard()['cell_id'][0]}.parquet").unlink()
    assert table(results, "predictions", told.append)["cell_id"].nunique() == 2
    assert "1 of 3 cells have no predictions" in told[0]


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("x.xlsx", None, "unknown format 'xlsx'.*FILE.parquet or FILE.csv"),
        ("x", None, "unknown format"),
        ("x.csv", "parquet", "ends in .csv, --format says parquet"),
    ],
)
def test_formats_that_do_not_fit(results, tmp_path, name, form, message):
    with pytest.raises(EvarError, match=message):
        write_table(table(results, "cells"), tmp_path / name, form)


def test_nothing_measured_says_what_to_run(tmp_path):
    with pytest.raises(EvarError, match=r"nothing measured yet in .*: try 'evar run"):
        table(Results(tmp_path / "none"), "cells")


def test_every_column_is_documented():
    text = SCHEMA.read_text("utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert documented == {*LEADERBOARD_COLUMNS, *RUN_COLUMNS, *PREDICTION_COLUMNS}


def test_the_documented_types_are_the_types(results):
    text = SCHEMA.read_text("utf-8")
    stated = dict(re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", text, re.MULTILINE))
    kinds = {"text": "str", "integer": "Int64", "number": "float64", "truth": "bool"}
    for name, dtype in table(results, "cells").dtypes.items():
        assert str(dtype) == kinds[stated[name]], name
    for name, dtype in table(results, "runs").dtypes.items():
        assert str(dtype) in (kinds[stated[name]], "boolean"), name


def test_tensorboard_reads_what_was_sent(results, tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard (extra: train)")
    for _ in range(2):  # sent again, a run is replaced
        assert "3 cells logged to tensorboard" in send(results.leaderboard(), f"tensorboard:{tmp_path / 'tb'}")
    files = sorted((tmp_path / "tb").rglob("events.out.*"))
    assert len(files) == 3
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub import errors
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader, events = PyRecordReader_New(str(files[0])), []
    with contextlib.suppress(errors.OutOfRangeError):
        while True:
            reader.GetNext()
            events.append(Event.FromString(reader.record()))
    assert events[0].file_version == "brain.Event:2"
    values = {value.tag: value.simple_value for value in events[1].summary.value}
    assert values["fair/esc50/accuracy"] == pytest.approx(0.1 + 1 / 300)


@pytest.mark.parametrize("place", ["mlflow:http://localhost", "wandb:mine"])
def test_a_missing_package_is_one_line(results, place):
    name = place.partition(":")[0]
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(EvarError, match=rf"--to {name} needs {name}, which is not installed: pip install '{name}"):
        send(results.leaderboard(), place)


def test_places_that_are_none(results):
    with pytest.raises(EvarError, match=r"did you mean 'tensorboard'\?.*tensorboard:DIR"):
        send(results.leaderboard(), "tensorbord:x")
    with pytest.raises(EvarError, match="expected wandb:PROJECT"):
        send(results.leaderboard(), "wandb")


class Recorder(ModuleType):
    """Stands in for a logging package: keeps what it is called with."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.util.spec_from_loader(name, None)
        self.calls: list[tuple] = []

    def __getattr__(self, name: str):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            return self

        return call

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.mark.parametrize(("name", "scores"), [("mlflow", "log_metrics"), ("wandb", "log")])
def test_one_run_per_cell_is_logged(results, monkeypatch, name, scores):
    stand_in = Recorder(name)
    monkeypatch.setitem(sys.modules, name, stand_in)
    assert f"3 cells logged to {name} (place)" in send(results.leaderboard(), f"{name}:place")
    logged = [arguments[0] for called, arguments, _ in stand_in.calls if called == scores]
    assert len(logged) == 3
    assert logged[0]["accuracy"] == results.leaderboard()["mean"][0]
    assert any("mAP" in one for one in logged)
