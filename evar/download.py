"""Files from the web: continue after a cut, check the checksum, take the name in one step.

A file that is not yet whole is called `NAME.part`, with `NAME.part.json` beside it saying which file of the server it
is the beginning of; one of another content than declared is kept as `NAME.bad`.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib import error as url_error
from urllib import request as url_request

from evar import __version__, files
from evar.errors import EvarError

TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
LONGEST_PAUSE = 60.0  # seconds, whatever the server asks for in Retry-After
GAIN = 2**20  # bytes: an attempt that brings so many more than ever before is no failure
BLOCK = 2**20
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another in a moment

Progress = Callable[[int, int], None]


class Link(Protocol):
    """A file on a server, and what is known of it: size and hexadecimal digests, None where not known.

    sha256 may be the first digits alone, as file names of torch.hub carry them.
    """

    url: str
    bytes: int | None
    md5: str | None
    sha256: str | None


def is_offline() -> bool:
    """True where EVAR_OFFLINE forbids every download."""
    return os.environ.get("EVAR_OFFLINE", "") not in ("", "0")


def download(item: Link, path: Path, progress: Progress | None = None) -> Path:
    """Bring the file of `item` to `path`, continuing `PATH.part` where there is one; returns `path`.

    A file at `path` is used when it has the declared size and checksum (so a file may be brought by hand). One of
    another content is renamed to `PATH.bad`, so that the next call starts anew. `progress(done, total)` counts bytes
    (total 0: unknown). Raises EvarError: `EVAR_OFFLINE=1`, no link that can be followed, not enough disk, a server
    that does not answer or breaks off, a file of another size or checksum.
    """
    path = Path(path)
    if path.is_file():
        _require_right(path, item, path)
        return path
    by_hand = f"download {item.url} by hand and put it at {path}"
    if not re.match("https?://", item.url):
        raise EvarError(f"cannot fetch {item.url}: only http and https links are followed")
    if is_offline():
        raise EvarError(f"EVAR_OFFLINE is set, so nothing is fetched: unset it, or {by_hand}")
    files.make_folder(path.parent)
    part = path.with_name(path.name + ".part")
    _receive_all(item, part, by_hand, progress or (lambda done, total: None))
    _require_right(part, item, path)
    with files.writing(path):
        os.replace(part, path)
        _discard(part)
    return path


def size_so_far(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file of ours; {} when it is absent or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# --- is it the right file? -------------------------------------------------------------------------------------------


def _require_right(file: Path, item: Link, path: Path) -> None:
    """EvarError, and `file` out of the way as `PATH.bad`, unless its size and checksum are those declared."""
    found = difference(file, item)
    if found is None:
        return
    bad = path.with_name(path.name + ".bad")
    with files.writing(bad):
        os.replace(file, bad)
        _discard(path.with_name(path.name + ".part"))
    raise EvarError(
        f"{item.url}: expected {found}; what came is kept as {bad} and was not used: run the same command "
        "again to fetch it anew"
    )


def difference(file: Path, item: Link) -> str | None:
    """`WHAT, found WHAT` where a file is not what its link says (a size or a digest differs), else None."""
    web_page = " (a web page, not the file)" if _begins_like_html(file) else ""
    if item.bytes is not None and file.stat().st_size != item.bytes:
        return f"{item.bytes} bytes, found {file.stat().st_size}{web_page}"
    for algorithm, expected in (("sha256", item.sha256), ("md5", item.md5)):
        if expected is None:
            continue
        found = _checksum(file, algorithm)
        if found[: len(expected)] != expected.lower():
            return f"{algorithm} {expected.lower()}, found {found}{web_page}"
    return None


def _checksum(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _begins_like_html(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))


# --- the transfer ----------------------------------------------------------------------------------------------------


class _Cut(Exception):
    """An attempt ended early. `pause`: seconds the server asks for; `hopeless`: not worth another attempt at once."""

    def __init__(self, reason: object, pause: float = 0.0, hopeless: bool = False) -> None:
        super().__init__(str(reason) or type(reason).__name__)
        self.pause, self.hopeless = pause, hopeless


def _receive_all(item: Link, part: Path, by_hand: str, progress: Progress) -> None:
    """Make attempts until `part` is whole; EvarError when they bring nothing more. `part` is kept."""
    start = furthest = size_so_far(part)
    failures = 0
    while True:
        try:
            return _receive(item, part, by_hand, progress)
        except _Cut as cut:
            size = size_so_far(part)
            failures = 1 if size >= furthest + GAIN else failures + 1
            furthest = max(furthest, size)
            if failures > len(PAUSES) or (cut.hopeless and furthest == start):
                kept = f"{files.human_bytes(size)} are kept in {part}: " if size else ""
                again = "to continue" if size else "later"
                raise EvarError(f"{item.url}: {cut}; {kept}run the same command again {again}, or {by_hand}") from cut
            time.sleep(max(PAUSES[failures - 1], min(cut.pause, LONGEST_PAUSE)))


def _receive(item: Link, part: Path, by_hand: str, progress: Progress) -> None:
    """One request that continues `part`; returns when `part` is whole, raises `_Cut` when it is not."""
    record = read_json(_record_of(part))
    offset, whole = size_so_far(part), item.bytes or record.get("total")
    if record.get("url") != item.url or (whole is not None and offset > whole):
        _discard(part)
        record, offset, whole = {}, 0, item.bytes
    if offset and offset == whole:
        return
    headers = {"User-Agent": f"evar/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        etag = record.get("etag")
        validator = etag if etag and not etag.startswith("W/") else record.get("last_modified")
        headers |= {"If-Range": validator} if validator else {}
    try:
        response = _opener().open(url_request.Request(item.url, headers=headers), timeout=TIMEOUT)
    except url_error.HTTPError as answer:
        with answer:
            if answer.code == 416 and offset:  # no byte at `offset`: the file is whole, or another one
                if answer.headers.get("Content-Range") == f"bytes */{offset}":
                    return
                _discard(part)
                raise _Cut("the server's file is another one than before") from None
            if answer.code in BUSY:
                raise _Cut(f"HTTP {answer.code} {answer.reason}", _seconds(answer.headers.get("Retry-After"))) from None
            raise EvarError(f"{item.url}: HTTP {answer.code} {answer.reason}; {by_hand}") from None
    except url_error.URLError as error:
        known = (socket.gaierror, ssl.SSLCertVerificationError, ConnectionRefusedError, str)
        raise _Cut(error.reason, hopeless=isinstance(error.reason, known)) from None
    except (http.client.InvalidURL, ValueError) as error:
        raise EvarError(f"{item.url}: not a link that can be followed ({error}); {by_hand}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(error) from None
    with response:
        _store(response, item, part, offset, record, progress)


def _store(
    response: http.client.HTTPResponse,
    item: Link,
    part: Path,
    offset: int,
    record: dict[str, Any],
    progress: Progress,
) -> None:
    """Append the response's body to `part`, or write it from the start where the server does not continue."""
    said = {
        "url": item.url,
        "etag": response.headers.get("ETag"),
        "last_modified": response.headers.get("Last-Modified"),
        "total": response.length,  # bytes of the body; None where the server does not say
    }
    if response.status == 206:
        said["total"] = _continued_total(response, offset)
        if said["total"] is None or any(record.get(key) != said[key] for key in said if record.get(key) is not None):
            _discard(part)
            raise _Cut("the server's file is another one than before, or it sent another range than was asked for")
    elif response.status == 200:
        offset = 0
    else:
        raise _Cut(f"HTTP {response.status} {response.reason}")
    total = said["total"]
    if total is not None and item.bytes is not None and total != item.bytes:
        raise EvarError(
            f"{item.url}: the server's file has {total} bytes, {item.bytes} were expected: another version?"
        )
    whole = item.bytes if total is None else total
    files.require_space(part, (whole or offset) - offset, part.name)
    files.atomic_write(_record_of(part), json.dumps(said))
    with files.writing(part), open(part, "ab" if offset else "wb") as stream:
        progress(offset, whole or 0)
        while total is None or offset < total:
            # one byte more than expected, to see whether the server goes on where it did not say when it ends
            block = _read(response, BLOCK if whole is None else min(BLOCK, whole + (total is None) - offset))
            if not block:
                break
            offset += len(block)
            if whole is not None and offset > whole:
                stream.close()
                _discard(part)
                raise EvarError(f"{item.url}: the server sends more than the {whole} bytes expected; stopped")
            stream.write(block)
            progress(offset, whole or 0)
    if whole is not None and offset < whole:
        raise _Cut(f"the connection ended after {offset} of {whole} bytes")


