"""A run that is killed at any moment and resumed ends in the same bits; a run that goes wrong keeps its last good state."""

from __future__ import annotations

import csv
import hashlib
import shutil
import signal
import subprocess
import threading

import numpy as np
import pytest
import torch

from evar.encoders.registry import load_encoder
from evar.errors import EvarError
from evar.pretraining import checkpoint, trainer
from evar.pretraining.byol import ByolMethod
from evar.pretraining.corpus import open_corpus
from evar.pretraining.trainer import Training, train

SETTINGS = {"preset": "v1-512", "seed": 5}
AUGMENTATION = {"mixup": 0.4, "fader": 1.0, "noise": 0.1, "bank": 10}  # the bank wraps after three batches


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(sounds, tmp_path_factory):
    return open_corpus([sounds], 16000, tmp_path_factory.mktemp("cache"))


def new_method(kind=ByolMethod):
    torch.manual_seed(1)
    encoder = load_encoder("random:byola-v1-512@5").with_normalization({"mean": -8.0, "std": 4.0})
    return kind(encoder, hidden=32, projection=8, augmentation=AUGMENTATION)


def run(corpus, folder, steps=9, method=None, schedule="constant", settings=SETTINGS, **options):
    training = Training(4, steps, 1e-3, seed=5, schedule=schedule, warmup=2)
    options = {"log_every": 1, "checkpoint_every": 2, **options}
    folder.mkdir(exist_ok=True)
    return train(method or new_method(), corpus, training, folder, settings=settings, **options)


def state_digest(folder):
    """Everything that the next step depends on: online, target, projector, predictor, bank, Adam, position."""
    state = checkpoint.load_checkpoint(folder)
    found = hashlib.sha256(str(state["step"]).encode())

    def add(value):
        if isinstance(value, torch.Tensor):
            found.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list):
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    add(state["method"])
    add(state["optimizer"])
    return found.hexdigest()


def log_rows(folder):
    """log.csv without its two columns of time."""
    with open(folder / "log.csv", newline="") as stream:
        return [
            {key: row[key] for key in row if key not in ("seconds", "samples_per_s")} for row in csv.DictReader(stream)
        ]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """An undisturbed run, with what lay in its folder after each step: what a `kill -9` there would have left."""
    folder = tmp_path_factory.mktemp("whole")
    run(corpus, folder / "run", on_step=lambda step: shutil.copytree(folder / "run", folder / f"at-{step.step}"))
    return folder


def test_the_checkpoint_holds_all_that_is_trained(whole):
    state = checkpoint.load_checkpoint(whole / "run")
    for part in ("online.encoder", "online.projector", "predictor", "target.encoder", "target.projector"):
        assert any(name.startswith(part) for name in state["method"]), part
    assert state["method"]["augmentation.mixup.seen"] == 9 * 4
    assert len(state["optimizer"]["state"]) == len([p for p in new_method().parameters() if p.requires_grad])


@pytest.mark.parametrize("step", [3, 6, 8])
def test_killed_after_any_step_it_ends_in_the_same_bits(step, whole, corpus, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole / f"at-{step}", folder)
    held = checkpoint.load_checkpoint(folder)["step"]
    assert held == (step - 1) // 2 * 2, "a checkpoint is written when the step after it has a finite loss"
    with open(folder / "log.csv", "a") as stream:
        stream.write(f"{step + 1},0.5,1.2")  # a power cut may leave half a row
    (folder / ".checkpoint.pt.123.abc.tmp").write_bytes(b"half a checkpoint")
    outcome = run(corpus, folder, resume=True)
    assert (outcome.first, outcome.step, outcome.reason) == (held, 9, "finished")
    assert state_digest(folder) == state_digest(whole / "run")
    assert log_rows(folder) == log_rows(whole / "run")
    assert [row["step"] for row in log_rows(folder)] == [str(i) for i in range(1, 10)]


