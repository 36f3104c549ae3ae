"""Fear: two different questions share a fingerprint, or one question gets two (stale or needlessly recomputed rows)."""

from __future__ import annotations

import random

import numpy as np
import pytest

from evar.errors import EvarError

GOLDEN = "f42e908ec17e1c668d34df0b6fd4fb055f65db209dbb946a066738f7404340e6"


def test_golden_value(mine):
    """A change here makes every stored result stale: bump card versions instead, unless that is meant."""
    assert mine.load().fingerprint == GOLDEN


def test_extension_folder_and_row_order_do_not_matter(mine, rows, tmp_path):
    random.Random(0).shuffle(rows)
    mine.write_rows(rows)
    for path in mine.root.rglob("*.wav"):
        path.rename(path.with_suffix(".flac"))
    mine.root = mine.root.rename(tmp_path / "elsewhere")
    assert mine.load().fingerprint == GOLDEN


def test_prose_in_the_card_does_not_matter(mine, card_text):
    mine.write_card(card_text + "title: My set\nlicence: CC0\n")
    assert mine.load().fingerprint == GOLDEN


@pytest.mark.parametrize(
    "row", [("001.wav", "dog", "train", "s1"), ("001.wav", "cat", "train", "s2"), ("009.wav", "cat", "train", "s1")]
)
def test_label_group_and_clip_matter(mine, rows, row):
    (mine.root / "009.wav").touch()
    mine.write_rows([row, *rows[1:]])
    assert mine.load().fingerprint != GOLDEN


def test_the_part_matters(mine, rows, card_text):
    mine.write_card(card_text.replace("counts", "groups_disjoint: false\ncounts").replace("4, valid: 2", "5, valid: 1"))
    mine.write_rows([*rows[:4], ("sub/005.wav", "cat", "train", "s3"), *rows[5:]])
    assert mine.load().fingerprint != GOLDEN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seconds: 1.0", "seconds: 1.5"),
        ("classes: 2", "classes: [dog, cat]"),
        ("name: mine", "name: mine\nversion: 2"),
        ("classes: 2", "classes: 2\nmultilabel: true\nmetric: mAP"),
    ],
)
def test_settings_of_the_card_matter(mine, card_text, old, new):
    mine.write_card(card_text.replace(old, new))
    assert mine.load().fingerprint != GOLDEN


def test_a_card_that_hides_a_shipped_one_has_another_fingerprint(tmp_path, shared_data):
    from evar.datasets import find_card, load_task

    official = load_task("esc10", data=[shared_data])
    text = find_card("esc10").path.read_text()
    (tmp_path / "esc10.yaml").write_text(text + 'bring: "mine"\n')
    with pytest.warns(UserWarning, match="hides the shipped card"):
        mine = load_task("esc10", data=[shared_data], tasks_dir=tmp_path)
    assert mine.fingerprint != official.fingerprint


def big(mine, n_per_stratum):
    mine.write_card("name: mine\nseconds: 1\nsplit: folds\nfolds: 2\nlayout: csv_columns\n")
    rows = [
        (f"{label}{fold}{i:02d}.wav", label, str(fold)) for (label, fold), n in n_per_stratum.items() for i in range(n)
    ]
    for path, *_ in rows:
        (mine.root / path).touch()
    mine.write_rows(rows, "path,label,fold")
    return rows


def test_a_limited_task_is_stratified_and_does_not_depend_on_row_order(mine):
    strata = {("cat", 1): 40, ("cat", 2): 20, ("dog", 1): 20, ("dog", 2): 1}
    rows = big(mine, strata)
    task = mine.load()
    small = task.limited(20)
    assert (len(small.clips), small.limit, task.limit) == (20, 20, None)
    sizes = small.clips.groupby(["label", "fold"]).size().to_dict()
    assert sizes[("dog", 2)] == 1
    assert 9 <= sizes[("cat", 1)] <= 11
    assert list(small.clips.index) == list(range(20))
    random.Random(1).shuffle(rows)
    mine.write_rows(rows, "path,label,fold")
    again = mine.load().limited(20)
    assert again.clips.equals(small.clips)
    assert again.fingerprint == small.fingerprint != task.fingerprint
    assert task.limited(20, seed=1).fingerprint != small.fingerprint
    assert small.classes == task.classes


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 40, 80])
def test_limited_gives_exactly_n(mine, n):
    big(mine, {("cat", 1): 40, ("cat", 2): 20, ("dog", 1): 20, ("dog", 2): 1})
    clips = mine.load().limited(n).clips
    assert len(clips) == clips["clip_id"].nunique() == n
    assert clips.groupby(["label", "fold"]).ngroups == min(n, 4)


def test_limited_beyond_the_size_is_the_task_itself(mine):
    task = mine.load()
    assert task.limited(8) is task
    assert task.limited(9) is task
    with pytest.raises(EvarError, match="from 1"):
        task.limited(0)


def test_multilabel_targets(mine, rows, card_text):
    mine.write_card(
        card_text.replace("classes: 2", "classes: 3\nmultilabel: true\nmetric: mAP\noptions: {separator: ';'}")
    )
    mine.write_rows([("001.wav", "dog;cow;dog", "train", "s1"), *rows[1:]])
    task = mine.load()
    hot = task.targets()
    assert task.classes == ("cat", "cow", "dog")
    assert (hot.dtype, hot.shape) == (np.float32, (8, 3))
    assert hot[:2].tolist() == [[0, 1, 1], [0, 0, 1]]
    assert len(task.limited(4).clips) == 4


def test_columns_and_types(mine):
    task = mine.load()
    assert list(task.clips.columns) == ["clip_id", "path", "start", "stop", "label", "split", "group"]
    assert task.targets().dtype == np.int64
    assert task.clips["start"].tolist() == [0.0] * 8
    assert task.clips["stop"].isna().all()
    assert all(path.is_absolute() for path in task.files())
