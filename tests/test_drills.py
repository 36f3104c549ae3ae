"""Fear: the drills rot, or one of them cannot fail: each is run for a little, and is shown harm that it must count."""

from __future__ import annotations

import csv
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from evar.results_files import RUN_COLUMNS

DRILLS = Path(__file__).resolve().parents[1] / "drills"
NAMES = ("common", "run_all", "kill", "writers", "corruption", "clock")


@pytest.fixture
def drills(monkeypatch):
    """The modules of drills/, by name; none of them stays imported."""
    monkeypatch.syspath_prepend(str(DRILLS))
    own = {path.stem for path in DRILLS.glob("*.py")}
    held = {name: sys.modules.pop(name) for name in own & set(sys.modules)}
    yield SimpleNamespace(**{name: __import__(name) for name in NAMES})
    for name in own & set(sys.modules):
        del sys.modules[name]
    sys.modules.update(held)


def write(folder: Path, cells: list[str], score: str = "0.5") -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("runs.csv", "leaderboard.csv"):
        with open(folder / name, "w", newline="") as stream:
            table = csv.DictWriter(stream, RUN_COLUMNS)
            table.writeheader()
            table.writerows({"cell_id": cell, "score": score, "started_at": os.urandom(3).hex()} for cell in cells)
    return folder


def test_every_drill_is_found_by_its_file(drills):
    assert set(NAMES) - {"common", "run_all"} <= set(drills.run_all.names())
    assert "common" not in drills.run_all.names()
    assert "run_all" not in drills.run_all.names()


def test_planted_harm_to_rows_is_counted(drills, tmp_path):
    expected = write(tmp_path / "expected", ["a", "b"])
    for cells, score, found in (
        (["b", "a"], "0.5", (0, 0)),
        (["a"], "0.5", (2, 0)),
        (["a", "b", "b"], "0.5", (0, 2)),
        (["a", "b"], "0.6", (4, 4)),
        (["a", "b", "c"], "0.5", (0, 2)),
    ):
        assert drills.common.differences(write(tmp_path / "found", cells, score), expected) == found
    shutil.rmtree(tmp_path / "found")
    (tmp_path / "found").mkdir()
    assert drills.common.differences(tmp_path / "found", expected) == (4, 0)
    twice = write(tmp_path / "twice", ["a", "a"])  # a row that is expected twice is wanted twice
    assert drills.common.differences(twice, twice) == (0, 0)
    assert drills.common.differences(write(tmp_path / "found", ["a"]), twice) == (2, 0)


def test_planted_tracebacks_and_lies_about_errors_are_counted(drills):
    Finished, Count = drills.common.Finished, drills.common.Count
    for code, stderr, traceback, one_line in (
        (2, "evar: error: no such file: x\n", False, True),
        (2, "evar: warning: y\nevar: error: no such file: x\n", False, True),
        (1, "Traceback (most recent call last):\n  ...\nKeyError: 3\n", True, False),
        (1, "evar: error: KeyError: 3 (a bug of evar: EVAR_TRACEBACK=1 shows where)\n", True, False),
        (-11, "", True, False),
        (-9, "", False, False),
        (2, "evar: error: a\nevar: error: b\n", False, False),
    ):
        finished, count = Finished(code, "", stderr), Count("x", faults=1)
        count.saw(finished, "it")
        assert (finished.has_traceback, finished.is_one_line_error) == (traceback, one_line)
        assert count.tracebacks == traceback
        assert count.passed is not traceback
    assert not Count("x").passed, "a drill that broke nothing shows nothing"
    assert not Count("x", faults=3, results_lost=1).passed
    assert not Count("x", faults=3, wrong_rows=1).passed
    assert "| all | 6 | 1 | 2 | 0 |" in drills.common.table([Count("x", 3, 1, 0), Count("y", 3, 0, 2)])


def test_a_kill_before_a_chosen_step_leaves_what_was_done_before_it(drills, tmp_path):
    code = "import os; open('a', 'w').close(); open('b', 'w').close(); os.rename('a', 'c'); os.remove('b')"
    whole = ["open a", "open b", "os.rename a", "os.remove b"]
    for die, left in (("", {"c"}), ("1", set()), ("3", {"a", "b"}), ("os.remove:1", {"b", "c"})):
        folder, log = tmp_path / f"die{die}", tmp_path / f"die{die}.steps"
        folder.mkdir()
        env = os.environ | drills.kill.hooks(folder, log) | {"DRILL_DIE": die}
        ended = subprocess.run([sys.executable, "-S", "-c", f"import sitecustomize; {code}"], cwd=folder, env=env)
        assert ended.returncode == (-9 if die else 0)
        assert {path.name for path in folder.iterdir()} == left
        assert [line.split(" ", 1)[1] for line in log.read_text().splitlines()] == whole[: {"1": 1, "3": 3}.get(die, 4)]


