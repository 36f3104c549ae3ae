"""Probes: embeddings and labels in, scores with intervals out. Nothing heavy is imported before it is used."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "evaluate": "evaluation",
    "Evaluation": "evaluation",
    "Run": "evaluation",
    "Protocol": "protocol",
    "estimate_seconds": "slices",
    "get_protocol": "protocol",
    "list_protocols": "protocol",
}
__all__ = ["Evaluation", "Protocol", "Run", "estimate_seconds", "evaluate", "get_protocol", "list_protocols"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
