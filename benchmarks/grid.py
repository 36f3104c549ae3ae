"""A grid of 3 encoders x 2 tasks x 3 protocols: one `evar run`, cold and again, against a plain loop over configurations.

The plain script reuses nothing between configurations: `librosa.load` of each file, the network in batches of 256 (the same
network, called through `encode`), and scikit-learn (`fair`: LogisticRegression over the protocol's strengths; `knn`:
KNeighborsClassifier over its k; both chosen on the validation part; `mlp`: MLPClassifier under its seeds). `embeddings kept` is
the same script if it kept each encoder's embeddings of a task: its decoding and encoding counted once. 2 x 300 one-second
clips, synthetic, one task at 16 kHz, one at 44.1 kHz. evar's seconds are the work after imports.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path

import common
import numpy as np

TARGETS = {
    "cold": {"what": "a grid of 18 cells, cold, against a plain loop over configurations", "least": 2, "unit": "x"},
    "again": {"what": "the same grid again, all measured already", "most": 3, "unit": "s"},
}
ENCODERS = ("logmel", "random:byola-v1-512", "random:cola")
PROTOCOLS = ("fair", "knn", "mlp")


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--clips", type=int, default=300)
    options = words.parse_args()
    encoders, protocols = (ENCODERS[:2], PROTOCOLS[:2]) if options.quick else (ENCODERS, PROTOCOLS)

    from synthetic import write_task

    with tempfile.TemporaryDirectory() as folder:
        folder, n = Path(folder), 100 if options.quick else options.clips
        cards = [write_task(folder / "data", f"bench{rate}", n, 1.0, rate) for rate in (16_000, 44_100)]
        import_all(encoders)
        arguments = ["run", ",".join(encoders), ",".join(map(str, cards)), "--data", str(folder / "data")]
        arguments += ["--probe", ",".join(protocols), "--results", str(folder / "results")]
        arguments += ["--embeddings", str(folder / "embeddings"), "--quiet"]
        cold, again = (command_line(arguments) for _ in range(2))
        evar = scores(folder / "results")
        spent, plain = {"decode": 0.0, "encode": 0.0, "fit": 0.0}, []
        for encoder in encoders:
            for card in cards:
                for protocol in protocols:
                    plain.append(configuration(encoder, card, folder / "data", protocol, spent))
    whole = sum(spent.values())
    kept = (spent["decode"] + spent["encode"]) / len(protocols) + spent["fit"]
    cells = len(plain)
    rows = [
        {"what": "plain loop", "cells": cells, "seconds": whole, **spent, "mean accuracy": float(np.mean(plain))},
        {
            "what": "plain loop, embeddings kept",
            "cells": cells,
            "seconds": kept,
            "mean accuracy": float(np.mean(plain)),
        },
        {
            "what": "evar run, cold",
            "cells": cells,
            "seconds": cold,
            "plain / this": whole / cold,
            "kept / this": kept / cold,
        },
        {"what": "evar run, again", "cells": cells, "seconds": again, "plain / this": whole / again},
    ]
    rows[2]["mean accuracy"] = rows[3]["mean accuracy"] = evar
    measured = {"cold": whole / cold, "again": again}
    common.finish("a grid against a plain loop over configurations", rows, TARGETS, measured, audio="synthetic")


def import_all(encoders: tuple[str, ...]) -> None:
    """What both sides import, so that neither pays for it."""
    import librosa
    import sklearn.linear_model
    import sklearn.neighbors
    import sklearn.neural_network
    import sklearn.preprocessing  # noqa: F401

    import evar.cli.run
    import evar.leaderboard
    import evar.results
    import evar.runner  # noqa: F401
    from evar.encoders import load_encoder

    librosa.resample(np.zeros(1000, np.float32), orig_sr=44_100, target_sr=16_000)
    for name in encoders:
        load_encoder(name)


def command_line(arguments: list[str]) -> float:
    from evar.cli import main as evar

    begun = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            evar(arguments)
    except SystemExit as ended:
        if ended.code:
            raise
    return time.perf_counter() - begun


def scores(results: Path) -> float:
    import pandas as pd

    return float(pd.read_csv(results / "leaderboard.csv")["mean"].mean())


def configuration(name: str, card: Path, data: Path, protocol: str, spent: dict[str, float]) -> float:
    """Test accuracy of one encoder, task and protocol by a plain script; adds to `spent` what each step took."""
    import csv

    import librosa
    import torch

    from evar.encoders import load_encoder

    marks = [time.perf_counter()]
    encoder, root = load_encoder(name), data / card.stem
    table = list(csv.DictReader((root / "clips.csv").open()))
    y = np.array([row["label"] for row in table])
    part = np.array([row["split"] for row in table])
    wav = [librosa.load(root / row["path"], sr=encoder.sample_rate)[0][: encoder.sample_rate] for row in table]
    wav = torch.from_numpy(np.stack([np.pad(x, (0, encoder.sample_rate - len(x))) for x in wav]))
    marks.append(time.perf_counter())
    if encoder.needs_normalization:
        encoder = encoder.with_normalization(
            encoder.measure_normalization([(wav, torch.full((len(wav),), wav.shape[1]))])
        )
    with torch.inference_mode():
        X = torch.cat([encoder.encode(batch) for batch in wav.split(256)]).numpy()
    marks.append(time.perf_counter())
    score = fitted(X, y, part, protocol)
    marks.append(time.perf_counter())
    for step, begun, ended in zip(spent, marks[:-1], marks[1:], strict=True):
        spent[step] += ended - begun
    return score


def fitted(X: np.ndarray, y: np.ndarray, part: np.ndarray, protocol: str) -> float:
    """scikit-learn's model of best validation score, scored on the test part; `mlp`: mean over the protocol's seeds."""
    from sklearn.preprocessing import StandardScaler

    train, valid, test = (part == name for name in ("train", "valid", "test"))
    X = StandardScaler().fit(X[train]).transform(X)
    if protocol == "mlp":
        return float(
            np.mean([model.fit(X[train], y[train]).score(X[test], y[test]) for model in models(protocol, sum(train))])
        )
    tried = [model.fit(X[train], y[train]) for model in models(protocol, sum(train))]
    return max(tried, key=lambda model: model.score(X[valid], y[valid])).score(X[test], y[test])


def models(protocol: str, n: int) -> list:
    """scikit-learn's models for `n` clips with the settings of a protocol of evar, at scikit-learn's own tolerances."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier

    from evar.probes import get_protocol

    chosen = get_protocol(protocol)
    if protocol == "fair":
        return [LogisticRegression(C=C, max_iter=5000) for C in chosen.strengths]
    if protocol == "knn":
        return [KNeighborsClassifier(k, metric="cosine") for k in chosen.neighbours]
    words = {"alpha": chosen.weight_decay, "learning_rate_init": chosen.learning_rate}
    words |= {
        "max_iter": chosen.max_epochs,
        "n_iter_no_change": chosen.patience,
        "early_stopping": True,
        "batch_size": min(chosen.batch_size, n // 2),
    }
    return [MLPClassifier((chosen.hidden,), random_state=seed, **words) for seed in chosen.seeds]


if __name__ == "__main__":
    main()
