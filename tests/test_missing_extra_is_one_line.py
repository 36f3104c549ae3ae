"""A missing extra says what to type; EVAR_CORE=1 (`make test-core`) runs this where no extra is installed."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import re
import shlex
from pathlib import Path

import pytest

from evar.errors import EvarError
from evar.extras import DISTRIBUTION, EXTRAS, how_to_install, missing, require

ROOT = Path(__file__).resolve().parents[1]


def declared_in_setup_cfg():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    return setup


def test_the_table_names_the_extras_of_setup_cfg():
    setup = declared_in_setup_cfg()
    declared = set(setup["options.extras_require"]) - {"test", "fuzz", "all"}
    assert set(EXTRAS) == declared
    for extra in declared - {"mlflow", "wandb"}:  # loggers are large and only for those who have a server
        assert f"%({extra})s" in setup["options.extras_require"]["all"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_gives_its_one_line(extra, monkeypatch):
    if not missing(extra):
        if os.environ.get("EVAR_CORE") and extra != "report":  # matplotlib comes with panns-inference
            pytest.fail(f"[{extra}] is installed although this is the base install")
        monkeypatch.setitem(EXTRAS, extra, ("no_such_module_of_evar",))
    wanted = declared_in_setup_cfg()["options.extras_require"][extra].split()
    with pytest.raises(EvarError, match=r"^the thing needs .* not installed: pip install ") as caught:
        require(extra, "the thing")
    said = shlex.split(str(caught.value).partition("pip install ")[2])
    assert [set(re.split("(?=[<>=])|,", one)) for one in said] == [set(re.split("(?=[<>=])|,", one)) for one in wanted]


def test_what_evar_always_needs_is_told_by_the_package():
    assert how_to_install(only="torchaudio") == "pip install torchaudio==2.11.0"
    assert how_to_install(only="soxr").startswith("pip install 'soxr>=")


def test_without_being_installed_the_hint_is_the_checkout(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert how_to_install("tfhub") == "pip install -e '.[tfhub]' in evar's checkout"


def test_the_distribution_has_one_name_and_no_text_advises_somebody_elses():
    assert declared_in_setup_cfg()["metadata"]["name"] == DISTRIBUTION
    theirs = re.compile(r"pip install (-\S+ )*['\"]?evar(?!-audio)\b")
    folders = ("evar", "docs", "tests", "tasks", "drills", "benchmarks", "embeddings", "results", "findings")
    texts = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml")
    ]
    for path in [*texts, *ROOT.glob("*.md"), ROOT / "Makefile"]:
        assert not theirs.search(path.read_text()), path


def test_an_unknown_extra_suggests_the_nearest():
    with pytest.raises(EvarError, match="did you mean 'report'"):
        require("reports", "the thing")
