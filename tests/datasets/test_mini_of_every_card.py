"""Fear: a card whose mini its own reader cannot read, that nothing can learn, or that differs from run to run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evar.datasets import list_cards, load_task, mini

TESTS = Path(__file__).parents[1]
CARDS = list_cards(TESTS / "cards")
ONE_PER_LAYOUT = sorted({card.layout: name for name, card in sorted(CARDS.items(), reverse=True)}.values())


@pytest.fixture(scope="module")
def minis(tmp_path_factory):
    """Card name -> the folder of its mini, each made once."""
    base, made = tmp_path_factory.mktemp("minis"), {}

    def folder(name):
        if name not in made:
            made[name] = mini.make(CARDS[name], mini.default_root(CARDS[name], base))
        return made[name]

    return folder


def log_spectrum(task):
    """[N, 64] mean and standard deviation over time of 32 log bands up to 3.9 kHz."""
    import soundfile

    rows = []
    for path, start, stop in zip(task.files(), task.clips["start"], task.clips["stop"], strict=True):
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
        sound = sound.mean(axis=1)[round(start * rate) : None if np.isnan(stop) else round(stop * rate)]
        n = round(0.032 * rate)
        frames = np.lib.stride_tricks.sliding_window_view(sound, n)[:: n // 2] * np.hanning(n).astype("float32")
        bands = np.digitize(np.fft.rfftfreq(n, 1 / rate), np.geomspace(60, 3900, 33)) - 1
        weights = (bands[:, None] == np.arange(32)) / np.maximum(np.bincount(bands[bands >= 0], minlength=33)[:32], 1)
        log = np.log(np.abs(np.fft.rfft(frames)) ** 2 @ weights + 1e-4)
        rows.append(np.concatenate([log.mean(axis=0), log.std(axis=0)]))
    return np.array(rows)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_real_reader_reads_it_and_classes_are_learnable(name, minis):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import average_precision_score

    root = minis(name)
    task = load_task(name, root, tasks_dir=TESTS / "cards")
    assert task.synthetic
    assert not task.partial
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 20e6
    part = task.clips["fold"] if "fold" in task.clips else task.clips["split"]
    expected = range(1, task.card.folds + 1) if task.card.folds else {"train", "test"}
    assert set(expected) <= set(part)

    features, targets = log_spectrum(task), task.targets()
    test = (part == (1 if task.card.folds else "test")).to_numpy()
    train = ~test & (part != "valid").to_numpy()
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)
    if task.card.multilabel:
        used = np.flatnonzero(targets.any(axis=0))
        scores = [
            average_precision_score(
                targets[test, c], model.fit(features[train], targets[train, c]).decision_function(features[test])
            )
            for c in used
        ]
        assert np.mean(scores) > 1.5 * targets[test][:, used].mean()
    else:
        present = np.unique(targets[train])
        counts = np.bincount(targets[train])
        assert model.fit(features[train], targets[train]).score(features[test], targets[test]) > 2 / len(present)
        assert counts[present].min() >= 2


def test_same_bytes_in_another_process(minis, tmp_path):
    program = (
        "import sys; from evar.datasets import list_cards, mini; cards = list_cards(sys.argv[1])\n"
        "for name in sys.argv[3:]: mini.make(cards[name], mini.default_root(cards[name], sys.argv[2]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(TESTS / "cards"), str(tmp_path), *ONE_PER_LAYOUT]
    subprocess.run(command, env=environment, check=True)
    for name in ONE_PER_LAYOUT:
        assert digests(mini.default_root(CARDS[name], tmp_path)) == digests(minis(name)), name


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
