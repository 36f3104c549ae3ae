"""Running the installed command as a user does: in a process of its own, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


FORKING = """
import os, sys
IMPORTS
from evar.cli import main
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    folder, *words = line.split()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        out = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        main(words)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def forked(request: pytest.FixtureRequest):
    """`forked(folder, "run ...", when, number)`: the command's exit code and what it printed.

    It is a child of a process that has loaded the libraries named in the module's IMPORTS, so that a signal hits work, not
    imports: `number` is sent as soon as `when()` is true, if the command still runs then.
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING.replace("IMPORTS", request.module.IMPORTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready\n"

    def call(
        folder: Path, words: str, when: Callable[[], bool] | None = None, number: int = signal.SIGKILL
    ) -> tuple[int, str]:
        output = folder / "output.txt"
        output.write_text("")  # a child that is killed at once opens none
        process.stdin.write(f"{folder} {words}\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        if when is not None:
            until = time.monotonic() + 200
            while not when() and time.monotonic() < until:
                time.sleep(0.005)
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(child, number)
        return int(process.stdout.readline()), output.read_text()

    yield call
    process.stdin.close()
    process.wait(timeout=60)
