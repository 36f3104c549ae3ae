"""What is typed in a hurry, in the wrong place or in an old spelling: understood, or one line that says how it is meant."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import click
import pytest

from evar.cli.app import app

LABELS = ("logmel", "mfcc")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two encoders measured on two small tasks."""
    import evar

    folder = tmp_path_factory.mktemp("measured")
    given = {"mini": True, "limit": 60, "probe": "knn", "device": "cpu"}
    evar.run(list(LABELS), ["fsdd", "esc10"], results=folder / "results", embeddings=folder / "embeddings", **given)
    return folder


@pytest.mark.parametrize(
    "words", [("run", "logmel", "fsdd"), ("leaderboard",), ("data", "verify", "fsdd"), ("doctor",), ("tasks",), ()]
)
def test_a_current_folder_that_was_removed_is_one_line(words, tmp_path):
    """Regression: `FileNotFoundError ... (a bug of evar)`, or a library that aborts the process as it is imported."""
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os, sys; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); from evar.cli import main; main({list(words)})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert ran.returncode == 2
    if words:
        assert ran.stderr == (
            "evar: error: the current folder has been removed or moved away: cd to one that is there, and run the same"
            " command again\n"
        )
    else:
        assert ran.stderr.startswith("Usage: evar")


def test_a_folder_that_is_removed_in_the_midst_of_the_work_is_one_line(evar, tmp_path, monkeypatch):
    monkeypatch.setattr("evar.leaderboard.format_leaderboard", lambda rows: os.getcwd())
    monkeypatch.setattr("evar.results.Results.leaderboard", lambda *a, **b: (tmp_path / "in").rmdir() or [0])
    (tmp_path / "in").mkdir()
    monkeypatch.setattr("evar.reporting.rows.filtered", lambda rows, *rest: rows)
    os.chdir(tmp_path / "in")
    try:
        assert "the current folder has been removed" in evar("leaderboard").one_line_error()
    finally:
        os.chdir(tmp_path)


@pytest.mark.parametrize("words", [(), ("store",), ("plot",), ("data",), ("task",), ("results",), ("weights",)])
def test_a_group_alone_shows_its_help_as_it_is(words, evar):
    """Regression: the whole help page folded into one line that began with `evar: error: Usage:`."""
    ran = evar(*words)
    assert ran.code == 2
    assert ran.err.startswith("Usage: " + " ".join(["evar", *words]))
    assert len(ran.err.splitlines()) > 8
    assert "Commands:" in ran.err


