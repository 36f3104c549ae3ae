"""Optional parts of evar: what each extra of setup.cfg needs, and the one line shown when it is absent."""

from __future__ import annotations

import importlib.util

from evar.errors import EvarError, unknown

# extra -> the modules whose absence means that it is not installed
EXTRAS = {
    "tfhub": ("tensorflow", "tensorflow_hub"),
    "train": ("tensorboard",),
    "report": ("matplotlib",),
    "cluster": ("submitit", "ray"),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "docs": ("mkdocs", "mkdocs_click"),
}


def missing(extra: str) -> tuple[str, ...]:
    """The modules of `extra` that are not installed (nothing is imported); EvarError for an unknown extra."""
    if extra not in EXTRAS:
        raise unknown("extra", extra, EXTRAS)
    return tuple(module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None)


def require(extra: str, what: str) -> None:
    """Raise EvarError, naming the command to type, when `what` needs an extra that is not installed."""
    absent = missing(extra)
    if absent:
        raise EvarError(f"{what} needs {' and '.join(absent)}, which is not installed: pip install 'evar[{extra}]'")
