"""Fear: a walker passes over what is there, counts a folder twice, or never comes back; a pointer is taken for audio."""

from __future__ import annotations

import os

import pytest

from evar.audio import listing
from evar.audio.listing import AUDIO_EXTENSIONS, audio_below, list_audio
from evar.audio.pointers import missing_link, what_is
from evar.errors import EvarError


@pytest.fixture
def tree(tmp_path):
    def make(*names):
        for name in names:
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path / "tree"

    return make


def test_every_ending_counts_in_capitals_too(tree):
    names = [f"a/{i}{ending}" for i, ending in enumerate(AUDIO_EXTENSIONS)]
    root = tree(*names, "a/X.WAV", "a/y.Flac")
    assert set(list_audio(root).files) == {*names, "a/X.WAV", "a/y.Flac"}


def test_files_are_sorted_as_paths_are(tree):
    root = tree("a/b.wav", "a-b/c.wav", "a.wav")
    files = [root / name for name in list_audio(root).files]
    assert files == sorted(files)


def test_linked_folders_are_entered_once_and_under_their_proper_name(tree, tmp_path):
    root = tree("own/1.wav", "z/deep/2.wav")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/3.wav").touch()
    (root / "big").symlink_to(tmp_path / "disk")
    (root / "again").symlink_to(root / "z")
    (root / "z/deep/up").symlink_to("../..")
    (root / "self").symlink_to("self")
    found = list_audio(root)
    assert found.files == ("big/3.wav", "own/1.wav", "z/deep/2.wav")
    assert set(found.left_out[listing.AGAIN]) == {"again -> z", "z/deep/up -> ."}
    assert found.left_out[listing.BROKEN] == ("self",)


def test_what_is_left_out_is_counted_and_named(tree):
    root = tree("a/1.wav", "a/notes.txt", "a/2.json", "a/3.m4a", "a/.hidden.wav", ".old/4.wav")
    (root / "a/5.wav").symlink_to("nowhere")
    said = list_audio(root).said()
    for part in (
        "1 link without a target (a/5.wav)",
        "2 files that are not audio (.json, .txt)",
        "1 audio file without a decoder here (a/3.m4a)",
        "2 hidden files or folders (.old, a/.hidden.wav)",
    ):
        assert part in said


def test_what_nobody_misses_is_counted_without_a_word(tree):
    root = tree("a/1.wav", ".DS_Store", "a/._1.wav", "Thumbs.db", "README.md", "LICENSE", ".git/x", "__MACOSX/a/1.wav")
    found = list_audio(root)
    assert found.said() == ""
    assert len(found.left_out[listing.JUNK]) == 7


def test_a_folder_that_cannot_be_read_is_named(tree):
    root = tree("a/1.wav", "b/2.wav")
    (root / "b").chmod(0)
    try:
        if os.access(root / "b", os.R_OK):
            pytest.skip("this user reads everything")
        assert list_audio(root).left_out[listing.CLOSED] == ("b",)
    finally:
        (root / "b").chmod(0o755)


def test_names_that_are_no_text_are_left_out_and_named(tree):
    root = tree("a/1.wav", "a/two\nlines.wav")
    with open(os.fsencode(root) + b"/a/\xff.wav", "wb"):
        pass
    found = list_audio(root)
    assert found.files == ("a/1.wav",)
    assert len(found.left_out[listing.NAMELESS]) == 2
    found.said().encode()


def test_no_audio_says_what_there_is(tree):
    with pytest.raises(EvarError, match=r"no audio in .*2 audio files without a decoder here \(a/1.m4a, a/2.wma\)"):
        audio_below(tree("a/1.m4a", "a/2.wma"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s9--12.wav\n", "git annex get"),
        (b"../../.git/annex/objects/k/p/SHA256E-s9--12.wav", "datalad get"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b'{"message": "Not Found"}', "JSON"),
        (b"404: Not Found", "text"),
        (b"", "empty"),
        (b"\0\0\0\x20ftypM4A \0\0", "no decoder"),
        (b"PK\x03\x04rest", "zip"),
        (b"\0" * 4096, "zero bytes"),
    ],
)
def test_what_lies_in_place_of_audio_is_named(tmp_path, content, what):
    (tmp_path / "a.wav").write_bytes(content)
    assert what in what_is(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "head", [b"RIFF\x24\0\0\0WAVEfmt ", b"fLaC\0\0\0\x22", b"OggS\0\2", b"ID3\3\0", b"\xff\xfb\x90\0"]
)
def test_audio_is_not_taken_for_something_else(tmp_path, head):
    (tmp_path / "a.wav").write_bytes(head + bytes(range(256)))
    assert what_is(tmp_path / "a.wav") is None


def test_links_without_a_target_say_how_to_get_it(tmp_path):
    (tmp_path / "a.wav").symlink_to("../.git/annex/objects/a/b/c")
    (tmp_path / "b.wav").symlink_to("gone.wav")
    assert "git annex get" in missing_link(tmp_path / "a.wav")
    assert "gone.wav" in missing_link(tmp_path / "b.wav")
    (tmp_path / "gone.wav").touch()
    assert missing_link(tmp_path / "b.wav") is None