def test_kills_are_spread_over_all_steps(drills):
    chosen = drills.kill.spread(100, 10, random.Random(0))
    for _ in range(2):
        assert sorted((next(chosen) - 1) // 10 for _ in range(10)) == list(range(10))
    assert sum(case.kills for case in drills.kill.CASES) == 50


def test_one_kill_and_what_it_left(drills, tmp_path, sounds):
    sources = tmp_path / "sources"
    shutil.copytree(sounds, sources / "sounds")
    case = drills.kill.Case("tiny", "encode logmel sounds --norm -7,4 -o out.npz", 1, equal=("out.*",))
    count = drills.kill.kill_case(case, 1, sources, drills.common.Options(tmp_path))
    assert (count.faults, count.passed) == (1, True), count.notes


def test_a_planted_wrong_file_is_counted_by_the_kill_drill(drills, tmp_path):
    case = drills.kill.Case("x", "", 1, equal=("*.npz",))
    expected, found = tmp_path / "expected", tmp_path / "found"
    for folder, files in ((expected, {"a.npz": b"1", "b.npz": b"2"}), (found, {"a.npz": b"0", ".a.npz.1.tmp": b""})):
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
    count = drills.common.Count("x", faults=1)
    drills.kill.compare(case, found, expected, count)
    assert (count.results_lost, count.wrong_rows) == (1, 1)
    assert "left behind: .a.npz.1.tmp" in count.notes[-1]


def test_harm_is_done_and_a_flip_leaves_no_trace_but_itself(drills, tmp_path):
    path, data, chance = tmp_path / "x", bytes(range(200)), random.Random(3)
    for harm in drills.corruption.HARMS:
        path.write_bytes(data)
        before = path.stat()
        harm(path, chance)
        assert not path.exists() or path.read_bytes() != data
        if harm is drills.corruption.flip:
            after = path.stat()
            assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
            assert sum(a != b for a, b in zip(path.read_bytes(), data, strict=True)) == 1


def test_planted_wrong_embeddings_are_counted_by_the_corruption_drill(drills, tmp_path):
    for name, rows in (("expected", b"12345678"), ("found", b"12345679")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "results", ["a"])
        for folder in ("x", "x.damaged") if name == "found" else ("x",):
            (tmp_path / name / "embeddings" / folder).mkdir(parents=True)
            (tmp_path / name / "embeddings" / folder / "0.f32").write_bytes(rows)
    count = drills.common.Count("x", faults=1)
    drills.corruption.compare(tmp_path / "found", tmp_path / "expected", count, "embeddings")
    assert (count.results_lost, count.wrong_rows) == (0, 1), count.notes


@pytest.mark.skipif(not (shutil.which("gcc") and sys.platform.startswith("linux")), reason="needs gcc and LD_PRELOAD")
def test_the_clock_of_the_clock_drill_is_wrong(drills, tmp_path):
    shim = drills.clock.built(tmp_path)
    clock = drills.clock.Clock(shim, drills.common.Count("x"))
    assert clock.works()
    # Waits for the jump and not for a while: how long Python takes to start is not ours to say.
    code = "import sys, time; began, wait = time.monotonic(), float(sys.argv[2])\n"
    code += "while time.time() > float(sys.argv[1]) - 500 and time.monotonic() < began + wait: time.sleep(0.02)\n"
    code += "print(time.time(), time.monotonic() - began)"
    for after, wait, jumped in ((1, 60, True), (3600, 0.1, False)):
        env = os.environ | clock.env(0, after, -1000)
        start, ran_from = time.time(), time.monotonic()
        command = [sys.executable, "-c", code, str(start), str(wait)]
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        took = time.monotonic() - ran_from
        wall, monotonic = map(float, ran.stdout.split())
        assert 0 <= wall - start + 1000 * jumped <= took + 1
        assert 0 <= monotonic <= took  # the monotonic clock stays true


def test_the_writers_drill_counts_every_clip_that_is_encoded(drills, tmp_path, monkeypatch):
    import torch

    drills.writers.prepare(tmp_path / "x")
    monkeypatch.setenv("DRILL_ENCODED", str(tmp_path / "encoded"))
    names: dict = {"__name__": "counting"}
    exec((tmp_path / "x" / "counting.py").read_text(), names)
    encoder = names["Counted"]()
    waves = torch.randn(3, 16000)
    encoder.encode(waves)
    encoder.encode(waves[:1])
    told = (tmp_path / "encoded").read_text().split()
    assert len(told) == 4
    assert len(set(told)) == 3
    together = {
        (name, task) for names, tasks in drills.writers.GRIDS for name in names.split(",") for task in tasks.split(",")
    }
    assert len(drills.writers.GRIDS) == 8
    assert {name for name, _ in together} == set(drills.writers.ENCODERS)
