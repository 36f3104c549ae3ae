"""Fear: what lies in a folder of one's own is passed over, and the score is of something else."""

from __future__ import annotations

import warnings

import pytest

from evar.datasets import load_task
from evar.errors import EvarError

CARD = "name: mine\nseconds: 1\nlayout: folder_per_class\n"
PARTS, FOLDS, DRAW = "split: parts\n", "split: folds\nfolds: 5\n", "options: {draw: true}\n"


@pytest.fixture
def own(tmp_path):
    root = tmp_path / "set"

    def load(card, files, **options):
        (tmp_path / "cards").mkdir(exist_ok=True)
        (tmp_path / "cards/mine.yaml").write_text(CARD + card)
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return load_task("mine", root, tasks_dir=tmp_path / "cards", **options)

    load.root = root
    return load


def files(parts, classes=("cat", "dog"), n=3, inside=""):
    return [f"{part}/{c}/{inside}{i}.wav" for part in parts for c in classes for i in range(n)]


def sizes(task, part="split"):
    return task.clips.groupby([part, "label"]).size().to_dict()


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Train", "Validation", "TEST"),
        ("Training", "valid", "testing"),
        ("TRAINING", "val", "Test"),
    ],
)
def test_plain_names_of_parts_are_taken_and_said(own, names):
    with pytest.warns(UserWarning, match=f"read .*{names[1] if names[1] != 'valid' else names[0]} as"):
        task = own(PARTS, files(names))
    assert sizes(task) == {(part, c): 3 for part in ("train", "valid", "test") for c in ("cat", "dog")}


@pytest.mark.parametrize("name", ["dev", "eval", "heldout", "extra", "fold1"])
def test_a_part_that_could_be_anything_is_refused_with_the_option(own, name):
    with pytest.raises(EvarError, match=rf"{name} is no part .*options: {{parts: {{.*train: train"):
        own(PARTS, files(("train", "test", name)))


def test_what_the_option_names_is_read_and_the_rest_said(own):
    card = PARTS + "options: {parts: {dev: train, val: val, eval: test}}\n"
    with pytest.warns(UserWarning, match=r"left out: 6 audio files in folders that are no part \(extra/cat/0.wav, "):
        task = own(card, files(("dev", "val", "eval", "extra")))
    assert sizes(task) == {(part, c): 3 for part in ("train", "valid", "test") for c in ("cat", "dog")}


def test_folders_are_left_out_on_purpose_without_a_word(own):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = own(
            PARTS + "options: {leave_out: [extra, train/noise]}\n",
            [*files(("train", "test", "extra")), "train/noise/1.wav"],
        )
    assert len(task.clips) == 12
    with pytest.raises(EvarError, match=r"leave_out.*'extras'.*did you mean 'extra'"):
        own(PARTS + "options: {leave_out: [extras]}\n", [])


def test_two_folders_for_one_part_are_refused(own):
    with pytest.raises(EvarError, match="Train and train are both train"):
        own(PARTS, files(("train", "Train", "test")))
    task = own(PARTS + "options: {parts: {Train: train, train: train, test: test}}\n", [])
    assert sizes(task)["train", "cat"] == 6


def test_a_part_of_the_option_that_is_not_there_is_an_error(own):
    with pytest.raises(EvarError, match="'parts': unknown folder 'dev'"):
        own(PARTS + "options: {parts: {train: train, dev: valid, test: test}}\n", files(("train", "test")))


@pytest.mark.parametrize("name", ["fold{}", "Fold_0{}", "fold-{}", "split{}", "{}"])
@pytest.mark.parametrize("first", [0, 1])
def test_folds_by_number_from_nought_or_one(own, name, first):
    task = own(FOLDS, files([name.format(k + first) for k in range(5)]))
    assert task.clips["fold"].tolist() == [k for k in range(1, 6) for _ in range(6)]


def test_more_folds_than_the_card_says_are_refused(own):
    with pytest.raises(EvarError, match="folds: 6"):
        own(FOLDS, files([f"fold{k}" for k in range(6)]))
    with pytest.raises(EvarError, match="split: folds and folds: 6"):
        own(PARTS, [])