def _read(response: http.client.HTTPResponse, n: int) -> bytes:
    """At most `n` bytes as soon as there are some; b"" at the end."""
    try:
        return response.read1(n)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _Cut(error) from None


def _continued_total(response: http.client.HTTPResponse, offset: int) -> int | None:
    """The whole file's size from `Content-Range: bytes OFFSET-LAST/TOTAL`; None when it says anything else."""
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", response.headers.get("Content-Range", ""))
    if match is None:
        return None
    first, last, total = map(int, match.groups())
    body_fits = response.length is None or response.length == last + 1 - first
    return total if first == offset > 0 and last + 1 == total and body_fits else None


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and re.fullmatch(r"\d{1,6}", retry_after) else 0.0


def _record_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    for path in (part, _record_of(part)):
        with contextlib.suppress(FileNotFoundError), files.writing(path):
            path.unlink()


def _opener() -> url_request.OpenerDirector:
    """Opens http and https, through the environment's proxies, and follows redirects to those two alone."""
    opener = url_request.OpenerDirector()
    for handler in (
        url_request.ProxyHandler(),
        url_request.HTTPHandler(),
        url_request.HTTPSHandler(),
        url_request.HTTPRedirectHandler(),
        url_request.HTTPDefaultErrorHandler(),
        url_request.HTTPErrorProcessor(),
        url_request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
