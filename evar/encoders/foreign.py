"""Code that is not evar's: imported by name, called without tracebacks, and digested with what it imports."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evar.encoders.fingerprint import foreign_source
from evar.encoders.inputs import checked_rate
from evar.errors import EvarError

SHORTEST_MS = (10, 25, 50, 100, 250, 500, 1000, 2000)
"""Clip lengths tried, in this order, to find the shortest that a model takes; shorter clips are zero-padded to it."""
LONGEST_REASON = 400
"""Characters of a foreign exception that are shown: PyTorch's list of missing keys has thousands."""


def import_own(module_name: str, spec: str) -> ModuleType:
    """Import a user's module from sys.path or the working directory, for the encoder name `spec`; EvarError if not."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a module prints is no part of `--format json`
            return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise EvarError(
            f"cannot import {module_name} for {spec}: {type(error).__name__}: {error};"
            f" try: python -c 'import {module_name}'"
        ) from error


@contextlib.contextmanager
def calling(what: str) -> Iterator[None]:
    """Turn what foreign code raises into one line that begins with `what`; EVAR_TRACEBACK=1 lets it through.

    Running out of memory passes as it is: `evar run` knows what to say about it.
    """
    try:
        yield
    except EvarError:
        raise
    except (Exception, SystemExit) as error:
        if os.environ.get("EVAR_TRACEBACK") or isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + " ..."
        raise EvarError(f"{what}: {type(error).__name__}: {reason} (EVAR_TRACEBACK=1 shows where)") from error


def declared_rate(model: Any, spec: str) -> int:
    """The model's `sample_rate` in Hz, or EvarError."""
    rate = getattr(model, "sample_rate", None)
    if rate is None:
        raise EvarError(f"{spec}: the model has no sample_rate: set it in Hz, as in self.sample_rate = 16000")
    return checked_rate(rate, f"{spec}: sample_rate")


def declared_corpora(model: Any, spec: str) -> tuple[str, ...]:
    """The corpora that a model says it was trained on (`trained_on`, a tuple of names); none where it does not say."""
    corpora = getattr(model, "trained_on", ())
    if isinstance(corpora, str) or not all(isinstance(name, str) for name in _items(corpora)):
        raise EvarError(f'{spec}: trained_on is a tuple of corpus names, as in ("audioset",), found {corpora!r}')
    return tuple(corpora)


def probe_noise(n_clips: int, n_samples: int, device: torch.device) -> Tensor:
    """Quiet white noise, the same every time: float32 [n_clips, n_samples]."""
    generator = torch.Generator().manual_seed(0)
    return (0.1 * torch.randn(n_clips, n_samples, generator=generator)).clamp(-1.0, 1.0).to(device)


def shortest_clip(sample_rate: int, embed: Callable[[int], Any]) -> int:
    """The fewest samples, of SHORTEST_MS, for which `embed(n_samples)` works; its error where none does."""
    for milliseconds in SHORTEST_MS[:-1]:
        n_samples = sample_rate * milliseconds // 1000
        with contextlib.suppress(Exception, SystemExit):
            embed(n_samples)
            return n_samples
    n_samples = sample_rate * SHORTEST_MS[-1] // 1000
    embed(n_samples)
    return n_samples


def finite_floats(value: Any, what: str, device: torch.device, whole: bool = False) -> Tensor:
    """A tensor of torch, numpy, TensorFlow or JAX as float32 on `device`; EvarError naming `what` for anything else.

    Other floating types are converted; integers too where `whole` is set; NaN and infinity are refused.
    """
    if not isinstance(value, Tensor):
        if not hasattr(value, "__array__"):
            kind = "None" if value is None else f"a {type(value).__name__}"
            raise EvarError(f"{what} gives {kind}: expected a float32 tensor")
        array = np.array(value)
        array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array  # torch takes no such array
        if array.dtype.kind not in "fiu":
            raise EvarError(f"{what} gives {array.dtype}: expected float32")
        value = torch.from_numpy(array)
    if not value.is_floating_point() and (not whole or value.is_complex() or value.dtype == torch.bool):
        raise EvarError(f"{what} gives {str(value.dtype).removeprefix('torch.')}: expected float32")
    value = value.detach().to(device, torch.float32)
    if not bool(torch.isfinite(value).all()):
        raise EvarError(f"{what} gives NaN or infinity")
    return value


# ---- what numbers depend on ------------------------------------------------------------------------------------------

_read: dict[str, tuple[Any, str]] = {}
"""Module name -> its import (a reload is another) and the digest of its file when a model of it was first built."""


def model_source(module: ModuleType | None, networks: Iterable[nn.Module]) -> list[str]:
    """Digests of the code behind a user's model: `source_files` of its module, and the files of its layers' classes.

    A library that the module only calls (scipy, a feature extractor) is not in it, except for the layers it brings.
    Raises EvarError for a file that was edited after its import: the code that runs is not the code that it holds.
    """
    digests = set()
    for path, name in ({} if module is None else source_files(module)).items():
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if spec is not None:
            known, before = _read.setdefault(name, (spec, sha256))
            if known is spec and before != sha256:
                raise EvarError(
                    f"{path} was edited after {name} was imported: start Python again, or reload the module"
                )
            _read[name] = spec, sha256
        digests.add(sha256)
    classes = {type(layer) for network in networks for layer in network.modules()}
    return sorted(digests.union(*(foreign_source(one) for one in classes)))


def source_files(module: ModuleType) -> dict[Path, str]:
    """The module's file and those that it imports, followed from file to file, with the names of their modules.

    Only its own code counts: the package that it is in, or, where it is not installed, whatever lies beside it. Files
    that are imported by a computed name are not seen. Empty where there is no file (a notebook), and for evar itself.
    """
    file = getattr(module, "__file__", None)
    if not file or module.__name__.partition(".")[0] == "evar":
        return {}
    start = Path(file).absolute()
    if start.suffix != ".py":
        return {start: module.__name__}
    depth = module.__name__.count(".") + (start.name == "__init__.py")
    root = start.parents[depth]
    package = module.__name__.partition(".")[0] if _is_library(root) else None
    found: dict[Path, str] = {}
    pending = [(module.__name__, start), *_files_of(module.__name__, root)]
    while pending:
        name, path = pending.pop()
        if path in found:
            continue
        found[path] = name
        for imported in _imports(name, path):
            top = imported.partition(".")[0]
            if top != "evar" and package in (None, top):
                pending += _files_of(imported, root)
    return dict(sorted(found.items()))


def _files_of(name: str, root: Path) -> list[tuple[str, Path]]:
    """What importing `a.b` runs, as far as it lies under root: a/__init__.py, a/b/__init__.py or a/b.py."""
    parts, found = name.split("."), []
    for i in range(1, len(parts) + 1):
        base = root.joinpath(*parts[:i])
        found += [(".".join(parts[:i]), p) for p in (base / "__init__.py", base.with_name(f"{base.name}.py"))]
    return [(dotted, path) for dotted, path in found if path.is_file()]


def _imports(name: str, path: Path) -> set[str]:
    """The full names of what a file imports anywhere; `from a import b` is both `a` and `a.b`."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a file that cannot run either
        return set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" if base else alias.name for alias in node.names)}
    return found - {""}


def _is_library(folder: Path) -> bool:
    """Whether a folder holds installed packages, which are not one piece of work."""
    standard = {Path(path) for key, path in sysconfig.get_paths().items() if key in ("stdlib", "platstdlib")}
    return bool({"site-packages", "dist-packages"} & set(folder.parts)) or folder in standard


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (tuple, list, set, frozenset)) else (value,)
