"""Fear: half a mini that looks whole, or a folder of the user's that a mini overwrites."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from evar.datasets import find_card, load_task, mini
from evar.errors import EvarError


@pytest.fixture
def card():
    return find_card("nsynth")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return mini.make(find_card("nsynth"), tmp_path_factory.mktemp("template") / "m")


@pytest.fixture
def made(template, tmp_path):
    """A finished mini of nsynth."""
    return shutil.copytree(template, tmp_path / "m")


def times(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_killed_while_making(tmp_path, card):
    root = tmp_path / "m"
    program = f"from evar.datasets import find_card, mini; mini.make(find_card('nsynth'), {str(root)!r})"
    maker = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(".m.*.tmp/nsynth-train/audio/*.wav"))) < 5:
        assert maker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    assert not root.exists()
    mini.make(card, root)
    load_task("nsynth", root)
    assert sorted(path.name for path in tmp_path.iterdir()) in (["m"], [".m.lock", "m"])


def test_intact_one_is_kept_and_a_damaged_one_made_again(made, card):
    root = made
    before = times(root)
    assert times(mini.make(card, root)) == before
    victim = next(root.rglob("*.wav"))
    content = victim.read_bytes()
    victim.unlink()
    mini.make(card, root)
    assert victim.read_bytes() == content


@pytest.mark.parametrize("name", ["*.wav", "EVAR_SYNTHETIC.json"])
def test_one_with_a_flipped_bit_is_made_again(made, card, name):
    """No size has changed, and no time stamp: a disk did it."""
    victim = sorted(made.rglob(name))[0]
    before, content = victim.stat(), victim.read_bytes()
    where = content.index(b"264") if name == "EVAR_SYNTHETIC.json" else 1000
    victim.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    mini.make(card, made)
    assert victim.read_bytes() == content
    load_task("nsynth", made)


def test_one_of_another_version_is_made_again(made, card):
    root = made
    file = root / "EVAR_SYNTHETIC.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"evar_version": "0.0.1"}))
    mini.make(card, root)
    assert json.loads(file.read_text())["evar_version"] != "0.0.1"


def test_other_things_in_the_way_stay(tmp_path, made, card):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(EvarError, match=r"mine is in the way and no mini"):
        mini.make(card, folder)
    with pytest.raises(EvarError, match=r"thesis.txt is in the way"):
        mini.make(card, folder / "thesis.txt")
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") == ["thesis.txt"]

    root = made
    with pytest.raises(EvarError, match=r"mini of 'nsynth', not of 'nsynth-pitch'"):
        mini.make(find_card("nsynth-pitch"), root)
    (root / "thesis.txt").write_text("years of work")
    next(root.rglob("*.wav")).unlink()
    with pytest.raises(EvarError, match=r"beside its mini \(thesis.txt\)"):
        mini.make(card, root)
    assert (root / "thesis.txt").read_text() == "years of work"


def test_empty_folder_is_taken_and_counts_are_asserted(tmp_path, card):
    (tmp_path / "m").mkdir()
    root = mini.make(card, tmp_path / "m")
    stated = json.loads((root / "EVAR_SYNTHETIC.json").read_text())
    assert stated["card"] == "nsynth"
    assert stated["counts"] == {"clips": 264, "train": 168, "valid": 48, "test": 48}
    listing = root / "nsynth-test/examples.json"
    notes = json.loads(listing.read_text())
    notes.pop(next(iter(notes)))
    listing.write_text(json.dumps(notes))
    with pytest.raises(EvarError, match="1 of 264 clips are missing"):
        load_task("nsynth", root)