def test_another_number_of_folds_than_the_cards_is_said_with_both_ways_out(own):
    three = FOLDS.replace("5", "3")
    with pytest.raises(EvarError) as caught:
        own(three, files([f"fold{k}" for k in range(1, 5)]))
    assert "found fold1 to fold4 and the card says folds: 3: give `folds: 4`, or leave fold4 out with" in str(
        caught.value
    )
    assert "none of the folders" not in str(caught.value)
    assert own(three + "options: {leave_out: [fold4]}\n", []).clips["fold"].nunique() == 3
    with pytest.raises(EvarError, match=r"holds no fold 5 clips; every part needs some: .* `folds: 4`"):
        own(FOLDS, [])


def test_a_part_that_is_left_out_on_purpose_is_not_said_to_be_empty(own):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = own(PARTS + "options: {leave_out: [valid]}\n", files(("train", "valid", "test")))
    assert set(task.clips["split"]) == {"train", "test"}


def test_parts_one_folder_deeper_are_found_by_the_message(own):
    with pytest.raises(EvarError, match=r"one folder deeper: give --data mine=.*set/folds"):
        own(FOLDS, files([f"folds/{k}" for k in range(1, 6)]))


def test_folds_one_folder_deeper_can_be_named(own):
    parts = ", ".join(f"folds/{k}: {k}" for k in range(1, 6))
    task = own(FOLDS + f"options: {{parts: {{{parts}}}}}\n", files([f"folds/{k}" for k in range(1, 6)]))
    assert len(task.clips) == 30


def test_classes_with_an_underscore_are_classes(own):
    task = own(PARTS, files(("train", "valid", "test"), ("yes", "no", "_unknown_", "_silence_")))
    assert task.classes == ("_silence_", "_unknown_", "no", "yes")


def test_files_deeper_below_a_class_are_its_clips(own):
    task = own(PARTS, [*files(("train", "test")), *files(("train", "test"), ("owl",), inside="session1/take/")])
    assert sizes(task)["train", "owl"] == 3


def test_names_in_two_forms_of_unicode_are_one_class(own):
    task = own(PARTS, [*files(("train",), ("e\u0301t\u00e9", "b")), *files(("test",), ("\u00e9te\u0301", "b"))])
    assert task.classes == ("b", "\u00e9t\u00e9")


@pytest.mark.parametrize("ending", [".WAV", ".opus", ".aif", ".Oga", ".m4a"])
def test_audio_of_any_ending_is_a_clip(own, ending):
    task = own(PARTS, [*files(("train", "test")), f"train/cat/x{ending}"])
    assert sizes(task)["train", "cat"] == 4


def test_audio_that_was_converted_beside_is_one_clip(own):
    with pytest.warns(UserWarning, match=r"without a decoder, each beside one .*\(train/cat/0.m4a\)"):
        task = own(PARTS, [*files(("train", "test")), "train/cat/0.m4a"])
    assert len(task.clips) == 12


def test_links_without_a_target_are_missing_clips(own):
    own(PARTS, files(("train", "test")))
    (own.root / "train/cat/0.wav").unlink()
    (own.root / "train/cat/0.wav").symlink_to("../../.git/annex/objects/x")
    with pytest.raises(EvarError, match=r"1 of 12 clips are missing.*git annex get.*--partial"):
        own(PARTS, [])
    assert own(PARTS, [], partial=True).missing == ("train/cat/0",)
    (own.root / "train/owl").symlink_to("../gone")
    with pytest.raises(EvarError, match=r"train/owl is a link without a target.*leave_out: \[train/owl\]"):
        own(PARTS, [])


def test_loops_end_and_one_folder_in_two_parts_is_refused(own):
    own(PARTS, files(("train", "test")))
    (own.root / "train/cat/up").symlink_to("../..")
    with pytest.warns(UserWarning, match=r"left out: 1 linked folder that is read under another name"):
        assert len(own(PARTS, []).clips) == 12
    (own.root / "valid").symlink_to("test")
    with pytest.raises(EvarError, match="valid and test are one and the same folder"):
        own(PARTS, [])


def test_files_in_no_class_folder_and_empty_classes_are_named(own):
    own(PARTS, files(("train", "test")))
    (own.root / "train/owl").mkdir()
    with pytest.warns(UserWarning, match="left out: ") as said:
        own(PARTS, ["train/loose.wav", "top.wav", "train/cat/notes.txt"])
    text = str(said[0].message)
    for part in (
        "2 audio files in no class folder (top.wav, train/loose.wav)",
        "1 class folder without audio (train/owl)",
        "1 file that is not audio (.txt)",
    ):
        assert part in text


def test_a_mixture_of_layouts_is_refused(own):
    with pytest.raises(EvarError, match="owl is no part"):
        own(PARTS, [*files(("train", "test")), "owl/1.wav"])


