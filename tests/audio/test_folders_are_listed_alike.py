"""Fear: pre-training, encode and the search for leaks see different files in one folder, and none says what it leaves."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from evar.cli.encode import find_audio
from evar.cli.leaks import corpus_files
from evar.errors import EvarError
from evar.pretraining.corpus import open_corpus


@pytest.fixture
def corpus(tmp_path):
    """A folder with a linked folder, a loop, capitals, and things that are no audio."""
    folder, disk = tmp_path / "corpus", tmp_path / "disk"
    for number, path in enumerate((folder / "own/1.wav", disk / "2.WAV", disk / "deep/3.aif"), start=1):
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"format": "AIFF"} if path.suffix == ".aif" else {"format": "WAV"}
        soundfile.write(path, np.full(800, 0.1 * number, np.float32), 16000, **kind)
    (folder / "big").symlink_to(disk)
    (disk / "deep/up").symlink_to(folder)
    (folder / "own/notes.txt").touch()
    (folder / "own/4.m4a").touch()
    return folder


NAMES = ["big/2.WAV", "big/deep/3.aif", "own/1.wav"]


def test_all_see_the_same_files(corpus, tmp_path):
    assert list(corpus_files((str(corpus),))) == NAMES
    with pytest.warns(UserWarning, match=r"left out: 1 audio file without a decoder here \(own/4.m4a\).* \(.txt\)"):
        assert find_audio((str(corpus),)) == [corpus / name for name in NAMES]
    opened = open_corpus([corpus], 16000, tmp_path / "cache")
    assert list(opened.waves.ids) == NAMES
    assert "own/4.m4a" in opened.unused[0]


def test_none_is_content_with_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/1.wma").touch()
    for look in (
        lambda: find_audio((str(tmp_path / "empty"),)),
        lambda: corpus_files((str(tmp_path / "empty"),)),
        lambda: open_corpus([tmp_path / "empty"], 16000, tmp_path / "cache"),
    ):
        with pytest.raises(EvarError, match=r"no audio in .*1.wma"):
            look()


def test_a_link_without_a_target_is_named(tmp_path):
    (tmp_path / "a.wav").symlink_to("gone.wav")
    with pytest.raises(EvarError, match=r"a.wav is a link without a target \(it leads to gone.wav\)"):
        find_audio((str(tmp_path / "a.wav"),))
