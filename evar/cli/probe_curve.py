"""The train -> probe curve: checkpoints of a pre-training scored while it runs."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from pathlib import Path

from evar.files import atomic_write

COLUMNS = ("step", "encoder", "task", "split", "protocol", "score")
_STEP = re.compile("[0-9]{1,15}")


class Curve:
    """Scores weights on tasks and keeps `probe.csv` and `probe.png` in the run's folder.

    inner: test clips are left out (`Task.inner`), so that recipes may be chosen by these scores.
    """

    def __init__(
        self,
        folder: Path,
        encoder: str,
        tasks: str,
        data: tuple[str, ...],
        tasks_dir: str | None,
        embeddings: str,
        device: str,
        inner: bool,
    ) -> None:
        from evar.cells import expand_tasks
        from evar.datasets import load_task

        self.folder, self.encoder, self.embeddings, self.device = folder, encoder, embeddings, device
        self.split = "inner" if inner else "test"
        self.points: list[dict[str, str]] = []
        loaded = [load_task(name, data=data, tasks_dir=tasks_dir) for name in expand_tasks(tasks, tasks_dir)]
        self.tasks = [task.inner() for task in loaded] if inner else loaded

    def score(self, step: int, weights: Path, fresh: bool = False) -> str:
        """Score one weights file; returns the line to show. fresh: forget what an earlier run left, on the first call.

        Raises EvarError where a task's audio or the disk fails.
        """
        from evar.encoders.registry import load_encoder
        from evar.runner import run

        # As an object: a path may hold commas and asterisks, which a list of names may not.
        encoder = load_encoder(f"step-{step}={self.encoder}@{weights}")
        rows = run(
            [encoder],
            self.tasks,
            results=str(self.folder / "probe"),
            embeddings=self.embeddings,
            device=self.device,
        )
        scores = dict(zip(rows["task"], rows["mean"], strict=True))
        kept = [] if fresh and not self.points else self._points()
        # A run that was killed and goes on scores some steps again.
        kept = [row for row in kept if not (int(row["step"]) >= step and row["split"] == self.split)]
        self.points = kept + [
            dict(zip(COLUMNS, (str(step), self.encoder, task, self.split, "fair", f"{score:.6g}"), strict=True))
            for task, score in scores.items()
        ]
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(self.points)
        atomic_write(self.folder / "probe.csv", text.getvalue())
        self._plot()
        return f"step {step}: " + ", ".join(f"{task} {score:.1%}" for task, score in scores.items())

    def _points(self) -> list[dict[str, str]]:
        """The rows of probe.csv."""
        path = self.folder / "probe.csv"
        if self.points or not path.exists():
            return self.points
        rows = []
        with open(path, newline="", encoding="utf-8", errors="replace") as stream, contextlib.suppress(csv.Error):
            for row in csv.DictReader(stream):
                whole = row.keys() == set(COLUMNS) and all(row.values()) and _STEP.fullmatch(row["step"])
                if whole and _is_finite(row["score"]):
                    rows.append(row)
        return rows

    def _plot(self) -> None:
        from evar.extras import missing

        if missing("report"):
            return
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = self.points
        figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
        for task in dict.fromkeys(row["task"] for row in rows):
            points = {int(row["step"]): 100 * float(row["score"]) for row in rows if row["task"] == task}
            axes.plot(list(points), list(points.values()), marker="o", markersize=3, label=task)
        axes.set(xlabel="pre-training step", ylabel="accuracy or mAP (%)", title=f"{self.encoder} ({self.split} clips)")
        axes.legend(frameon=False)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=120)
        pyplot.close(figure)
        atomic_write(self.folder / "probe.png", image.getvalue())


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