def test_class_above_part_is_refused(own):
    names = files(("cat", "dog"), ("train", "test"))
    with pytest.raises(EvarError, match=r"found CLASS/PART \(cat/test, cat/train, "):
        own(PARTS, names)
    with pytest.raises(EvarError, match="draw: true would mix the split"):
        own(PARTS + DRAW, [])


def test_parts_below_parts_are_no_classes(own):
    with pytest.raises(
        EvarError, match=r"folders below fold1, fold2, fold3, \.\.\. are called test, train, as parts are"
    ):
        own(FOLDS, [f"fold{k}/{name}" for k in range(1, 6) for name in files(("train", "test"))])


def test_one_folder_around_the_classes_can_be_named(own):
    names = files(("train/audio", "test/audio"))
    with pytest.raises(EvarError, match=r"one class, audio.*parts: {test/audio: test, train/audio: train}"):
        own(PARTS, names)
    assert own(PARTS + "options: {parts: {test/audio: test, train/audio: train}}\n", []).classes == ("cat", "dog")


def test_names_in_any_script_are_classes(own):
    names = ("\u732b", "dog \u00a0x", "\U0001f415", "a,b;c")
    assert set(own(PARTS, files(("train", "test"), names)).classes) == set(names)


def test_a_class_that_is_only_tested_is_named(own):
    with pytest.raises(EvarError, match="owl has clips in test and none in train"):
        own(PARTS, [*files(("train", "test")), *files(("test",), ("owl",))])


def test_an_option_without_effect_is_an_error(own):
    with pytest.raises(EvarError, match="'parts' has no effect beside 'draw'"):
        own(PARTS + "options: {draw: true, parts: {a: train}}\n", files(("train", "test")))
    with pytest.raises(EvarError, match="group 'speaker' is not found"):
        own(PARTS + "group: speaker\n", [])


def test_a_split_file_of_two_depths_needs_labels(own):
    own.root.mkdir()
    rows = ["cat/1.wav,train,cat", "dog/s/1.wav,train,dog", "cat/2.wav,val,cat", "dog/s/2.wav,test,dog"]
    (own.root / "split.csv").write_text("\n".join(["path,split,label", *rows]) + "\n")
    names = [row.split(",")[0] for row in rows]
    task = own(PARTS + "split_file: split.csv\n", names)
    assert task.clips["label"].tolist() == ["cat", "cat", "dog", "dog"]
    assert task.clips["split"].tolist() == ["train", "valid", "train", "test"]
    (own.root / "split.csv").write_text("\n".join(["path,split", *(row.rpartition(",")[0] for row in rows)]) + "\n")
    with pytest.raises(EvarError, match="which folder is the class"):
        own(PARTS + "split_file: split.csv\n", names)


def flat(**classes):
    return [f"{name}/{i:02d}.wav" for name, n in classes.items() for i in range(n)]


def test_each_class_of_a_drawn_split_is_tested(own):
    task = own(PARTS + DRAW, flat(a=30, b=19, c=10, d=9, e=5, f=3))
    counts = task.clips.groupby(["label", "split"]).size().unstack()
    assert counts["test"].to_dict() == {"a": 3, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}
    assert (counts >= 1).all(axis=None)
    assert own(PARTS + DRAW, []).fingerprint == task.fingerprint


def test_classes_too_small_to_draw_are_named(own):
    with pytest.warns(UserWarning, match="1 class too small for a valid clip: two: 2 clips"):
        task = own(PARTS + DRAW, flat(ten=10, two=2))
    assert sizes(task)["test", "two"] == sizes(task)["train", "two"] == 1
    with pytest.raises(EvarError, match="one has one clip"):
        own(PARTS + DRAW, flat(one=1))


def test_small_classes_share_the_folds(own):
    with pytest.warns(UserWarning, match="3 classes too small for clips in every fold"):
        task = own(FOLDS + DRAW, flat(a=2, b=3, c=4))
    assert task.clips["fold"].value_counts().to_dict() == {1: 2, 2: 2, 3: 2, 4: 2, 5: 1}


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val"), ("fold1", "fold2")])
def test_parts_are_no_classes_to_draw_from(own, names):
    with pytest.raises(EvarError, match=f"draw: true reads class folders, and .* holds the parts .*{names[0]}"):
        own(FOLDS + DRAW, files(names))


def test_a_class_called_train_can_be_drawn(own):
    assert own(PARTS + DRAW, flat(train=10, car=10)).classes == ("car", "train")
