"""`evar --help`, `evar tasks` and `evar encoders` must not pay for torch, pandas or scikit-learn."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evar.cli.app import VERBS

HEAVY = {"torch", "pandas", "sklearn", "scipy", "transformers", "soundfile", "librosa", "matplotlib"}


def modules_after(*arguments: str) -> set[str]:
    code = (
        "import sys\nfrom evar.cli import main\n"
        f"try:\n    main({list(arguments)!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "MODULES"
    return {name.split(".")[0] for name in last[1:]}


@pytest.mark.parametrize("words", [["--help"], ["tasks"], ["encoders"], ["task", "show", "esc50"], ["run", "--help"]])
def test_no_heavy_import(words):
    assert not modules_after(*words) & HEAVY


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, evar):
    ran = evar(verb, "--help")
    assert ran.code == 0
    assert "Example" in ran.out
    assert f"evar {verb}" in ran.out
    assert ran.err == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rnu", "logmel", "esc50"], "did you mean 'run'"),
        (["run", "logmel"], "missing TASKS"),
        (["run", "logmel", "esc50", "--limt", "3"], "--limt"),
        (["run", "logmel", "esc50", "--limit", "x"], "--limit"),
        (["leaderboard", "extra"], "extra"),
    ],
)
def test_usage_errors_are_one_line(words, expected, evar):
    assert expected in evar(*words).one_line_error()
