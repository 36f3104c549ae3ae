"""`evar compare` as a user types it: it measures what is missing, compares what is stored, and says what it cannot do."""

from __future__ import annotations

import json
import shlex

import pandas as pd
import pytest

OWN = """
import evar

class Mine(evar.Encoder):
    name, version, sample_rate = "mine", 1, 16000
    layers, hop_ms = {"out": 1}, {}
    default_layers, default_pooling = ("out",), "clip"

    def _clip(self, wav, lengths):
        return {"out": wav.square().mean(1, keepdim=True)}
"""
MINI = ("--mini", "--tasks", "esc10")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """logmel and mfcc on the mini of esc10, measured once."""
    import os

    import evar

    folder = tmp_path_factory.mktemp("compare")
    before = os.getcwd()
    os.chdir(folder)
    try:
        evar.run("logmel,mfcc", "esc10", mini=True)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def stored(measured, tmp_path):
    """The same rows in the folder that `evar` runs in."""
    import shutil

    for name in ("results", "embeddings"):
        shutil.copytree(measured / name, tmp_path / name)
    return tmp_path / "results"


def test_an_own_encoder_against_baselines_is_one_command(evar, stored, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    rows = len((stored / "runs.csv").read_text().splitlines())
    ran = evar("compare", "mine=py:mine:Mine", "logmel", "mfcc", *MINI, "--format", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["encoders"] == ["mine", "logmel", "mfcc"]
    assert len(found["pairs"]) == 3
    assert found["scores"]["esc10"]["mine"] < found["scores"]["esc10"]["logmel"]
    assert len((stored / "runs.csv").read_text().splitlines()) == rows + 5  # only what was missing
    assert "already measured" not in ran.err
    again = evar("compare", "mine=py:mine:Mine", "logmel", "mfcc", *MINI, "--format", "json")
    assert json.loads(again.out) == found
    assert len((stored / "runs.csv").read_text().splitlines()) == rows + 5


def test_text_says_what_was_compared(evar, stored):
    ran = evar("compare", "logmel", "mfcc", *MINI)
    assert ran.code == 0, ran.err
    assert "2 encoders on 1 task, every pair; protocol fair 2" in ran.out
    assert "(source recording)" in ran.out
    assert "decided by bootstrap over groups" in ran.out
    assert "synthetic" in ran.out


def test_no_run_needs_neither_data_nor_weights(evar, stored, tmp_path):
    board = pd.read_csv(stored / "runs.csv", dtype=str, keep_default_na=False)
    board["encoder"] = board["encoder"].replace("mfcc", "byola-v2@lost")
    board.to_csv(stored / "runs.csv", index=False)
    ran = evar("compare", "byola-v2@/gone/lost.pth", "logmel", "--no-run", "--format", "csv", "-o", "out.csv")
    assert ran.code == 0, ran.err
    (row,) = pd.read_csv(tmp_path / "out.csv").to_dict("records")
    assert (row["first"], row["second"], row["task"]) == ("byola-v2@lost", "logmel", "esc10")
    assert ran.out == ""
    line = evar("compare", "byola-v2@/gone/lost.pth", "logmel", *MINI).one_line_error()
    assert "--no-run" in line


@pytest.mark.parametrize(
    ("name", "begins"), [("c.md", "## "), ("c.json", "{"), ("c.csv", "protocol,"), ("c.txt", "2 enc")]
)
def test_the_suffix_gives_the_format(evar, stored, tmp_path, name, begins):
    assert evar("compare", "logmel", "mfcc", "--no-run", "-o", name).code == 0
    assert (tmp_path / name).read_text().startswith(begins)


def test_the_baseline_need_not_be_named_twice(evar, stored):
    ran = evar("compare", "mfcc", "--baseline", "logmel", "--no-run", "--format", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["baseline"] == "logmel"
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [("mfcc", "logmel")]


def test_lost_predictions_come_back_by_the_command_that_is_named(evar, stored):
    for path in (stored / "predictions").iterdir():
        path.unlink()
    line = evar("compare", "logmel", "mfcc", "--no-run").one_line_error()
    command = line.split("'")[1]
    assert command == "evar run logmel esc10 --mini"
    assert evar(*shlex.split(command)[1:]).code == 0
    assert "evar run mfcc esc10 --mini" in evar("compare", "logmel", "mfcc", "--no-run").one_line_error()
    assert evar("compare", "logmel", "mfcc", *MINI).code == 0  # measures it again by itself
    assert evar("compare", "logmel", "mfcc", "--no-run").code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["logmel", "--no-run"], "needs two encoders"),
        (["logmel", "logmel", "--no-run"], "needs two encoders"),
        (["logmel", "--tasks", "esc10", "--mini"], "needs two encoders"),
        (["logmel", "mfc", "--no-run"], "did you mean 'mfcc'"),
        (["logmel", "x*", "--no-run"], "matches 'x*'"),
        (
            ["logmel", "mfcc", "--no-run", "--protocol", "knn"],
            "nothing is measured by protocol knn in results, only by fair",
        ),
        (["logmel", "mfcc", "--no-run", "--protocol", "fiar"], "did you mean 'fair'"),
        (["logmel", "mfcc", "--no-run", "--tasks", "emodb"], "emodb"),
        (["logmel", "mfcc", "--no-run", "--alpha", "2"], "--alpha"),
        (["logmel", "mfcc", "--no-run", "--resamples", "5"], "resamples"),
        (["logmel", "mfcc", "--no-run", "--prefer", "pooling"], "COLUMN=VALUE"),
        (["logmel", "mfcc", "--no-run", "--prefer", "poling=mean"], "did you mean 'pooling'"),
        (["logmel", "mfcc", "--no-run", "--prefer", "pooling=maen"], "pooling in --prefer: 'maen'"),
        (["logmel", "mfcc", "--tasks", "esc10", "--prefer", "pooling=mean"], "--no-run"),
        (["", ",", "--no-run"], "needs two encoders, found none"),
        (["logmel", "mfcc", "--no-run", "--tasks", ""], "no task named"),
        (["logmel", "mfcc", "--no-run", "--alpha", "nan"], "--alpha"),
        (["logmel", "mfcc", "--no-run", "--resamples", "99999999999"], "--resamples"),
        (["logmel", "mfcc", "--no-run", "-o", "x.pdf"], "unknown format 'pdf'"),
        (["logmel", "mfcc", "--no-run", "-o", "x.csv", "--format", "json"], "keep one of them"),
        (["logmel", "mfcc", "--no-run", "--format", "xml"], "xml"),
        (["logmel", "mfcc", "--no-run", "-o", "/proc/none/x.md"], "/proc/none"),
        (["logmel", "mfcc", "--no-run", "--results", "nowhere"], "nothing is measured in nowhere"),
        (["logmel", "mfcc", "--no-run", "--results", "results/runs.csv"], "is not a folder"),
        (["logmel", "mfcc", "--tasks", "esc99", "--mini"], "esc99"),
    ],
)
def test_bad_input_is_one_line(evar, stored, words, says):
    assert says in evar("compare", *words).one_line_error()


