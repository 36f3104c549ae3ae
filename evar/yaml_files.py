"""YAML that anybody may have written: cards, grids, protocols. Plain values only, read without harm."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from evar.errors import EvarError

MAX_BYTES = 2**20
MAX_DEPTH = 20  # levels; the loader recurses in C, and some thousand levels end the process
LOOKED_AT = 10_000  # characters that Python's slow parser looks at where the C parser has refused
MAX_WHOLE = 2**63
MAX_DIGITS = 400  # `1:1:1:...` is a number to base 60, and slow to work out
_LOADER: type | None = None


def read_yaml(path: Path) -> Any:
    """The document in a YAML file (YAML 1.1, but `3e-4` is a number): mappings, lists, texts, numbers, dates, true/false.

    Raises EvarError: unreadable, not UTF-8, not YAML, a key twice, more than MAX_BYTES or MAX_DEPTH, a whole number
    beyond 64 bits, a tag (`!!`), an anchor or alias (`&`, `*`): nine lines of them unfold to gigabytes.
    """
    import yaml

    try:
        with open(path, "rb") as stream:
            text = stream.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise EvarError(f"{path} is larger than {MAX_BYTES:,} bytes: this is no file that a person wrote")
        loader = _loader()
        _refuse_tricks(text.decode("utf-8-sig"), loader)
        document = yaml.load(text.decode("utf-8-sig"), Loader=loader)
    except (OSError, UnicodeDecodeError) as error:
        raise EvarError(f"cannot read {path}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise EvarError(f"{path} is not valid YAML: {error}") from None
    return document


def _refuse_tricks(text: str, loader: type) -> None:
    """Raise ValueError, in our words, for what is not read here; yaml.YAMLError for what is no YAML."""
    import yaml

    try:
        _look_through(yaml.parse(text, Loader=loader))
    except yaml.YAMLError:
        # The C parser reads ahead, and from PyYAML 6.0.4 on stops at a depth of its own before ours is seen.
        with contextlib.suppress(yaml.YAMLError):
            _look_through(yaml.parse(text[:LOOKED_AT], Loader=yaml.SafeLoader))
        raise


def _look_through(events: Any) -> None:
    import yaml

    depth = 0
    for event in events:
        problem = None
        if getattr(event, "anchor", None) is not None:
            problem = "anchors and aliases (& and *) are not read here: write the value out"
        elif getattr(event, "tag", None) is not None:
            problem = f"the tag {event.tag[:60]!r} is not read here: write a plain value"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            problem = f"it is nested deeper than {MAX_DEPTH} levels"
        if problem is not None:
            raise ValueError(f"{problem} (line {event.start_mark.line + 1})")


def _loader() -> type:
    """The safe loader (C where there is one) that refuses a key given twice, and numbers that no field can hold."""
    global _LOADER
    if _LOADER is not None:
        return _LOADER
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise yaml.YAMLError(f"key {key.value!r} is given twice (line {key.start_mark.line + 1})")
                if isinstance(key.value, str):
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

        def number(self, node: Any) -> int | float:
            make = self.construct_yaml_int if node.tag.endswith("int") else self.construct_yaml_float
            value = make(node) if len(node.value) <= MAX_DIGITS else MAX_WHOLE
            if isinstance(value, int) and not -MAX_WHOLE <= value < MAX_WHOLE:
                raise ValueError(f"a number that no field can hold (line {node.start_mark.line + 1})")
            return value

    exponent = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.number)
    _LOADER = Loader
    return Loader
