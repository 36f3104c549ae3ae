"""Fear: the test clips were trained on, and the run shows a fine score without a word."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from evar.audio.cache import open_waveforms
from evar.datasets import load_task
from evar.decoding import copied


@pytest.fixture
def said(mine, rows, tmp_path):
    def look(**equal):
        for number, (path, *_) in enumerate(rows, start=1):
            sound = np.random.default_rng(equal.get(f"c{number}", number)).integers(-9000, 9000, 800)
            sound = np.zeros(800) if equal.get(f"c{number}") == 0 else sound
            soundfile.write(mine.root / path, sound.astype(np.int16), 8000)
        task = load_task("mine", mine.root, tasks_dir=mine.cards)
        n = len(task.clips)
        waves = open_waveforms(
            task.clips["clip_id"], task.files(), [0.0] * n, [None] * n, 8000, 1.0, tmp_path / f"cache{len(equal)}"
        )
        return copied(task, waves)

    return look


def test_clips_that_differ_are_no_copies(said):
    assert said() is None


def test_a_tested_clip_that_is_trained_on_is_said(said):
    text = said(c1=5, c7=5, c2=6, c8=6)
    assert text.startswith("mine: 2 tested clips have the same samples as a training clip (001 = 007, 002 = 008)")


def test_silence_and_copies_within_training_are_none(said):
    assert said(c1=0, c7=0, c2=9, c3=9) is None
