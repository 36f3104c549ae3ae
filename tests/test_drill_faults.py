"""Fear: the drills rot, or cannot fail; and what they once found in evar comes back."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evar import files
from evar.errors import EvarError, out_of_memory

DRILLS = Path(__file__).resolve().parents[1] / "drills"
CARELESS = "open('out.csv', 'w').write('new' * 5000)"
CAREFUL = """
import sys
from evar.cli import main
from evar.cli.app import app
from evar.files import atomic_write
import click
app.get_command = lambda ctx, name: click.Command(name, callback=lambda: atomic_write('out.csv', 'new' * 5000))
app.resolve_command = lambda ctx, args: (args[0], app.get_command(ctx, args[0]), [])
main(['run'])
"""
SEE_ERRORS = """
import errno, os, sys
seen = []
for i in range(4):
    try:
        with open(f"{sys.argv[1]}/{i}", "wb", buffering=0) as stream:
            seen.append(stream.write(b"x" * 100))
    except OSError as error:
        seen.append(errno.errorcode[error.errno])
print(*seen)
"""


@pytest.fixture
def drills(monkeypatch, tmp_path):
    """The modules of drills/, by name."""
    monkeypatch.syspath_prepend(str(DRILLS))
    before = set(sys.modules)
    import disk_full
    import faults
    import scenes

    yield {"disk_full": disk_full, "faults": faults, "scenes": scenes}
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(DRILLS)):
            del sys.modules[name]


@pytest.fixture
def shim(drills, tmp_path):
    try:
        return drills["faults"].Shim(tmp_path / "shim")
    except drills["faults"].Unavailable as reason:
        pytest.skip(f"no shim: {reason}")


def seen_by(trap, folder):
    command = [sys.executable, "-c", SEE_ERRORS, str(folder)]
    done = subprocess.run(command, env=trap.env | {"PATH": "/bin"}, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_shim_fails_what_it_is_told_to_and_nothing_else(drills, shim, tmp_path):
    fault, (inside, outside) = drills["faults"].Fault, [tmp_path / "in", tmp_path / "out"]
    inside.mkdir()
    outside.mkdir()
    assert seen_by(shim.set(fault(), inside), inside) == ["100"] * 4
    trap = shim.set(fault(at_call=1), inside)
    assert seen_by(trap, outside) == ["100"] * 4
    assert trap.seen().injected == 0
    trap = shim.set(fault(after_bytes=250, error=errno.EDQUOT), inside)
    assert seen_by(trap, inside) == [
        "100",
        "100",
        "50",
        "EDQUOT",
    ]  # the last one cannot even be opened: a name needs room
    assert trap.seen().injected == 1
    trap = shim.set(fault(at_call=2, span=1, error=errno.EIO), inside)
    assert seen_by(trap, inside) == ["100", "EIO", "100", "100"]


def test_a_program_that_writes_in_place_does_not_pass_the_drill(drills, shim, tmp_path, monkeypatch):
    disk_full, scenes = drills["disk_full"], drills["scenes"]
    world = tmp_path / "world"
    world.mkdir()
    (world / "out.csv").write_text("old")
    scene = scenes.Scene("naive", ("run",), scenes.files("out.csv"), (), 3)
    found = {}
    for name, program in (("careless", CARELESS), ("careful", CAREFUL)):

        def run(*words, cwd, program=program, **env):
            done = subprocess.run(
                [sys.executable, "-c", program], cwd=cwd, env=disk_full.os.environ | env, capture_output=True, text=True
            )
            return disk_full.Finished(done.returncode, done.stdout, done.stderr)

        monkeypatch.setattr(disk_full, "evar", run)
        options = disk_full.Options(tmp_path / name, quick=True)
        found[name] = disk_full.by_shim(shim, [scene], world, options)
    assert found["careless"].tracebacks > 0
    assert found["careless"].wrong_rows + found["careless"].results_lost > 0
    assert found["careful"].passed, found["careful"].notes


def test_a_folder_without_flock_is_locked_all_the_same(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with files.lock(tmp_path / "lock"):
        assert (tmp_path / "lock.held").exists()
        with pytest.raises(EvarError, match="held by another"), files.lock(tmp_path / "lock", timeout=0):
            pass
    assert not (tmp_path / "lock.held").exists()


def test_a_lock_left_without_flock_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_has_flock", lambda folder: False)
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    with (
        files.lock(tmp_path / "lock"),
        pytest.warns(UserWarning, match=r"lock\.held: if none runs, remove that file"),
        pytest.raises(EvarError, match="held by another"),
        files.lock(tmp_path / "lock", timeout=0.3),
    ):
        pass


def test_a_finished_mini_serves_from_a_folder_that_can_only_be_read(tmp_path, monkeypatch):
    from evar.datasets import find_card, mini

    card = find_card("esc10")
    root = mini.make(card, tmp_path / "m")

    def refuse(path, timeout=-1):
        raise EvarError(f"cannot write {path}")

    monkeypatch.setattr(mini, "lock", refuse)
    assert mini.make(card, root) == root


def test_a_full_disk_while_a_sound_is_written_is_one_line(drills, shim, tmp_path):
    program = "from evar.datasets.synth import write_wav; import numpy as np; write_wav('x.wav', np.zeros(9999), 16000)"
    (inside := tmp_path / "in").mkdir()
    for fault in ({"after_bytes": 3000}, {"at_call": 2, "span": 1}):
        trap = shim.set(drills["faults"].Fault(**fault), inside)
        env = drills["disk_full"].os.environ | trap.env
        done = subprocess.run([sys.executable, "-c", program], cwd=inside, env=env, capture_output=True, text=True)
        assert done.stderr.splitlines()[-1].startswith("evar.errors.EvarError: cannot write x.wav: the disk is full")
        assert "cffi" not in done.stderr
        assert not list(inside.iterdir())


def test_tensorboard_events_on_a_full_disk_are_one_line(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from evar.pretraining.log import COLUMNS, Log

    log = Log(tmp_path, 0, tensorboard=True)
    log._stream.close()
    log._stream = log._events._records._writer = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(EvarError, match=r"cannot write .*tfevents.*: the disk is full"):
        log.add(**dict.fromkeys(COLUMNS, 1))
    log._stream.raw.close()


def test_what_cannot_be_written_is_said_before_work(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, how: False)
    with pytest.raises(EvarError, match=r"cannot write .*new/folder: permission denied: choose a folder"):
        files.check_writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_encode_says_first_that_its_folder_can_only_be_read(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from evar.cli.encode import encode_command

    (tmp_path / "a.wav").write_bytes(b"is looked at later")
    monkeypatch.setattr(files.os, "access", lambda path, how: False)
    made = CliRunner().invoke(encode_command, ["mfcc", str(tmp_path / "a.wav"), "-o", str(tmp_path / "x.npz")])
    assert isinstance(made.exception, EvarError)
    assert "cannot write" in str(made.exception)


def test_long_clips_of_native_length_go_alone():
    """Eight clips of ten minutes in one batch are 8 GB of activations."""
    from types import SimpleNamespace

    from evar import embed

    waves = SimpleNamespace(
        lengths=np.array([9_600_000] * 6 + [8000] * 6),
        batch=lambda part, samples: (np.zeros((len(part), 1)), part),
    )
    encoder = SimpleNamespace(equal_lengths_only=False, device=SimpleNamespace(type="cpu"))
    sizes = [len(part) for part, *_ in embed.batches(waves, np.arange(12), encoder, "native", 8)]
    assert sizes == [1] * 6 + [6]


@pytest.mark.parametrize("clips", [1, 3])
def test_the_windows_of_a_long_clip_are_transformed_in_parts(clips, monkeypatch):
    """An hour's windows at once took 6 GB."""
    import torch

    from evar.audio import mel

    front_end = mel.LogMel(16000, 1024, 1024, 160, 64, 60.0, 7800.0, filterbank="htk")
    wav = torch.randn(clips, 48000, generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(48000, 48000 - 1000 * clips, -1000)
    whole, frames = front_end(wav, lengths)
    most = []
    spectrum = front_end._spectrum
    monkeypatch.setattr(front_end, "_spectrum", lambda part: most.append(part.shape[:2].numel()) or spectrum(part))
    monkeypatch.setattr(mel, "WINDOWS", {"cpu": 50})
    parts, frames_of_parts = front_end(wav, lengths)
    assert max(most) <= 50 < sum(most)
    assert torch.equal(frames, frames_of_parts)
    assert torch.allclose(whole, parts, rtol=0, atol=1e-5)


def test_a_checkpoint_that_memory_has_no_room_for_is_no_bug():
    """torch.save says "unexpected pos" when it meets a MemoryError."""
    import io

    import torch

    class Small(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) > 10_000:
                raise MemoryError
            return super().write(data)

    with pytest.raises((RuntimeError, MemoryError)) as failed:
        torch.save({"x": torch.zeros(100_000)}, Small())
    assert out_of_memory(failed.value)
    assert not out_of_memory(ValueError("a bug"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
    ],
)
def test_a_lack_of_memory_is_no_bug_and_no_damaged_file(error, tmp_path, monkeypatch, capsys):
    import pandas as pd

    from evar import cli
    from evar.cli.app import app
    from evar.results import Results

    assert out_of_memory(error)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pd, "read_parquet", fail)
    with pytest.raises(type(error)):
        Results(tmp_path).predictions("0" * 16)
    monkeypatch.setattr(app, "main", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("evar: error: out of memory: try a smaller --batch")
