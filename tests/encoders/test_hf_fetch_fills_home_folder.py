"""Models are fetched when asked and only then, whole, into evar's cache, and nothing lands in the home folder."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from evar.encoders import hub, load_encoder
from evar.errors import EvarError

SHA = "0123456789abcdef0123456789abcdef01234567"
NAME = "owner/small-model"
FILES = {
    "config.json": b'{"model_type": "wav2vec2"}',
    "preprocessor_config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 400,
    "pytorch_model.bin": b"not wanted, there is safetensors",
    "README.md": b"not wanted",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs: what a model holds, and its files by revision."""

    files = FILES
    cut: frozenset[str] = frozenset()
    asked: list[str]

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        type(self).asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        name = path.rpartition(f"/resolve/{SHA}/")[2]
        if path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            self.send(json.dumps({"id": NAME, "sha": SHA, "siblings": siblings}).encode(), body, {})
        elif path.startswith(f"/{NAME}/resolve/{SHA}/") and name in self.files:
            data = self.files[name]
            etag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": SHA}
            self.send(data, body, etag, cut=name in self.cut)
        else:
            self.send(b"", body, {"X-Error-Code": "RepoNotFound"}, status=404)

    def send(self, data, body, headers, status=200, cut=False):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if cut else data)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server():
    handler = type("ThisHub", (Hub,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_address[1]}"
        yield handler
        running.shutdown()


@pytest.fixture
def endpoint(server, monkeypatch):
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    return server


def test_a_fetch_writes_evars_cache_and_nothing_else(server, tmp_path):
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "EVAR_"))}
    environment = {
        **kept,
        "HOME": str(home),
        "EVAR_CACHE": str(cache),
        "HF_ENDPOINT": server.url,
        "TMPDIR": str(tmp_path),
    }
    code = f"from evar.encoders.hub import fetch_model; print(fetch_model({NAME!r}))"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    folder = Path(ran.stdout.strip())
    assert folder == cache / "weights" / "hf" / "owner--small-model"
    assert sorted(path.name for path in folder.rglob("*")) == [
        "config.json", "model.safetensors", "preprocessor_config.json"
    ]  # fmt: skip
    assert all((folder / path.name).read_bytes() == FILES[path.name] for path in folder.iterdir())
    assert [path for path in cache.rglob("*") if path.is_file() and folder not in path.parents] == []
    assert list(home.rglob("*")) == []


def test_what_was_fetched_is_found_and_not_asked_for_again(endpoint):
    folder = hub.fetch_model(NAME)
    asked = len(endpoint.asked)
    assert hub.fetch_model(NAME) == folder
    assert hub.find_folder(NAME, "x") == folder
    assert len(endpoint.asked) == asked


def test_an_interrupted_fetch_is_not_taken_for_a_model(endpoint, tmp_path):
    endpoint.cut = frozenset({"model.safetensors"})
    with pytest.raises(EvarError) as caught:
        hub.fetch_model(NAME, tmp_path / "model")
    assert f"cannot fetch hf:{NAME}" in str(caught.value)
    assert not (tmp_path / "model").exists()
    endpoint.cut = frozenset()
    folder = hub.fetch_model(NAME, tmp_path / "model")
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_in_shards_comes_with_all_of_them(endpoint, tmp_path):
    shards = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * 99 for n in (1, 2)}
    endpoint.files = {
        "config.json": b"{}",
        "model.safetensors.index.json": b"{}",
        "model-card.safetensors": b"x",
        **shards,
    }
    folder = hub.fetch_model(NAME, tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["config.json", "model.safetensors.index.json", *shards]
    )


def test_a_name_that_is_no_audio_model_or_is_not_there(endpoint, tmp_path):
    endpoint.files = {"README.md": b"x", "tf_model.h5": b"x"}
    with pytest.raises(EvarError, match="holds no transformers model"):
        hub.fetch_model(NAME, tmp_path / "model")
    with pytest.raises(EvarError, match="cannot fetch hf:owner/absent: ") as caught:
        hub.fetch_model("owner/absent", tmp_path / "model")
    assert "\n" not in str(caught.value)
    with pytest.raises(EvarError, match="no name of a model"):
        hub.fetch_model("../../etc", tmp_path / "model")


def test_offline_nothing_is_asked(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("EVAR_OFFLINE", "1")
    with pytest.raises(EvarError, match="EVAR_OFFLINE is set"):
        hub.fetch_model(NAME, tmp_path / "model")
    with pytest.raises(EvarError, match=r"evar weights fetch hf:owner/small-model where there is a network"):
        load_encoder(f"hf:{NAME}")
    assert endpoint.asked == []


def test_a_name_downloads_nothing_by_itself(endpoint, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for spec in (f"hf:{NAME}", f"random:hf:{NAME}", f"wav2vec2-c@{NAME}"):
        with pytest.raises(EvarError, match=r"evar weights fetch hf:owner/small-model$"):
            load_encoder(spec)
    assert endpoint.asked == []


def test_the_hubs_own_cache_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    folder = tmp_path / "models--owner--small-model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(SHA)
    (folder / "snapshots" / SHA).mkdir(parents=True)
    (folder / "snapshots" / SHA / "config.json").write_text("{}")
    assert hub.find_folder(NAME, "x") == folder / "snapshots" / SHA
