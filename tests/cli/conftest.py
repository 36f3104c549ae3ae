"""Running the installed command as a user does: in a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Ran:
    """What one command gave back."""

    code: int
    out: str
    err: str

    def one_line_error(self) -> str:
        """The error line, after checking the promise: exit code 2, one line, no traceback."""
        assert self.code == 2, f"exit code {self.code}\n{self.out}\n{self.err}"
        lines = [line for line in self.err.splitlines() if line.startswith("evar: error: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().splitlines()[-1] == lines[0], self.err
        assert "Traceback" not in self.err + self.out
        assert "a bug of evar" not in lines[0]
        return lines[0]


@pytest.fixture
def evar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """`evar("run", "logmel", ...)` in `tmp_path`, through `main` in this process (torch is loaded once); gives a `Ran`."""
    from evar.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ran(stop.value.code or 0, out, err)

    return call


@pytest.fixture
def process(tmp_path: Path):
    """The same as a process of its own, with an environment."""

    def call(*arguments: str | Path, env: dict | None = None) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "evar", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=240,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return call
