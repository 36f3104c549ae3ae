"""The house has one-way doors (docs/architecture.md): no room imports a room to its right."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "evar"
BASE = {"errors", "files", "extras", "download", "events", "yaml_files", "products", "words"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "extras": {"errors"},
    "download": {"errors", "files"},
    "events": set(),
    "yaml_files": {"errors"},
    "products": set(),
    "words": set(),
    "datasets": BASE | {"audio"},
    "audio": BASE,
    "encoders": BASE | {"audio"},
    "store": BASE,
    "probes": BASE,
    "results": BASE,
    "runner": BASE | {"datasets", "audio", "encoders", "store", "probes", "results"},
    "migration": BASE | {"datasets", "encoders", "store", "probes", "results"},
    "engines": BASE | {"results", "runner"},
    "pretraining": BASE | {"audio", "encoders"},
    "reporting": BASE | {"datasets", "store", "probes", "results"},
    "cli": BASE
    | {
        "datasets",
        "audio",
        "encoders",
        "store",
        "probes",
        "results",
        "runner",
        "engines",
        "migration",
        "pretraining",
        "reporting",
        "cli",
    },
}
# One room may span several top-level modules.
ROOM_OF = {
    "hear": "encoders",
    "store_format": "store",
    "store_admin": "store",
    "store_sets": "store",
    "leaderboard": "results",
    "cells": "runner",
    "shelf": "runner",
    "jobs": "engines",
    "embed": "runner",
    "compute": "runner",
    "plan": "runner",
    "decoding": "runner",
    "provenance": "runner",
    "results_files": "results",
    "results_identity": "results",
    "predictions": "results",
    "results_seal": "results",
}


def room(module: str) -> str:
    top = module.split(".")[1]
    return ROOM_OF.get(top, top)


def evar_imports(path: Path) -> set[str]:
    """Every `evar.X` that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("evar.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "evar":
                found |= {f"evar.{alias.name}" for alias in node.names if alias.name != "__version__"}
            elif node.module and node.module.startswith("evar."):
                found.add(node.module)
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem[:2] != "__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    here = room("evar." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    for module in evar_imports(path):
        there = room(module)
        assert there == here or there in ALLOWED[here], f"{path.name} ({here}) must not import {module}"


def test_the_parser_sees_a_forbidden_edge(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from evar.results import Results\n    import evar.probes.metrics\n")
    assert {room(module) for module in evar_imports(bad)} == {"results", "probes"}


def test_files_stay_short():
    long = {str(path.relative_to(PACKAGE)): n for path in FILES if (n := len(path.read_text().splitlines())) > 400}
    assert not long
