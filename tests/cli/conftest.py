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
def evar(tmp_path: Path):
    """`evar("run", "logmel", ...)` in `tmp_path`; gives a `Ran`."""

    def call(*arguments: str | Path, cwd: Path = tmp_path, env: dict | None = None, timeout: float = 240) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "evar", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return call
