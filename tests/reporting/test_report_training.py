"""Logs of pre-training as they come: unfinished, resumed, with columns missing or strange."""

from __future__ import annotations

import pytest

from evar.errors import EvarError
from evar.reporting.report_training import read_training

HEADER = "step,epoch,seconds,loss,lr,samples_per_s,embedding_std,uniformity\n"


def log(folder, text, probe=None):
    folder.mkdir(exist_ok=True)
    (folder / "log.csv").write_text(text, "utf-8")
    if probe is not None:
        (folder / "probe.csv").write_text(probe, "utf-8")
    return read_training(folder)


def test_whole_log(tmp_path):
    run = log(
        tmp_path / "byola-1",
        HEADER + "1,0,1.0,2.5,0.1,90,0.04,-1\n2,0,2.0,2.0,0.1,95,0.05,-2\n",
        "step,encoder,task,split,protocol,score\n0,byola-v2,esc10,valid,knn,0.5\n2,byola-v2,esc10,valid,knn,0.75\n",
    )
    assert run.name == "byola-1"
    assert run.curves["loss"] == ([1.0, 2.0], [2.5, 2.0])
    assert list(run.curves) == ["loss", "embedding_std", "uniformity", "lr", "samples_per_s"]
    assert run.probes == {("byola-v2", "esc10", "valid knn"): ([0.0, 2.0], [0.5, 0.75])}


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("loss,step\n0.5,10\n0.4,20\n", ([10.0, 20.0], [0.5, 0.4])),  # columns absent, another order
        ("loss\n0.5\n0.4\n", ([1.0, 2.0], [0.5, 0.4])),  # no step: row numbers
        ("\ufeffstep,loss\r\n1,0.5\r\n2,0.4\r\n", ([1.0, 2.0], [0.5, 0.4])),
        ("step,loss\n1,0.5\n2,0.4\n3,0.", ([1.0, 2.0, 3.0], [0.5, 0.4, 0.0])),
        ("step,loss,lr\n1,0.5,1\n2,0.4\n", ([1.0], [0.5])),  # half a row at the end
        ("step,loss\n1,0.5\n2,nan\n3,inf\n4,x\n5,0.4\n", ([1.0, 5.0], [0.5, 0.4])),
        ("step,loss\n1,0.5\n2,0.9\n2,0.4\n", ([1.0, 2.0], [0.5, 0.4])),  # resumed: the later row holds
        ("step,loss\n2,0.4\n1,0.5\n", ([1.0, 2.0], [0.5, 0.4])),
    ],
)
def test_odd_logs_are_read_as_they_were_meant(tmp_path, text, loss):
    assert log(tmp_path / "run", text).curves["loss"] == loss


def test_a_long_log_keeps_its_shape(tmp_path):
    rows = "".join(f"{i},{i % 2 + i / 1e5}\n" for i in range(10_000))
    steps, losses = log(tmp_path / "run", "step,loss\n" + rows).curves["loss"]
    assert len(steps) == 400
    assert steps == sorted(steps)
    assert all(0.4 < loss < 0.7 for loss in losses)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "log.csv is not there: give the folder of a pre-training run"),
        ("", "nothing to draw.*found nothing"),
        ("a,b\n1,2\n", "nothing to draw, expected a column of loss, .*; found a, b"),
        ("step,loss\n", "nothing to draw"),
        ("step,loss\n1,\0\n\xff".encode("utf-16"), "is not UTF-8 CSV"),
    ],
)
def test_what_is_no_log_is_one_line(tmp_path, text, message):
    (tmp_path / "run").mkdir()
    if text is not None:
        (tmp_path / "run" / "log.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EvarError, match=message):
        read_training(tmp_path / "run")
