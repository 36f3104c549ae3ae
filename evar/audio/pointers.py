"""Files that stand in the place of audio: pointers of Git LFS and git-annex, saved web pages, error messages."""

from __future__ import annotations

import os
import re
from pathlib import Path

_HEAD = 200  # bytes that are looked at
_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = re.compile(rb"^[/\\]?(?:annex[/\\]objects[/\\]|(?:\.\.?[/\\])*\.git[/\\]annex[/\\]objects[/\\])")
_PAGE = re.compile(rb"^<(?:!doctype\s+html|html|head|body|title|script|meta|div|h1|p|center)\b", re.IGNORECASE)
_XML = re.compile(rb"^<(?:\?xml|error|response)\b", re.IGNORECASE)
_JSON = re.compile(rb'^\{\s*"')
_WORDS = re.compile(
    rb"^(?:404\b|403\b|40[0-9]\b|50[0-9]\b|HTTP/|not found|access denied|file not found|error\b)", re.IGNORECASE
)


def what_is(path: Path | str) -> str | None:
    """What lies at `path` in place of audio, with what to do about it; None where it may be audio or cannot be read.

    Reads the first 200 bytes. The text continues "PATH is": `"a Git LFS pointer, not audio: run `git lfs pull`"`.
    """
    try:
        if os.path.islink(path) and not os.path.exists(path):
            target = os.readlink(path).encode(errors="surrogateescape")
            return _annex() if b".git/annex/objects/" in target.replace(b"\\", b"/") else None
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
    except (OSError, ValueError):
        return None
    return what_begins(head)


def what_begins(head: bytes) -> str | None:
    """`what_is` of a file that begins with `head`."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # a page or list saved as UTF-16
        head = head.decode("utf-16", errors="ignore").encode()
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(_LFS):
        return "a Git LFS pointer, not audio: run `git lfs pull` where the data were cloned"
    if _ANNEX.match(head):
        return _annex()
    if _PAGE.match(head):
        return "a saved web page (HTML), not audio: download it again, logged in where the site asks for it"
    if head.startswith(b"<!--") or _XML.match(head):
        return "an XML or HTML text, not audio (a server's error message?): download it again"
    if _JSON.match(head):
        return "a JSON text, not audio (a server's error message?): download it again"
    if _WORDS.match(head) and b"\0" not in head:
        words = head.splitlines()[0].decode(errors="replace").strip()[:60]
        return f"a text ({words!r}), not audio (a server's error message?): download it again"
    return None


def _annex() -> str:
    return "a git-annex pointer, not audio: run `git annex get .` (DataLad: `datalad get .`) where the data were cloned"
