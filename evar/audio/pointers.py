"""What lies in place of audio: a pointer of Git LFS or git-annex, a saved web page, another kind of file."""

from __future__ import annotations

import os
import re
from pathlib import Path

HEAD_BYTES = 1024  # as much of a file as is looked at
_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = re.compile(rb"(?:\.\./)*(?:\.git)?/?annex/objects/\S+\s*")
_PAGE = re.compile(rb"<!doctype html|<html\b|<head\b|<body\b|<title\b", re.IGNORECASE)
_STARTS = {  # first bytes -> what it is and what to do
    b"PK\x03\x04": "a zip archive, not audio: unpack it",
    b"\x1f\x8b": "a gzip archive, not audio: unpack it",
    b"7z\xbc\xaf'\x1c": "a 7z archive, not audio: unpack it",
    b"Rar!": "a rar archive, not audio: unpack it",
    b"%PDF": "a PDF document, not audio: replace it",
    b"\x89PNG": "a PNG picture, not audio: replace it",
    b"\xff\xd8\xff": "a JPEG picture, not audio: replace it",
    b"\x93NUMPY": "a numpy array, not audio: write it as WAV",
    b"\x1aE\xdf\xa3": "Matroska or WebM, for which there is no decoder here: convert it to WAV or FLAC",
    b"0&\xb2u": "Windows Media (WMA), for which there is no decoder here: convert it to WAV or FLAC",
    b"#!AMR": "AMR speech, for which there is no decoder here: convert it to WAV or FLAC",
}


def what_is(path: Path | str) -> str | None:
    """What a file is that is no audio, and what to do, to stand after "PATH is "; None where the first bytes do not tell.

    Reads `HEAD_BYTES`. Says nothing of audio that is damaged, and nothing of a file that cannot be opened.
    """
    try:
        with open(path, "rb") as stream:
            return what_begins(stream.read(HEAD_BYTES))
    except (OSError, ValueError):
        return None


def what_begins(head: bytes) -> str | None:
    """`what_is` for a file that begins with the bytes `head` (all of it, or `HEAD_BYTES` and more)."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # a page or list saved as UTF-16
        head = head[: len(head) // 2 * 2].decode("utf-16", errors="ignore").encode()
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        return "empty (0 bytes): copy or download it again"
    if text.startswith(_LFS):
        return "a Git LFS pointer, not the audio itself: run `git lfs pull` in its repository"
    if _ANNEX.match(text):
        return "a git-annex pointer, not the audio itself: run `git annex get` or `datalad get` on it"
    if _PAGE.match(text) or (text[:5] in (b"<?xml", b"<!--") and _PAGE.search(text)):
        return "a saved web page (HTML), not audio: the download failed, download it again"
    if text[:5] == b"<?xml":
        return "an XML document, such as a server's error answer, not audio: download it again"
    if text[:1] in (b"{", b"[") and _is_text(text):
        return "JSON text, such as a server's error answer, not audio: download it again"
    if head[4:8] == b"ftyp":
        return "MPEG-4 audio (m4a, mp4), for which there is no decoder here: convert it to WAV or FLAC"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC audio, for which there is no decoder here: convert it to WAV or FLAC"
    for start, what in _STARTS.items():
        if head.startswith(start):
            return what
    if not head.strip(b"\0"):
        return "nothing but zero bytes, what an interrupted copy leaves: copy or download it again"
    if _is_text(text):
        return f"text, not audio (it begins {_first_line(text)!r}): replace it"
    return None


def missing_link(path: Path | str) -> str | None:
    """`link to TARGET, ...` with the way to get it, where `path` is a link without a target; else None."""
    path = os.fspath(path)
    if not os.path.islink(path) or os.path.exists(path):
        return None
    try:
        target = os.readlink(path)
    except OSError:
        return None
    if "annex/objects/" in target.replace("\\", "/"):
        return "a git-annex link whose content is not here: run `git annex get .` or `datalad get .` in the folder"
    return f"a link without a target (it leads to {target}): bring the file, or mend the link"


def _is_text(data: bytes) -> bool:
    """Printable UTF-8, but for what the cut at the end may have halved."""
    try:
        text = data[: len(data) - 3 if len(data) > 64 else None].decode(
            "utf-8", "strict" if len(data) <= 64 else "ignore"
        )
    except UnicodeDecodeError:
        return False
    kept = text.encode()
    whole = len(data) <= 64 or len(kept) >= len(data) - 6  # nothing but the cut was ignored
    return whole and all(char.isprintable() or char in "\r\n\t\f" for char in text)


def _first_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").splitlines()
    return lines[0][:40] if lines else ""
