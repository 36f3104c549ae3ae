"""Whatever is in a file that evar reads: one line, or what it says; no traceback, no code, no file elsewhere.

The targets are those that `drills/fuzz.py` fuzzes for minutes; here each meets a few mutations, always the same ones.
"""

from __future__ import annotations

import os
import warnings

import pytest
from fuzz_targets import targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SLOW = {"official_lists", "hf_folder"}  # seconds to make: only in the drill
EDITS = st.lists(
    st.tuples(
        st.integers(0, 2**16), st.sampled_from(("put", "cut", "insert", "repeat")), st.binary(min_size=1, max_size=6)
    ),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, edits: list[tuple[int, str, bytes]]) -> bytes:
    for place, how, new in edits:
        at = 1 + place % max(len(data) - 1, 1)  # the first byte names the file
        if how == "cut":
            data = data[:at]
        elif how == "put":
            data = data[:at] + new + data[at + len(new) :]
        elif how == "insert":
            data = data[:at] + new + data[at:]
        else:
            data = data[:at] + data[at : at + 40] * 3 + data[at + 40 :]
    return data


@pytest.mark.parametrize("name", sorted(targets().keys() - SLOW))
def test_nothing_but_one_line_comes_out_of_a_reader(name, tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    monkeypatch.setenv("EVAR_CANARY", str(canary))
    monkeypatch.setenv("EVAR_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = targets()[name](tmp_path / "work")
        seeds = list(target.seeds())
        for number, data in enumerate(target.files.values()):
            assert target.try_one(bytes([number]) + data) is None, "a valid file is refused"
        for data in seeds[:: max(1, len(seeds) // 20)]:
            target.try_one(data)

        @settings(
            derandomize=True, max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(which=st.integers(0, 2**16), edits=EDITS)
        def mutations(which, edits):
            target.try_one(edited(seeds[which % len(seeds)], edits))

        mutations()
    assert not canary.exists(), "planted code ran"
    assert set(os.listdir(tmp_path)) <= {"work", "cache"}, "a file outside the folder"
