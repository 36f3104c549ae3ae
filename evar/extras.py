"""Optional parts of evar: what each extra of setup.cfg needs, and the one line shown when it is absent."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import shlex
from collections.abc import Iterator

from evar.errors import EvarError, unknown

DISTRIBUTION = "evar-audio"
"""The name of setup.cfg, under which evar is installed. `evar` on the package index is somebody else's (2021)."""

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
        raise EvarError(f"{what} needs {' and '.join(absent)}, which is not installed: {how_to_install(extra)}")


@contextlib.contextmanager
def naming(extra: str | None, what: str) -> Iterator[None]:
    """Turn a module that is not there into the one line that installs its extra (None: let it through)."""
    try:
        yield
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        hint = how_to_install(extra)
        raise EvarError(f"{what} needs {error.name}, which is not installed: {hint}") from error


def how_to_install(extra: str | None = None, only: str = "") -> str:
    """The command that brings what an extra needs (None: what evar always needs), or the one package `only` of it.

    It names the requirements themselves, as the installed evar declares them: true for a wheel and for a checkout, and
    never the name of a package that is not ours.
    """
    wanted = []
    for line in _declared():
        requirement, _, marker = line.partition(";")
        of = re.search(r"""\bextra\s*==\s*["']([^"']+)["']""", marker)
        name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]
        if (of[1] if of else None) == extra and only in ("", name):
            wanted.append(requirement.strip())
    if wanted:
        return f"pip install {shlex.join(wanted)}"
    return f"pip install -e {shlex.quote(f'.[{extra}]' if extra else '.')} in evar's checkout"


def _declared() -> list[str]:
    """`name>=1; extra == "x"` of each requirement; none where evar runs without being installed."""
    try:
        return importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
