"""What evar reads from others, as targets: a valid folder made on the spot, and what reads it when one file is replaced.

`targets()[name](folder)` makes the valid files and returns a `Target`. Nothing but EvarError may come out of it.
Also a program, which `fuzz.py` starts: `python fuzz_targets.py NAME FOLDER SECONDS SEED` fuzzes one target with atheris.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from evar.errors import EvarError


@dataclass
class Target:
    """files: the valid content by path; read: reads the folder, one file replaced; attacks: inputs known to hurt."""

    folder: Path
    files: dict[Path, bytes]
    read: Callable[[], object]
    attacks: list[bytes] = field(default_factory=list)

    def seeds(self) -> Iterator[bytes]:
        """Valid inputs and attacks: a byte that names the file, and its content."""
        for number, content in enumerate(self.files.values()):
            yield from (bytes([number]) + text for text in (content, *self.attacks))

    def try_one(self, data: bytes) -> EvarError | None:
        """Put an input in its place, read, and put the valid file back; the EvarError, where there was one."""
        path = list(self.files)[data[0] % len(self.files)] if data else next(iter(self.files))
        path.write_bytes(data[1:])
        try:
            self.read()
        except EvarError as error:
            if "\n" in str(error) or not str(error).strip():
                raise AssertionError(f"not one line: {error!r}") from error
            return error
        finally:
            path.write_bytes(self.files[path])
        return None


def target(make: Callable[[Path], Target]) -> Callable[[Path], Target]:
    """Marks the maker of a target; its name is the target's."""
    make.is_target = True
    return make


def targets() -> dict[str, Callable[[Path], Target]]:
    """All targets by name: what the files `targets_*.py` here mark."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("targets_*.py")):
        module = importlib.import_module(path.stem)
        found |= {name: make for name, make in vars(module).items() if getattr(make, "is_target", False)}
    return found


def of(folder: Path, files: dict[str, bytes], read: Callable[[], object], attacks: list[bytes] | None = None) -> Target:
    """The target of a folder with these files (relative path -> valid content), which are written."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return Target(folder, {folder / name: content for name, content in files.items()}, read, attacks or [])


# --- the program -----------------------------------------------------------------------------------------------------


class Log:
    """What a fuzzer finds, in FOLDER/found.json; FOLDER/last holds the input that is being tried, for a crash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.tries = self.refused = 0
        self._written = 0.0
        self.escapes: dict[str, str] = {}
        self._last = os.open(folder / "last", os.O_RDWR | os.O_CREAT)

    def trying(self, data: bytes) -> None:
        os.pwrite(self._last, len(data).to_bytes(8, "little") + data, 0)
        self.tries += 1
        if time.monotonic() - self._written > 1:  # the fuzzer ends the process as it likes
            self.write()

    def escaped(self, error: BaseException, data: bytes) -> None:
        """Keep one input for each kind of exception and place in evar."""
        trace = traceback.extract_tb(error.__traceback__)
        where = next((f"{Path(f.filename).name}:{f.lineno}" for f in reversed(trace) if "/evar/" in f.filename), "?")
        key = f"{type(error).__name__} at {where}"
        if key not in self.escapes:
            self.escapes[key] = f"{' '.join(str(error).split())[:160]} <- {data[:200]!r}"
            (self._folder / f"escape{len(self.escapes)}").write_bytes(data)
            self.write()

    def write(self) -> None:
        found = {"tries": self.tries, "refused": self.refused, "escapes": self.escapes}
        (self._folder / "found.json").write_text(json.dumps(found))
        self._written = time.monotonic()


def main(name: str, folder: Path, seconds: int, seed: int) -> None:
    """Fuzz one target for some seconds."""
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["evar", "yaml", "zipfile", "tarfile", "soundfile"]):
        made = targets()[name](folder / "work")
        for number, data in enumerate(made.files.values()):  # what is imported late is imported here
            made.try_one(bytes([number]) + data[:-1])
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(made.seeds()):
        (corpus / f"seed{number:04}").write_bytes(data)
    log = Log(folder)

    def one(data: bytes) -> None:
        log.trying(data)
        try:
            log.refused += made.try_one(data) is not None
        except BaseException as error:
            log.escaped(error, data)

    limits = [f"-max_total_time={seconds}", f"-seed={seed + 1}", "-timeout=20", "-rss_limit_mb=3000", "-max_len=16384"]
    limits += ["-verbosity=0", f"-artifact_prefix={folder}/crash-"]
    atheris.Setup([sys.argv[0], str(corpus), *limits], one)
    atheris.Fuzz()


if __name__ == "__main__":
    from fuzz_targets import main as run  # not __main__'s: the targets import it by this name

    run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