@pytest.mark.parametrize("words", ["tasks", "leaderboard --canonical", "--help"])
def test_a_reader_that_leaves_early_is_no_failure(words, measured):
    """Regression: `evar tasks | head` ended with exit code 1, which fails a script under `set -o pipefail`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "evar", *words.split()]
    with os.fdopen(writing, "wb") as stream:
        ran = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, cwd=measured)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--engine nonsense", "unknown engine 'nonsense'; there are: "),
        ("--workers 0", "workers: expected a whole number of at least 1, found 0"),
        ("--retries -1", "retries: expected a whole number of at least 0, found -1"),
        ("-E", "'-E' requires an argument. (see 'evar run --help')"),
        ("-E slurm_partition", "--engine-option: expected KEY=VALUE, found 'slurm_partition'"),
        ("-E slurm_partition=", "--engine-option: expected KEY=VALUE, found 'slurm_partition='"),
        ("-E a=1 -E a=2", "--engine-option: a is given twice"),
        ("-E a=1", "engine local takes no options, found a"),
        ("--workers 2 --device cuda:1", "a job sees one GPU"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(words, expected, evar, tmp_path):
    """Regression: --dry-run looked at no word about the engine."""
    assert expected in evar("run", "logmel", "fsdd", "--mini", "--dry-run", *words.split()).one_line_error()
    assert not (tmp_path / "results").exists()


def test_a_dry_run_of_an_engine_leaves_nothing_in_results(evar, measured, tmp_path):
    pytest.importorskip("submitit", reason="needs the extra cluster")
    words = ("run", "logmel", "fsdd", "--mini", "--dry-run", "--engine", "submitit")
    words += ("--embeddings", measured / "embeddings")
    assert "no_such" in evar(*words, "-E", "no_such=1").one_line_error()
    assert evar(*words, "-E", "cluster=local", "--batch", 10**9).code == 0  # no more noise than there are clips
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run logmel fsdd esc10", "evar run logmel fsdd,esc10"),
        ("run --encoders logmel --tasks fsdd", "evar run logmel esc50"),
        ("run logmel --task fsdd", "evar run logmel esc50"),
        ("run fsdd,esc10 logmel --mini", "the encoders come first: evar run logmel fsdd,esc10"),
        ("data list", "unknown command 'list'; there are: fetch, leaks, mini, verify"),
        ("store lst", "unknown command 'lst'; did you mean 'list'?"),
        ("store verify --embeddings nowhere", "--embeddings nowhere is not there"),
        ("store prune --incomplete --embeddings file", "--embeddings file is not a folder"),
        ("store list --embeddings nowhere", "--embeddings nowhere is not there"),
        ("table byola-v2 -o markdown", "-o markdown: expected a file, such as FILE.md; --format markdown"),
        ("compare a b --no-run -o json", "-o json: expected a file, such as FILE.json; --format json"),
        ("report -o html", "-o html: expected a file"),
        ("plot heatmap -o png", "-o png: expected a file, such as FILE.png"),
        ("pretrain byola-v2 --audio .", "unknown method 'byola-v2'; did you mean 'byola'? (--preset chooses"),
        ("leaderboard -o board.csv", "Invalid value for '--format'"),
    ],
)
def test_words_in_the_wrong_place(words, expected, evar, tmp_path):
    (tmp_path / "file").write_text("")
    assert expected in evar(*words.split()).one_line_error()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("line", ["encoders: 5", "encoders: {a: 1}", "encoders: [logmel, 3]", "tasks: [1, null]"])
def test_a_grid_that_names_no_names(line, evar, tmp_path):
    """Regression: `tasks: [1]` ended in a TypeError."""
    other = "tasks: fsdd" if line.startswith("encoders") else "encoders: logmel"
    (tmp_path / "grid.yaml").write_text(f"mini: true\n{line}\n{other}\n")
    assert "expected a name or a list of names" in evar("run", "grid.yaml").one_line_error()


def test_the_doctor_says_which_folder_is_not_there(evar, tmp_path):
    ran = evar("doctor", "--data", "nowhere", "--data", f"fsdd={tmp_path}", "--format", "json")
    assert ran.code == 1
    assert "--data nowhere is not a folder" in json.loads(ran.out)["problems"]


# ---- one spelling for one thing, and the others understood ------------------------------------------------------------


def commands(group=app, path=("evar",)):
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))
            else:
                yield " ".join((*path, name)), command


def shown(command):
    """The options of `--help`: the first spelling -> (its others, whether it takes a place or words from a list)."""
    with click.Context(command) as ctx:
        records = [(p, p.get_help_record(ctx)) for p in command.params if isinstance(p, click.Option)]
    return [(param, record[0].split()) for param, record in records if record]


def test_minus_o_is_a_place_and_format_a_form_in_every_help():
    for name, command in commands():
        for param, words in shown(command):
            if "-o" in words or "-o," in words:
                assert not isinstance(param.type, click.Choice), name
            if isinstance(param.type, click.Choice) and {"json", "text"} <= set(param.type.choices):
                assert words[0] == "--format", name


def test_help_shows_one_spelling_of_tasks_encoders_and_probe():
    for name, command in commands():
        words = {word.strip(",") for _, words in shown(command) for word in words if word.startswith("-")}
        assert not words & {"--task", "--encoder", "--protocol", "--out-dir"}, name


@pytest.mark.parametrize("old", [("-o", "json"), ("--output", "json"), ("--output=json",)])
def test_the_form_by_its_old_name(old, evar, measured):
    rows = evar("leaderboard", "--results", measured / "results", *old)
    assert len(json.loads(rows.out)) == 4
    assert rows.out == evar("leaderboard", "--results", measured / "results", "--format", "json").out


@pytest.mark.parametrize(
    ("words", "n"),
    [
        ("--tasks fsdd", 2),
        ("--task fsdd", 2),
        ("--tasks fsdd,esc10", 4),
        ("--tasks f*,nothing", 2),
        ("--encoders logmel", 2),
        ("--encoder l*,mfcc --task esc10", 2),
        ("--protocol knn", 4),
        ("--probe knn --tasks esc10 --encoders mfcc", 1),
    ],
)
def test_what_to_show_by_either_spelling_and_by_commas(words, n, evar, measured):
    ran = evar("leaderboard", "--results", measured / "results", "--canonical", *words.split())
    assert len(list(csv.reader(ran.out.splitlines()))) == 1 + n


def test_what_to_show_by_the_name_of_a_suite(evar, measured, tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "suites.yaml").write_text("mine: [fsdd, esc50]\n")
    ran = evar("leaderboard", "--results", measured / "results", "--canonical", "--tasks", "mine")
    assert {row["task"] for row in csv.DictReader(ran.out.splitlines())} == {"fsdd"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--tasks esc50", "no row of results matches task esc50; its tasks are: esc10, fsdd"),
        ("--probe fare", "matches protocol fare; its protocols are: knn"),
        ("--encoders mfc --format json", "matches encoder mfc; its encoders are: logmel, mfcc"),
    ],
)
def test_nothing_that_matches_is_said_with_what_is_there(words, expected, evar, measured, monkeypatch):
    monkeypatch.chdir(measured)
    assert expected in evar("leaderboard", *words.split()).one_line_error()


def test_commands_that_write_take_either_spelling(evar, measured, tmp_path):
    words = ("--results", measured / "results", "--no-run", "--task", "fsdd", "--protocol", "knn")
    ran = evar("compare", *LABELS, *words, "-o", tmp_path / "c.json")
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "c.json").read_text())
    ran = evar("table", "fsdd", "--results", measured / "results", "--protocol", "knn", "--encoder", "logmel")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(("verb", "option"), [("results", "--results"), ("store", "--embeddings")])
def test_a_folder_in_the_place_of_an_encoder_is_told_its_option(verb, option, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from evar.errors import EvarError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    ran = CliRunner().invoke(app, [verb, "migrate", "mine"])
    assert isinstance(ran.exception, EvarError)
    assert f"mine is a folder and no encoder: a folder goes with {option}" in str(ran.exception)
