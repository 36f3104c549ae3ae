"""Fear: a broken or malicious csv, list or card makes a traceback, a wrong number, or a read outside the dataset."""

from __future__ import annotations

import json

import pytest

from evar.errors import EvarError


def refused(mine, match, **options):
    with pytest.raises(EvarError, match=match) as error:
        mine.load(**options)
    assert "\n" not in str(error.value)
    assert str(mine.root) in str(error.value) or str(mine.cards) in str(error.value)


@pytest.mark.parametrize(
    "entry",
    [
        "/etc/passwd.wav",
        "../secret.wav",
        "a/../../secret.wav",
        "C:/x.wav",
        "C:\\x.wav",
        "..\\x.wav",
        "\\\\server\\x.wav",
        "a\0b.wav",
        "a\u202eb.wav",
        ".",
        "./",
        "sub/",
    ],
)
def test_a_path_that_leaves_the_dataset(mine, rows, entry):
    mine.write_rows([*rows, (entry, "cat", "train", "s1")])
    refused(mine, "not a path inside the dataset", partial=True)


@pytest.mark.parametrize("column", ["path", "label", "split"])
def test_a_missing_column(mine, rows, column):
    header = "path,label,split,group".replace(column, "other")
    mine.write_rows(rows, header)
    refused(mine, f"column {column} is missing")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"path,label,split,group\n"])
def test_an_empty_file(mine, content):
    (mine.root / "clips.csv").write_bytes(content)
    refused(mine, "is empty")


def test_a_file_that_is_not_utf8(mine):
    (mine.root / "clips.csv").write_bytes(b"path,label,split\n\xff\xfe.wav,cat,train\n")
    refused(mine, "not UTF-8")


def test_a_missing_file_and_a_folder_in_its_place(mine):
    (mine.root / "clips.csv").unlink()
    refused(mine, "clips.csv not found")
    (mine.root / "clips.csv").mkdir()
    refused(mine, "cannot read")


def test_rows_of_other_lengths(mine, rows):
    mine.write_rows([*rows, ("009.wav", "cat")])
    refused(mine, "row 10 has 2 values, the header has 4")
    mine.write_rows([*rows, ("009.wav", "cat", "train", "s1", "x")])
    refused(mine, "row 10 has 5 values")


def test_broken_quotes(mine, rows):
    mine.write_rows([*rows, ('"009.wav', "cat", "train", "s1")])
    refused(mine, "not a valid csv|has 1 values")


def test_empty_values(mine, rows):
    for place, name in enumerate(("path", "label", "split", "group")):
        row = list(rows[0])
        row[place] = " " if name != "group" else ""
        mine.write_rows([tuple(row), *rows[1:]])
        refused(mine, f"no {name}")


def test_a_clip_twice(mine, rows):
    mine.write_rows([*rows, rows[0]])
    refused(mine, "1 clips occur twice.*001")
    mine.write_rows([*rows, ("001.flac", "cat", "train", "s1")])
    refused(mine, "1 clips occur twice.*001")


def test_an_unknown_part(mine, rows):
    mine.write_rows([("001.wav", "cat", "learning", "s1"), *rows[1:]])
    refused(mine, r"split learning.*parts: \{learning: train")


def test_no_test_part(mine, rows):
    mine.write_rows(rows[:6])
    refused(mine, "holds no test clips", partial=True)


def test_a_label_that_training_never_saw(mine, rows):
    mine.write_rows([*rows[:7], ("008.wav", "cow", "test", "s4")])
    refused(mine, "no training clip of the label cow")


def test_too_many_and_too_few_classes(mine, rows):
    mine.write_rows([("001.wav", "cow", "train", "s1"), *rows[1:]])
    refused(mine, "3 classes, expected 2")
    mine.write_rows([(path, "cat", *rest) for path, _, *rest in rows])
    refused(mine, "1 classes, expected 2")


def test_a_class_of_the_card_without_clips(mine, card_text):
    mine.write_card(card_text.replace("classes: 2", "classes: [cat, dog, cow]"))
    refused(mine, "no clip of cow")


def test_the_card_sets_the_order_of_classes(mine, card_text):
    mine.write_card(card_text.replace("classes: 2", "classes: [dog, cat]"))
    assert mine.load().targets().tolist() == [1, 0, 1, 0, 1, 0, 1, 0]


