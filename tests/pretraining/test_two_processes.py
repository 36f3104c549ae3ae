"""Two processes train one network: the same parameters in both, one log, one result; where one fails, nobody hangs."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

if not hasattr(os, "fork"):
    pytest.skip("needs fork", allow_module_level=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "127.0.0.1"}

# All library-level checks in one pair of processes, since importing torch is what costs time. Each check is a fork of
# its own: a process that fails has to end, or the other one would wait for it.
WORKER = """
import hashlib, json, os, sys
import numpy as np, torch
from evar.encoders.registry import load_encoder
from evar.errors import EvarError
from evar.pretraining.byol import ByolMethod
from evar.pretraining.checkpoint import load_checkpoint
from evar.pretraining.corpus import open_corpus
from evar.pretraining.processes import check_same, processes
from evar.pretraining.trainer import Training, train
from pathlib import Path

torch.set_num_threads(1)
rank, ports, sounds, folder = int(os.environ["RANK"]), json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
told = {}


def in_group(name, work):
    os.environ["MASTER_PORT"] = str(ports.pop())
    into, out = os.pipe()
    if os.fork() == 0:
        try:
            with processes("cpu"):
                found = work()
        except (EvarError, SystemExit) as end:
            found = f"{type(end).__name__}: {end}"
        except BaseException as end:
            found = f"unexpected {type(end).__name__}: {end}"
        os.write(out, json.dumps(found).encode())
        os._exit(0)
    os.close(out)
    with os.fdopen(into) as stream:
        told[name] = json.loads(stream.read())
    os.wait()
    print(name, told[name], file=sys.stderr, flush=True)


def digest(tensors):
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return found.hexdigest()


def new_method():
    torch.manual_seed(1 + rank)  # whatever the processes start from, rank 0's parameters are taken
    encoder = load_encoder("random:byola-v1-512@5").with_normalization({"mean": -8.0, "std": 4.0})
    return ByolMethod(encoder, hidden=32, projection=8, augmentation={"fader": 1.0, "bank": 10})


class Failing(ByolMethod):
    def forward(self, views):
        raise EvarError("rank 1 has no luck")


class Nan(ByolMethod):
    def forward(self, views):
        loss, embeddings = super().forward(views)
        return loss * (torch.nan if rank == 1 else 1.0), embeddings


corpus = open_corpus([sounds], 16000, folder / "cache")


def run(name, steps=4, method=None, **options):
    (folder / name).mkdir(exist_ok=True)
    method = method or new_method()
    seen = []
    outcome = train(method, corpus, Training(8, steps, 1e-3, seed=5), folder / name, settings={}, log_every=1,
                    on_step=lambda step: seen.append(step.step), **options)
    state = method.state_dict()
    bank = {key: value for key, value in state.items() if key.startswith("augmentation.")}
    rest = {key: value for key, value in state.items() if key not in bank}
    return {"rest": digest(rest), "bank": digest(bank), "loss": outcome.loss, "step": outcome.step, "seen": seen,
            "reason": outcome.reason}


in_group("whole", lambda: run("whole", probe_every=2, on_probe=lambda step: None))
in_group("part", lambda: run("part", steps=2))
in_group("resumed", lambda: run("part", resume=True, checkpoint_every=1))
in_group("stopped", lambda: run("stopped", max_hours=1e-9 if rank else None))
in_group("uneven", lambda: train(new_method(), corpus, Training(7, 2, 1e-3), folder, settings={}))
in_group("one fails", lambda: run("fails", method=(Failing if rank else ByolMethod)(
    load_encoder("random:byola-v1-512@5").with_normalization({"mean": -8.0, "std": 4.0}), hidden=32, projection=8)))
in_group("one is nan", lambda: run("nan", method=Nan(
    load_encoder("random:byola-v1-512@5").with_normalization({"mean": -8.0, "std": 4.0}), hidden=32, projection=8)))
in_group("other audio", lambda: check_same("abc"[rank], "the audio"))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(sounds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    ports = [free_port() for _ in range(8)]
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), json.dumps(ports), sounds, folder],
            env={**os.environ, **ENVIRONMENT, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [process.communicate(timeout=300) for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [0, 0], ended
    return folder, [json.loads(out.splitlines()[-1]) for out, _ in ended]


def test_both_hold_the_same_network_and_banks_of_their_own(told):
    _, (first, second) = told
    assert first["whole"]["rest"] == second["whole"]["rest"]
    assert first["whole"]["bank"] != second["whole"]["bank"]
    assert all(np.isfinite(each["whole"]["loss"]) for each in (first, second))
    assert (first["whole"]["seen"], second["whole"]["seen"]) == ([1, 2, 3, 4], [])


def test_a_resumed_pair_ends_in_the_same_bits(told):
    folder, (first, second) = told
    for each in (first, second):
        assert each["part"]["step"] == 2
        assert each["resumed"]["step"] == 4
        assert each["resumed"]["rest"] == each["whole"]["rest"]
        assert each["resumed"]["bank"] == each["whole"]["bank"]
    with open(folder / "part" / "log.csv", newline="") as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["1", "2", "3", "4"]


def test_they_stop_together(told):
    """Only one of them was told to stop."""
    _, (first, second) = told
    assert [each["stopped"][key] for each in (first, second) for key in ("step", "reason")] == [1, "time"] * 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("uneven", "a batch of 7 cannot be shared by 2 processes"),
        ("one fails", "rank 1 has no luck"),
        ("one is nan", "the loss is not finite at step 1"),
        ("other audio", "the audio differs between processes: a in process 0, b in process 1"),
    ],
)
def test_where_one_fails_both_end_and_one_of_them_says_why(name, reason, told):
    _, both = told
    said = sorted(each[name] for each in both)
    assert said[0].startswith(f"EvarError: {reason}")
    assert said[1] == "SystemExit: 2"


# --- the command under torchrun ---------------------------------------------------------------------------------------


@pytest.fixture
def torchrun(tmp_path):
    def call(*words):
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
        launch += ["--master-port", str(free_port()), "-m", "evar"]
        return subprocess.run(
            [sys.executable, *launch, *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


WORDS = ("pretrain", "byola", "--preset", "v1-512", "--batch", 8, "--augment", "bank=10", "--steps", 2, "--out", "run")


def test_the_command_with_two_processes(torchrun, sounds, tmp_path):
    done = torchrun(*WORDS, "--audio", sounds)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished after 2 steps") == 1
    assert done.stderr.count("corpus: 24 clips") == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint.pt", "log.csv", "run.safetensors"]
    assert (tmp_path / "run" / "log.csv").read_text().count("\n") == 2

    again = torchrun(*WORDS, "--audio", sounds, "--resume")
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--audio", "nowhere"], "nowhere does not exist"), (["--audio", ".", "--augment", "mixxup=1"], "mixup")],
)
def test_bad_words_are_one_line_from_two_processes(words, expected, torchrun):
    done = torchrun(*WORDS, *words)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("evar: error: ")]
    assert len(lines) == 1, done.stderr
    assert expected in lines[0]
    assert "a bug of evar" not in done.stderr
