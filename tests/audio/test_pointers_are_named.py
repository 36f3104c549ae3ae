"""What lies in the place of audio is called by its name: pointers of Git LFS and git-annex, saved pages."""

from __future__ import annotations

import pytest

from evar.audio.decode import decode
from evar.audio.pointers import what_is
from evar.errors import EvarError

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d" * 32 + "\nsize 12345\n"
IN_PLACE_OF_AUDIO = {
    "lfs": (LFS, "Git LFS pointer", "git lfs pull"),
    "annex": ("/annex/objects/MD5E-s160044--aa.wav\n", "git-annex pointer", "git annex get"),
    "annex_link_as_file": ("../.git/annex/objects/zk/1F/MD5E-s1--a.wav/MD5E-s1--a.wav", "git-annex", "git annex get"),
    "html": ("\n  <!DOCTYPE html>\n<html lang='en'><head><title>404", "saved web page", "download it again"),
    "html_bare": ("<HTML><BODY>Sign in</BODY></HTML>", "saved web page", "download it again"),
    "bom": ("\ufeff<!doctype html><html>", "saved web page", "download it again"),
    "s3": ("<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "XML document", "download it again"),
    "json": ('{"message": "Not Found", "status": "404"}', "JSON", "download it again"),
    "words": ("404: Not Found", "404: Not Found", "replace it"),
}


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".ogg", ".flac", ".raw"])
@pytest.mark.parametrize("kind", IN_PLACE_OF_AUDIO)
def test_decoding_says_what_lies_there_in_place_of_audio(tmp_path, kind, suffix):
    text, what, advice = IN_PLACE_OF_AUDIO[kind]
    path = tmp_path / f"clip{suffix}"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EvarError) as caught:
        decode(path, 16000)
    message = str(caught.value)
    assert all(part in message for part in (str(path), what, advice))
    assert "\n" not in message


def test_a_link_of_git_annex_without_its_file_is_a_pointer_not_a_missing_file(tmp_path):
    path = tmp_path / "clip.wav"
    path.symlink_to("../.git/annex/objects/zk/1F/MD5E-s1--a.wav/MD5E-s1--a.wav")
    with pytest.raises(EvarError, match="git annex get"):
        decode(path, 16000)


def test_audio_and_other_files_are_not_taken_for_pointers(tmp_path):
    import numpy as np
    import soundfile

    for suffix in (".wav", ".flac", ".ogg", ".mp3", ".au", ".aiff"):
        soundfile.write(tmp_path / f"a{suffix}", np.zeros(16000, np.float32), 16000)
        assert what_is(tmp_path / f"a{suffix}") is None
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    (tmp_path / "link").symlink_to("nothing")
    assert [what_is(tmp_path / name) for name in ("noise", "link", "absent")] == [None] * 3
