"""What a run writes while it trains: log.csv always, TensorBoard events where it is installed and asked for."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import time
from pathlib import Path
from typing import Any

from evar.files import append_bytes, atomic_write, make_folder, writing

COLUMNS = ("step", "epoch", "seconds", "loss", "lr", "samples_per_s", "embedding_std", "uniformity")
_STEP = re.compile("[0-9]{1,15}")


class Log:
    """Rows of `log.csv` in a run's folder: appended whole, so a killed run leaves no half row to trip over.

    done: steps that the run has done. Rows of later steps, left by a run that was killed after its checkpoint, are
    cut off; so is everything when `done` is 0.
    """

    def __init__(self, folder: Path, done: int, tensorboard: bool = False) -> None:
        self.path = folder / "log.csv"
        atomic_write(self.path, _lines([COLUMNS, *_kept(self.path, done)]))
        self._events = None
        if tensorboard:
            from evar.events import EventWriter

            now = time.time()
            self._path = make_folder(folder / "tensorboard") / f"events.out.tfevents.{time.time_ns()}.evar"
            with writing(self._path):
                self._stream = open(self._path, "xb")  # noqa: SIM115  open as long as the run
                self._events = EventWriter(self._stream, now)
                self._events.restart(now, done + 1)
                self._stream.flush()

    def add(self, **values: Any) -> None:
        """One row; every column is given."""
        append_bytes(self.path, _lines([[_text(values[name]) for name in COLUMNS]]))
        if self._events:
            scalars = {f"pretrain/{name}": float(values[name]) for name in COLUMNS[3:]}
            with writing(self._path):
                self._events.scalars(time.time(), values["step"], scalars)
                self._stream.flush()

    def close(self) -> None:
        """Close the events file."""
        if self._events:
            with writing(self._path):
                self._stream.close()


def _kept(path: Path, done: int) -> list[list[str]]:
    """The whole rows of steps up to `done`, of a file that a crash may have left in any state."""
    rows = []
    if done and path.exists():
        with open(path, newline="", encoding="utf-8", errors="replace") as stream, contextlib.suppress(csv.Error):
            for row in csv.DictReader(stream):
                values = [row.get(name) or "" for name in COLUMNS]
                if _STEP.fullmatch(values[0]) and int(values[0]) <= done and all(values):
                    rows.append(values)
    return rows


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lines(rows: list) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
