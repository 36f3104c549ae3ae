"""Bad input: one clear line, exit code 2, nothing lost."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile


@pytest.fixture
def dataset(tmp_path):
    """Eight noises in the folder-per-class layout, with a card of its own."""
    for fold in (1, 2):
        for name in ("low", "high"):
            for take in range(2):
                folder = tmp_path / "noises" / name
                folder.mkdir(parents=True, exist_ok=True)
                x = np.random.default_rng(take + 10 * fold).normal(0, 0.1, 8000)
                x = np.cumsum(x) / 20 if name == "low" else x
                soundfile.write(folder / f"{fold}_{take}.wav", x, 16000)
    rows = [
        f"{name}/{fold}_{take}.wav,{name},{fold}" for fold in (1, 2) for name in ("low", "high") for take in range(2)
    ]
    (tmp_path / "noises" / "labels.csv").write_text("filename,species,fold\n" + "\n".join(rows) + "\n")
    (tmp_path / "noises.yaml").write_text(
        "name: noises\nversion: 1\ntitle: t\nasks: q\nseconds: 0.5\nmetric: accuracy\nsplit: folds\nfolds: 2\n"
        "layout: csv_columns\noptions: {file: labels.csv, path: filename, label: species}\n"
    )
    return tmp_path / "noises"


RUN = ("run", "logmel", "./noises.yaml", "--data", "noises")


def test_the_dataset_itself_is_fine(process, dataset):
    ran = process(*RUN)
    assert ran.code == 0, ran.err


def _truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _text(path):
    path.write_text("this is not audio\n" * 100)


def _empty(path):
    soundfile.write(path, np.zeros(0), 16000)


def _nan(path):
    x = np.zeros(8000, np.float32)
    x[100] = np.nan
    soundfile.write(path, x, 16000, subtype="FLOAT")


@pytest.mark.parametrize("spoil", [_truncate, _text, _empty, _nan], ids=lambda spoil: spoil.__name__[1:])
def test_a_bad_file_is_named_or_skipped(spoil, evar, dataset):
    spoil(dataset / "low" / "1_0.wav")
    assert "1_0" in evar(*RUN).one_line_error()
    ran = evar(*RUN, "--skip-bad", "-o", "json")
    assert ran.code == 0, ran.err
    assert '"skipped": 1' in ran.out


def test_a_missing_clip_is_counted_and_named(evar, dataset):
    (dataset / "high" / "2_1.wav").unlink()
    line = evar(*RUN).one_line_error()
    assert "1 of 8" in line
    assert "high/2_1" in line
    assert "--partial" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "logmell", "esc50", "--mini"], "did you mean 'logmel'"),
        (["run", "logmel", "esc5", "--mini"], "did you mean 'esc50'"),
        (["run", "logmel", "esc50"], "esc50"),
        (["run", "logmel", "esc50", "--data", "nowhere"], "nowhere"),
        (["run", "logmel", "esc50", "--data", "."], "evar data fetch esc50"),
        (["run", "byola@w.pth", "esc10", "--mini"], "byola-v2@w.pth"),
        (["run", "byola-v2", "esc10", "--mini"], "random:byola-v2"),
        (["run", "byola-v1-512@nothing.pth", "esc10", "--mini"], "nothing.pth"),
        (["run", "random:logmel", "esc10", "--mini"], "logmel"),
        (["run", "py:no_such_module:Mine", "esc10", "--mini"], "no_such_module"),
        (["run", "logmel", "esc10", "--mini", "--probe", "fare"], "did you mean 'fair'"),
        (["run", "logmel", "esc10", "--mini", "--pooling", "mena"], "did you mean 'mean'"),
        (["run", "logmel", "esc10", "--mini", "--device", "cuda:7"], "cuda:7"),
        (["run", "logmel", "esc10", "--mini", "--device", "gpu"], "gpu"),
        (["run", "logmel", "esc10", "--mini", "--seeds", "a"], "seeds"),
        (["run", "logmel", "esc10", "--mini", "--limit", "0"], "limit"),
        (["run", "logmel,mfcc", "esc10", "--mini", "--weights", "w.pth"], "single encoder"),
        (["run", "missing.yaml"], "missing.yaml"),
        (["run", "zzz*", "esc10", "--mini"], "zzz*"),
        (["task", "show", "esc500"], "did you mean 'esc50'"),
        (["data", "fetch", "vc1"], "vc1"),
        (["encode", "logmel", "nothing.wav", "-o", "x.npz"], "nothing.wav"),
        (["encode", "logmel", ".", "-o", "x.npz"], "no audio"),
        (["encode", "logmel", ".", "-o", "x.txt"], ".npz"),
    ],
)
def test_bad_words(words, expected, evar):
    assert expected in evar(*words).one_line_error()


def test_a_layer_that_one_encoder_lacks_is_said_before_any_work(evar, tmp_path):
    assert (
        "block1" in evar("run", "random:byola-v1-512,logmel", "fsdd", "--mini", "--layers", "block1").one_line_error()
    )
    assert not (tmp_path / "results" / "runs.csv").exists()


def test_an_unknown_key_in_a_card_names_the_nearest(evar, dataset, tmp_path):
    card = tmp_path / "noises.yaml"
    card.write_text(card.read_text() + "licenze: CC0\n")
    line = evar(*RUN).one_line_error()
    assert "licenze" in line
    assert "licence" in line


def test_an_unknown_key_in_a_grid_names_the_nearest(evar, tmp_path):
    (tmp_path / "grid.yaml").write_text("encoders: logmel\ntasks: esc10\nmini: true\nsead: 3\n")
    assert "seeds" in evar("run", "grid.yaml").one_line_error()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("limit: many", "limit"),
        ("mini: 'yes'", "mini"),
        ("results: ''", "results"),
        ("seeds: [a]", "seeds"),
        ("batch: true", "batch"),
    ],
)
def test_a_wrong_type_in_a_grid_is_named(line, expected, evar, tmp_path):
    (tmp_path / "grid.yaml").write_text(f"encoders: logmel\ntasks: fsdd\n{line}\n")
    assert evar("run", "grid.yaml").one_line_error().startswith(f"evar: error: {expected}")


@pytest.mark.parametrize(("name", "expected"), [("Nan", "NaN or infinity"), ("Boom", "ValueError: boom")])
def test_an_encoder_of_ones_own_that_fails_is_named(name, expected, evar, dataset, tmp_path):
    (tmp_path / f"own_{name}.py").write_text(
        "import torch, evar\n"
        "class Base(evar.Encoder):\n"
        "    name, version, sample_rate = 'own', 1, 16000\n"
        "    layers, hop_ms = {'out': 4}, {}\n"
        "    default_layers, default_pooling = ('out',), 'clip'\n"
        "class Nan(Base):\n"
        "    def _clip(self, wav, lengths): return {'out': torch.full((len(wav), 4), float('nan'))}\n"
        "class Boom(Base):\n"
        "    def _clip(self, wav, lengths): raise ValueError('boom\\nand more')\n"
    )
    line = evar("run", f"py:own_{name}:{name}", *RUN[2:]).one_line_error()
    assert expected in line
    assert f"py:own_{name}:{name}" in line
    assert "high/1_0" in line or "low/1_0" in line


def test_an_encoder_of_ones_own_that_cannot_be_built_is_named(evar, dataset, tmp_path):
    (tmp_path / "own_built.py").write_text(
        "import evar\nclass Own(evar.Encoder):\n    def __init__(self): raise ValueError('no weights')\n"
    )
    line = evar("run", "py:own_built:Own", *RUN[2:]).one_line_error()
    assert "own_built:Own cannot be built: ValueError: no weights" in line


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("kind", ["pickle", "torch", "text", "other shape", "empty"])
def test_bad_weights_run_no_code(kind, evar, tmp_path):
    import torch

    path = tmp_path / "w.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"features.0.weight": Evil()}))
    elif kind == "torch":
        torch.save({"features.0.weight": Evil()}, path)
    elif kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        from evar.encoders.registry import load_encoder

        torch.save(load_encoder("random:byola-v1-1024").state_dict(), path)
    assert "w.pth" in evar("run", "byola-v1-512@w.pth", "esc10", "--mini").one_line_error()
    assert not (tmp_path / "pwned").exists()


def test_a_results_folder_that_cannot_be_written(evar, dataset, tmp_path):
    (tmp_path / "file").write_text("a file where a folder is needed")
    line = evar(*RUN, "--results", "file/results").one_line_error()
    assert "file/results" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_results_folder_without_permission(evar, dataset, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "permission" in evar(*RUN, "--results", "locked/results").one_line_error()


def test_a_full_disk_loses_nothing(evar, dataset, tmp_path, monkeypatch):
    """Injected at the write call: from some write on, the disk is full; then there is space again."""
    real, refused = os.fsync, 0
    for after in range(0, 12, 2):
        left = iter(range(after))

        def fsync(fd: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            ran = evar(*RUN)
        if ran.code != 0:
            refused += 1
            assert "disk is full" in ran.one_line_error()
    assert refused
    assert evar(*RUN).code == 0
    full, clean = evar("leaderboard", "--canonical").out, tmp_path / "clean"
    assert evar(*RUN, "--results", clean, "--embeddings", clean).code == 0
    assert evar("leaderboard", "--canonical", "--results", clean).out == full


def test_a_really_full_disk(evar, dataset, tmp_path):
    """On a small tmpfs, where this machine lets us mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here (needs root)")
    try:
        line = evar(*RUN, "--results", small / "r", "--embeddings", small / "e").one_line_error()
        assert "disk" in line
        subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
        assert evar(*RUN, "--results", small / "r", "--embeddings", small / "e").code == 0
    finally:
        subprocess.run(["umount", small], check=False)


