"""Targets that are text: cards, grids, protocols, official lists, results, logs, JSON, names."""

from __future__ import annotations

import contextlib
import os
from dataclasses import fields
from pathlib import Path
from types import FunctionType

import hostile_inputs as hostile
import numpy as np
from fuzz_targets import Target, of, target

from evar.errors import EvarError

# --- YAML ------------------------------------------------------------------------------------------------------------

CARD = b"""name: mine
version: 1
title: Mine
seconds: 1.5
metric: accuracy
split: parts
group: speaker
layout: csv_columns
options: {path: path, parts: {dev: train}, delimiter: ";"}
folders: [mine, "mine-2"]
classes: [cat, dog]
counts: {clips: 8, train: 4, valid: 2, test: 2}
lists: {clips.csv: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef}
fetch: [{url: "https://example.org/a.zip", bytes: 5, md5: 0123456789abcdef0123456789abcdef, unpack: zip, into: a}]
corpora: [mine]
paper: {lr: {byola-v2: 3e-4}}
split_file: splits/mine.csv
"""


@target
def task_card(folder: Path) -> Target:
    from evar.datasets import layouts, list_cards, list_suites
    from evar.datasets.card import _shipped, find_card, find_split_file
    from evar.datasets.locate import locate

    def read() -> None:
        list_suites(folder)
        card = find_card("mine", folder)
        assert len(card.sha) == 64
        layout = layouts.load(card)
        options = layouts.options(card, layout)
        for path in (find_split_file(card, folder), *(folder / entry.into for entry in card.fetch)):
            assert path is None or os.path.normpath(path).startswith((str(folder), str(_shipped()))), path
        list_cards(folder)
        with contextlib.suppress(EvarError):  # there is no such data
            locate(card, layout, options, [str(folder)])

    folds = b"name: base\nseconds: 1\nsplit: folds\nfolds: 5\nlayout: folder_per_class\noptions: {draw: true}\n"
    files = {"mine.yaml": CARD, "base.yaml": folds, "suites.yaml": b"two: [mine, esc50]\n"}
    return of(folder, files, read, hostile.YAML)


@target
def grid(folder: Path) -> Target:
    from evar.cells import Settings, expand_encoders, expand_tasks
    from evar.cli.run import read_grid

    names = {field.name for field in fields(Settings)}

    def read() -> None:
        encoders, tasks, options = read_grid(folder / "grid.yaml")
        expand_encoders(encoders)
        expand_tasks(tasks)
        Settings.of(**{name: value for name, value in options.items() if name in names})

    text = b"encoders: [logmel, 'random:byola-*']\ntasks: paper9\nlimit: 40\nprobe: [fair, knn]\nseeds: [1, 2]\nmini: true\n"
    return of(folder, {"grid.yaml": text}, read, hostile.YAML)


@target
def protocol(folder: Path) -> Target:
    from evar.probes.protocol import get_protocol

    text = (
        b"base: paper\nname: mine\nversion: 2\nseeds: [1, 2]\nmax_epochs: 20\nvalidation: drawn\nlearning_rate: 1e-3\n"
    )
    return of(folder, {"p.yaml": text}, lambda: get_protocol(folder / "p.yaml").fingerprint(), hostile.YAML)


# --- tables ----------------------------------------------------------------------------------------------------------


@target
def official_lists(folder: Path) -> Target:
    """The lists of a stand-in of one card per layout, and the note that it is one."""
    from evar.datasets import layouts, list_cards, load_task, synth
    from evar.datasets.locate import locate
    from evar.datasets.mini import make
    from evar.files import make_folder

    kept = {name: getattr(synth, name) for name in vars(synth) if isinstance(getattr(synth, name), FunctionType)}
    vars(synth).update({name: lambda *_, **__: np.zeros(1) for name in kept})
    synth.write_wav = lambda path, *_: (make_folder(path.parent), path.touch())
    cards = {card.layout: card for card in reversed(list_cards().values()) if card.seconds < 30}
    files, roots = {}, {}
    for card in cards.values():  # empty files for sound: loading looks at names
        root = make(card, folder / card.name)
        for path in sorted(root.rglob("*")):
            if path.suffix in (".csv", ".json", ".txt", ".tsv") and path.stat().st_size < 2**16:
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
        roots[root] = card
    vars(synth).update(kept)

    def read() -> None:
        for path, content in made.files.items():
            if path.read_bytes() == content:
                continue
            card = roots[next(root for root in roots if path.is_relative_to(root))]
            locate(card, layouts.load(card), layouts.options(card, layouts.load(card)), [str(folder)])
            task = load_task(card.name, folder / card.name)
            assert all(file.resolve().is_relative_to(folder.resolve()) for file in task.files())
            task.targets()

    made = of(folder, files, read, [*hostile.CSV, *hostile.JSON])
    return made


