"""Fear: VoxCeleb1's, NSynth's or FSD50K's own lists are read askew, or a broken list gives a wrong task."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from evar.datasets import find_card, load_task, mini
from evar.errors import EvarError

CARDS = Path(__file__).parents[1] / "cards"


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """Card name -> a mini, made once and left as it is."""
    base, made = tmp_path_factory.mktemp("minis"), {}

    def folder(name):
        if name not in made:
            card = find_card(name)
            made[name] = mini.make(card, mini.default_root(card, base))
        return made[name]

    return folder


@pytest.fixture
def copy(templates, tmp_path):
    """A mini that a test may spoil."""
    return lambda name: shutil.copytree(templates(name), tmp_path / name)


def test_vc1_parts_labels_and_videos(templates):
    clips = load_task("vc1", templates("vc1")).clips.set_index("clip_id")
    part = {"1": "train", "2": "valid", "3": "test"}
    for line in (templates("vc1") / "iden_split.txt").read_text().splitlines():
        number, name = line.split()
        row = clips.loc["wav/" + name.removesuffix(".wav")]
        assert (row["split"], row["label"]) == (part[number], name.split("/")[0])
        assert row["group"] == name.rpartition("/")[0]


@pytest.mark.parametrize(
    "line", ["4 id10001/x/00001.wav", "1 id10001/00001.wav", "id10001/x/00001.wav", "1 ../../etc/passwd"]
)
def test_vc1_broken_line(copy, line):
    root = copy("vc1")
    with open(root / "iden_split.txt", "a") as stream:
        stream.write(line + "\n")
    with pytest.raises(EvarError, match=r"iden_split.txt"):
        load_task("vc1", root)


def test_vc1_utterance_in_two_parts(copy):
    root = copy("vc1")
    first = (root / "iden_split.txt").read_text().splitlines()[0]
    with open(root / "iden_split.txt", "a") as stream:
        stream.write("3" + first[1:] + "\n")
    with pytest.raises(EvarError, match="1 clips occur twice"):
        load_task("vc1", root)


def spoil_note(root, part, **fields):
    path = root / f"nsynth-{part}/examples.json"
    notes = json.loads(path.read_text())
    next(iter(notes.values())).update(fields)
    path.write_text(json.dumps(notes))


def test_nsynth_family_absent_from_test_stays_a_class(templates):
    task = load_task("nsynth", templates("nsynth"))
    assert "synth_lead" in task.classes
    assert "synth_lead" not in set(task.clips["label"][task.clips["split"] == "test"])


@pytest.mark.parametrize("part", ["valid", "test"])
def test_nsynth_training_instrument_elsewhere(copy, part):
    root = copy("nsynth")
    spoil_note(root, part, instrument_str="bass_synthetic_000")
    with pytest.raises(EvarError, match=r"1 training instruments .* bass_synthetic_000"):
        load_task("nsynth", root)


@pytest.mark.parametrize("fields", [{"pitch": "60"}, {"pitch": 128}, {"pitch": True}, {"instrument_str": 3}])
def test_nsynth_broken_note(copy, fields):
    root = copy("nsynth")
    spoil_note(root, "train", **fields)
    with pytest.raises(EvarError, match="lacks instrument_str, instrument_family_str or a pitch"):
        load_task("nsynth", root)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"../x": {}}'])
def test_nsynth_broken_json(copy, text):
    root = copy("nsynth")
    (root / "nsynth-valid/examples.json").write_text(text)
    with pytest.raises(EvarError, match=r"nsynth-valid/examples.json"):
        load_task("nsynth", root)


def test_nsynth_pitches_are_three_digits_and_unseen_ones_are_left_out(copy):
    root = copy("nsynth-pitch")
    assert load_task("nsynth-pitch", root).classes[:2] == ("057", "058")
    spoil_note(root, "test", pitch=9)
    file = root / "EVAR_SYNTHETIC.json"
    stated = json.loads(file.read_text())
    stated["counts"] = {"train": stated["counts"]["train"]}
    file.write_text(json.dumps(stated))
    task = load_task("nsynth-pitch", root)
    assert Counter(task.clips["split"]) == {"train": 168, "valid": 48, "test": 47}
    assert "009" not in task.classes


def test_fsd50k_parts_and_labels(templates):
    task = load_task("fsd50k", templates("fsd50k"))
    clips = task.clips.set_index("clip_id")
    assert Counter(clips["split"]) == {"train": 96, "valid": 24, "test": 48}
    assert set(clips["split"][clips.index.str.startswith("FSD50K.eval_audio/")]) == {"test"}
    assert clips.loc["FSD50K.dev_audio/100", "labels"] == ("Animal", "Bark")
    targets = task.targets()
    assert targets.shape == (168, 9)
    assert targets.sum() == sum(len(labels) for labels in clips["labels"])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("dev", "Bark", "Bork", "Bork is not in vocabulary.csv"),
        ("dev", ",val", ",validation", "split validation"),
        ("eval", "\n220,", "\n../220,", "no Freesound id"),
        ("vocabulary", "0,Acoustic_guitar,", "0;Acoustic_guitar;", "index,label,mid"),
    ],
)
def test_fsd50k_broken_ground_truth(copy, file, old, new, message):
    root = copy("fsd50k")
    path = root / f"FSD50K.ground_truth/{file}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(EvarError, match=message):
        load_task("fsd50k", root)


@pytest.mark.parametrize(
    ("name", "parts", "n_classes"),
    [
        ("emodb", {1: 107, 2: 81, 3: 116, 4: 104, 5: 127}, 7),
        ("pack-fsdd", {"train": 900, "test": 300}, 10),
        ("pack-notes-family", {"train": 498, "valid": 76, "test": 340}, 6),
        ("pack-notes-pitch", {"train": 498, "valid": 31, "test": 294}, 65),
        ("pack-librispeech-vc1", {"train": 114, "valid": 21, "test": 60}, 10),
    ],
)
def test_real_audio_pack(shared_data, name, parts, n_classes):
    task = load_task(name, data=[str(shared_data)], tasks_dir=CARDS)
    clips = task.clips
    assert Counter(clips["fold" if "fold" in clips else "split"]) == parts
    assert (len(task.classes), task.partial, task.synthetic) == (n_classes, False, False)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"), [("nsynth", "nsynth-like"), ("nsynth-pitch", "nsynth-like"), ("vc1", "librispeech-speakers")]
)
def test_stand_in_is_refused_under_the_official_name(shared_data, name, folder, partial):
    with pytest.raises(EvarError, match=rf"this is not {name}, also not with --partial"):
        load_task(name, shared_data / folder, partial=partial)


def test_short_fsd50k_list_is_no_part_of_the_official_set(copy):
    root = copy("fsd50k")
    (root / "EVAR_SYNTHETIC.json").unlink()
    with pytest.raises(EvarError, match=r"lists 96 clips, the official list 36796"):
        load_task("fsd50k", root, partial=True)
