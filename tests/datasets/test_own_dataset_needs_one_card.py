"""Fear: a user's own folder needs code, or gets a split that changes from run to run."""

from __future__ import annotations

import pytest

from evar.datasets import find_card, layouts, load_task
from evar.datasets.mini import make
from evar.errors import EvarError

FOLDERS = "name: mine\nseconds: 1\nlayout: folder_per_class\n"
PARTS, FOLDS = "split: parts\n", "split: folds\nfolds: 3\n"


@pytest.fixture
def own(tmp_path):
    def load(card, files):
        (tmp_path / "cards").mkdir(exist_ok=True)
        (tmp_path / "cards/mine.yaml").write_text(card)
        for name in files:
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).touch()
        return load_task("mine", tmp_path / "set", tasks_dir=tmp_path / "cards")

    return load


def test_part_class_file(own):
    files = [f"{part}/{c}/0{i}.wav" for part in ("train", "valid", "test") for c in ("a", "b") for i in range(2)]
    others = ["train/a/notes.txt", "train/a/.hidden.wav", "extra/a/1.wav"]
    task = own(FOLDERS + PARTS + "options: {leave_out: [extra]}", [*files, *others])
    assert task.clips["clip_id"].tolist() == sorted(name.removesuffix(".wav") for name in files)
    assert task.clips.groupby(["split", "label"]).size().to_dict() == {
        (part, c): 2 for part in ("train", "valid", "test") for c in ("a", "b")
    }


def test_other_part_names_and_fold_folders(own):
    task = own(
        FOLDERS + PARTS + "options: {parts: {dev: train, eval: test}}", ["dev/a/1.wav", "dev/b/1.wav", "eval/a/2.wav"]
    )
    assert task.clips["split"].tolist() == ["train", "train", "test"]
    card = FOLDERS + FOLDS + "options: {leave_out: [dev, eval]}"
    task = own(card, [f"fold{k}/{c}/{k}.wav" for k in (1, 2, 3) for c in "ab"])
    assert task.clips["fold"].tolist() == [1, 1, 2, 2, 3, 3]


def test_class_folders_alone_have_no_split(own):
    with pytest.raises(EvarError, match=r"split_file.*draw: true"):
        own(FOLDERS + PARTS, ["a/1.wav", "b/1.wav"])


def test_a_drawn_split_is_stratified_and_does_not_move_when_clips_come(own):
    files = [f"{c}/{i:03d}.wav" for c in "ab" for i in range(30)]
    task = own(FOLDERS + FOLDS + "options: {draw: true}", files)
    assert task.clips.groupby(["label", "fold"]).size().to_dict() == {(c, k): 10 for c in "ab" for k in (1, 2, 3)}
    assert own(FOLDERS + FOLDS + "options: {draw: true}", files).fingerprint == task.fingerprint
    parts = own(FOLDERS + PARTS + "options: {draw: true}", files)
    assert parts.clips.groupby(["label", "split"]).size().to_dict() == {
        (c, part): n for c in "ab" for part, n in (("train", 24), ("valid", 3), ("test", 3))
    }


def test_a_split_file_over_class_folders(own, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/split.csv").write_text("path,split,group\na/1.wav,train,x\nb/1.wav,train,x\na/2.wav,test,y\n")
    task = own(FOLDERS + PARTS + "split_file: split.csv\n", ["a/1.wav", "b/1.wav", "a/2.wav"])
    assert task.clips[["label", "split", "group"]].to_numpy().tolist() == [
        ["a", "train", "x"],
        ["a", "test", "y"],
        ["b", "train", "x"],
    ]


def test_csv_with_columns_of_any_name(own, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/all.tsv").write_text("id\tkind\tset\tby\n01\tx, y\tdev\tp\n02\tz\teval\tq\n03\tz\tdev\tr\n")
    card = (
        "name: mine\nseconds: 1\nsplit: parts\nlayout: csv_columns\n"
        "options: {file: all.tsv, path: id, label: kind, part: set, group: by, folder: wavs, extension: .wav,"
        ' delimiter: "\\t", parts: {dev: train, eval: test}}\n'
    )
    task = own(card, ["wavs/01.wav", "wavs/02.flac", "wavs/03.wav"])
    assert task.clips["clip_id"].tolist() == ["wavs/01", "wavs/02", "wavs/03"]
    assert task.clips["label"].tolist() == ["x, y", "z", "z"]
    assert task.clips["group"].tolist() == ["p", "q", "r"]
    assert task.clips["split"].tolist() == ["train", "test", "train"]


@pytest.mark.parametrize("name", ["esc50", "esc10", "us8k", "spcv2", "spcv2-12", "voxforge", "surge"])
def test_a_mini_is_read_by_the_real_reader(name, tmp_path):
    card = find_card(name)
    task = load_task(name, make(card, tmp_path / "mini"))
    part = "fold" if card.split == "folds" else "split"
    parts = set(task.clips[part])
    assert parts == (set(range(1, card.folds + 1)) if card.split == "folds" else {"train", "valid", "test"})
    assert task.clips.groupby([part, "label"]).size().unstack().notna().all(axis=None), "every class in every part"
    assert len(task.classes) >= 6
    assert task.synthetic


@pytest.mark.parametrize("split", [PARTS, FOLDS, PARTS + "options: {draw: true}\n", PARTS + "split_file: split.csv\n"])
def test_a_mini_of_class_folders(split, tmp_path):
    (tmp_path / "mine.yaml").write_text(FOLDERS + split)
    card = find_card("mine", tmp_path)
    layouts.load(card).write_mini(tmp_path / "set", card)
    assert len(load_task("mine", tmp_path / "set", tasks_dir=tmp_path).clips) == 180
