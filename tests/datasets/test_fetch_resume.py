"""A download that breaks, stalls, lies or changes must end as the right file or as one clear line."""

from __future__ import annotations

import hashlib
import http.server
import json
import random
import re
import socket
import threading

import pytest

from evar import download as fetching
from evar.datasets.card import Download
from evar.download import download
from evar.errors import EvarError

BODY = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` at every path, with Range; `script` holds the behaviours of the next requests, in order."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.script, self.requests = BODY, '"one"', [], []
        self.url = f"http://127.0.0.1:{self.server_port}/files/set.zip"
        self.stop = threading.Event()

    def handle_error(self, request, client_address):
        pass  # the client hangs up on purpose


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(dict(self.headers))
        say = self.server.script.pop(0) if self.server.script else whole
        say(self, self.server.body)

    def log_message(self, *arguments):
        pass

    def start(self, status, *headers, etag=True):
        self.send_response(status)
        if etag:
            self.send_header("ETag", self.server.etag)
        for name, value in headers:
            self.send_header(name, str(value))
        self.end_headers()

    def asked_from(self):
        """The first byte of the Range asked for, 0 where If-Range names another file."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", self.server.etag) == self.server.etag
        return int(asked[1]) if asked and same else 0


def whole(handler, body, cut=None):
    """A well-behaved server; with `cut` it hangs up after so many bytes."""
    first = handler.asked_from()
    if first >= len(body):
        return handler.start(416, ("Content-Range", f"bytes */{len(body)}"), ("Content-Length", 0))
    part = body[first:]
    ranged = [("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")] if first else []
    handler.start(206 if first else 200, ("Content-Length", len(part)), *ranged)
    handler.wfile.write(part[:cut])


def cut_after(n):
    return lambda handler, body: whole(handler, body, cut=n)


def no_range(handler, body, cut=None):
    handler.start(200, ("Content-Length", len(body)), etag=False)
    handler.wfile.write(body[:cut])


def status(code, *headers):
    return lambda handler, body: handler.start(code, ("Content-Length", 0), *headers)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "PAUSES", (0.0, 0.0))
    started = Server()
    thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield started
    started.stop.set()
    started.shutdown()
    thread.join()
    started.server_close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "downloads" / "set.zip"


def item(server, **given):
    return Download(url=server.url, **({"bytes": len(BODY), "sha256": SHA256} | given))


def left_beside(path):
    return sorted(p.name for p in path.parent.iterdir() if p != path) if path.parent.exists() else []


def test_plain_download_with_progress(server, path):
    seen = []
    assert download(item(server), path, lambda done, total: seen.append((done, total))) == path
    assert path.read_bytes() == BODY
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)
    assert left_beside(path) == []
    assert re.fullmatch(r"evar/\d.*", server.requests[0]["User-Agent"])


def test_what_is_there_and_right_is_not_fetched_again(server, path):
    download(item(server), path)
    download(item(server, md5=MD5), path)
    assert len(server.requests) == 1


def test_cut_connection_continues_where_it_was(server, path):
    server.script = [cut_after(100_000), cut_after(50_000)]
    download(item(server), path)
    assert path.read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert server.requests[1]["If-Range"] == '"one"'


def test_next_call_continues_after_giving_up(server, path):
    server.script = [cut_after(100_000), *[status(503)] * 9]
    with pytest.raises(
        EvarError, match=r"HTTP 503.*100\.0 kB are kept in .*set\.zip\.part: run the same command again"
    ):
        download(item(server), path)
    assert path.with_name("set.zip.part").read_bytes() == BODY[:100_000]
    server.script = []
    download(item(server), path)
    assert path.read_bytes() == BODY
    assert server.requests[-1]["Range"] == "bytes=100000-"


def test_attempts_end_though_each_brings_a_little(server, path):
    server.script = [cut_after(1000)] * 50
    with pytest.raises(EvarError, match=r"ended after 3000 of 300000 bytes.*run the same command again to continue"):
        download(item(server), path)
    assert len(server.requests) == 3


def test_attempts_go_on_while_they_bring_much(server, path, monkeypatch):
    monkeypatch.setattr(fetching, "GAIN", 20_000)
    server.script = [cut_after(20_000)] * 10
    download(item(server), path)
    assert path.read_bytes() == BODY


def test_server_without_range_support_starts_over_cleanly(server, path):
    server.script = [lambda h, b: no_range(h, b, cut=200_000), no_range]
    download(item(server), path)
    assert path.read_bytes() == BODY
    assert server.requests[1]["Range"] == "bytes=200000-"


def test_chunked_answer_without_length(server, path):
    def chunked(handler, body):
        handler.protocol_version = "HTTP/1.1"
        handler.start(200, ("Transfer-Encoding", "chunked"), ("Connection", "close"))
        for block in (body[:1000], body[1000:]):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        handler.wfile.write(b"0\r\n\r\n")

    server.script = [chunked]
    download(item(server, bytes=None), path)
    assert path.read_bytes() == BODY


def test_changed_etag_between_two_parts_starts_over(server, path):
    server.script = [cut_after(100_000), *[status(503)] * 9]
    server.body, server.etag = bytes(300_000), '"old"'
    with pytest.raises(EvarError):
        download(item(server), path)
    server.script, server.body, server.etag = [], BODY, '"new"'
    download(item(server), path)
    assert path.read_bytes() == BODY


def test_server_that_ignores_if_range_and_continues_another_file(server, path):
    def careless(handler, body):
        handler.headers.replace_header("If-Range", '"new"')
        whole(handler, body)

    server.script = [cut_after(100_000), *[status(503)] * 9]
    server.body, server.etag = bytes(300_000), '"old"'
    with pytest.raises(EvarError):
        download(item(server), path)
    server.script, server.body, server.etag = [careless], BODY, '"new"'
    download(item(server), path)
    assert path.read_bytes() == BODY


def test_part_of_another_link_is_not_continued(server, path):
    server.script = [cut_after(100_000), *[status(503)] * 9]
    with pytest.raises(EvarError):
        download(item(server), path)
    server.script = []
    other = Download(url=server.url + "?mirror=2", sha256=SHA256)
    download(other, path)
    assert "Range" not in server.requests[-1]
    assert path.read_bytes() == BODY


@pytest.mark.parametrize(
    "content_range", ["bytes 0-299999/300000", "bytes 100000-299999/400000", "bytes 1-2/3", "junk"]
)
def test_wrong_content_range_starts_over(server, path, content_range):
    def lying(handler, body):
        handler.start(206, ("Content-Length", 200_000), ("Content-Range", content_range))
        handler.wfile.write(body[100_000:])

    server.script = [cut_after(100_000), lying]
    download(item(server), path)
    assert path.read_bytes() == BODY
    assert "Range" not in server.requests[-1]


def test_content_length_larger_than_the_body(server, path):
    def lying(handler, body):
        handler.start(200, ("Content-Length", len(body) + 10))
        handler.wfile.write(body)

    server.script = [lying]  # then the server says 416: the part is the whole file
    download(item(server, bytes=None), path)
    assert path.read_bytes() == BODY


def test_content_length_smaller_than_the_body_is_caught_by_the_checksum(server, path):
    def lying(handler, body):
        handler.start(200, ("Content-Length", 1000))
        handler.wfile.write(body)

    server.script = [lying]
    with pytest.raises(EvarError, match=f"expected sha256 {SHA256}, found [0-9a-f]{{64}}"):
        download(item(server, bytes=None), path)
    assert not path.exists()
    download(item(server), path)
    assert path.read_bytes() == BODY


def test_length_that_is_not_the_cards_stops_before_the_transfer(server, path):
    with pytest.raises(EvarError, match="has 300000 bytes, 1000 were expected"):
        download(item(server, bytes=1000), path)
    assert left_beside(path) == []


def test_more_bytes_than_declared_stop_the_transfer(server, path):
    def endless(handler, body):
        handler.start(200)
        while not handler.server.stop.is_set():
            handler.wfile.write(body)

    server.script = [endless]
    with pytest.raises(EvarError, match="sends more than the 300000 bytes"):
        download(item(server), path)
    assert not path.exists()
    assert left_beside(path) == []


@pytest.mark.parametrize("given", [{"sha256": "0" * 64}, {"sha256": None, "md5": "0" * 32}])
def test_wrong_checksum_puts_the_file_aside_and_starts_anew(server, path, given):
    with pytest.raises(EvarError, match=r"expected (sha256|md5) 0+, found [0-9a-f]+; .*set\.zip\.bad"):
        download(item(server, **given), path)
    assert not path.exists()
    assert left_beside(path) == ["set.zip.bad"]
    download(item(server), path)
    assert path.read_bytes() == BODY


def test_web_page_in_place_of_the_file_is_named(server, path):
    server.body = b"<!DOCTYPE html><title>Log in</title>"
    with pytest.raises(EvarError, match="a web page, not the file"):
        download(item(server, bytes=None), path)


def test_file_brought_by_hand_is_checked_and_used(server, path):
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert download(item(server), path).read_bytes() == BODY
    path.write_bytes(BODY[:-1])
    with pytest.raises(EvarError, match="expected 300000 bytes, found 299999"):
        download(item(server), path)
    assert server.requests == []


def test_killed_between_last_byte_and_rename_needs_no_transfer(server, path):
    path.parent.mkdir(parents=True)
    path.with_name("set.zip.part").write_bytes(BODY)
    path.with_name("set.zip.part.json").write_text(json.dumps({"url": server.url, "total": len(BODY)}))
    download(item(server), path)
    assert path.read_bytes() == BODY
    assert server.requests == []


def test_redirect_keeps_the_range(server, path):
    hop = status(302, ("Location", "/elsewhere/data"))
    server.script = [hop, cut_after(1000), hop, whole]
    download(item(server), path)
    assert path.read_bytes() == BODY
    assert server.requests[-1]["Range"] == "bytes=1000-"


def test_redirect_loop_ends(server, path):
    server.script = [status(302, ("Location", "/files/set.zip"))] * 50
    with pytest.raises(EvarError, match=r"by hand and put it at .*set\.zip"):
        download(item(server), path)


@pytest.mark.parametrize("scheme", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_redirect_to_another_scheme_is_not_followed(server, path, scheme):
    server.script = [status(302, ("Location", scheme))] * 9
    with pytest.raises(EvarError, match=re.escape(server.url)):
        download(item(server), path)
    assert left_beside(path) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refused_link_names_the_manual_way_at_once(server, path, code):
    server.script = [status(code)] * 9
    with pytest.raises(
        EvarError, match=rf"HTTP {code} .*download {re.escape(server.url)} by hand and put it at {path}"
    ):
        download(item(server), path)
    assert len(server.requests) == 1


def test_busy_server_is_asked_again(server, path):
    server.script = [status(429, ("Retry-After", "0")), status(503)]
    download(item(server), path)
    assert path.read_bytes() == BODY


def test_slow_server_ends_in_one_line(server, path, monkeypatch):
    def stalling(handler, body):
        handler.start(200, ("Content-Length", len(body)))
        handler.wfile.write(body[:1000])
        handler.wfile.flush()
        handler.server.stop.wait(5)

    monkeypatch.setattr(fetching, "TIMEOUT", 0.1)
    server.script = [stalling] * 9
    with pytest.raises(EvarError, match=r"; 1\.0 kB are kept"):
        download(item(server), path)
    assert path.with_name("set.zip.part").read_bytes() == BODY[:1000]


def test_server_that_hangs_up_without_an_answer(server, path):
    server.script = [lambda handler, body: handler.connection.shutdown(socket.SHUT_RDWR)]
    download(item(server), path)
    assert path.read_bytes() == BODY


def test_offline_says_which_file_to_bring(server, path, monkeypatch):
    monkeypatch.setenv("EVAR_OFFLINE", "1")
    with pytest.raises(EvarError, match=rf"EVAR_OFFLINE.*put it at {path}"):
        download(item(server), path)
    assert server.requests == []


def test_full_disk_is_told_before_the_transfer(server, path):
    server.script = [lambda handler, body: handler.start(200, ("Content-Length", 10**18))]
    with pytest.raises(EvarError, match="not enough disk"):
        download(item(server, bytes=None), path)
    assert left_beside(path) == []
