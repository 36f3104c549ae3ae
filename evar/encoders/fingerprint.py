"""What an encoder's embeddings depend on, as digests: its weights, its attributes, its code."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evar.products import Linear


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of a state dict, in the order of names."""
    sha = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().cpu().contiguous()
        sha.update(f"{name}\0{values.dtype}\0{list(values.shape)}\0".encode())
        sha.update(values.flatten().view(torch.uint8).numpy())
    return sha.hexdigest()


def plain_attributes(encoder: nn.Module, named: Callable[[type], str] | None = None) -> dict[str, Any]:
    """An author's constructor arguments usually end as attributes: two values never share a fingerprint.

    named: how a class is called; by its place, one of evar's by its name alone where nothing is given.
    """
    named = named or place_of
    known = {"weights_kind", "weights_sha256", "weights_file", "normalization", "_label", *vars(nn.Module())}
    found = {}
    for path, module in encoder.named_modules():
        for name, value in sorted(vars(module).items()):
            if name not in known and (path, name) != ("", "trained_on"):
                found[f"{path}.{name}"] = digestible(value, named)
        for name in sorted(module._non_persistent_buffers_set):
            found[f"{path}.{name}"] = digestible(module._buffers[name], named)
    return found


def digestible(value: Any, named: Callable[[type], str]) -> Any:
    """A value as JSON: containers by content, arrays by the digest of their bytes, other objects by their type."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return [[str(key), digestible(item, named)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [digestible(item, named) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, Tensor):
        return state_digest({"value": value})
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    return named(nn.Linear if type(value) is Linear else type(value))  # which of them it is depends on the processor


def place_of(kind: type) -> str:
    """A class by its place; one of evar's by its name alone, which no move to another file changes."""
    return f"{'evar' if _top(kind) == 'evar' else kind.__module__}.{kind.__qualname__}"


def _top(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def foreign_code(cls: type) -> list[str]:
    """Where the class of an encoder is and what its code is (`foreign_source`); nothing for one that is evar's own."""
    source = foreign_source(cls)
    return [place_of(cls), *source] if source or _top(cls) != "evar" else []


def foreign_source(cls: type) -> list[str]:
    """Digests of the code of an encoder that is not evar's, its own base classes included.

    An edited file never meets its old embeddings; where there is no file (a prompt, a notebook) the compiled methods count.
    """
    found = []
    for one in cls.__mro__:
        if _top(one) in ("evar", "torch", "builtins"):
            continue
        try:
            code = inspect.getsource(sys.modules[one.__module__])
        except (OSError, TypeError, KeyError):
            code = repr(
                [(name, _compiled(getattr(value, "__code__", value))) for name, value in sorted(vars(one).items())]
            )
        found.append(hashlib.sha256(code.encode()).hexdigest())
    return found


def _compiled(code: Any) -> Any:
    """What a function does, without where it stands: bytecode, names and constants; other values by their digest."""
    if not hasattr(code, "co_code"):
        return str(digestible(code, place_of))
    return code.co_code, code.co_names, [_compiled(constant) for constant in code.co_consts]
