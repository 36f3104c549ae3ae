"""The train -> probe curve: checkpoints of a pre-training scored while it runs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from evar.files import append_bytes, atomic_write

COLUMNS = ("step", "encoder", "task", "split", "protocol", "score")


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
        loaded = [load_task(name, data=data, tasks_dir=tasks_dir) for name in expand_tasks(tasks, tasks_dir)]
        self.tasks = [task.inner() for task in loaded] if inner else loaded

    def score(self, step: int, weights: Path) -> str:
        """Score one weights file; returns the line to show."""
        from evar.runner import run

        rows = run(
            [f"step-{step}={self.encoder}@{weights}"],
            self.tasks,
            results=str(self.folder / "probe"),
            embeddings=self.embeddings,
            device=self.device,
        )
        scores = dict(zip(rows["task"], rows["mean"], strict=True))
        path = self.folder / "probe.csv"
        if not path.exists():
            atomic_write(path, _line(COLUMNS))
        for task, score in scores.items():
            append_bytes(path, _line([step, self.encoder, task, self.split, "fair", f"{score:.6g}"]))
        self._plot()
        return f"step {step}: " + ", ".join(f"{task} {score:.1%}" for task, score in scores.items())

    def _plot(self) -> None:
        from evar.extras import missing

        if missing("report"):
            return
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        with open(self.folder / "probe.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
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


def _line(values: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()
