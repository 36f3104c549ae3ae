"""`evar table` and `evar reproduce` as a user types them: exit codes, one-line errors, and cells filled on request."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

PACK = Path(__file__).resolve().parents[2] / "results" / "pack"
CARDS = Path(__file__).resolve().parents[1] / "cards"
CARD = """name: noises
version: 1
title: t
asks: q
seconds: 0.5
metric: accuracy
split: folds
folds: 2
layout: csv_columns
options: {file: labels.csv, path: filename, label: species}
folders: [noises]
"""
OWN = "table,model,evar_name,task,mean,std\nmine,Log-mel,logmel,noises,100,0.5\nmine,MFCC,mfcc,noises,12,\n"
DATA = ("--data", "noises")


@pytest.fixture
def noises(tmp_path):
    """Sixteen noises with a card in ./tasks, and figures of the user's own about them in own.csv."""
    rows = []
    for take in range(8):
        for name in ("low", "high"):
            x = np.random.default_rng(take).normal(0, 0.1, 8000)
            path = tmp_path / "noises" / name / f"{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.cumsum(x) / 20 if name == "low" else x, 16000)
            rows.append(f"{name}/{take}.wav,{name},{1 + take % 2}")
    (tmp_path / "noises" / "labels.csv").write_text("filename,species,fold\n" + "\n".join(rows) + "\n")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "noises.yaml").write_text(CARD)
    (tmp_path / "own.csv").write_text(OWN)
    return tmp_path


def test_run_fills_only_what_is_missing(evar, noises):
    first = evar("table", "mine", "--published", "own.csv", *DATA)
    assert first.code == 0, first.err
    assert "evar run logmel noises --probe paper --data noises\n" in first.out
    assert not (noises / "results").exists()
    filled = evar("table", "mine", "--published", "own.csv", "--encoders", "logmel", "--run", *DATA)
    assert filled.code == 0, filled.err
    assert re.search(r"^  measured +\d", filled.out, re.MULTILINE)
    assert "evar run" not in filled.out
    rows = (noises / "results" / "runs.csv").read_text()
    again = evar("table", "mine", "--published", "own.csv", "--encoders", "logmel", "--run", *DATA)
    assert again.out == filled.out
    assert (noises / "results" / "runs.csv").read_text() == rows


def test_a_listed_command_fills_its_cell(evar, noises):
    listed = evar("table", "mine", "--published", "own.csv", *DATA).out
    command = re.search(r"evar (run mfcc .*)", listed)[1].split()
    assert evar(*command).code == 0
    after = evar("table", "mine", "--published", "own.csv", *DATA).out
    assert "evar run mfcc" not in after
    assert "evar run logmel" in after


def test_cells_without_weights_or_data_are_named_and_skipped(evar, noises):
    ran = evar("table", "byola-v2", "--encoders", "byola-v2,M2D,logmel", "--tasks", "esc50", "--run")
    assert ran.code == 0
    warnings = [line for line in ran.err.splitlines() if line.startswith("evar: warning: skipped")]
    assert [line.split(":")[2].strip() for line in warnings] == ["skipped BYOL-A on esc50", "skipped logmel on esc50"]
    assert "83.2" in ran.out


def test_reproduce_says_yes_and_no_by_its_exit_code(evar, noises):
    words = ("reproduce", "logmel", "noises", "--published", "own.csv")
    inside = evar(*words, *DATA, "--tolerance", "100")
    assert inside.code == 0, inside.err
    assert "within the tolerance" in inside.out
    outside = evar("reproduce", "mfcc", "noises", "--published", "own.csv", *DATA, "--tolerance", "0")
    assert outside.code == 1, outside.err
    assert "outside the tolerance" in outside.out
    stored = evar(*words, "--no-run", "--tolerance", "100", "--format", "json")
    assert stored.code == 0
    assert json.loads(stored.out)["within"] is True
    assert any("learning rate: 0.0003" in note for note in json.loads(stored.out)["unknown"])
    fair = evar(*words, *DATA, "--protocol", "fair", "--tolerance", "100")
    assert any("probe: protocol fair" in line for line in fair.out.splitlines())
    against = evar("reproduce", "mfcc", "noises", "--against", "Log-mel", "--published", "own.csv", "--no-run")
    assert "published   100.0 ±0.5 %, Log-mel" in against.out


def test_measured_rows_of_the_pack_make_a_table(evar):
    ran = evar("table", "pack", "--tasks-dir", CARDS, "--results", PACK)
    assert ran.code == 0, ran.err
    assert "24 cells by protocol fair version 2" in ran.out
    line = next(line for line in ran.out.splitlines() if line.startswith("random:byola-v2 "))
    assert line.split()[-1] == "77.3"
    assert "Left out" not in ran.out


