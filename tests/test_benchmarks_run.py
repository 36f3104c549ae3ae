"""Benchmarks that nobody runs rot: each one still starts, says what it aims at, and the suite tells what failed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def module(name: str, folder: Path = FOLDER):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", folder / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


run_all, common = module("run_all"), module("common")
NAMES = run_all.benchmarks()


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, folder / "run_all.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", NAMES)
def test_declared_targets_can_be_judged(name):
    for target in run_all.targets(name).values():
        assert set(target) <= {"what", "least", "most", "unit"}
        assert ("least" in target) != ("most" in target)
        assert target["what"]
        assert common.judge(target, target.get("least", target.get("most")))["met"] is True
        assert common.judge(target, None)["met"] is None


def test_every_benchmark_starts_and_explains_itself():
    with_options = [name for name in NAMES if "common.parser(" in (FOLDER / f"{name}.py").read_text()]
    assert len(with_options) >= 10
    code = """
import contextlib, io, runpy, sys
for path in sys.argv[1:]:
    text, sys.argv = io.StringIO(), [path, "--help"]
    try:
        with contextlib.redirect_stdout(text):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, path
    assert "--quick" in text.getvalue() and "--json" in text.getvalue(), path
"""
    scripts = [str(FOLDER / f"{name}.py") for name in with_options]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n{code}", *scripts],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_a_quick_round_leaves_json_with_limits_and_a_summary(tmp_path):
    done = run(FOLDER, tmp_path, "--quick", "--only", "batch_size")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "batch_size.json").read_text())
    assert found["rows"][0]["own"] > 0
    assert found["limits"]["gemm_gflops"] > 0
    assert found["limits"]["copy_gb_s"] > 0
    assert found["machine"]["torch"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["benchmarks"]) == set(NAMES)
    assert summary["benchmarks"]["batch_size"]["targets"] == found["targets"]
    assert all(target["measured"] is None for target in summary["benchmarks"]["run_cold"]["targets"])
    table = run(FOLDER, tmp_path, "--table")
    assert table.returncode == 0
    assert table.stdout.strip() == done.stdout[done.stdout.index("## Targets") :].strip()


def test_a_benchmark_that_fails_is_told_and_leaves_no_old_result(tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("run_all", "common"):
        shutil.copy(FOLDER / f"{name}.py", folder)
    target = 'TARGETS = {"speed": {"what": "speed", "least": 2, "unit": "x"}}\n'
    (folder / "broken.py").write_text(f"{target}def main():\n    raise SystemExit(3)\nmain()\n")
    (folder / "fine.py").write_text("def main():\n    print('measured')\nmain()\n")
    (folder / "helpers.py").write_text("raise SystemError('no benchmark: it has no main')\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "broken.json").write_text('{"targets": [{"what": "old"}]}')
    done = run(folder, tmp_path / "out")
    assert done.returncode == 1
    assert "broken failed" in done.stderr
    assert "fine: done" in done.stdout
    assert "not measured" in done.stdout
    assert "old" not in done.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == ["broken"]


def test_an_unknown_benchmark_is_refused(tmp_path):
    done = run(FOLDER, tmp_path, "--only", "nothing")
    assert done.returncode == 2
    assert "batch_size" in done.stderr


def test_rounds_go_forth_and_back_and_ratios_are_taken_within_a_round():
    seen: list[str] = []
    works = {name: lambda name=name: seen.append(name) for name in "abc"}
    seconds = common.side_by_side(works, runs=2, warmup=1)
    assert "".join(seen) == "abcabccba"
    assert {len(values) for values in seconds.values()} == {2}
    spread = common.ratio([2.0, 8.0, 3.0], [1.0, 2.0, 1.0])
    assert (spread.median, spread.least, spread.most, spread.runs) == (3.0, 2.0, 4.0, 3)


def test_the_median_is_judged_and_shown_with_its_spread():
    target = {"what": "speed", "least": 5, "unit": "x"}
    judged = common.judge(target, common.Spread.of([4.0, 6.0, 7.0]))
    assert judged["met"] is True
    assert judged["measured"] == 6.0
    assert "**6x** (4-7)" in common.summary([judged])
    assert common.judge(target, 4.9)["met"] is False
    assert common.judge({"what": "time", "most": 3, "unit": "s"}, 3.1)["met"] is False
