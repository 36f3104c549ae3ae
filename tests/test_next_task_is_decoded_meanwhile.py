"""While an encoder is at one task the next one's files are decoded; nothing else about a run changes."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

import evar
from evar.cells import Settings
from evar.datasets import find_card, load_task
from evar.datasets.mini import make
from evar.decoding import Decoding
from evar.encoders.base import Encoder
from evar.errors import EvarError
from evar.results import Results
from evar.runner import Reporter

SETTINGS = {"mini": True, "results": "results", "embeddings": "embeddings"}


class Loudness(Encoder):
    """Two numbers per clip."""

    name, version = "loudness", 1
    sample_rate = 16000
    layers = MappingProxyType({"out": 2})
    default_layers, default_pooling = ("out",), "mean"

    def _clip(self, wav: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        self.at_work()
        return {"out": torch.stack([wav.abs().mean(1), wav.std(1)], dim=1)}

    def at_work(self) -> None:
        pass


def caches() -> list[Path]:
    """The waveform caches that are complete."""
    return sorted(Path("embeddings/waveforms").glob("*/meta.json"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_second_task_is_decoded_before_the_first_is_encoded() -> None:
    class Patient(Loudness):
        seen = 0

        def at_work(self) -> None:
            deadline = time.monotonic() + 60
            while (found := len(caches())) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            Patient.seen = max(Patient.seen, found)

    rows = evar.run(Patient, "esc50,emodb", **SETTINGS)
    assert list(rows["task"]) == ["esc50", "emodb"]
    assert Patient.seen == 2
    assert "decode ahead" not in {thread.name for thread in threading.enumerate()}


def test_a_bad_file_of_the_second_task_costs_the_first_nothing(folder: Path) -> None:
    roots = {name: make(find_card(name), folder / name) for name in ("esc50", "emodb")}
    sorted(roots["emodb"].rglob("*.wav"))[0].write_bytes(b"no audio")
    tasks = [load_task(name, root=root) for name, root in roots.items()]
    with pytest.raises(EvarError, match="cannot be decoded"):
        evar.run(Loudness, tasks)
    assert list(Results("results").leaderboard()["task"]) == ["esc50"]


def test_an_encoder_that_fails_leaves_no_thread_behind() -> None:
    class Broken(Loudness):
        def at_work(self) -> None:
            raise ValueError("no")

    with pytest.raises(EvarError, match="failed on a batch"):
        evar.run(Broken, "esc50,emodb,us8k", **SETTINGS)
    assert "decode ahead" not in {thread.name for thread in threading.enumerate()}


def test_rows_are_those_of_runs_of_one_task_each() -> None:
    class Higher(Loudness):
        name, sample_rate = "higher", 32000

    encoders = [Loudness, Higher]  # two rates: four waveform caches, one after the other
    together = evar.run(encoders, "esc50,emodb", **SETTINGS)
    places = {"results": "r", "embeddings": "e"}
    apart = [evar.run(encoders, task, **SETTINGS | places) for task in ("esc50", "emodb")]
    assert list(together["mean"]) == [score for rows in apart for score in rows["mean"]]


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch):
    """A `Decoding` whose decoding of any task waits until it is let go; the event that lets it go."""
    go = threading.Event()

    def decoded(self, task, sample_rate, progress):
        while not go.wait(0.01):
            progress(0, 1)

    monkeypatch.setattr(Decoding, "_decoded", decoded)
    task = load_task("fsdd", root=make(find_card("fsdd"), Path("fsdd")))
    decoding = Decoding(Settings(), Reporter())
    decoding.begin(task, 16000)
    yield decoding, task, go
    go.set()


def alive() -> bool:
    return "decode ahead" in {thread.name for thread in threading.enumerate()}


def test_an_interrupt_while_the_next_task_is_waited_for_stops_its_thread(waiting, monkeypatch) -> None:
    """Regression: the thread went on, and held the cache's lock."""
    decoding, task, _ = waiting

    def interrupted(self, timeout=None):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("evar.decoding._Ahead.join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decoding.waveforms(task, 16000)
    assert alive()
    decoding.close()
    assert not alive()


def test_closing_does_not_wait_for_the_lock_of_another_process(monkeypatch) -> None:
    """Regression: an error of this task was told when another evar was through with the next one."""
    go = threading.Event()
    monkeypatch.setattr("evar.decoding.STOP_SECONDS", 0.05)
    monkeypatch.setattr(Decoding, "_decoded", lambda self, task, rate, progress: go.wait(60))
    decoding = Decoding(Settings(), Reporter())
    decoding.begin(load_task("fsdd", root=make(find_card("fsdd"), Path("fsdd"))), 16000)
    decoding.close()
    assert alive()
    go.set()
