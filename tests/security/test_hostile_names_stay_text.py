"""Names that others chose are text: to a terminal, LaTeX, a spreadsheet and Python's import."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evar.errors import EvarError, printable


@pytest.mark.parametrize("name", ["hf:\x1b[2J", "logmel@\x1b]0;x\x07.pth", "hf:a\u202eb"])
def test_labels_that_a_terminal_obeys(name):
    from evar.encoders.registry import parse

    with pytest.raises(EvarError, match="cannot be printed"):
        parse(name)


def test_a_message_does_nothing_to_a_terminal(capsys):
    from evar.cli import main

    assert str(EvarError("a\x1b[2J\nb \udcff")) == "a\\u001b[2J b \\udcff"
    assert printable("é 名 ±\t\n") == "é 名 ±\t\n"
    for words in (["task", "\x1b[2J"], ["\x1b]0;x\x07"], ["run", "\x9b2J", "esc50"]):
        with pytest.raises(SystemExit):
            main(words)
        out, err = capsys.readouterr()
        assert not {"\x1b", "\x07", "\x9b"} & set(out + err)


def test_names_in_latex_are_text():
    from evar.reporting.table_formats import tex

    made = tex("\\input{/etc/passwd}\\write18{id}$x$%\n^^M\x1b")
    assert "\\input" not in made
    assert "\\write18" not in made
    assert made.startswith(r"\textbackslash{}input\{/etc/passwd\}")
    assert "\n" not in made


def test_exports_hold_no_formulas(tmp_path):
    import pandas as pd

    from evar.reporting.export import write_table

    names = ["=cmd()", "+1+cmd()", "@SUM(A1)", "-2+cmd()", "-1", "+5", "cat", ""]
    write_table(pd.DataFrame({"label": names, "n": -np.arange(8.0)}), tmp_path / "x.csv")
    found = pd.read_csv(tmp_path / "x.csv", dtype=str, keep_default_na=False)
    assert found["label"].tolist() == ["'=cmd()", "'+1+cmd()", "'@SUM(A1)", "'-2+cmd()", "-1", "+5", "cat", ""]
    assert found["n"].tolist()[1] == "-1.0"


@pytest.mark.parametrize("start", ["module", "command"])
def test_modules_in_the_current_folder_are_not_imported(start, tmp_path):
    names = ["yaml", "numpy", "pandas", "click", "soundfile", "filelock", "sitecustomize", "evar_plugin"]
    names += ["csv", "json", "tempfile", "difflib"] if start == "command" else []  # Python's own come first with -m
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"open('ran', 'a').write({name!r})\n")
    command = Path(sys.executable).with_name("evar")
    if start == "command" and not command.exists():
        pytest.skip("the command is not installed beside this Python")
    words = [str(command)] if start == "command" else [sys.executable, "-m", "evar"]
    done = subprocess.run([*words, "tasks"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