def test_a_read_only_file_system(evar, dataset, tmp_path):
    small = tmp_path / "ro"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here (needs root)")
    try:
        assert "read-only" in evar(*RUN, "--results", small / "r").one_line_error()
    finally:
        subprocess.run(["umount", small], check=False)


def test_an_archive_that_climbs_out_is_refused(evar, tmp_path):
    """`evar data fetch` of a card whose archive holds `../`: one line, nothing written outside."""
    import functools
    import http.server
    import threading

    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("noises/labels.csv", "filename,species,fold\n")
        archive.writestr("../escaped.txt", "boo")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *a: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "evil.yaml").write_text(
        "name: evil\nversion: 1\ntitle: t\nasks: q\nseconds: 1.0\nmetric: accuracy\nsplit: folds\nfolds: 2\n"
        "layout: csv_columns\noptions: {file: labels.csv, path: filename, label: species}\n"
        f"fetch: [{{url: 'http://127.0.0.1:{server.server_address[1]}/evil.zip', unpack: zip}}]\n"
    )
    try:
        ran = evar("data", "fetch", "./evil.yaml", "--to", tmp_path / "inside" / "data")
        assert "escaped.txt" in ran.one_line_error()
    finally:
        server.shutdown()
    assert not list(tmp_path.rglob("escaped.txt"))


def test_stopping_by_ctrl_c_is_one_line(dataset, tmp_path):
    import signal
    import time

    process = subprocess.Popen(
        [sys.executable, "-m", "evar", "run", "random:byola-v2", "esc50", "--mini"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60  # work has begun once the mini is there
    while (
        process.poll() is None and time.monotonic() < until and not list(tmp_path.glob("embeddings/minis/esc50*/meta"))
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was faster than the signal")
    assert process.returncode == 130, err
    assert "Traceback" not in err
