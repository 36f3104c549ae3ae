"""Share of the way from untrained to published weights, of each v1-512 checkpoint in leaderboard.csv beside this file.

python results/pretrained/share.py: per task (ours - U) / (P - U), and the mean over the three tasks. U is the mean of
three untrained seeds, with their own linear layers ("fc"), or, stricter for encoders that leave those out, their
"block3" alone. P is what the published 512-d weights score on the same clips (logistic regression, apart from evar).
"""

import csv
from pathlib import Path
from statistics import mean

PUBLISHED = {"esc10": 0.923, "pack-spcv2-10": 0.746, "emodb": 0.753}
UNTRAINED = [f"random:byola-v1-512{seed}" for seed in ("", "@1", "@2")]
RUNS = "byola-v1-512@evar-v1-512-"

with open(Path(__file__).with_name("leaderboard.csv"), newline="", encoding="utf-8") as stream:
    SCORES = {(row["encoder"], row["layers"], row["task"]): float(row["mean"]) for row in csv.DictReader(stream)}


def show(label: str, row: list[float]) -> None:
    print(f"{label:16}", *(f"{share:6.2f}" for share in [*row, mean(row)]))


for layers in ("fc", "block3"):
    untrained = {task: mean(SCORES[name, layers, task] for name in UNTRAINED) for task in PUBLISHED}
    print(
        f"U = untrained {layers}:",
        ", ".join(f"{task} {100 * score:.1f}" for task, score in untrained.items()),
        "| mean",
    )
    runs: dict[str, list[list[float]]] = {}
    for name in sorted({name for name, _, _ in SCORES if name.startswith(RUNS)}):
        row = [(SCORES[name, "fc", task] - low) / (PUBLISHED[task] - low) for task, low in untrained.items()]
        show(name.removeprefix(RUNS), row)
        runs.setdefault(name.removeprefix(RUNS).rstrip("012"), []).append(row)
    for name, rows in runs.items():
        if len(rows) > 1:
            show(f"{name}0, 1, 2", [mean(column) for column in zip(*rows, strict=True)])