def test_a_group_on_both_sides(mine, rows, card_text):
    mine.write_rows([*rows[:7], ("008.wav", "dog", "test", "s1")])
    refused(mine, r"1 groups \(speaker\).*in more than one split: s1")
    mine.write_card(card_text + "groups_disjoint: false\n")
    assert len(mine.load().clips) == 8


@pytest.mark.parametrize("fold", ["0", "3", "-1", "1.5", "one", "²", "99999999999999999999"])
def test_folds_that_are_not_1_to_k(mine, rows, fold):
    mine.write_card("name: mine\nseconds: 1\nsplit: folds\nfolds: 2\nlayout: csv_columns\n")
    folds = [(path, label, str(i % 2 + 1), group) for i, (path, label, _, group) in enumerate(rows)]
    mine.write_rows(folds, "path,label,fold,group")
    assert mine.load().clips["fold"].tolist() == [1, 2] * 4
    mine.write_rows([("001.wav", "cat", fold, "s1"), *folds[1:]], "path,label,fold,group")
    refused(mine, "expected (whole numbers )?1 to 2")


def test_a_fold_without_clips(mine, rows):
    mine.write_card("name: mine\nseconds: 1\nsplit: folds\nfolds: 3\nlayout: csv_columns\n")
    folds = [(path, label, str(i % 2 + 1), group) for i, (path, label, _, group) in enumerate(rows)]
    mine.write_rows(folds, "path,label,fold,group")
    refused(mine, "holds no fold 3 clips")


def test_ids_keep_their_zeros(mine):
    task = mine.load()
    assert task.clips["clip_id"].tolist()[:2] == ["001", "002"]


@pytest.mark.parametrize("text", ["", "[]", '{"card": "mine"}', '{"card": "mine", "counts": [1]}', "[" * 100_000])
def test_a_broken_synthetic_note(mine, text):
    (mine.root / "EVAR_SYNTHETIC.json").write_text(text)
    refused(mine, "EVAR_SYNTHETIC.json")


def test_synthetic_data_are_marked_and_counted_by_their_own_note(mine, rows):
    real = mine.load().fingerprint
    note = mine.root / "EVAR_SYNTHETIC.json"
    note.write_text(json.dumps({"card": "mine", "counts": {"clips": 8, "test": 2}}))
    task = mine.load()
    assert task.synthetic
    assert task.fingerprint != real
    note.write_text(json.dumps({"card": "mine", "counts": {"clips": 9}}))
    refused(mine, "1 of 9 clips are missing")
    note.write_text(json.dumps({"card": "other", "counts": {}}))
    refused(mine, "made for 'other'")


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("testing_list.txt", b"", "is empty"),
        ("testing_list.txt", b"\xff", "not UTF-8"),
        ("testing_list.txt", b"cat/a_nohash_0.wav\ncat/a_nohash_0.wav\n", "listed twice"),
        ("testing_list.txt", b"cat/b_nohash_0.wav\n", "in the other list too"),
        ("testing_list.txt", b"../cat/a_nohash_0.wav\n", "not a path inside"),
        ("testing_list.txt", b"cat/a.wav\n", "not named WORD/SPEAKER_nohash_NUMBER"),
        ("testing_list.txt", None, "not found"),
        ("cat/notes.wav", b"", "not named WORD/SPEAKER_nohash_NUMBER"),
    ],
)
def test_hostile_speech_commands_lists(mine, file, content, match):
    mine.write_card("name: mine\nseconds: 1\nsplit: parts\nlayout: speech_commands\n")
    (mine.root / "sub").rename(mine.root / "_sub")
    for word in ("cat", "dog"):
        (mine.root / word).mkdir()
        for speaker in "abc":
            (mine.root / word / f"{speaker}_nohash_0.wav").touch()
    (mine.root / "validation_list.txt").write_text("cat/b_nohash_0.wav\ndog/b_nohash_0.wav\n")
    (mine.root / "testing_list.txt").write_text("cat/c_nohash_0.wav\ndog/c_nohash_0.wav\n")
    assert mine.load().clips["split"].value_counts().to_dict() == {"train": 2, "valid": 2, "test": 2}
    if content is None:
        (mine.root / file).unlink()
    else:
        (mine.root / file).write_bytes(content)
    refused(mine, match)
