"""Fear: DIR is given, and DIR/NAME is read; or DIR is the dataset, and is not taken for it."""

from __future__ import annotations

import pytest

from evar.datasets import find_card, layouts, load_task
from evar.datasets.locate import locate
from evar.errors import EvarError

CARD = "name: {name}\nseconds: 1\nlayout: {layout}\n"
PARTS, FOLDS = "split: parts\n", "split: folds\nfolds: 3\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def find(tmp_path):
    def call(name, rest, *data, layout="folder_per_class"):
        path = tmp_path / "cards" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(CARD.format(name=name, layout=layout) + rest)
        card = find_card(path)
        reader = layouts.load(card)
        return locate(card, reader, layouts.options(card, reader), [str(value) for value in data])

    return call


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def in_parts(root, *parts):
    return files(root, *(f"{part}/{label}/{i}.wav" for part in parts for label in ("cat", "dog") for i in range(2)))


@pytest.mark.parametrize("name", ["test", "train", "valid"])
@pytest.mark.parametrize("folder", ["test", "somewhere"])
def test_a_card_called_as_a_part_reads_the_folder_that_is_given(find, tmp_path, name, folder):
    root = in_parts(tmp_path / folder, "train", "valid", "test")
    assert find(name, PARTS, root) == root
    assert find(name, PARTS, f"{name}={root}") == root


def test_a_card_called_as_a_fold_reads_the_folder_that_is_given(find, tmp_path):
    root = in_parts(tmp_path / "set", "fold1", "fold2", "fold3")
    assert find("fold1", FOLDS, root) == root
    own = in_parts(tmp_path / "own", "dev", "held_out")
    assert find("dev", PARTS + "options: {parts: {dev: train, held_out: test}}", own) == own


def test_a_part_beside_other_parts_is_never_taken_for_the_dataset_in_silence(find, tmp_path):
    root = in_parts(tmp_path / "birds", "train", "valid", "test")
    with pytest.raises(EvarError, match=r"not certain which.*--data test=.*birds or --data test=.*birds/test"):
        find("test", FOLDS + "options: {draw: true}", root)
    assert find("test", FOLDS + "options: {draw: true}", f"test={root}/test") == root / "test"


def test_both_the_folder_and_the_one_of_the_cards_name_look_right(find, tmp_path):
    root = in_parts(tmp_path / "all", "train", "test", "mine/train", "mine/test")
    with pytest.raises(
        EvarError, match=r"more than one folder matches: .*all and .*all/mine; choose with --data mine=DIR"
    ):
        find("mine", PARTS, root)


def test_a_dataset_folder_of_any_name_is_taken_by_what_it_holds(find, tmp_path):
    root = in_parts(tmp_path / "any name", "Train", "val")
    assert find("mine", PARTS, root) == root
    flat = files(tmp_path / "flat", "cat/1.wav", "dog/2.flac")
    assert find("mine", FOLDS + "options: {draw: true}", flat) == flat


def test_a_folder_of_datasets_is_not_taken_for_one(find, tmp_path):
    for name in ("mine", "other"):
        in_parts(tmp_path / "sets" / name, "train", "test")
    assert find("mine", PARTS, tmp_path / "sets") == tmp_path / "sets/mine"
    assert find("mine", PARTS, tmp_path / "sets/mine", tmp_path / "sets/other") == tmp_path / "sets/mine"
    with pytest.raises(EvarError, match="no dataset found"):
        find("absent", PARTS, tmp_path / "sets")


@pytest.mark.parametrize("layout", ["csv_columns", "folder_per_class"])
def test_a_list_beside_the_card_and_a_folder_of_any_name(find, tmp_path, layout):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards/mine.csv").write_text("path,label,split\ncat/1.wav,cat,train\ndog/2.wav,dog,test\n")
    root = files(tmp_path / "any name", "cat/1.wav", "dog/2.flac")
    assert find("mine", PARTS + "split_file: mine.csv\n", root, layout=layout) == root
    other = files(tmp_path / "not it", "cat/7.wav", "clips.csv")
    with pytest.raises(EvarError, match="no dataset found"):
        find("mine", PARTS + "split_file: mine.csv\n", other, layout=layout)


