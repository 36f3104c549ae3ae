"""Fear: what killed processes left piles up, what a disk altered is used, and a warning looks like a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import evar
from evar import files
from evar.cli import main
from evar.store import Store


@pytest.mark.skipif(os.name == "nt", reason="nothing is removed there")
def test_temporary_files_of_killed_processes_go_after_a_day(tmp_path, monkeypatch):
    """They stayed for ever: nobody writes `predictions/CELL.parquet` a second time."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "old and dead": f".runs.csv.{dead.pid}.0123abcd.tmp",
        "old, alive": f".runs.csv.{os.getpid()}.0123abcd.tmp",
        "new and dead": f".out.npz.{dead.pid}.0123abce.tmp",
        "not ours": ".thesis.tmp",
    }
    for what, name in names.items():
        (tmp_path / name).write_text("half")
        if not what.startswith("new"):
            os.utime(tmp_path / name, (0, 0))
    files.atomic_write(tmp_path / "leaderboard.csv", "x")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"leaderboard.csv", *names.values()} - {names["old and dead"]}
    os.utime(tmp_path / names["new and dead"], (0, 0))
    files.atomic_write(tmp_path / "leaderboard.csv", "y")  # once per folder and process
    assert (tmp_path / names["new and dead"]).exists()
    monkeypatch.setattr(files, "_swept", set())
    files.atomic_write(tmp_path / "leaderboard.csv", "z")
    assert not (tmp_path / names["new and dead"]).exists()


@pytest.fixture
def measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return evar.run("random:byola-v1-512", "fsdd", mini=True, limit=40, probe="knn")


def test_altered_statistics_are_measured_again(measured, tmp_path):
    """A flipped digit gave other embeddings, and a row of its own beside the right one."""
    (path,) = (tmp_path / "embeddings" / "normalization").glob("*.json")
    whole = path.read_text()
    stated = json.loads(whole)
    stated["statistics"]["mean"] += 1
    path.write_text(json.dumps(stated))
    again = evar.run("random:byola-v1-512", "fsdd", mini=True, limit=40, probe="knn,fair")
    assert path.read_text() == whole
    assert again["encoder_fingerprint"].tolist() == measured["encoder_fingerprint"].tolist() * 2


def test_a_row_never_comes_from_embeddings_that_a_disk_altered(measured, tmp_path, capfd):
    """They were memory-mapped by their size alone, and a second protocol measured what was there."""
    expected = evar.run("random:byola-v1-512", "fsdd", mini=True, limit=40, probe="fair", results="expected")
    (path,) = (tmp_path / "embeddings").glob("*/fsdd/*/0.f32")
    before, data = path.stat(), bytearray(path.read_bytes())
    data[3::4] = bytes(len(data[3::4]))  # the exponents
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(SystemExit) as ended:
        main(["run", "random:byola-v1-512", "fsdd", "--mini", "--limit", "40", "--probe", "fair", "-q"])
    assert ended.value.code == 0
    (line,) = (
        line for line in capfd.readouterr().err.splitlines() if "damaged" in line
    )  # one, without the place in the code
    assert line.startswith("evar: warning: stored embeddings are damaged (")
    assert line.endswith(".damaged, and encoded again")
    row = evar.run("random:byola-v1-512", "fsdd", mini=True, limit=40, probe="fair")
    assert row["mean"].tolist() == expected["mean"].tolist()


def test_a_set_of_the_future_is_new(measured, tmp_path):
    """The clock went back since: its age was negative, and `--older 0` left it."""
    (path,) = (tmp_path / "embeddings").glob("*/fsdd/*/meta.json")
    path.write_text(path.read_text().replace('"created": "20', '"created": "21'))
    store = Store(tmp_path / "embeddings")
    assert store.prune(older_days=1) == 0
    assert store.prune(older_days=0) > 0
    assert store.list_sets() == []
