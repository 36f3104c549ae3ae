"""A missing extra says what to type; EVAR_CORE=1 (`make test-core`) runs this where no extra is installed."""

from __future__ import annotations

import configparser
import os
from pathlib import Path

import pytest

from evar.errors import EvarError
from evar.extras import EXTRAS, missing, require


def test_the_table_names_the_extras_of_setup_cfg():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(Path(__file__).resolve().parents[1] / "setup.cfg")
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
    with pytest.raises(EvarError, match=rf"^the thing needs .* not installed: pip install 'evar\[{extra}\]'$"):
        require(extra, "the thing")


def test_an_unknown_extra_suggests_the_nearest():
    with pytest.raises(EvarError, match="did you mean 'report'"):
        require("reports", "the thing")
