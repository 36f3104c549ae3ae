"""requirements.lock: one exact version of everything that setup.cfg asks for, within its ranges, and nothing of one machine."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PINNED = {
    canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.!]+)$", LOCK, re.MULTILINE)
}


def declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    parts = [setup["options"]["install_requires"], extras["all"], extras["test"]]
    return [Requirement(line) for part in parts for line in part.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_each_requirement_has_one_version_within_its_range(requirement):
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_the_lock_holds_versions_and_nothing_of_one_machine():
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(PINNED), "a line that is no NAME==VERSION: a local version (+cu130), an address, a path"
    assert "make lock" in LOCK
    assert not re.search(r"https?:|file:|index|/tmp|/home|\+cu", LOCK)


def test_isolated_builds_take_the_setuptools_that_the_tests_have():
    built = re.search(r'^requires = \["(setuptools[^"]+)"\]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert Requirement(built) == next(one for one in declared() if one.name == "setuptools")
    assert Requirement(built).specifier.contains(PINNED["setuptools"])


def test_setup_cfg_admits_no_torchaudio_that_fails_with_a_torch_it_admits():
    ranges = {one.name: one.specifier for one in declared()}
    assert not ranges["torchaudio"].contains("2.11.1"), "it fails to import with torch 2.11 and 2.12"
    assert ranges["torch"].contains("2.11.0")
    assert ranges["torch"].contains("2.14.1")