def test_the_pack_never_enters_a_published_table(evar):
    ran = evar("table", "esc10,emodb", "--results", PACK, "--protocol", "paper", "--encoders", "logmel")
    assert "no cell by protocol paper" in ran.out
    assert "2 rows: protocol fair, not paper (logmel × emodb, logmel × esc10)" in ran.out


@pytest.mark.parametrize("suffix", ["txt", "md", "tex", "csv", "html"])
def test_the_suffix_gives_the_format(evar, tmp_path, suffix):
    ran = evar("table", "fusion", "-o", f"out/fusion.{suffix}", "-q")
    assert ran.code == 0, ran.err
    text = (tmp_path / "out" / f"fusion.{suffix}").read_text()
    mark = {"txt": "-----", "md": "| ---: |", "tex": "\\toprule", "csv": "table,model,", "html": "<!DOCTYPE html>"}
    assert mark[suffix] in text
    assert ran.out == ""


def test_a_part_of_the_columns_has_no_average(evar):
    ran = evar("table", "byola-v2", "--tasks", "esc50,us8k", "--encoders", "BYOL-A")
    assert "average" not in ran.out
    assert "83.2±0.6  79.7±0.5\n" in ran.out
    assert "spcv2" not in ran.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("table", "byola-v3"), "did you mean 'byola-v"),
        (("table", "byola-v2", "--encoders", "byolav2"), "did you mean 'byola-v2'"),
        (("table", "byola-v2", "--encoders", "zz*"), "zz* matches no published model"),
        (("table", "byola-v2", "--encoders", " , "), "--encoders: no name given"),
        (("table", "byola-v2", "--tasks", "esc5"), "did you mean 'esc50'"),
        (("table", "byola-v2", "--tasks-dir", "none"), "is not a folder"),
        (("table", "byola-v2", "--protocol", "papr"), "did you mean 'paper'"),
        (("table", "byola-v2", "--format", "pdf"), "--format"),
        (("table", "byola-v2", "--published", "none.csv"), "cannot read none.csv"),
        (("table", "byola-v2", "--results", "file"), "is not a folder"),
        (("table", "byola-v2", "-o", "file/x.md"), "cannot write"),
        (("table", "./mine.yaml"), "--tasks-dir"),
        (("table", "fusion", "-o", "x.pdf"), "unknown format 'pdf'"),
        (("table", "fusion", "-o", "x.tex", "--format", "csv"), "keep one of them"),
        (("table", "byola-v2", "--tasks", "zzz"), "cremad, emodb"),
        (("reproduce", "byola-v2", "esc50", "--tolerance", "-1"), "--tolerance: expected points of at least 0"),
        (("reproduce", "byola-v2", "esc50", "--no-run"), "no row by protocol paper in results"),
        (("reproduce", "byola-v2", "esc50"), "no dataset found"),
        (("reproduce", "logmel", "esc50", "--no-run"), "unknown published encoder 'logmel'"),
        (("reproduce", "byola-v2", "nope", "--no-run"), "nothing is published for byola-v2 on nope"),
        (("reproduce", "byola-v2", "esc50", "--tolerance", "x"), "--tolerance"),
        (("reproduce", "byola-v2@", "esc50"), "bad encoder name"),
        (("reproduce", "byola-v2", "esc50", "--table", "x", "--no-run"), "unknown table"),
    ],
)
def test_every_mistake_is_one_line(evar, tmp_path, words, said):
    (tmp_path / "file").write_text("x")
    assert said in evar(*words).one_line_error()


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text.replace("protocol,", "protokoll,", 1),
        lambda text: text.replace("\n2,", "\n7,", 1),
        lambda text: text + "1,2,3\n1,2,3\n",
        lambda text: text.replace("0.7", "zero", 1),
        lambda text: "\x00\x01",
    ],
    ids=["missing column", "other schema", "short rows", "no number", "no CSV"],
)
def test_a_damaged_results_file_is_one_line(evar, tmp_path, harm):
    (tmp_path / "results").mkdir()
    text = (PACK / "runs.csv").read_text()
    (tmp_path / "results" / "runs.csv").write_text(harm(text))
    for words in (("table", "byola-v2"), ("reproduce", "byola-v2", "esc50", "--no-run")):
        assert "runs.csv" in evar(*words).one_line_error()


def test_no_results_at_all_is_the_published_table(evar, tmp_path):
    ran = evar("table", "cola")
    assert ran.code == 0
    assert "no cell by protocol paper" in ran.out
    assert list(tmp_path.iterdir()) == []
