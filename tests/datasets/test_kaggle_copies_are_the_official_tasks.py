"""Fear: the copies that most people have are refused, or give other clips than the official layout."""

from __future__ import annotations

import shutil

import pytest

from evar.datasets import find_card, load_task
from evar.datasets.mini import make


def official(name, tmp_path):
    return make(find_card(name), tmp_path / "official")


def urbansound8k(root, to):
    shutil.copytree(root / "audio", to)
    shutil.copy(root / "metadata/UrbanSound8K.csv", to)


def esc50_deep(root, to):
    shutil.copytree(root / "audio", to / "audio/audio/44100")
    shutil.copytree(root / "audio", to / "audio/audio/16000")
    shutil.copy(root / "meta/esc50.csv", to)


def esc50_both(root, to):
    esc50_deep(root, to)
    shutil.copytree(root / "audio", to / "audio/audio", dirs_exist_ok=True)


def esc50_flat(root, to):
    shutil.copytree(root / "audio", to / "audio")
    shutil.copy(root / "meta/esc50.csv", to)


def gtzan(root, to):
    shutil.copytree(root / "genres", to / "Data/genres_original")
    shutil.copytree(root / "splits", to / "splits")


@pytest.mark.parametrize(
    ("name", "arrange", "audio"),
    [
        ("us8k", urbansound8k, "fold1/"),
        ("esc50", esc50_deep, "audio/audio/44100/"),
        ("esc10", esc50_both, "audio/audio/"),
        ("esc50", esc50_flat, "audio/"),
        ("gtzan", gtzan, "Data/genres_original/"),
    ],
)
@pytest.mark.parametrize("given", ["folder", "parent"])
def test_a_kaggle_copy_is_found_and_has_the_official_clips(tmp_path, monkeypatch, name, arrange, audio, given):
    monkeypatch.chdir(tmp_path)
    root = official(name, tmp_path)
    copy = tmp_path / "sets" / ("gtzan" if name == "gtzan" else "as on kaggle")
    arrange(root, copy)
    shutil.copy(root / "EVAR_SYNTHETIC.json", copy)
    task = load_task(name, data=[str(copy if given == "folder" else copy.parent)])
    assert task.root.resolve() == copy
    assert task.fingerprint == load_task(name, root).fingerprint
    assert task.clips["path"].str.startswith(audio).any()
    assert all(path.is_file() for path in task.files())


def test_the_official_list_is_held_to_its_checksum_in_kaggles_place_too(tmp_path):
    from evar.errors import EvarError

    urbansound8k(official("us8k", tmp_path), tmp_path / "copy")
    with pytest.raises(EvarError, match=r"copy/UrbanSound8K\.csv is not the official list"):
        load_task("us8k", tmp_path / "copy")