def test_a_finished_run_has_nothing_to_do(whole, corpus, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    outcome = run(corpus, tmp_path / "run", resume=True)
    assert (outcome.first, outcome.step, outcome.reason) == (9, 9, "finished")
    assert outcome.loss == pytest.approx(float(log_rows(whole / "run")[-1]["loss"]), rel=1e-5)
    assert outcome.seconds == checkpoint.load_checkpoint(whole / "run")["seconds"]
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert log_rows(tmp_path / "run") == log_rows(whole / "run")


def test_more_steps_go_on_where_it_stopped(whole, corpus, tmp_path):
    run(corpus, tmp_path / "short", steps=5)
    run(corpus, tmp_path / "short", resume=True)
    assert state_digest(tmp_path / "short") == state_digest(whole / "run")
    assert log_rows(tmp_path / "short") == log_rows(whole / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_in_hand(number, whole, corpus, tmp_path):
    def at(step):
        if step.step == 4:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    outcome = run(corpus, tmp_path / "run", on_step=at, checkpoint_every=None)
    assert (outcome.reason, outcome.signal, outcome.step) == ("interrupted", number, 5)
    assert signal.getsignal(number) is before
    run(corpus, tmp_path / "run", resume=True)
    assert state_digest(tmp_path / "run") == state_digest(whole / "run")
    assert log_rows(tmp_path / "run") == log_rows(whole / "run")


def test_a_second_signal_acts_at_once(corpus, tmp_path):
    def twice(step):
        signal.raise_signal(signal.SIGINT)  # handled before it returns; os.kill may reach another thread, and late
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(corpus, tmp_path / "run", on_step=twice)
    finally:
        signal.signal(signal.SIGINT, before)


def test_max_hours_counts_anew_with_each_call(corpus, tmp_path):
    steps = [run(corpus, tmp_path / "run", max_hours=1e-9, resume=i > 0).step for i in range(3)]
    assert steps == [1, 2, 3]


def test_outside_the_main_thread_it_trains_without_signals(whole, corpus, tmp_path):
    found = []

    def work():
        torch.set_num_threads(1)
        found.append(run(corpus, tmp_path / "run", steps=2))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].reason == "finished"


def test_probing_changes_nothing(whole, corpus, tmp_path):
    method = new_method()

    def probe(step):
        """What a probe may do to the process: draw numbers, and leave the network in eval mode."""
        torch.rand(100)
        np.random.seed(0)  # noqa: NPY002
        method.eval()

    seen = []
    run(corpus, tmp_path / "run", method=method, probe_every=2, on_probe=lambda step: (seen.append(step), probe(step)))
    assert seen == [2, 4, 6, 8, 9]
    assert state_digest(tmp_path / "run") == state_digest(whole / "run")


class Collapsed(ByolMethod):
    """Every clip has the same embedding."""

    def forward(self, views):
        loss, embeddings = super().forward(views)
        return loss, torch.ones_like(embeddings) + 1e-4 * embeddings


def test_a_collapse_is_said_once_while_it_trains(corpus, tmp_path, capsys):
    from evar.cli.progress import TrainingBar

    seen = []
    with TrainingBar(hidden=True) as bar:
        run(
            corpus, tmp_path / "run", 3, new_method(Collapsed), on_step=lambda step: (seen.append(step), bar.step(step))
        )
    assert [step.collapsed for step in seen] == [True] * 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evar: warning: step 1: the embeddings have collapsed")
    assert all(float(row["embedding_std"]) < 0.05 for row in log_rows(tmp_path / "run"))


def test_a_healthy_run_is_not_called_collapsed(whole):
    assert all(float(row["embedding_std"]) > 0.1 for row in log_rows(whole / "run"))


# --- what cannot go on ------------------------------------------------------------------------------------------------


def refused(*arguments, **options):
    with pytest.raises(EvarError) as caught:
        run(*arguments, **options)
    return str(caught.value)


def test_resume_without_a_checkpoint(corpus, tmp_path):
    assert "no checkpoint in" in refused(corpus, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("key", "value"), [("preset", "v2"), ("seed", 6), ("corpus_digest", "f" * 64), ("batch", 8), ("mixup", 0.2)]
)
def test_a_checkpoint_of_another_run(key, value, whole, corpus, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    message = refused(corpus, tmp_path / "run", resume=True, settings={**SETTINGS, key: value})
    assert f"of another run: {key} was {SETTINGS.get(key)!r}, now {value!r}" in message


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("hello")


def pickled(path):
    torch.save({"step": 3, "evil": subprocess.Popen}, path)


def other(path):
    torch.save({"format": 1, "state_dict": {}}, path)


def other_format(path):
    torch.save({**torch.load(path, weights_only=True), "format": 7}, path)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil", [cut, halve, empty, text, pickled, other, other_format, flipped], ids=lambda spoil: spoil.__name__
)
def test_a_damaged_checkpoint_is_one_line(spoil, whole, corpus, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    spoil(tmp_path / "run" / "checkpoint.pt")
    log = (tmp_path / "run" / "log.csv").read_bytes()
    message = refused(corpus, tmp_path / "run", resume=True)
    assert "checkpoint.pt" in message
    assert "damaged" in message or "format" in message
    assert (tmp_path / "run" / "log.csv").read_bytes() == log


def test_a_checkpoint_of_other_tensors_is_one_line(whole, corpus, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    state = checkpoint.load_checkpoint(tmp_path / "run")
    state["method"]["predictor.0.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "run" / "checkpoint.pt")
    assert "does not fit this evar" in refused(corpus, tmp_path / "run", resume=True)


def test_a_batch_that_is_too_small(corpus, tmp_path):
    with pytest.raises(EvarError, match="a batch of 1 cannot be shared by 1 processes"):
        train(new_method(), corpus, Training(1, 3, 1e-3), tmp_path, settings={})


# --- what goes wrong --------------------------------------------------------------------------------------------------


class Diverging(ByolMethod):
    """Its loss is not a number from step `at` on."""

    at = 7

    def forward(self, views):
        self.calls = getattr(self, "calls", 0) + 1
        loss, embeddings = super().forward(views)
        return (loss * torch.nan if self.calls >= self.at else loss), embeddings


@pytest.mark.parametrize(("at", "kept"), [(6, 4), (7, 4), (8, 6)])
def test_nan_stops_with_the_last_good_checkpoint(at, kept, whole, corpus, tmp_path):
    """Step 7 is the one after the checkpoint of step 6: nobody knows yet whether that one is good."""
    method = new_method(Diverging)
    method.at = at
    message = refused(corpus, tmp_path / "run", method=method)
    assert f"the loss is not finite at step {at}" in message
    assert f"checkpoint, of step {kept}, stays" in message
    assert checkpoint.load_checkpoint(tmp_path / "run")["step"] == kept
    outcome = run(corpus, tmp_path / "run", steps=kept, resume=True)  # what the message says to do
    assert outcome.step == kept
    run(corpus, tmp_path / "run", resume=True)
    assert state_digest(tmp_path / "run") == state_digest(whole / "run")


def test_nan_before_any_checkpoint(corpus, tmp_path):
    method = new_method(Diverging)
    method.at = 1
    assert "no checkpoint was due yet" in refused(corpus, tmp_path / "run", method=method)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


class Poisoned(ByolMethod):
    """Its loss is finite, its last update is not."""

    def after_step(self):
        super().after_step()
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 5:
            with torch.no_grad():
                self.online.encoder.fc[0].weight[0, 0] = torch.inf


def test_weights_that_are_not_finite_are_no_result(corpus, tmp_path):
    message = refused(corpus, tmp_path / "run", steps=5, method=new_method(Poisoned))
    assert "the weights are not finite after step 5" in message
    assert checkpoint.load_checkpoint(tmp_path / "run")["step"] == 4


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(whole, corpus, tmp_path, monkeypatch):
    def full(path, n_bytes, what, calls=[]):  # noqa: B006
        calls.append(n_bytes)
        if len(calls) == 2:
            raise EvarError(f"not enough disk for {what} in {path}")

    monkeypatch.setattr(checkpoint, "require_space", full)
    assert "not enough disk for the checkpoint" in refused(corpus, tmp_path / "run")
    assert checkpoint.load_checkpoint(tmp_path / "run")["step"] == 2
    monkeypatch.undo()
    run(corpus, tmp_path / "run", resume=True)
    assert state_digest(tmp_path / "run") == state_digest(whole / "run")


def test_a_disk_too_small_is_said_before_the_first_step(corpus, tmp_path, monkeypatch):
    asked = []

    def full(path, n_bytes, what):
        asked.append(n_bytes)
        raise EvarError(f"not enough disk for {what}")

    monkeypatch.setattr(trainer, "require_space", full)
    assert "not enough disk for the checkpoint" in refused(corpus, tmp_path / "run")
    monkeypatch.undo()
    run(corpus, tmp_path / "other", steps=1)
    assert asked[0] == pytest.approx((tmp_path / "other" / "checkpoint.pt").stat().st_size, rel=0.05)
