"""A link that leads nowhere, or elsewhere than to the web, is one clear line at once."""

from __future__ import annotations

import socket
import time

import pytest

from evar import download as fetching
from evar.datasets.card import Download
from evar.download import download
from evar.errors import EvarError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.zip"


def test_nobody_listens(path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("no use in waiting"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/set.zip"
    with pytest.raises(EvarError, match=r"refused.*by hand"):
        download(Download(url=url), path)


def test_unknown_host(path, monkeypatch):
    def no_such_name(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(EvarError, match=r"Name or service not known.*by hand"):
        download(Download(url="http://data.invalid/set.zip"), path)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/x", "data:,x", "/etc/hostname"])
def test_other_schemes_are_refused(path, url):
    with pytest.raises(EvarError, match="only http and https"):
        download(Download(url=url), path)


@pytest.mark.parametrize("url", ["http://", "http://[::1/x", "http://a b/x", "http://127.0.0.1:port/x"])
def test_malformed_links_are_one_line(path, url, monkeypatch):
    monkeypatch.setattr(fetching, "PAUSES", ())
    with pytest.raises(EvarError):
        download(Download(url=url), path)
