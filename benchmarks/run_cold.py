"""A whole `evar run`: 3,000 one-second clips, nothing cached, through the command line in a process of its own.

Cold: encoders `random:byola-v1-512` and `random:byola-v2` by `fair`, split by stage. The model alone: the same clips, in
memory, through the encoder's forward in its preferred batch, in a process of its own, in turn with the cold run; and the same
with PyTorch's own linear layers, as the model is without evar. Warm: new protocols on stored embeddings. Seconds of work are
after imports; the whole command's wall-clock time stands beside them, and CPU seconds (all threads), which tell more on a
machine that does other things.

Clips are synthetic; `--task CARD --data DIR` takes yours. `--clips N`, `--runs N`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

TARGETS = {
    "v1": {"what": "cold run of random:byola-v1-512, 3,000 one-second clips: work", "most": 10, "unit": "s"},
    "v2": {"what": "cold run of random:byola-v2, the same clips: work / its model alone", "most": 1.3, "unit": "x"},
    "v2 plain": {"what": "... / its model alone with PyTorch's own linear layers", "most": 1.3, "unit": "x"},
    "knn": {"what": "warm: `knn` on stored embeddings", "most": 3, "unit": "s"},
    "paper": {"what": "warm: `paper` on stored embeddings", "most": 3, "unit": "s"},
}
ENCODERS = {"v1": "random:byola-v1-512", "v2": "random:byola-v2"}
WARM = ("knn", "paper")
WHAT = {"cold": "cold", "model": "model alone", "plain": "model alone, PyTorch's linear layers"}
STAGES = ("decode", "statistics", "encode", "probe", "write")
NEEDED = (
    "pandas",
    "pyarrow.parquet",
    "scipy.fft",
    "sklearn.linear_model",
    "sklearn.metrics",
    "soundfile",
    "soxr",
    "tqdm",
)
NEEDED += ("evar.audio.cache", "evar.cli.run", "evar.encoders.byola", "evar.leaderboard", "evar.plan", "evar.store")
NEEDED += ("evar.probes.evaluation", "evar.probes.logistic", "evar.probes.adam", "evar.probes.knn")
STATISTICS = {"mean": -7.0, "std": 4.0}


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--task", metavar="CARD", help="a task of yours instead of synthetic clips (with --data)")
    words.add_argument("--data", metavar="DIR", default="")
    words.add_argument("--clips", type=int, default=3000)
    words.add_argument("--runs", type=int, default=3)
    words.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = words.parse_args()
    if options.child:
        kind, *arguments = options.child
        kinds = {"cli": command_line, "model": model_alone, "plain": functools.partial(model_alone, plain=True)}
        print(json.dumps(kinds[kind](*arguments)))
        return
    runs = 1 if options.quick else options.runs
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if options.task:
            task, data = options.task, options.data
        else:
            from synthetic import write_task

            task = str(write_task(folder / "data", "bench", 200 if options.quick else options.clips))
            data = str(folder / "data")
        found: dict[tuple[str, str], list[dict]] = {}
        for run in range(runs):
            for key, encoder in ENCODERS.items():
                out = folder / f"{key}-{run}"
                run_words = [encoder, task, *(["--data", data] if data else [])]
                run_words += ["--results", str(out / "results"), "--embeddings", str(out / "embeddings")]
                found.setdefault((key, "cold"), []).append(child("cli", *run_words))
                for kind in ("model", "plain"):
                    found.setdefault((key, kind), []).append(child(kind, encoder, task, data))
                for protocol in WARM if key == "v1" else ():
                    found.setdefault((key, protocol), []).append(child("cli", *run_words, "--probe", protocol))
    rows, cpu = [], []
    for (key, what), results in found.items():
        who = {"encoder": ENCODERS[key], "what": WHAT.get(what, f"warm, {what}")}
        times = [one.pop("CPU") for one in results]
        rows.append(who | {name: common.Spread.of([one[name] for one in results]) for name in results[0]})
        cpu.append(who | {name: common.Spread.of([one[name] for one in times]) for name in times[0]})
    work = {name: [one["work, s"] for one in results] for name, results in found.items()}
    alone = [common.ratio(work[key, "cold"], work[key, "model"]) for key in ENCODERS]
    for key, share in zip(ENCODERS, alone, strict=True):
        next(row for row in rows if row["encoder"] == ENCODERS[key])["work / model alone"] = share
        cold, model = [row for row in cpu if row["encoder"] == ENCODERS[key]][:2]
        cold["work / model alone"] = cold["work"].median / model["work"].median
    measured = {"v1": common.Spread.of(work["v1", "cold"]), "v2": alone[1]}
    measured["v2 plain"] = common.ratio(work["v2", "cold"], work["v2", "plain"])
    measured |= {protocol: common.Spread.of(work["v1", protocol]) for protocol in WARM}
    audio = f"{task} in {data}" if options.task else "synthetic"
    common.finish("a whole run, cold and warm", rows, TARGETS, measured, {"CPU seconds, all threads": cpu}, audio=audio)


def child(*arguments: str) -> dict:
    """The measurements of one process, with the wall-clock time of all of it."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"run_cold.py {arguments[0]}: exit code {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {"clips": found.pop("clips"), "whole process, s": time.perf_counter() - begun, **found}


class Stages:
    """Seconds in named stages, and CPU seconds of all threads."""

    def __init__(self) -> None:
        self.seconds, self.cpu = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def stage(self, name: str):
        begun, cpu = time.perf_counter(), time.process_time()
        yield
        if name in STAGES:  # others belong to the rest
            self.seconds[name] += time.perf_counter() - begun
            self.cpu[name] += time.process_time() - cpu

    def around(self, name: str, function):
        def timed(*arguments, **words):
            with self.stage(name):
                return function(*arguments, **words)

        return timed


def command_line(*arguments: str) -> dict:
    """`evar run ARGUMENTS` in this process, with a clock on each stage, after the imports that it needs."""
    begun = time.perf_counter()
    for module in NEEDED:
        importlib.import_module(module)
    import pandas

    import evar.results
    import evar.runner
    from evar.cli import main
    from evar.cli.progress import Bars

    imports, clock = time.perf_counter() - begun, Stages()
    bar = Bars.bar

    @contextlib.contextmanager
    def timed_bar(self, stage: str, what: str, unit: str):
        with clock.stage(stage), bar(self, stage, what, unit) as progress:
            yield progress

    Bars.bar = timed_bar
    evar.runner.normalized = clock.around("statistics", evar.runner.normalized)
    evar.results.Results.record = clock.around("write", evar.results.Results.record)
    cpu, begun = time.process_time(), time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main(["run", *arguments, "--quiet"])
    except SystemExit as ended:
        if ended.code:
            raise
    work, cpu = time.perf_counter() - begun, time.process_time() - cpu
    results = Path(arguments[arguments.index("--results") + 1])
    row = pandas.read_csv(results / "leaderboard.csv").iloc[-1]
    return {
        "clips": int(row["n_train"] + row["n_valid"] + row["n_test"]),
        "imports, s": imports,
        "work, s": work,
        **{f"{name}, s": seconds for name, seconds in clock.seconds.items()},
        "rest, s": work - sum(clock.seconds.values()),
        "accuracy": float(row["mean"]),
        "CPU": {"work": cpu, **clock.cpu, "rest": cpu - sum(clock.cpu.values())},
    }


def model_alone(name: str, task: str, data: str, plain: bool = False) -> dict:
    """The encoder's forward over the task's clips, which lie in memory in batches of its preferred size.

    plain: with PyTorch's own linear layers.
    """
    import numpy as np
    import torch

    from evar.audio.decode import decode
    from evar.datasets import load_task
    from evar.embed import keep_freed_memory, preferred_batch
    from evar.encoders import load_encoder

    encoder = load_encoder(name)
    encoder = encoder.with_normalization(STATISTICS) if encoder.needs_normalization else encoder
    encoder = common.plain_linears(encoder) if plain else encoder
    keep_freed_memory()
    task = load_task(task, data=(data,) if data else ())
    samples = round(task.card.seconds * encoder.sample_rate)
    wav = np.zeros((len(task.clips), samples), np.float32)
    for row, file, start, stop in zip(wav, task.files(), task.clips["start"], task.clips["stop"], strict=True):
        found = decode(file, encoder.sample_rate, start, stop, task.card.seconds)
        row[: len(found)] = found
    ready = [
        (part, torch.full((len(part),), samples)) for part in torch.from_numpy(wav).split(preferred_batch(encoder))
    ]
    encoder.encode(*ready[0])
    cpu, begun = time.process_time(), time.perf_counter()
    for part, lengths in ready:
        encoder.encode(part, lengths)
    work, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"clips": len(wav), "work, s": work, "CPU": {"work": cpu}}


if __name__ == "__main__":
    main()
