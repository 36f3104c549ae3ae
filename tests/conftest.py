"""Fixtures shared by all tests: where the real audio is, and an environment without surprises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # several test processes share the cores
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The pack of real audio beside the checkout; tests that need it are skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("real audio (../shared/data) is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two dozen sounds of 0.4 to 2 s at 16 kHz."""
    import numpy as np
    import soundfile

    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for i in range(24):
        t = np.arange(int(16000 * random.uniform(0.4, 2.0))) / 16000
        wave = 0.3 * np.sin(2 * np.pi * random.uniform(80, 4000) * t) + random.normal(0, 0.02, len(t))
        soundfile.write(folder / f"{i:02}.wav", wave, 16000)
    return folder


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("EVAR_DATA", "EVAR_TASKS", "EVAR_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EVAR_CACHE", str(tmp_path_factory.getbasetemp() / "evar-cache"))  # nobody's fetched weights
