"""A local HTTP server that can be told to break off, stall and lie; the tests of fetch use it."""

from __future__ import annotations

import hashlib
import http.server
import random
import re
import threading

import pytest

from evar.datasets import fetch as fetching

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
