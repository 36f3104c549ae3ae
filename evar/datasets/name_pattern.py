"""Columns from file names: a regular expression with named groups, matched in a process of its own that can be stopped."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from evar.datasets.tables import clean, first_names
from evar.errors import EvarError

LONGEST, SECONDS = 500, 20.0  # characters of a pattern; time for all names of a list
_WORK = """
import json, re, sys
pattern, names = json.load(sys.stdin)
found = [re.fullmatch(pattern, name) for name in names]
json.dump([None if one is None else one.groupdict("") for one in found], sys.stdout)
"""


def columns(pattern: str, ids: Sequence[str], where: str) -> dict[str, list[str]]:
    """Name of each group of `pattern` -> its text for each clip.

    It has to match the whole file name without extension; one with a `/` in it the whole path. Raises EvarError: a
    pattern that is none or has no named group, names that it does not match, one that does not come to an end.
    """
    names = list(ids) if "/" in pattern else [clip.rpartition("/")[2] for clip in ids]
    try:
        groups = list(re.compile(pattern).groupindex)
    except (re.error, RecursionError, OverflowError) as error:
        raise EvarError(f"{where}: `pattern`: {pattern[:80]!r} is no regular expression: {error}") from None
    if not groups or len(pattern) > LONGEST:
        raise EvarError(
            f"{where}: `pattern`: expected at most {LONGEST} characters with named groups, such as "
            f"'(?P<speaker>[^_]+)_.*', found {pattern[:80]!r}"
        )
    found = _matched(pattern, names, where)
    unmatched = [name for name, one in zip(names, found, strict=True) if one is None]
    if unmatched:
        raise EvarError(
            f"{where}: `pattern`: {pattern!r} does not match {len(unmatched)} of {len(names)} names: "
            f"{first_names(unmatched)}; it has to match the whole {'path' if '/' in pattern else 'name'} without extension"
        )
    return {group: [clean(one[group]) for one in found] for group in groups}


def _matched(pattern: str, names: list[str], where: str) -> list[dict[str, str] | None]:
    command = [sys.executable, "-I", "-S", "-c", _WORK]
    try:
        done = subprocess.run(
            command, input=json.dumps([pattern, names]), capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        raise EvarError(
            f"{where}: `pattern`: {pattern[:80]!r} takes more than {SECONDS:g} s on {len(names)} names; repeats inside "
            "of repeats, such as (a+)+, try too many ways: write [^_]+ for what stands between two '_'"
        ) from None
    except (OSError, subprocess.CalledProcessError) as error:
        raise EvarError(f"{where}: `pattern` could not be tried: {error}") from None
    return json.loads(done.stdout)
