"""What the headers of containers promise, held to the size of the file: libsndfile quietly shortens what was cut off."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

HEADER_SLACK = 64  # bytes: some writers count the header as data


def missing_bytes(stream: BinaryIO, size: int) -> int:
    """How many bytes of sound a container promises beyond the file's end; 0 where it promises nothing."""
    head = stream.read(12)
    if head[:4] in (b"RIFF", b"RIFX") and head[8:] == b"WAVE":
        return _missing_chunk(stream, size, b"data", "<" if head[3:4] == b"F" else ">")
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return _missing_chunk(stream, size, b"SSND", ">")
    if head[:4] in (b".snd", b"dns.") and len(head) == 12:
        offset, promised = struct.unpack((">" if head[:1] == b"." else "<") + "II", head[4:])
        return _overrun(offset, promised, size)
    if head[:4] == b"OggS":
        return _missing_ogg(stream, size)
    return 0


def _missing_chunk(stream: BinaryIO, size: int, name: bytes, order: str) -> int:
    """Walk the chunks of a RIFF or AIFF file (name, size, payload padded to even) up to the sound."""
    while len(head := stream.read(8)) == 8:
        (promised,) = struct.unpack(order + "I", head[4:])
        if head[:4] == name:
            return _overrun(stream.tell(), promised, size)
        stream.seek(promised + promised % 2, os.SEEK_CUR)
    return 0


def _overrun(offset: int, promised: int, size: int) -> int:
    # Programs that write to a pipe put a size near 2 ** 31 or 2 ** 32 here, for "unknown".
    piped = promised >= 0x7FFF0000
    return 0 if piped else max(0, offset + promised - size)


def _missing_ogg(stream: BinaryIO, size: int) -> int:
    """An Ogg file is a row of pages, each with its own size (RFC 3533): is the last one whole?"""
    stream.seek(max(0, size - 65_307))  # the largest page
    tail = stream.read()
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return size
    n_segments = tail[page + 26]
    end = page + 27 + n_segments + sum(tail[page + 27 : page + 27 + n_segments])
    # One lost byte already loses the packet, so count a page that is cut at all as beyond the slack.
    return 0 if end <= len(tail) else HEADER_SLACK + end - len(tail)
