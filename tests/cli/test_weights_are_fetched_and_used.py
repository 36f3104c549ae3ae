"""Fear: a download that breaks or lies is used; weights that were fetched are not; something is written to the home folder."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from evar import download as downloading
from evar.encoders import huggingface, load_encoder, registry

NAME, FILE = "byola-v1-1024", "published=1.pth"


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(dict(load_encoder(f"random:{NAME}").state_dict()), path)
    return path.read_bytes()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.body` with Range; hangs up after `server.cuts.pop(0)` bytes while there are any."""

    def do_GET(self):
        self.server.asked.append(self.headers.get("Range"))
        body = self.server.body
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[first:][: self.server.cuts.pop(0) if self.server.cuts else None])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder of one's own, and no cache named elsewhere."""
    for name in ("EVAR_CACHE", "XDG_CACHE_HOME", "EVAR_PRETRAINED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def files_in(folder: Path) -> set[str]:
    """All files but locks, relative to the folder."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(".lock")}


@pytest.fixture
def server(content, home, monkeypatch):
    """Publishes weights for NAME (and NAME's entry says so)."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloading, "PAUSES", (0.0,))
    started = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    started.daemon_threads = True
    started.body, started.cuts, started.asked = content, [], []
    publish(monkeypatch, {
        "url": f"http://127.0.0.1:{started.server_port}/files/published%3D1.pth?download=1",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": "CC BY 4.0",
        "note": "for this test",
    })  # fmt: skip
    thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield started
    started.shutdown()
    thread.join()
    started.server_close()


def publish(monkeypatch, source) -> None:
    entries, schemes = registry._shipped()
    changed = entries | {NAME: replace(entries[NAME], source=source)}
    monkeypatch.setattr(registry, "_shipped", lambda: (changed, schemes))


@pytest.fixture
def task(tmp_path) -> tuple[str, ...]:
    """What names a task of twelve short clips of one's own."""
    folder, rows = tmp_path / "mine", ["path,label,split,group"]
    folder.mkdir()
    for i in range(12):
        sound = np.random.default_rng(i).normal(0, 0.1, 16000) * (np.arange(16000) % 4000 < 400 * (1 + 9 * (i % 2)))
        soundfile.write(folder / f"{i}.wav", sound, 16000)
        rows.append(f"{i}.wav,{'ab'[i % 2]},{('train', 'valid', 'test')[i // 4]},g{i}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "mine.yaml").write_text(CARD)
    return (str(tmp_path / "mine.yaml"), "--data", str(folder))


CARD = """
name: mine
seconds: 1.0
split: parts
group: speaker
layout: csv_columns
classes: 2
counts: {clips: 12, train: 4, valid: 4, test: 4}
"""


def listed(evar) -> dict:
    ran = evar("weights", "list", "-o", "json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def encoder_in(found: dict, name: str = NAME) -> dict:
    return next(encoder for encoder in found["encoders"] if encoder["name"] == name)


# --- fetch -----------------------------------------------------------------------------------------------------------


def test_fetched_weights_are_used_by_name_and_the_row_says_which(evar, server, home, content, tmp_path, task):
    message = evar("run", NAME, *task).one_line_error()
    assert f"evar weights fetch {NAME}" in message
    ran = evar("weights", "fetch", NAME)
    assert ran.code == 0, ran.err
    assert "CC BY 4.0 (for this test)" in ran.err
    path = home / ".cache/evar/weights" / NAME / FILE
    assert ran.out.splitlines() == [str(path), f"now: evar run {NAME} TASK"]
    assert path.read_bytes() == content
    ran = evar("run", NAME, *task, "--probe", "knn")
    assert ran.code == 0, ran.err
    row = pd.read_csv(tmp_path / "results" / "leaderboard.csv").iloc[0]
    assert row["encoder"] == NAME
    assert row["weights_sha256"] == hashlib.sha256(content).hexdigest()
    assert files_in(home) == {f".cache/evar/weights/{NAME}/{FILE}", f".cache/evar/weights/{NAME}.json"}


def test_fetching_twice_downloads_once(evar, server):
    assert evar("weights", "fetch", NAME).code == 0
    again = evar("weights", "fetch", NAME)
    assert again.code == 0
    assert server.asked == [None]


def test_a_cut_download_continues(evar, server, home, content):
    server.cuts = [100_000, 0]
    message = evar("weights", "fetch", NAME).one_line_error()
    assert "run the same command again to continue" in message
    assert "needs weights" in evar("check", NAME).one_line_error(), "half a file is no weights"
    assert evar("weights", "fetch", NAME).code == 0
    assert server.asked[-1] == "bytes=100000-"
    assert (home / ".cache/evar/weights" / NAME / FILE).read_bytes() == content


def test_another_file_than_published_is_kept_aside_and_not_used(evar, server, home, content):
    server.body = content[:-1] + b"?"
    message = evar("weights", "fetch", NAME).one_line_error()
    assert f"expected sha256 {hashlib.sha256(content).hexdigest()}, found " in message
    assert f"{FILE}.bad" in message
    assert "needs weights" in evar("check", NAME).one_line_error()
    assert files_in(home) == {f".cache/evar/weights/{NAME}/{FILE}.bad"}


def test_a_web_page_in_place_of_the_file_is_named(evar, server, monkeypatch):
    server.body = b"<!doctype html><title>Log in</title>"
    publish(monkeypatch, {"url": f"http://127.0.0.1:{server.server_port}/w.pth", "md5": "0" * 32})
    assert "a web page, not the file" in evar("weights", "fetch", NAME).one_line_error()


def test_offline_nothing_is_asked_for_but_what_is_here_is_used(evar, server, home, monkeypatch):
    monkeypatch.setenv("EVAR_OFFLINE", "1")
    message = evar("weights", "fetch", NAME).one_line_error()
    assert "EVAR_OFFLINE is set" in message
    assert f"put it at {home / '.cache/evar/weights' / NAME / FILE}" in message
    for name in ("hf:facebook/hubert-base-ls960", "tfhub:google/vggish/1"):
        assert "EVAR_OFFLINE is set" in evar("weights", "fetch", name).one_line_error()
    assert server.asked == []
    assert files_in(home) == set()
    monkeypatch.delenv("EVAR_OFFLINE")
    assert evar("weights", "fetch", NAME).code == 0
    monkeypatch.setenv("EVAR_OFFLINE", "1")
    assert evar("weights", "fetch", NAME).code == 0


def test_offline_in_a_process_of_its_own(process, tmp_path):
    env = {"EVAR_OFFLINE": "1", "HOME": str(tmp_path), "EVAR_CACHE": str(tmp_path / "cache")}
    assert "EVAR_OFFLINE is set" in process("weights", "fetch", "vggish", env=env).one_line_error()
    assert not [name for name in files_in(tmp_path) if "weights" in name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("byola-v1-1042", "did you mean 'byola-v1-1024'"),
        ("byola-v2-2048", "bring your own file, byola-v2-2048@FILE"),
        ("logmel", "it has no weights"),
        ("byola", "they come with evar"),
        ("ftp:x", "expected the name of an encoder, hf:OWNER/MODEL or tfhub:HANDLE"),
        ("hf:", "expected the name of an encoder"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(name, message, evar, home):
    assert message in evar("weights", "fetch", name).one_line_error()


def test_a_cache_that_cannot_be_written_is_one_line(evar, server, home, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("EVAR_CACHE", str(home / "file"))
    assert "a file stands where a folder is needed" in evar("weights", "fetch", NAME).one_line_error()


# --- models of a hub -------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(home, monkeypatch):
    """A hub whose only model is a/b; its download is the one thing not real here."""

    def fetch_model(name, folder):
        assert name == "a/b"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        return folder

    monkeypatch.setattr(huggingface, "fetch_model", fetch_model)


def test_a_model_of_the_hub_is_fetched_and_listed(evar, hub, home):
    ran = evar("weights", "fetch", "hf:a/b")
    folder = home / ".cache/evar/weights/hf/a--b"
    assert ran.out.splitlines() == [str(folder), "now: evar run hf:a/b TASK"]
    assert listed(evar)["models"] == [
        {
            "name": "hf:a/b",
            "where": "here",
            "path": str(folder),
            "bytes": 9,
            "sha256": None,
            "licence": None,
            "get": None,
        }
    ]
    assert "hf:a/b" in evar("weights", "list").out


@pytest.mark.parametrize("right", [True, False])
def test_the_digest_of_an_encoders_hub_model_is_checked(right, evar, hub, home, monkeypatch):
    digest = hashlib.sha256(b"weights" if right else b"others").hexdigest()
    publish(monkeypatch, {"hf": "a/b", "file": "model.safetensors", "sha256": digest})
    ran = evar("weights", "fetch", NAME)
    if right:
        assert ran.code == 0, ran.err
        assert encoder_in(listed(evar))["path"] == str(home / ".cache/evar/weights/hf/a--b")
    else:
        assert "a--b.bad" in ran.one_line_error()
        assert encoder_in(listed(evar))["where"] == "not here"


# --- add and list ----------------------------------------------------------------------------------------------------


def test_add_list_and_run(evar, server, home, content, tmp_path):
    (tmp_path / "mine.pth").write_bytes(content)
    before = encoder_in(listed(evar))
    assert before["where"] == "not here"
    assert before["bytes"] == len(content), "what will come"
    assert before["get"] == f"evar weights fetch {NAME}"
    ran = evar("weights", "add", NAME, tmp_path / "mine.pth")
    assert ran.code == 0, ran.err
    found = encoder_in(listed(evar))
    assert found["where"] == "here"
    assert found["path"] == ran.out.splitlines()[0] == str(home / ".cache/evar/weights" / NAME / FILE)
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert found["licence"] == "CC BY 4.0"
    assert evar("encode", tmp_path, "--encoder", NAME).code in (0, 2), "its weights are found"
    assert server.asked == []


def test_add_refuses_other_weights_unless_forced(evar, server, tmp_path):
    torch.save(dict(load_encoder(f"random:{NAME}@1").state_dict()), tmp_path / "other.pth")
    message = evar("weights", "add", NAME, tmp_path / "other.pth").one_line_error()
    assert hashlib.sha256(server.body).hexdigest() in message
    assert hashlib.sha256((tmp_path / "other.pth").read_bytes()).hexdigest() in message
    assert evar("weights", "add", NAME, tmp_path / "other.pth", "--force").code == 0
    assert encoder_in(listed(evar))["path"].endswith("other.pth")
    assert evar("weights", "fetch", NAME).code == 0
    assert encoder_in(listed(evar))["path"].endswith(FILE), "fetch brings the published ones"


def test_the_list_says_where_everything_is(evar, home, tmp_path):
    from evar.encoders.weights import write_weights

    write_weights(
        tmp_path / "pretrained" / "run-s0" / "run-s0.safetensors",
        {"w": torch.zeros(2)},
        {"encoder": NAME, "licence": "CC0"},
    )
    (tmp_path / "pretrained" / "unfinished").mkdir()
    (tmp_path / "pretrained" / "unfinished" / "step-5.safetensors").touch()
    (tmp_path / "pretrained" / "damaged").mkdir()
    (tmp_path / "pretrained" / "damaged" / "damaged.safetensors").write_bytes(b"\xff" * 20)
    found = listed(evar)
    assert found["cache"] == str(home / ".cache/evar")
    assert {encoder["name"] for encoder in found["encoders"]} == set(registry.list_encoders())
    assert encoder_in(found, "logmel")["where"] == "none needed"
    assert encoder_in(found, "byola")["where"] == "bundled"
    assert len(encoder_in(found, "byola")["sha256"]) == 64
    assert encoder_in(found, "cola")["where"] == "not here"
    assert [(run["name"], run["encoder"], run["licence"]) for run in found["runs"]] == [
        ("damaged", None, None),
        ("run-s0", NAME, "CC0"),
    ]
    text = evar("weights", "list").out
    assert "run-s0" in text
    assert "your own: cola@FILE" in text
    assert files_in(home) == set(), "listing writes nothing"