@target
def own_dataset(folder: Path) -> Target:
    from evar.datasets import load_task

    text = b"path,label,split,group\n" + b"".join(
        b"%s/%d.wav,%s,%s,s-%s\n" % (part, n, label, part, part)
        for part in (b"train", b"valid", b"test")
        for n, label in enumerate((b"cat", b"dog"))
    )
    card = b"name: own\nseconds: 1\nsplit: parts\ngroup: speaker\nlayout: csv_columns\n"
    (folder / "cards").mkdir(parents=True)
    (folder / "cards" / "own.yaml").write_bytes(card)
    (folder / "cards" / "multi.yaml").write_bytes(
        card.replace(b"own", b"multi") + b"multilabel: true\nmetric: mAP\noptions: {separator: ';'}\n"
    )
    for part in ("train", "valid", "test"):
        (folder / "own" / part).mkdir(parents=True)
        for n in range(2):
            (folder / "own" / part / f"{n}.wav").touch()

    def read() -> None:
        errors = []
        for name in ("own", "multi"):
            try:
                task = load_task(name, folder / "own", tasks_dir=folder / "cards")
            except EvarError as error:
                errors.append(error)
                continue
            assert all(file.resolve().is_relative_to(folder.resolve()) for file in task.files())
            task.targets()
            task.inner()
        if errors:
            raise errors[0]

    return of(folder, {"own/clips.csv": text}, read, [*hostile.CSV, *hostile.with_odd_cells(text)])


def cells(n: int = 2) -> tuple[list[dict], list[list[dict]]]:
    """Rows as the runner records them: common columns, and two folds each."""
    from evar.results_files import LEADERBOARD_COLUMNS

    common, folds = [], []
    for number in range(n):
        cell = dict.fromkeys(LEADERBOARD_COLUMNS, "") | {
            "cell_id": f"{number:016x}", "encoder": f"encoder{number}", "task": "esc50", "task_version": 1,
            "protocol": "fair", "protocol_version": 1, "metric": "accuracy", "mean": 0.5, "std": 0.1, "macro_f1": 0.4,
            "n_folds": 2, "n_seeds": 1, "seeds": "0", "n_train": 4, "n_valid": 2, "n_test": 4, "synthetic": False,
            "partial": False, "contaminated": False, "skipped": 0, "started_at": f"2026-01-0{number + 1}T00:00:00+00:00",
        }  # fmt: skip
        del cell["schema"]
        common.append(cell)
        folds.append(
            [{"fold": k, "seed": 0, "setting": "C=1", "converged": True, "score": 0.5, "macro_f1": 0.4} for k in (1, 2)]
        )
    return common, folds


def record(folder: Path) -> None:
    """Two recorded cells with predictions, as `evar run` leaves them."""
    import pandas as pd

    from evar.results import Results

    for cell, runs in zip(*cells(), strict=True):
        told = {"clip_id": list("abcd"), "group": list("abcd"), "fold": [1, 1, 2, 2], "seed": 0}
        told |= {"target": list("xyxy"), "predicted": list("xxyy"), "score_true": [0.9, 0.2, 0.8, 0.6]}
        Results(folder).record(cell, runs, pd.DataFrame(told))


@target
def runs_csv(folder: Path) -> Target:
    from evar.leaderboard import format_leaderboard
    from evar.reporting.rows import measured
    from evar.results import Results, merge

    record(folder / "r")
    path = folder / "r" / "runs.csv"
    text = path.read_bytes()

    def read() -> None:
        (folder / "r" / "leaderboard.csv").unlink(missing_ok=True)
        before = path.read_bytes()
        made = Results(folder / "r")
        rows = made.leaderboard()
        made.runs()
        format_leaderboard(rows)
        measured(made)
        merge([folder / "r"], folder / "merged")
        # What is cut off stays in a file beside it.
        torn = path.with_name("runs.csv.torn")
        kept = path.read_bytes() + (torn.read_bytes() if torn.exists() else b"")
        assert len(kept.strip()) >= len(before.strip()), "bytes are gone"

    def again() -> None:
        for left in ("r/runs.csv.torn", "merged/runs.csv", "merged/runs.csv.torn", "merged/leaderboard.csv"):
            (folder / left).unlink(missing_ok=True)
        read()

    return of(folder, {"r/runs.csv": text}, again, [*hostile.CSV, *hostile.with_odd_cells(text)])


