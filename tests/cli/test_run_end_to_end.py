"""The main job through the command: mini audio in, leaderboard out, nothing done twice."""

from __future__ import annotations

import json

import pandas as pd
import pytest

RUN = ("run", "logmel,random:byola-v1-512", "esc10", "--mini")


@pytest.fixture(scope="module")
def first(tmp_path_factory, run_in):
    folder = tmp_path_factory.mktemp("end_to_end")
    return folder, run_in(folder, *RUN)


@pytest.fixture(scope="module")
def run_in():
    import subprocess
    import sys

    def call(folder, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", "evar", *map(str, arguments)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done

    return call


def test_the_leaderboard_is_printed_and_written(first):
    folder, done = first
    rows = pd.read_csv(folder / "results" / "leaderboard.csv")
    assert sorted(rows["encoder"]) == ["logmel", "random:byola-v1-512"]
    assert set(rows["protocol"]) == {"fair"}
    assert rows["synthetic"].all()
    assert ((rows["mean"] > 0.2) & (rows["mean"] <= 1)).all(), rows["mean"]
    assert (rows["ci95_low"] <= rows["mean"]).all()
    assert (rows["mean"] <= rows["ci95_high"]).all()
    assert "random:byola-v1-512" in done.stdout
    assert "synthetic" in done.stdout
    runs = pd.read_csv(folder / "results" / "runs.csv")
    assert len(runs) == 2 * 5
    for cell, part in runs.groupby("cell_id"):
        assert part["score"].mean() == pytest.approx(rows.set_index("cell_id").loc[cell, "mean"], abs=1e-9)


def test_predictions_give_the_scores_again(first):
    folder, _ = first
    for _, row in pd.read_csv(folder / "results" / "leaderboard.csv").iterrows():
        kept = pd.read_parquet(folder / "results" / "predictions" / f"{row['cell_id']}.parquet")
        right = kept["target"] == kept["predicted"]
        assert right.groupby(kept["fold"]).mean().mean() == pytest.approx(row["mean"], abs=1e-9)
        assert kept["clip_id"].is_unique
        assert len(kept) == row["n_test"]


def test_a_second_run_recomputes_nothing_and_says_so(first, run_in):
    folder, _ = first
    before = (folder / "results" / "runs.csv").read_bytes()
    done = run_in(folder, *RUN)
    assert done.stderr.count("already measured") == 2
    assert (folder / "results" / "runs.csv").read_bytes() == before


def test_a_new_protocol_uses_the_stored_embeddings(first, run_in):
    folder, _ = first
    done = run_in(folder, "run", "logmel", "esc10", "--mini", "--probe", "knn", "-o", "json")
    (row,) = json.loads(done.stdout)
    assert row["protocol"] == "knn"
    assert row["seconds_encode"] == 0


def test_equal_runs_agree_in_all_but_the_volatile_columns(first, run_in, tmp_path):
    folder, _ = first
    run_in(tmp_path, "run", "random:byola-v1-512,logmel", "esc10", "--mini")
    shown = [run_in(one, "leaderboard", "--canonical", "--probe", "fair").stdout for one in (folder, tmp_path)]
    assert shown[0] == shown[1]
    assert "logmel" in shown[0]
    assert "started_at" not in shown[0]


def test_the_command_is_kept_as_a_file_that_runs(first, run_in):
    folder, _ = first
    grids = sorted((folder / "results" / "commands").glob("*.yaml"))
    assert grids
    done = run_in(folder, "run", next(grid for grid in grids if "byola" in grid.read_text()))
    assert done.stderr.count("already measured") == 2


def test_dry_run_measures_nothing(evar, tmp_path):
    ran = evar("run", "logmel", "esc10", "--mini", "--dry-run")
    assert ran.code == 0
    assert "1 cells" in ran.out
    assert "logistic regression: some " in ran.out
    assert not (tmp_path / "results" / "runs.csv").exists()
    ran = evar("run", "logmel", "esc10,cremad", "--mini", "--dry-run", "--probe", "fair,knn", "--format", "json")
    probing = [cell["seconds_probe"] for cell in json.loads(ran.out)]
    assert [seconds is not None for seconds in probing] == [True, False, True, False]
    assert all(seconds > 0 for seconds in probing[::2])


def test_limit_shots_and_fraction_are_in_the_row(evar):
    for words, column, value in (
        (["--limit", "30"], "limit", 30),
        (["--shots", "2"], "shots", 2),
        (["--train-fraction", "0.5"], "train_fraction", 0.5),
    ):
        ran = evar("run", "logmel", "esc10", "--mini", "-q", "-o", "json", *words)
        assert ran.code == 0, ran.err
        (row,) = json.loads(ran.out)
        assert row[column] == value


def test_encode_writes_what_run_would_store(evar, tmp_path):
    import numpy as np
    import soundfile

    for i, rate in enumerate((16000, 44100)):
        noise = np.random.default_rng(i).normal(0, 0.1, rate).astype(np.float32)
        soundfile.write(tmp_path / f"{i}.wav", noise, rate)
    assert evar("encode", "logmel", "0.wav", "1.wav", "-o", "x.npz").code == 0
    with np.load(tmp_path / "x.npz") as stored:
        assert stored["embeddings"].shape == (2, 128)
        assert list(stored["files"]) == ["0.wav", "1.wav"]
    assert evar("encode", "random:byola-v2", ".", "-o", "f.npz", "--frames").code == 0
    with np.load(tmp_path / "f.npz") as stored:
        assert stored["frames_0"].shape == (25, 3072)
        assert stored["times_0"][1] - stored["times_0"][0] == pytest.approx(40)
    assert evar("encode", "mfcc", "0.wav", "-o", "x.parquet").code == 0
    assert list(pd.read_parquet(tmp_path / "x.parquet")["file"]) == ["0.wav"]


def test_the_python_api_has_the_same_words(tmp_path, monkeypatch):
    import evar

    monkeypatch.chdir(tmp_path)

    class Level(evar.Encoder):
        name, version, sample_rate = "level", 1, 16000
        layers, hop_ms = {"out": 1}, {}
        default_layers, default_pooling = ("out",), "clip"

        def _clip(self, wav, lengths):
            return {"out": wav.square().mean(1, keepdim=True)}

    rows = evar.run([Level(), "logmel"], "esc10", mini=True)
    assert list(rows["encoder"]) == ["level", "logmel"]
    task = evar.load_task("esc10", root=next((tmp_path / "embeddings" / "minis").glob("esc10*")))
    assert task.synthetic


def test_all_layers_come_from_one_pass(first, run_in):
    folder, _ = first
    done = run_in(folder, "run", "random:byola-v1-512", "esc10", "--mini", "--layers", "all,1+3", "-o", "json")
    rows = {row["layers"]: row for row in json.loads(done.stdout)}
    assert list(rows) == ["block1", "block2", "block3", "fc", "block1+block3"]
    assert done.stderr.count("already measured") == 1  # fc is the default layer
    encoded = [layer for layer, row in rows.items() if row["seconds_encode"] > 0]
    assert encoded == ["block1", "fc"]  # fc by the first run, the other four together
    again = run_in(folder, "run", "random:byola-v1-512", "esc10", "--mini", "--layers", "1+3", "-o", "json")
    assert again.stderr.count("already measured") == 1
    shown = run_in(folder, "leaderboard", "--probe", "fair").stdout
    assert "random:byola-v1-512 {block1+block3}" in shown


def test_globs_match_names_only_and_never_what_cannot_be_built():
    from evar.cells import expand_encoders
    from evar.encoders import list_encoders

    untrained = expand_encoders("random:*")
    assert {"random:cnn14", "random:vggish"} <= set(untrained)
    assert not {"random:byola", "random:logmel", "random:vggish-tfhub"} & set(untrained)
    assert expand_encoders("vggish*") == [name for name in list_encoders() if name.startswith("vggish")]
    for path in ("tfhub:models/trill?rate=8000", "hf:models/[mine]", "byola-v2@runs/*.pth", "hear:a*b"):
        assert expand_encoders(path) == [path]


def test_an_encoders_weights_are_digested_once_a_run(tmp_path, monkeypatch):
    """Seven layers took 21 digests of all weights: longer than encoding a small task."""
    import evar
    from evar.encoders.base import Encoder

    calls, digest = [], Encoder.fingerprint
    monkeypatch.setattr(Encoder, "fingerprint", lambda self: calls.append(1) or digest(self))
    options = {"mini": True, "layers": "all", "results": tmp_path / "r", "embeddings": tmp_path / "e"}
    rows = evar.run("random:byola-v1-512", "esc10", **options)
    assert len(rows) == 4
    assert rows["encoder_fingerprint"].nunique() == 1
    assert len(calls) == 1  # as it is built: what the task adds stands beside it
