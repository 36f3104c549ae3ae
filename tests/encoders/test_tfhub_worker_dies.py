"""The process that TensorFlow runs in: it must end with its parent, and answers must never be taken for others.

Nothing here imports TensorFlow, in any process.
"""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from evar.encoders import tf_client, tf_worker
from evar.errors import EvarError

posix = pytest.mark.skipif(os.name != "posix", reason="signals and forks of POSIX")


@pytest.fixture
def connection():
    connection = tf_client._Connection()
    yield connection
    connection.stop()


def ask(connection, number):
    """A question that any worker answers: for a model that it does not hold, with the model's number."""
    answer, arrays = connection.ask({"do": "run", "model": number}, {}, "m", None)
    assert arrays == {}
    return answer["error"]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_messages_carry_arrays_unchanged():
    rng = np.random.default_rng(0)
    arrays = {
        "large": rng.standard_normal((3, 50_000), np.float32),
        "empty": np.zeros((2, 0, 5), np.float32),
        "strided": rng.standard_normal((6, 4))[::2, ::-1],
        "scalar": np.float64(3.5),
        "whole": np.arange(7, dtype=np.int16),
    }
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as source, os.fdopen(writing, "wb", buffering=0) as sink:
        sender = threading.Thread(target=tf_worker.send, args=(sink, {"text": "ä\n{}"}, arrays))
        sender.start()
        header, found = tf_worker.receive(source)
        sender.join()
        assert header == {"text": "ä\n{}"}
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == np.asarray(array).dtype
            assert np.array_equal(found[name], array)
            assert found[name].flags.writeable, "torch.from_numpy warns about others"


def test_a_cut_message_is_no_answer():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as source:
        os.write(writing, b"\x05\x00\x00\x00{}")
        os.close(writing)
        with pytest.raises(EOFError):
            tf_worker.receive(source)


@posix
def test_a_worker_that_died_is_started_again_with_one_line(connection):
    assert ask(connection, 1) == "KeyError: 1"
    first = connection._process.pid
    os.kill(first, signal.SIGKILL)
    with pytest.warns(UserWarning, match="died") as caught:
        assert ask(connection, 2) == "KeyError: 2"
    (warning,) = caught
    assert str(warning.message) == (
        "m: the TensorFlow worker died (killed from outside, most likely out of memory) and is started again"
    )
    assert connection._process.pid != first


@posix
def test_a_worker_that_dies_in_the_middle_of_a_call_is_asked_again(connection):
    ask(connection, 1)
    pid = connection._process.pid
    os.kill(pid, signal.SIGSTOP)  # the question is written, and nobody reads it
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.warns(UserWarning, match="died"):
        assert ask(connection, 2) == "KeyError: 2"


def test_a_worker_that_dies_again_is_one_line_with_its_last_words(connection, monkeypatch):
    dying = "import os, sys; sys.stderr.write('F0 check failed: too large\\n\\n'); sys.stderr.flush(); os._exit(3)"
    monkeypatch.setattr(tf_client, "START", dying)
    with pytest.warns(UserWarning, match="died"), pytest.raises(EvarError) as caught:
        ask(connection, 1)
    assert "died twice in a row (exit code 3: F0 check failed: too large): try a smaller --batch" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_idle_worker_that_ended_is_replaced_in_silence(connection, recwarn):
    ask(connection, 1)
    connection._process.stdin.close()  # as after a minute without a model
    connection._process.wait(timeout=60)
    assert connection._process.returncode == 0
    assert ask(connection, 2) == "KeyError: 2"
    assert not recwarn.list


def test_ctrl_c_leaves_no_answer_for_the_next_question(connection, monkeypatch):
    ask(connection, 1)
    with monkeypatch.context() as patch:

        def interrupted(stream):
            raise KeyboardInterrupt

        patch.setattr(tf_client, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(connection, 2)
    assert ask(connection, 3) == "KeyError: 3", "the answer to the question before it was taken for this one's"


@posix
def test_ctrl_c_in_the_terminal_does_not_reach_the_worker(connection):
    ask(connection, 1)
    pid = connection._process.pid
    os.kill(pid, signal.SIGINT)
    assert ask(connection, 2) == "KeyError: 2"
    assert connection._process.pid == pid


def test_threads_get_their_own_answers(connection):
    found = {}
    threads = [
        threading.Thread(
            target=lambda first=first: found.update({n: ask(connection, n) for n in range(first, first + 50)})
        )
        for first in range(0, 200, 50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: f"KeyError: {n}" for n in range(200)}


def test_what_a_worker_prints_can_be_more_than_a_pipe_holds(connection, monkeypatch, capfd):
    """Both before it serves, as a start-up file of Python may, and while it does, as TensorFlow does."""
    later = "import threading; threading.Timer(0.2, lambda: print('x' * 10**6, flush=True)).start()"
    noisy = tf_client.START.replace("main()", f"print('hello', flush=True); {later}; main()")
    monkeypatch.setattr(tf_client, "START", noisy)
    assert ask(connection, 1) == "KeyError: 1"
    wait_until(lambda: "x" in "".join(connection._words))
    assert ask(connection, 2) == "KeyError: 2"
    assert capfd.readouterr() == ("", "")


PARENT = """
import os, sys, time
from evar.encoders import tf_client

def say(*words):
    os.write(1, " ".join(map(str, [*words, chr(10)])).encode())  # in one piece

def ask(number):
    answer, _ = tf_client._worker.ask({"do": "run", "model": number}, {}, "m", None)
    return answer["error"], tf_client._worker._process.pid

say("parent", *ask(1))
if sys.argv[1] == "fork" and os.fork() == 0:
    say("child", *(ask(2) if sys.argv[2] == "ask" else ("", os.getpid())))
    time.sleep(300 * (sys.argv[2] != "ask"))
    os._exit(0)
if sys.argv[2] == "ask":
    os.wait()
    say("parent", *ask(3))
else:
    time.sleep(300)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes in /proc")
@pytest.mark.parametrize("child", ["none", "fork"])
def test_the_worker_ends_with_a_parent_that_was_killed(child):
    """Also where a fork of the parent lives on: it holds the other end of the pipe, unless it lets go of it."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, child, "wait"], stdout=subprocess.PIPE, text=True)
    pids = [int(parent.stdout.readline().split()[-1]) for _ in range(1 if child == "none" else 2)]
    try:
        assert all(map(is_running, pids))
        parent.kill()
        parent.wait()
        wait_until(lambda: not is_running(pids[0]))
    finally:
        parent.stdout.close()
        for pid in filter(is_running, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_has_a_worker_of_its_own():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PARENT, "fork", "ask"], capture_output=True, text=True, timeout=120
    )
    assert (run.stderr, run.returncode) == ("", 0)
    words = [line.split() for line in run.stdout.splitlines()]
    assert [word[0] + word[2] for word in words] == ["parent1", "child2", "parent3"]
    first, forked, last = (word[3] for word in words)
    assert first == last != forked
