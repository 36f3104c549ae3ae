"""Wheel, sdist and editable installs find every card from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARDS = sorted(path.name for path in (ROOT / "tasks").rglob("*") if path.suffix in (".yaml", ".csv"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and an sdist built from a copy of the checkout (building writes into the tree)."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "checkout"
    names = ["evar", "tasks", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"]
    copy.mkdir()
    for name in names:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, copy / name)
    for kind in ("sdist", "wheel"):  # one process each: setuptools rewrites sys.argv
        code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_wheel_and_sdist_hold_every_card(built):
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        inside = {Path(name).name for name in archive.namelist() if name.startswith("evar/_cards/")}
    assert set(CARDS) <= inside
    with tarfile.open(sdist) as archive:
        assert set(CARDS) <= {Path(name).name for name in archive.getnames()}


def test_wheel_works_from_an_empty_folder(built, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(built[0]) as archive:
        archive.extractall(site)
    code = (
        "import evar, json; from evar.datasets import list_cards, find_card; "
        "print(json.dumps([evar.__file__, sorted(list_cards()), str(find_card('esc50').path)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    where, cards, source = json.loads(done.stdout)
    assert where.startswith(str(site))
    assert source.startswith(str(site))
    assert set(cards) == {Path(name).stem for name in CARDS if name.endswith(".yaml")} - {"suites"}


def test_this_install_works_from_an_empty_folder(evar):
    ran = evar("tasks")
    assert ran.code == 0
    assert "esc50" in ran.out
