"""Which format a file is written in: by its suffix, or as asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evar.errors import EvarError, unknown


def format_of(path: str | Path | None, wanted: str | None, suffixes: Mapping[str, str], default: str = "") -> str:
    """`wanted`, else what the suffix of `path` means, else `default` where there is no suffix.

    suffixes: lower-case suffix with its dot -> format. EvarError where suffix and `wanted` disagree, or neither says.
    """
    suffix = Path(path or "").suffix
    if wanted is None and str(path) in suffixes.values():
        example = next(one for one, form in suffixes.items() if form == str(path))
        raise EvarError(f"-o {path}: expected a file, such as FILE{example}; --format {path} gives the format")
    found = suffixes.get(suffix.lower())
    if wanted and found and wanted != found:
        raise EvarError(f"{path} ends in {suffix}, --format says {wanted}: keep one of them")
    if wanted or found:
        return wanted or found
    if default and not suffix:
        return default
    *names, last = (f"FILE{one}" for one in suffixes)
    hint = f"(name the file {', '.join(names)} or {last})"
    raise unknown("format", suffix.lstrip(".") or str(path), set(suffixes.values()), hint)
