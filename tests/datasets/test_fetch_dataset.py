"""From a card's links to a dataset folder: each archive once, unpacked once, repaired when files have gone."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import pytest

from evar import files
from evar.datasets.card import Card, Download
from evar.datasets.fetch import fetch
from evar.errors import EvarError


class Server(http.server.HTTPServer):
    """Answers every request with `body`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.requests = b"", []
        self.url = f"http://127.0.0.1:{self.server_port}/files"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def card(*downloads, **given):
    return Card(
        name="mine", seconds=1.0, split="parts", layout="x", folders=("mine-1.0", "mine"), fetch=downloads, **given
    )


def zip_of(**entries):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/") + ".wav", content)
    return stream.getvalue()


def item(server, body, name="mine.zip", **given):
    server.body = body
    return Download(url=f"{server.url}/{name}", sha256=hashlib.sha256(body).hexdigest(), **({"unpack": "zip"} | given))


def test_archive_becomes_the_dataset_folder(server, tmp_path):
    seen = []
    mine = card(item(server, zip_of(mine__a=b"1" * 1000, mine__b=b"22")))
    assert fetch(mine, tmp_path, lambda done, total: seen.append((done, total))) == tmp_path / "mine"
    assert (tmp_path / "mine" / "b.wav").read_bytes() == b"22"
    assert all(0 <= done <= total for done, total in seen)
    assert seen[-1][0] == seen[-1][1]


def test_archive_without_a_top_folder_goes_into_its_own(server, tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo("./word/a.wav")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    mine = card(item(server, stream.getvalue(), unpack="tar.gz", into="mine-1.0"))
    assert fetch(mine, tmp_path) == tmp_path / "mine-1.0"
    assert (tmp_path / "mine-1.0" / "word" / "a.wav").read_bytes() == b"abc"


def test_plain_file_goes_into_its_folder(server, tmp_path):
    mine = card(item(server, b"path,label\n", name="clips.csv", unpack="none", into="mine"))
    assert fetch(mine, tmp_path) == tmp_path / "mine"
    assert (tmp_path / "mine" / "clips.csv").read_bytes() == b"path,label\n"


def test_second_fetch_asks_nothing_and_changes_nothing(server, tmp_path):
    mine = card(item(server, zip_of(mine__a=b"1")))
    fetch(mine, tmp_path)
    before = (tmp_path / "mine" / "a.wav").stat().st_mtime_ns
    fetch(mine, tmp_path)
    assert len(server.requests) == 1
    assert (tmp_path / "mine" / "a.wav").stat().st_mtime_ns == before


def test_archive_may_be_deleted_after_unpacking(server, tmp_path):
    mine = card(item(server, zip_of(mine__a=b"1")))
    fetch(mine, tmp_path)
    for archive in (tmp_path / "downloads").glob("*.zip"):
        archive.unlink()
    fetch(mine, tmp_path)
    assert len(server.requests) == 1


def test_files_that_have_gone_come_back(server, tmp_path):
    mine = card(item(server, zip_of(mine__a=b"1", mine__b=b"2")))
    fetch(mine, tmp_path)
    (tmp_path / "mine" / "a.wav").unlink()
    fetch(mine, tmp_path)
    assert (tmp_path / "mine" / "a.wav").read_bytes() == b"1"
    assert len(server.requests) == 1


def test_files_of_the_user_are_never_overwritten(server, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.wav").write_bytes(b"my own")
    mine = card(item(server, zip_of(mine__a=b"1", mine__b=b"2")))
    with pytest.raises(EvarError, match=r"differ from those in .*mine/a\.wav.*nothing was changed"):
        fetch(mine, tmp_path)
    assert (tmp_path / "mine" / "a.wav").read_bytes() == b"my own"
    assert not (tmp_path / "mine" / "b.wav").exists()


def test_wrong_checksum_unpacks_nothing(server, tmp_path):
    right = item(server, zip_of(mine__a=b"1"))
    server.body = zip_of(mine__a=b"2")
    with pytest.raises(EvarError, match="was not used"):
        fetch(card(right), tmp_path)
    assert not (tmp_path / "mine").exists()


def test_two_archives_called_master_zip_do_not_meet(server, tmp_path):
    first = item(server, zip_of(one__a=b"1"), name="one/archive/master.zip")
    fetch(card(first), tmp_path)
    second = item(server, zip_of(two__a=b"2"), name="two/archive/master.zip")
    fetch(card(second), tmp_path)
    assert (tmp_path / "two" / "a.wav").exists()


def test_space_for_all_downloads_is_required_first(server, tmp_path):
    small = item(server, zip_of(mine__a=b"1"))
    huge = Download(url=server.url, bytes=10**18, unpack="zip")
    with pytest.raises(EvarError, match="not enough disk for the download of mine"):
        fetch(card(small, huge), tmp_path)
    assert server.requests == []


def test_closed_dataset_says_how_to_bring_it(tmp_path):
    with pytest.raises(EvarError, match="mine has no open link: ask the authors"):
        fetch(card(bring="ask the authors"), tmp_path)


def test_second_process_is_told_of_the_first(server, tmp_path):
    mine = card(item(server, zip_of(mine__a=b"1"), name="mine.zip"))
    held, done = threading.Event(), threading.Event()

    def first():
        with files.lock(tmp_path / "downloads" / ".files-mine.zip.lock"):
            held.set()
            done.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    held.wait(10)
    with pytest.raises(EvarError, match="held by another evar process"):
        fetch(mine, tmp_path)
    done.set()
    thread.join()
    assert fetch(mine, tmp_path).is_dir()


def test_read_only_folder_is_one_line(server, tmp_path):
    (tmp_path / "downloads").write_text("a file stands here")
    with pytest.raises(EvarError, match="cannot write"):
        fetch(card(item(server, zip_of(mine__a=b"1"))), tmp_path)