def test_two_lists_that_differ_are_said(find, tmp_path):
    (tmp_path / "cards").mkdir()
    text = "path,label,split\ncat/1.wav,cat,train\ndog/2.wav,dog,train\ncat/3.wav,cat,test\n"
    (tmp_path / "cards/mine.csv").write_text(text)
    root = files(tmp_path / "mine", "cat/1.wav", "dog/2.wav", "cat/3.wav")
    (root / "mine.csv").write_text(text.replace("test", "valid"))
    find("mine", PARTS + "split_file: mine.csv\n", root, layout="csv_columns")
    with pytest.warns(UserWarning, match=r"two lists mine\.csv, and they differ: .*cards/mine\.csv is taken"):
        task = load_task(str(tmp_path / "cards/mine.yaml"), root)
    assert sorted(task.clips["split"]) == ["test", "train", "train"]


def test_a_value_for_another_task_must_be_a_folder_too(find, tmp_path):
    root = in_parts(tmp_path / "mine", "train", "test")
    with pytest.raises(EvarError, match=r"--data minne=.*absent: .* is not a folder"):
        find("mine", PARTS, root, f"minne={tmp_path}/absent")


@pytest.mark.parametrize(
    ("rest", "there", "said"),
    [
        (
            PARTS,
            ("train.csv", "val.csv", "test.csv"),
            r"clips\.csv not found in .*there are test.csv, .*\{train: train\.csv, valid: val\.csv, test: test\.csv\}\}",
        ),
        (
            PARTS + "options: {file: {train: train.csv, valid: nope.csv, test: test.csv}}\n",
            ("train.csv", "val.csv", "test.csv"),
            r"mine: nope\.csv not found in .*; there are test\.csv, train\.csv, val\.csv",
        ),
        (
            FOLDS,
            ("fold1.csv", "fold2.csv", "fold3.csv"),
            r"file: \{fold1: fold1\.csv, fold2: fold2\.csv, fold3: fold3\.csv\}",
        ),
        (FOLDS, ("clip.csv",), r"clips\.csv not found.*there is clip\.csv; .*options: \{file: clip\.csv\}"),
        (
            PARTS + "split_file: s.csv\n",
            ("list.csv",),
            r"s\.csv not found in .*there is list\.csv; .*split_file: list\.csv",
        ),
        (PARTS + "split_file: s.csv\n", (), r"s\.csv not found in .*there is no csv; .*split_file: NAME"),
    ],
)
def test_lists_that_are_not_in_the_folder_given_are_told_from_those_that_are(find, tmp_path, rest, there, said):
    root = files(tmp_path / "set", "a/1.wav", "b/2.wav", *there)
    with pytest.raises(EvarError, match=said) as caught:
        find("mine", rest, root, layout="csv_columns")
    assert "no dataset found" not in str(caught.value)


def test_a_part_that_is_chosen_as_the_dataset_is_said_to_lie_beside_others(find, tmp_path):
    root = in_parts(tmp_path / "birds", "train", "valid", "test")
    with pytest.warns(UserWarning, match=r"test is read alone: other parts lie beside it in .*birds; .*--data test="):
        find("test", FOLDS + "options: {draw: true}", f"test={root}/test")


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("options: {draw: true, parts: {train: train, test: test}}\n", "'parts' has no effect beside 'draw'"),
        ("split_file: s.csv\noptions: {draw: true}\n", "'draw' has no effect beside 'split_file'"),
        ("split_file: s.csv\noptions: {leave_out: [valid]}\n", "'leave_out' has no effect beside 'split_file'"),
    ],
)
def test_options_without_effect_are_said_before_the_dataset_is_looked_for(find, tmp_path, rest, said):
    with pytest.raises(EvarError, match=said):
        find("mine", PARTS + rest, in_parts(tmp_path / "set", "train", "valid", "test"))
