"""Fear: what docs/extending.md tells a user to write for an own model does not work, or is not as short as promised.

The text itself is used: its files are written to an empty folder, its Python is run, and its commands are called.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
SECTIONS = {
    "A plain torch.nn.Module": ("tiny_net.py", "py:tiny_net:TinyNet@tiny_net"),
    "A module with the HEAR API": ("tiny_hear.py", "hear:tiny_hear@tiny_hear"),
}


def section(title: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(rf"^### {re.escape(title)}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    return found


def fences(text: str) -> list[tuple[str, str, str]]:
    """(comment before it, language, content) of each fenced block."""
    return re.findall(r"(?:<!-- (.+?) -->\n)?^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    def forget() -> None:
        for name in ("tiny_net", "tiny_hear"):
            sys.modules.pop(name, None)

    forget()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    forget()


@pytest.mark.parametrize("title", SECTIONS)
def test_an_own_model_is_under_20_lines_and_is_measured(title, workplace, capsys):
    from evar.cli import main

    file, label = SECTIONS[title]
    names: dict = {}
    commands = []
    for note, language, content in fences(section(title)):
        if note.startswith("file: "):
            assert note == f"file: {file}"
            assert len(content.splitlines()) < 20
            (workplace / file).write_text(content)
        elif language == "python":
            exec(content, names)
        elif language == "sh" and not note.startswith("not run"):
            commands += [shlex.split(line)[1:] for line in content.splitlines()]
    assert {words[0] for words in commands} == {"check", "run"}
    assert any("--mini" in words for words in commands)
    for words in commands:
        with pytest.raises(SystemExit) as stop:
            main(words)
        out, err = capsys.readouterr()
        assert not stop.value.code, f"evar {shlex.join(words)}\n{out}\n{err}"
        if words[0] == "check":
            assert re.search(r"(\d+) of \1 checks passed", out)
    rows = pd.read_csv(workplace / "results" / "leaderboard.csv")
    (row,) = rows[rows["encoder"] == label].to_dict("records")
    assert row["weights_kind"] == "trained"
    assert len(str(row["weights_sha256"])) == 64
    assert 0.1 < row["mean"] <= 1.0, "ten classes: it has learned nothing at all"


def test_the_other_way_round_runs_too():
    (code,) = [
        content
        for _, language, content in fences(section("evar's encoders in HEAR's evaluator"))
        if language == "python"
    ]
    names: dict = {}
    exec(code, names)
    assert names["frames"].shape[:2] == names["timestamps"].shape