@target
def leaderboard_csv(folder: Path) -> Target:
    from evar.leaderboard import format_leaderboard
    from evar.results import Results

    record(folder)
    stamp = (folder / "runs.csv").stat().st_mtime_ns

    def read() -> None:
        os.utime(folder / "leaderboard.csv", ns=(stamp, stamp))  # as if evar had made it from this runs.csv
        rows = Results(folder).leaderboard()
        format_leaderboard(rows)
        for cell in rows["cell_id"]:
            Results(folder).finished(cell)

    text, seal = (folder / "leaderboard.csv").read_bytes(), (folder / ".seal").read_bytes()
    attacks = [*hostile.with_odd_cells(text), *hostile.CSV, *hostile.JSON]
    return of(folder, {"leaderboard.csv": text, ".seal": seal}, read, attacks)


@target
def published(folder: Path) -> Target:
    from evar.reporting.published import figures

    text = b"table,model,task,mean,std,metric,sample_rate\nmine,A,esc50,83.2,0.6,accuracy,16000\nmine,B,us8k,79.1,,,\n"
    attacks = [*hostile.CSV, *hostile.with_odd_cells(text)]
    return of(folder, {"own.csv": text}, lambda: figures(folder / "own.csv"), attacks)


@target
def manifest(folder: Path) -> Target:
    from evar.audio.decode import decode
    from evar.cli.leaks import _manifest_files
    from evar.pretraining.corpus import _from_manifest

    def read() -> None:
        for _, path in _manifest_files(folder / "m.csv"):
            with contextlib.suppress(EvarError):  # no audio
                decode(path, 8000)
        _from_manifest(folder / "m.csv", ["nc"])

    text = b"file,licence\na.wav,CC0\nsub/b.wav,CC-BY\n"
    return of(folder, {"m.csv": text, "a.wav": b"x", "sub/b.wav": b"x"}, read, hostile.CSV)


@target
def training_logs(folder: Path) -> Target:
    from evar.cli.probe_curve import COLUMNS, Curve
    from evar.pretraining import log
    from evar.reporting.report_training import read_training

    curve = object.__new__(Curve)
    curve.folder, curve.points = folder, []

    def read() -> None:
        log._kept(folder / "log.csv", 5)
        curve._points()
        read_training(folder)

    files = {
        "log.csv": (",".join(log.COLUMNS) + "\n" + ",".join("1" for _ in log.COLUMNS) + "\n").encode(),
        "probe.csv": (",".join(COLUMNS) + "\n1,e,t,valid,fair,0.5\n").encode(),
    }
    return of(folder, files, read, hostile.CSV)


@target
def small_json(folder: Path) -> Target:
    """Records of downloads and weights, notes of stand-ins, statistics of log-mel: damaged ones are made anew."""
    from evar import download
    from evar.datasets.card import find_card
    from evar.datasets.mini import _refuse_other, _stated
    from evar.encoders import catalog
    from evar.encoders.huggingface import read_json
    from evar.encoders.registry import load_encoder

    encoder = load_encoder("random:byola-v1-512")
    card = find_card("esc50")

    def read() -> None:
        os.environ["EVAR_CACHE"] = str(folder)
        download.read_json(folder / "weights" / "x.json")
        catalog._record("x")
        _stated(folder)
        content = read_json(folder / "weights" / "x.json", "x")
        if "statistics" in content:
            encoder.with_normalization(content["statistics"])
        _refuse_other(folder, card)

    files = {
        "weights/x.json": b'{"statistics": {"mean": -7.0, "std": 4.0}, "sha256": "00", "bytes": 3}',
        "EVAR_SYNTHETIC.json": b'{"card": "esc50", "sizes": {"weights/x.json": 70}, "counts": {"clips": 3}}',
    }
    return of(folder, files, read, hostile.JSON)


@target
def encoder_names(folder: Path) -> Target:
    """What follows `evar run` and `evar encode`: names, labels, globs."""
    from evar.cells import expand_encoders
    from evar.encoders.registry import parse
    from evar.store_format import readable

    def read() -> None:
        text = (folder / "words").read_bytes().decode("utf-8", "replace")
        for name in expand_encoders(text):
            label = parse(name).label
            assert label.isprintable(), "a label that cannot be printed"
            made = readable(label)
            assert "/" not in made
            assert made not in ("", ".", "..")

    return of(folder, {"words": b"mine=byola-v2@runs/7.safetensors,random:logmel@3,hf:a/b"}, read, hostile.NAMES)
