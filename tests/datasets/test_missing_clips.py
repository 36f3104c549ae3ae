"""Fear: clips are missing and a number comes out as if they were there."""

from __future__ import annotations

import pytest

from evar.errors import EvarError


def test_missing_files_are_named_and_counted(mine):
    (mine.root / "001.wav").unlink()
    (mine.root / "sub/005.wav").unlink()
    with pytest.raises(EvarError, match=r"2 of 8 clips are missing.*: 001, sub/005;.*--partial"):
        mine.load()
    task = mine.load(partial=True)
    assert (task.partial, task.missing, len(task.clips)) == (True, ("001", "sub/005"), 6)
    for name in ("001.wav", "sub/005.wav"):
        (mine.root / name).touch()
    assert task.fingerprint != mine.load().fingerprint


def test_a_complete_folder_is_not_partial(mine):
    task = mine.load(partial=True)
    assert (task.partial, task.missing) == (False, ())
    assert task.fingerprint == mine.load().fingerprint


def test_rows_missing_from_the_csv_count_as_missing_clips(mine, rows):
    mine.write_rows(rows[1:])
    with pytest.raises(EvarError, match="1 of 8 clips are missing"):
        mine.load()
    task = mine.load(partial=True)
    assert (task.partial, len(task.clips)) == (True, 7)


def test_a_clip_moved_to_another_part_is_no_partial_set(mine, rows):
    mine.write_rows([*rows[1:], ("001.wav", "cat", "test", "s5")])
    with pytest.raises(EvarError, match="has 3 clips in test, the card says 2"):
        mine.load(partial=True)


def test_an_empty_audio_folder(mine, rows):
    for path, *_ in rows:
        (mine.root / path).unlink()
    for partial in (False, True):
        with pytest.raises(EvarError, match="holds no audio file of its 8 clips"):
            mine.load(partial=partial)


def test_a_part_that_is_missing_altogether(mine):
    for part in ("sub/005.wav", "sub/006.wav"):
        (mine.root / part).unlink()
    with pytest.raises(EvarError, match="holds no valid clips"):
        mine.load(partial=True)


def test_a_folder_in_place_of_a_file_is_missing(mine):
    (mine.root / "001.wav").unlink()
    (mine.root / "001.wav").mkdir()
    with pytest.raises(EvarError, match="1 of 8"):
        mine.load()


@pytest.mark.parametrize("extension", [".flac", ".ogg", ".mp3", ".au", ".aiff", ".WAV"])
def test_another_audio_extension_stands_in(mine, extension):
    (mine.root / "001.wav").rename(mine.root / f"001{extension}")
    task = mine.load()
    assert task.clips["path"][0] == f"001{extension}"
    assert task.clips["clip_id"][0] == "001"


@pytest.mark.parametrize("name", ["001.txt", "001", "001.wav.part"])
def test_another_kind_of_file_does_not_stand_in(mine, name):
    (mine.root / "001.wav").rename(mine.root / name)
    with pytest.raises(EvarError, match="1 of 8"):
        mine.load()


def test_the_named_file_wins_over_a_stand_in(mine):
    (mine.root / "001.flac").touch()
    assert mine.load().clips["path"][0] == "001.wav"


def test_one_listing_per_folder_and_no_stat_per_clip(mine, monkeypatch):
    import os

    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    mine.load()
    inside = [path for path in listed if path.startswith(str(mine.root))]
    assert sorted(inside) == [str(mine.root), str(mine.root / "sub")]
