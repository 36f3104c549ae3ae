"""Segments of long files give the rows that the same segments give as files of their own; verify sees what cannot be cut."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

CARD = (
    "name: {name}\nversion: 1\ntitle: t\nasks: q\nseconds: 0.5\nmetric: accuracy\nsplit: folds\nfolds: 3\n"
    "layout: csv_columns\n{more}"
)


@pytest.fixture
def evar(capfd):
    """`evar("run", ...)` through `main` in this process."""
    from evar.cli import main

    def call(*words):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        done = SimpleNamespace(
            returncode=stop.value.code or 0, **dict(zip(("stdout", "stderr"), capfd.readouterr(), strict=True))
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


def long_file(k, rate, seconds=3.0):
    """Two classes that are hard to tell apart: the rows are then no round numbers."""
    draw = np.random.default_rng(k)
    t = np.arange(round(rate * seconds)) / rate
    return 0.2 * np.sin(2 * np.pi * (500 + 40 * (t > 1.5)) * t) + 0.1 * draw.standard_normal(len(t))


def dataset(folder, rows, head, more=""):
    (folder / "clips.csv").write_text("\n".join([head, *rows]) + "\n")
    card = folder.parent / f"{folder.name}.yaml"
    card.write_text(CARD.format(name=folder.name, more=more))
    return card


@pytest.mark.parametrize("kind", ["wav", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_rows_of_segments_are_the_rows_of_the_files_cut_out(evar, tmp_path, kind, rate):
    long, short = tmp_path / "long", tmp_path / "short"
    long.mkdir()
    short.mkdir()
    segments, files = [], []
    for k in range(12):
        soundfile.write(long / f"{k}.{kind}", long_file(k, rate), rate)
        whole = soundfile.SoundFile(long / f"{k}.{kind}").read(dtype="float32")
        for label, start, stop in (("a", 0.31, 0.9), ("b", 1.72, 2.4), ("a", 0.8, 1.3)):
            name = f"{k}#{start}-{stop}"
            segments.append(f"{k}.{kind},{start},{stop},{label},{k % 3 + 1}")
            soundfile.write(
                short / f"{name}.wav", whole[round(start * rate) : round(stop * rate)], rate, subtype="FLOAT"
            )
            files.append(f"{name}.wav,{label},{k % 3 + 1},{k}")
    cards = (
        (dataset(long, segments, "path,start,end,label,fold", "options: {start: start, end: end}\n"), long),
        (dataset(short, files, "path,label,fold,group"), short),
    )
    said = []
    for card, folder in cards:
        done = evar(
            "run", "logmel", card, "--data", folder, "--results", tmp_path / "r", "--embeddings", tmp_path / "e", "-q"
        )
        assert done.returncode == 0, done.stderr
        with open(tmp_path / "r" / "runs.csv", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["task"] == folder.name]
        with open(tmp_path / "r" / "leaderboard.csv", newline="") as stream:
            (board,) = (row for row in csv.DictReader(stream) if row["task"] == folder.name)
        same = ("mean", "ci95_low", "ci95_high")
        said.append(([(row["fold"], row["score"], row["n_test"]) for row in rows], [board[name] for name in same]))
    assert len(said[0][0]) == 3
    assert said[0] == said[1]


def test_verify_names_segments_beyond_the_end(evar, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rows = []
    for k in range(6):
        soundfile.write(folder / f"{k}.wav", long_file(k, 16000), 16000)
        rows += [f"{k}.wav,0,{[1000, 2.2][k > 1]},a,{k % 3 + 1}", f"{k}.wav,1.5,3.04,b,{k % 3 + 1}"]
    card = dataset(folder, rows, "path,start,end,label,fold", "options: {start: start, end: end}\n")
    for audio in ((), ("--audio",)):
        done = evar("data", "verify", card, "--data", folder, *audio)
        assert done.returncode == 1
        assert "2 of 12 segments cannot be cut: " in done.stdout
        for words in (
            "0.wav lasts 3 s; the segment from 0 to 1000 s lies beyond",
            "in seconds, not milliseconds",
            "1.wav",
        ):
            assert words in done.stdout
        assert done.stdout.rstrip().endswith("not in order")
    out = ("--results", tmp_path / "r", "--embeddings", tmp_path / "e", "-q")
    run = evar("run", "logmel", card, "--data", folder, *out)
    assert run.returncode == 2
    assert "2 of 12 clips cannot be decoded" in run.stderr
    assert evar("run", "logmel", card, "--data", folder, "--skip-bad", *out).returncode == 0


def test_verify_says_once_that_times_are_taken_for_segments(evar, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rows = []
    for k in range(6):
        soundfile.write(folder / f"{k}.wav", long_file(k, 16000), 16000)
        rows += [f"{k}.wav,0,1,a,{k % 3 + 1}", f"{k}.wav,1.5,3,b,{k % 3 + 1}"]
    done = evar("data", "verify", dataset(folder, rows, "path,start,end,label,fold"), "--data", folder)
    assert (done.stdout + done.stderr).count("are taken as seconds of segments") == 1
