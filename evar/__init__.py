"""evar: how good is a frozen audio representation?

    import evar
    encoder = evar.load_encoder("logmel")                     # encoder.encode(wav [B, N] at encoder.sample_rate) -> [B, D]
    task = evar.load_task("esc50", root="data/ESC-50-master")  # task.clips: a table, one row per clip
    rows = evar.run("logmel,random:byola-v2", "esc50", data=["data"])   # a DataFrame, also written to results/

The words are those of the command line (`evar --help`). Heavy libraries are imported when a name is first used.
"""

from __future__ import annotations

from typing import Any

from evar.errors import EvarError

__version__ = "0.1.0"

_HOMES = {
    "Encoder": "evar.encoders.base",
    "Frames": "evar.encoders.base",
    "load_encoder": "evar.encoders.registry",
    "list_encoders": "evar.encoders.registry",
    "load_task": "evar.datasets",
    "list_tasks": "evar.datasets",
    "Protocol": "evar.probes.protocol",
    "run": "evar.engines",
}
__all__ = [
    "Encoder",
    "EvarError",
    "Frames",
    "Protocol",
    "__version__",
    "list_encoders",
    "list_tasks",
    "load_encoder",
    "load_task",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evar' has no attribute {name!r}")
    import importlib

    home = importlib.import_module(_HOMES[name])
    value = getattr(home, "list_cards" if name == "list_tasks" else name)
    globals()[name] = value
    return value