def test_synthetic_tasks_never_enter_the_ranks_of_real_ones(evar, stored):
    assert evar("run", "logmel,mfcc", "emodb", "--mini", "-q").code == 0
    board = pd.read_csv(stored / "runs.csv", dtype=str, keep_default_na=False)
    board.loc[board["task"] == "esc10", "synthetic"] = "False"
    board.to_csv(stored / "runs.csv", index=False)
    ran = evar("compare", "logmel", "mfcc", "--no-run", "--format", "json")
    assert json.loads(ran.out)["shared"] == ["esc10"]
    assert "emodb: synthetic stand-ins, left out beside real rows; --mini compares them" in ran.err
    ran = evar("compare", "logmel", "mfcc", "--no-run", "--mini", "--format", "json")
    assert json.loads(ran.out)["shared"] == ["emodb"]


def test_what_is_missing_is_said_where_nothing_may_run(evar, stored):
    assert evar("run", "logmel", "emodb", "--mini", "-q").code == 0
    ran = evar("compare", "logmel", "mfcc", "--no-run", "--tasks", "esc10,emodb")
    assert ran.code == 0, ran.err
    assert "mfcc is not compared on emodb" in ran.err


def test_several_labels_per_clip(evar):
    ran = evar("compare", "logmel", "mfcc", "--tasks", "fsd50k", "--mini", "--resamples", "100", "--format", "json")
    assert ran.code == 0, ran.err
    (pair,) = json.loads(ran.out)["pairs"]
    assert pair["metric"] == "mAP"
    assert pair["low"] <= pair["difference"] <= pair["high"]


def test_several_seeds(evar):
    words = ("--tasks", "esc10", "--mini", "--protocol", "paper", "--format", "json")
    ran = evar("compare", "logmel", "mfcc", *words)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["facts"]["esc10"]["seeds"] == 3
    assert found["pairs"][0]["test"] == "bootstrap over groups"
