"""Fear: other folds, other lists or other clips are scored under the official task's name."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pytest

from evar.datasets import load_task
from evar.datasets.tables import list_sha256
from evar.errors import EvarError

KEYWORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]


@pytest.fixture
def official(shared_data):
    return shared_data / "official-metadata"


def tree(root, names):
    """Empty files: the loader looks at names, not at sound."""
    for folder in {name.rpartition("/")[0] for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()


@pytest.fixture
def esc50_tree(official, tmp_path):
    text = (official / "ESC-50/meta/esc50.csv").read_text()
    tree(tmp_path, ["audio/" + row["filename"] for row in csv.DictReader(text.splitlines())])
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/esc50.csv").write_text(text)
    return tmp_path


def test_esc50_in_full(esc50_tree):
    task = load_task("esc50", esc50_tree)
    assert (len(task.clips), len(task.classes), task.partial, task.missing) == (2000, 50, False, ())
    assert task.clips["fold"].value_counts().to_dict() == dict.fromkeys(range(1, 6), 400)
    row = task.clips.set_index("clip_id").loc["audio/1-100032-A-0"]
    assert (row["path"], row["label"], row["fold"], row["group"]) == ("audio/1-100032-A-0.wav", "dog", 1, "100032")
    assert task.clips["clip_id"].is_monotonic_increasing
    assert np.bincount(task.targets()).tolist() == [40] * 50
    assert all(path.is_file() for path in task.files())


def test_esc10_is_the_official_subset(esc50_tree):
    task = load_task("esc10", esc50_tree)
    assert task.clips["fold"].value_counts().to_dict() == dict.fromkeys(range(1, 6), 80)
    assert task.classes == (
        *("chainsaw", "clock_tick", "crackling_fire", "crying_baby", "dog"),
        *("helicopter", "rain", "rooster", "sea_waves", "sneezing"),
    )


def test_a_reshuffled_fold_is_refused(esc50_tree):
    path = esc50_tree / "meta/esc50.csv"
    path.write_text(path.read_text().replace("1-100032-A-0.wav,1,0,dog", "1-100032-A-0.wav,2,0,dog"))
    for partial in (False, True):
        with pytest.raises(EvarError, match="not the official folds"):
            load_task("esc50", esc50_tree, partial=partial)


def test_a_renamed_label_is_refused(esc50_tree):
    path = esc50_tree / "meta/esc50.csv"
    path.write_text(path.read_text().replace("1-100032-A-0.wav,1,0,dog", "1-100032-A-0.wav,1,0,cat"))
    with pytest.raises(EvarError, match="disagree"):
        load_task("esc50", esc50_tree, partial=True)


def test_clips_beyond_the_official_ones_are_refused(esc50_tree):
    with open(esc50_tree / "meta/esc50.csv", "a") as stream:
        stream.write("1-999999-A-0.wav,1,0,dog,True,999999,A\n")
    (esc50_tree / "audio/1-999999-A-0.wav").touch()
    with pytest.raises(EvarError, match="has 9 clips of target 0"):
        load_task("esc50", esc50_tree, partial=True)


def test_us8k_in_full(official, tmp_path):
    text = (official / "UrbanSound8K/metadata/UrbanSound8K.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    tree(tmp_path, [f"audio/fold{row['fold']}/{row['slice_file_name']}" for row in rows])
    (tmp_path / "metadata").mkdir()
    path = tmp_path / "metadata/UrbanSound8K.csv"
    path.write_text(text)
    task = load_task("us8k", tmp_path)
    assert (len(task.clips), len(task.classes)) == (8732, 10)
    assert sorted(task.clips["fold"].unique()) == list(range(1, 11))
    folds_of_source = task.clips.groupby("group")["fold"].nunique()
    assert (folds_of_source > 1).sum() == 5, "the card's note: five recordings sit in two folds"
    within_class = task.clips.groupby(["group", "label"])["fold"].nunique()
    assert within_class.max() == 1

    path.write_text(
        text.replace("100032-3-0-0.wav,100032,0.0,0.317551,1,5", "100032-3-0-0.wav,100032,0.0,0.317551,1,6")
    )
    with pytest.raises(EvarError, match="not the official list"):
        load_task("us8k", tmp_path, partial=True)


@pytest.fixture
def spcv2_tree(official, tmp_path):
    names = []
    for file in ("validation_list.txt", "testing_list.txt"):
        text = (official / "speech_commands_v0.02" / file).read_text()
        (tmp_path / file).write_text(text)
        names += text.split()
    tree(tmp_path, names)
    return tmp_path


def test_spcv2_under_the_official_lists(spcv2_tree):
    tree(spcv2_tree, [f"{word}/ffffffff_nohash_0.wav" for word in KEYWORDS])
    tree(spcv2_tree, ["bed/ffffffff_nohash_0.wav", "_background_noise_/pink_noise.wav"])
    with pytest.raises(EvarError, match="84832 of 105829 clips are missing"):
        load_task("spcv2", spcv2_tree)
    words = {path.name for path in spcv2_tree.iterdir() if path.is_dir()} - {"_background_noise_"}
    tree(spcv2_tree, [f"{word}/ffffffff_nohash_0.wav" for word in words])
    task = load_task("spcv2", spcv2_tree, partial=True)
    assert task.partial
    assert task.clips["split"].value_counts().to_dict() == {"test": 11005, "valid": 9981, "train": 35}
    assert len(task.classes) == 35
    assert not task.clips["clip_id"].str.startswith("_").any()
    assert task.clips.groupby("group")["split"].nunique().max() == 1

    speaker = (spcv2_tree / "testing_list.txt").read_text().split()[0].split("/")[1].split("_")[0]
    tree(spcv2_tree, [f"bed/{speaker}_nohash_77.wav"])
    with pytest.raises(EvarError, match=rf"groups \(speaker\).*{speaker}"):
        load_task("spcv2", spcv2_tree, partial=True)


def test_lists_may_name_another_extension_but_not_other_clips(official, tmp_path):
    path = tmp_path / "testing_list.txt"
    text = (official / "speech_commands_v0.02/testing_list.txt").read_text()
    path.write_text(text)
    checksum = list_sha256(path)
    path.write_bytes(text.replace(".wav", ".flac").replace("\n", "\r\n").encode() + b"\r\n")
    assert list_sha256(path) == checksum
    path.write_text("\n".join(text.split()[1:]))
    assert list_sha256(path) != checksum


def test_the_pack_is_not_the_official_set(shared_data):
    with pytest.raises(EvarError, match="1600 of 2000 clips are missing"):
        load_task("esc50", data=[shared_data])
    task = load_task("esc50", data=[shared_data], partial=True)
    assert (len(task.clips), task.partial) == (400, True)
    for partial in (False, True):
        with pytest.raises(EvarError, match=r"validation_list\.txt is not the official list.*name of its own"):
            load_task("spcv2", data=[shared_data], partial=partial)


def test_pack_tasks(shared_data, pytestconfig):
    esc10 = load_task("esc10", data=[shared_data])
    assert (len(esc10.clips), len(esc10.classes), esc10.partial) == (400, 10, False)
    assert esc10.clips["path"].str.endswith(".flac").all()
    words = load_task("pack-spcv2-10", data=[shared_data], tasks_dir=pytestconfig.rootpath / "tests/cards")
    assert words.clips["split"].value_counts().to_dict() == {"train": 934, "test": 272, "valid": 197}
    assert words.classes == tuple(KEYWORDS)


def test_silence_of_train_and_test_shares_no_second(tmp_path):
    names = [f"{w}/{s}_nohash_0.wav" for w in [*KEYWORDS, "bed"] for s in ("a", "b", "c")]
    noises = ("doing_the_dishes", "dude_miaowing", "exercise_bike", "pink_noise", "running_tap", "white_noise")
    tree(tmp_path, names + [f"_background_noise_/{noise}.wav" for noise in noises])
    (tmp_path / "validation_list.txt").write_text("\n".join(n for n in names if "/b_" in n))
    (tmp_path / "testing_list.txt").write_text("\n".join(n for n in names if "/c_" in n))
    (tmp_path / "EVAR_SYNTHETIC.json").write_text(json.dumps({"card": "spcv2-12", "counts": {"clips": 393}}))
    task = load_task("spcv2-12", tmp_path)
    silence = task.clips[task.clips["label"] == "_silence_"]
    assert silence["split"].value_counts().to_dict() == {"train": 288, "valid": 36, "test": 36}
    assert not silence.duplicated(["path", "start"]).any()
    assert ((silence["stop"] - silence["start"]) == 1.0).all()
    edges = silence.groupby(["path", "split"])["start"].agg(["min", "max"]).unstack()
    assert (edges["max", "train"] < edges["min", "valid"]).all()
    assert (edges["max", "valid"] < edges["min", "test"]).all()
    assert (task.clips["label"] == "_unknown_").sum() == 3
    assert len(task.classes) == 12


def test_the_shipped_checksums_are_those_of_the_lists(official):
    from evar.datasets import find_card

    for name, folder in (("spcv2", "speech_commands_v0.02"), ("us8k", "UrbanSound8K")):
        for file, expected in find_card(name).lists.items():
            assert list_sha256(official / folder / file) == expected
            plain = (official / folder / file).read_text().rstrip("\n")
            assert hashlib.sha256(plain.encode()).hexdigest() == expected, "official lists need no normalising"
