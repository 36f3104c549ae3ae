"""The values of a task card: one rule per type.

A rule is a function (value, where) -> checked value; `where` is `FILE: 'key'` and begins every error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from evar import yaml_files
from evar.errors import EvarError, unknown

Rule = Callable[[Any, str], Any]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; EvarError as `yaml_files.read_yaml` says."""
    return mapping(yaml_files.read_yaml(path), str(path))


def _wrong(where: str, expected: str, value: Any) -> EvarError:
    hint = " (write it in quotes)" if "text" in expected and isinstance(value, (bool, int, float)) else ""
    return EvarError(f"{where}: expected {expected}, found {type(value).__name__} {str(value)[:60]!r}{hint}")


def string(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, "a text", value)
    return value


def strings(value: Any, where: str) -> tuple[str, ...]:
    found = tuple(string(item, where) for item in listed(value, where))
    if len(set(found)) < len(found):
        raise EvarError(f"{where}: holds an entry twice")
    return found


def listed(value: Any, where: str) -> list:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    return value


def mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "a mapping (key: value)", value)
    for key in value:
        string(key, f"{where}: key")
    return value


def flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def positive(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise _wrong(where, "a number above 0", value)
    return float(value)


def whole(least: int) -> Rule:
    def rule(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _wrong(where, f"a whole number from {least}", value)
        return value

    return rule


def one_of(*options: str) -> Rule:
    def rule(value: Any, where: str) -> str:
        if value not in options:
            raise EvarError(f"{where}: {unknown('value', str(value), options)} (one of {', '.join(options)})")
        return value

    return rule


def hexadecimal(digits: int) -> Rule:
    def rule(value: Any, where: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
            raise _wrong(where, f"a text of {digits} digits 0-9a-f", value)
        return value

    return rule


def link(value: Any, where: str) -> str:
    if not re.match(r"https?://\S+$", string(value, where)):
        raise _wrong(where, "a http:// or https:// address", value)
    return value


def relative_path(value: Any, where: str) -> str:
    path = PurePosixPath(string(value, where))
    if path.is_absolute() or ".." in path.parts or "\\" in value:
        raise _wrong(where, "a relative path without '..'", value)
    return value


def relative_paths(value: Any, where: str) -> tuple[str, ...]:
    return tuple(relative_path(item, where) for item in strings(value, where))


def classes(value: Any, where: str) -> int | tuple[str, ...]:
    found = strings(value, where) if isinstance(value, list) else whole(2)(value, where)
    if isinstance(found, tuple) and len(found) < 2:
        raise _wrong(where, "two classes or more", value)
    return found


def counts(value: Any, where: str) -> dict[str, int]:
    return {key: whole(0)(n, f"{where}: {key!r}") for key, n in mapping(value, where).items()}


def checksums(value: Any, where: str) -> dict[str, str]:
    found = mapping(value, where)
    return {relative_path(file, where): hexadecimal(64)(sha, f"{where}: {file!r}") for file, sha in found.items()}


def paper(value: Any, where: str) -> dict[str, Any]:
    for key in mapping(value, where):
        if key != "lr":
            raise EvarError(f"{where}: {unknown('key', key, ['lr'])}")
    rates = mapping(value.get("lr", {}), f"{where}: 'lr'")
    return {"lr": {encoder: positive(rate, f"{where}: 'lr': {encoder!r}") for encoder, rate in rates.items()}}


def plain_mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping of plain values: text, numbers, true/false, null, and lists or mappings of these (four levels)."""
    _plain(mapping(value, where), where, 4)
    return value


def _plain(value: Any, where: str, levels: int) -> None:
    if isinstance(value, (list, Mapping)):
        if levels == 0:
            raise EvarError(f"{where}: is nested too deeply")
        for item in value.values() if isinstance(value, Mapping) else value:
            _plain(item, where, levels - 1)
        if isinstance(value, Mapping):
            mapping(value, where)
    elif value is not None and not isinstance(value, (str, bool, int, float)):
        raise _wrong(where, "texts, numbers, true/false, lists or mappings of these", value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _wrong(where, "a finite number", value)
