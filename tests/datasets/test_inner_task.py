"""Recipes are chosen on `Task.inner`: no test clip may be in it, and its numbers never stand for the whole task's."""

from __future__ import annotations

import pytest

from evar.datasets import load_task

FOLDS = """
name: mine
seconds: 1.0
split: folds
folds: {folds}
group: speaker
layout: csv_columns
options: {{file: list.csv, path: path, label: label, group: group}}
"""


def part_ids(task, part):
    return set(task.clips["clip_id"][task.clips["split"] == part])


def test_parts_the_valid_part_is_tested_and_test_is_gone(mine):
    task = mine.load()
    inner = task.inner()
    assert part_ids(inner, "test") == part_ids(task, "valid")
    assert part_ids(inner, "train") == part_ids(task, "train")
    assert not set(inner.clips["clip_id"]) & part_ids(task, "test")
    assert list(inner.clips.index) == list(range(len(inner.clips)))
    assert inner.classes == task.classes
    assert set(task.clips["split"]) == {"train", "valid", "test"}, "the task itself stays as it was"


def without_valid(mine, rows, card_text):
    mine.write_card(card_text.replace("clips: 8, train: 4, valid: 2, test: 2", "clips: 8, train: 6, test: 2"))
    mine.write_rows([(path, label, split.replace("valid", "train"), group) for path, label, split, group in rows])
    return mine.load()


def test_parts_without_a_valid_part_a_tenth_of_the_groups_is_tested(mine, rows, card_text):
    task = without_valid(mine, rows, card_text)
    inner = task.inner()
    assert part_ids(inner, "test") | part_ids(inner, "train") == part_ids(task, "train")
    groups = inner.clips.groupby("group")["split"].nunique()
    assert (groups == 1).all(), "a speaker on both sides would make every recipe look good"
    assert len(part_ids(inner, "test")) == 2, "the first group, and no more than a tenth asks for"


def test_name_and_fingerprint_never_meet_the_whole_task(mine):
    task = mine.load()
    inner = task.inner()
    assert inner.name == "mine:inner"
    assert inner.fingerprint != task.fingerprint
    assert mine.load().inner().fingerprint == inner.fingerprint
    assert task.limited(6).inner().fingerprint != inner.fingerprint


@pytest.fixture
def folds(tmp_path):
    """`folds(k)`: 4 clips of 2 speakers in each of k folds."""

    def make(k):
        root = tmp_path / f"folds{k}"
        root.mkdir()
        lines = ["path,label,fold,group"]
        for fold in range(1, k + 1):
            for i in range(4):
                path = f"{fold}-{i}.wav"
                (root / path).touch()
                lines.append(f"{path},{'cat' if i % 2 else 'dog'},{fold},s{fold}{i // 2}")
        (root / "list.csv").write_text("\n".join(lines) + "\n")
        (tmp_path / "mine.yaml").write_text(FOLDS.format(folds=k))
        return load_task("mine", root, tasks_dir=tmp_path)

    return make


@pytest.mark.parametrize("k", [3, 5])
def test_folds_the_first_is_gone(k, folds):
    task = folds(k)
    inner = task.inner()
    assert set(inner.clips["fold"]) == set(range(2, k + 1))
    assert not set(inner.clips["clip_id"]) & set(task.clips["clip_id"][task.clips["fold"] == 1])
    assert len(inner.clips) == 4 * (k - 1)
    assert (inner.clips.groupby("group")["fold"].nunique() == 1).all()
    assert inner.fingerprint != task.fingerprint


def test_folds_are_still_probed(folds):
    """What is left has folds 2 to k: the probe must take them for what they are."""
    import numpy as np

    from evar.probes import evaluate, get_protocol

    inner = folds(3).inner()
    clips, targets = inner.clips, inner.targets()
    X = np.random.default_rng(0).normal(size=(len(clips), 3)).astype(np.float32) + 9 * targets[:, None]
    found = evaluate(
        get_protocol("fair"),
        X.astype(np.float32),
        targets,
        inner.classes,
        fold=clips["fold"].to_numpy(),
        group=clips["group"].to_numpy(),
        clip_ids=clips["clip_id"].to_numpy(),
        metric="accuracy",
    )
    assert [run.fold for run in found.runs] == [2, 3]
    assert found.mean == 1.0


def test_of_two_folds_the_second_is_halved_by_group(folds):
    task = folds(2)
    inner = task.inner()
    assert sorted(inner.clips["fold"].value_counts()) == [2, 2]
    assert (inner.clips.groupby("group")["fold"].nunique() == 1).all()
    assert not set(inner.clips["clip_id"]) & set(task.clips["clip_id"][task.clips["fold"] == 1])


def test_one_group_for_all_training_clips_still_leaves_something_to_test(mine, rows, card_text):
    mine.write_card(card_text.replace("clips: 8, train: 4, valid: 2, test: 2", "clips: 8, train: 6, test: 2"))
    parts = [(path, label, "test" if split == "test" else "train") for path, label, split, _ in rows]
    mine.write_rows([(*row, "s9" if row[2] == "test" else "s1") for row in parts])
    inner = mine.load().inner()
    assert len(part_ids(inner, "test")) == 1
    assert len(part_ids(inner, "train")) == 5
