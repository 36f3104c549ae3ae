"""Fear: the shipped split of GTZAN or CREMA-D, or a split that follows from names, is not the published one."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from evar.datasets import find_card, load_task
from evar.datasets.layouts import cremad
from evar.errors import EvarError

SPLITS = Path(__file__).parents[2] / "tasks" / "splits"


def touch(root, names):
    """Empty files: loading looks at names, never at sound."""
    for folder in {name.rpartition("/")[0] for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()


def gtzan_rows():
    return list(csv.DictReader((SPLITS / "gtzan.csv").read_text().splitlines()))


def test_gtzan_lists_are_those_of_torchaudio():
    lists = pytest.importorskip("torchaudio.datasets.gtzan", exc_type=(ImportError, OSError))
    shipped = {}
    for row in gtzan_rows():
        shipped.setdefault(row["split"], set()).add(Path(row["path"]).stem)
        assert row["path"] == f"genres/{row['label']}/{Path(row['path']).name}"
    assert shipped["train"] == set(lists.filtered_train)
    assert shipped["valid"] == set(lists.filtered_valid)
    assert shipped["test"] == set(lists.filtered_test)


@pytest.mark.parametrize(("folder", "extension"), [("genres", ".wav"), ("genres", ".au"), ("genres_original", ".wav")])
def test_gtzan_copies_of_other_names_are_one_task(tmp_path, folder, extension):
    paths = [row["path"].replace("genres/", f"{folder}/").replace(".wav", extension) for row in gtzan_rows()]
    touch(tmp_path, [*paths, f"{folder}/jazz/jazz.00099{extension}"])
    task = load_task("gtzan", tmp_path)
    assert Counter(task.clips["split"]) == {"train": 443, "valid": 197, "test": 290}
    assert len(task.classes) == 10
    assert task.clips["clip_id"][0] == "genres/blues/blues.00000"
    assert task.clips["path"][0] == f"{folder}/blues/blues.00000{extension}"


def test_gtzan_folder_without_genres(tmp_path):
    with pytest.raises(EvarError, match="no folder genres or genres_original"):
        load_task("gtzan", tmp_path)


def test_cremad_rule_gives_the_official_names(shared_data):
    listed = (shared_data / "official-metadata/CREMA-D/AudioWAV_filenames.txt").read_text().split()
    assert cremad.official_names() == sorted(Path(name).stem for name in listed)


def test_cremad_actors_are_the_published_split(shared_data):
    def part_of(path):
        rows = csv.DictReader(path.read_text().splitlines())
        return {row["split"]: row["actors"].split() for row in rows if row["split"] != "train"}

    assert part_of(SPLITS / "cremad_actors.csv") == part_of(shared_data.parent / "splits/cremad_actors.csv")


def test_cremad_in_full(tmp_path):
    names = [f"AudioWAV/{name}.wav" for name in cremad.official_names()]
    assert len(names) == 7442
    touch(tmp_path, names)
    task = load_task("cremad", tmp_path)
    assert Counter(task.clips["split"]) == {"train": 5155, "valid": 732, "test": 1551}
    assert task.clips.groupby("split")["group"].nunique().to_dict() == {"train": 63, "valid": 9, "test": 19}
    assert task.classes == ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    assert "AudioWAV/1017_IWW_FEA_XX" not in set(task.clips["clip_id"])
    (tmp_path / "AudioWAV/1001_DFA_ANG_XX.wav").unlink()
    with pytest.raises(EvarError, match=r"1 of 7438 clips are missing .*AudioWAV/1001_DFA_ANG_XX"):
        load_task("cremad", tmp_path)


@pytest.mark.parametrize("row", ["test,1001 1009", "test,1001 1092"], ids=["in two parts", "no such actor"])
def test_cremad_actor_file_with_a_slip(tmp_path, row):
    (tmp_path / "actors.csv").write_text(f"split,actors\nvalid,1009\n{row}\n")
    (tmp_path / "AudioWAV").mkdir()
    with pytest.raises(EvarError, match="expected each of 1001-1091 once"):
        cremad.read(tmp_path, replace(find_card("cremad"), split_file="actors.csv"))


def test_cremad_actor_forgotten_does_not_train_in_silence(tmp_path):
    (tmp_path / "actors.csv").write_text("split,actors\nvalid,1009\n")
    with pytest.raises(EvarError, match="are in no part"):
        cremad.read(tmp_path, replace(find_card("cremad"), split_file="actors.csv"))


def fsdd_names(n=50):
    speakers = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
    return [f"recordings/{digit}_{who}_{i}.wav" for digit in range(10) for who in speakers for i in range(n)]


@pytest.mark.parametrize(("name", "n_classes", "column"), [("fsdd", 10, 0), ("fsdd-speaker", 6, 1)])
def test_fsdd_in_full(tmp_path, name, n_classes, column):
    touch(tmp_path, fsdd_names())
    task = load_task(name, tmp_path)
    assert Counter(task.clips["split"]) == {"train": 2700, "test": 300}
    assert len(task.classes) == n_classes
    parts = task.clips["clip_id"].str.removeprefix("recordings/").str.split("_", expand=True)
    assert (parts[column] == task.clips["label"]).all()
    assert ((parts[2].astype(int) < 5) == (task.clips["split"] == "test")).all()


def test_fsdd_names_what_is_missing(tmp_path):
    touch(tmp_path, fsdd_names()[1:])
    with pytest.raises(EvarError, match=r"1 of 3000 clips are missing .*recordings/0_george_0"):
        load_task("fsdd", tmp_path)
    task = load_task("fsdd", tmp_path, partial=True)
    assert (len(task.clips), task.partial, task.missing) == (2999, True, ("recordings/0_george_0",))


def test_emodb_refuses_what_is_not_named_by_its_rule(tmp_path):
    touch(tmp_path, ["wav/03a01Fa.wav", "wav/99a01Fa.wav"])
    with pytest.raises(EvarError, match="'99a01Fa' is not named as EmoDB's files are"):
        load_task("emodb", tmp_path)
