"""What a run writes while it trains: log.csv always, TensorBoard events where it is installed and asked for."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from evar.files import append_bytes, atomic_write

COLUMNS = ("step", "epoch", "seconds", "loss", "lr", "samples_per_s", "embedding_std", "uniformity")


class Log:
    """Rows of `log.csv` in a run's folder: appended whole, so a killed run leaves no half row to trip over.

    first_step: rows of this step and later, left by a run that was killed after its checkpoint, are cut off.
    """

    def __init__(self, folder: Path, first_step: int, tensorboard: bool = False) -> None:
        self.path = folder / "log.csv"
        kept = []
        if first_step and self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as stream:
                for row in csv.DictReader(stream):
                    if (row.get("step") or "").isdigit() and int(row["step"]) < first_step and row["uniformity"]:
                        kept.append([row[name] for name in COLUMNS])
        atomic_write(self.path, _lines([COLUMNS, *kept]))
        self._events = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def add(self, **values: Any) -> None:
        """One row; every column is given."""
        append_bytes(self.path, _lines([[_text(values[name]) for name in COLUMNS]]))
        if self._events:
            for name in COLUMNS[3:]:
                self._events.add_scalar(f"pretrain/{name}", float(values[name]), values["step"])

    def close(self) -> None:
        """Write out what TensorBoard keeps back."""
        if self._events:
            self._events.close()


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lines(rows: list) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
