"""`evar encode`: what is read back from npz, npy and parquet is what the encoder gave, for each file, in their order."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile

from evar.cli import encode, encode_files
from evar.encoders import load_encoder

RATE = 16000
SECONDS = (0.5, 1.25, 0.03, 0.5, 2.0, 0.71)
STATS = {"mean": -7.0, "std": 4.0}
NORM = ("--norm", "-7,4")
BYOLA = "random:byola-v1-512"


@pytest.fixture
def recordings(tmp_path):
    """Six files of five lengths; their waveforms by name, in the order of names."""
    (tmp_path / "recordings").mkdir()
    waves = {}
    for i, seconds in enumerate(SECONDS):
        noise = np.random.default_rng(i).normal(0, 0.1, round(seconds * RATE))
        soundfile.write(tmp_path / "recordings" / f"{i}.wav", noise, RATE)
        waves[f"recordings/{i}.wav"] = soundfile.read(tmp_path / "recordings" / f"{i}.wav", dtype="float32")[0]
    return waves


def vectors(spec, waves, pairs):
    """The rows that the encoder gives to each clip alone."""
    encoder = load_encoder(spec)
    encoder = encoder.with_normalization(STATS) if encoder.needs_normalization else encoder
    made = [encoder.encode_pairs(wave, None, pairs) for wave in waves.values()]
    return {pair: np.stack([one[pair].numpy() for one in made]) for pair in pairs}


def frames(spec, waves, layer):
    encoder = load_encoder(spec).with_normalization(STATS)
    return [encoder.encode_frames(wave, None, layer) for wave in waves.values()]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def done(ran):
    assert ran.code == 0, ran.err
    return ran.out


# ---- one vector per file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), ("--batch", 1), ("--batch", 2)])
def test_a_single_matrix_in_all_three_formats(batch, evar, recordings, tmp_path):
    expected = vectors("logmel", recordings, [("logmel", "mean_std")])["logmel", "mean_std"]
    for name in ("x.npz", "x.npy", "x.parquet"):
        assert done(evar("encode", "logmel", "recordings", "-o", name, *batch)) == f"{name}: 6 files, [6, 128]\n"
    with np.load(tmp_path / "x.npz") as stored:
        assert stored["files"].tolist() == list(recordings)
        assert stored["embeddings"].dtype == np.float32
        close(stored["embeddings"], expected)
    close(np.load(tmp_path / "x.npy"), expected)
    table = pd.read_parquet(tmp_path / "x.parquet")
    assert table.columns.tolist() == ["file", *map(str, range(128))]
    assert table["file"].tolist() == list(recordings)
    close(table.drop(columns="file").to_numpy(), expected)


def test_layers_and_poolings_from_one_pass(evar, recordings, tmp_path, monkeypatch):
    from evar.encoders.byola import Byola

    passes, frames_of = [], Byola._frames_of
    monkeypatch.setattr(Byola, "_frames_of", lambda *given: passes.append(len(given[1])) or frames_of(*given))
    words = ("--layers", "all,1+3", "--pooling", "mean,max", *NORM)
    assert "6 files, 10 matrices" in done(evar("encode", BYOLA, "recordings", "-o", "x.npz", *words))
    assert sum(passes) == 6, "each file goes through the network once"
    layers = ["block1", "block2", "block3", "fc", "block1+block3"]
    pairs = [(layer, pooling) for layer in layers for pooling in ("mean", "max")]
    expected = vectors(BYOLA, recordings, pairs)
    with np.load(tmp_path / "x.npz") as stored:
        assert set(stored) == {"files", "evar", *("/".join(pair) for pair in pairs)}
        for pair in pairs:
            close(stored["/".join(pair)], expected[pair])
        about = json.loads(str(stored["evar"]))
    assert about["encoder"] == BYOLA
    assert about["normalization"] == STATS
    assert about["layers"] == ["/".join(pair) for pair in pairs]
    assert len(about["encoder_fingerprint"]) == 64

    done(evar("encode", BYOLA, "recordings", "-o", "x.parquet", "--layers", "fc,3", "--pooling", "mean+max", *NORM))
    table = pd.read_parquet(tmp_path / "x.parquet")
    expected = vectors(BYOLA, recordings, [("fc", "mean+max"), ("block3", "mean+max")])
    for (layer, pooling), matrix in expected.items():
        close(table[[f"{layer}/{pooling}/{i}" for i in range(512)]].to_numpy(), matrix)
    assert len(table.columns) == 1 + 2 * 512
    assert json.loads(pq.read_schema(tmp_path / "x.parquet").metadata[b"evar"])["sample_rate"] == RATE


def test_the_same_command_gives_the_same_bytes(evar, recordings, tmp_path):
    for name in ("x.npz", "y.npz"):
        done(evar("encode", "logmel", "recordings", "-o", name))
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_statistics_are_those_of_the_files(evar, recordings, tmp_path):
    assert "measured on these files" in evar("encode", BYOLA, "recordings", "-o", "x.npz").err
    encoder = load_encoder(BYOLA)
    expected = encoder.measure_normalization((wave[None], None) for wave in recordings.values())
    with np.load(tmp_path / "x.npz") as stored:
        found = json.loads(str(stored["evar"]))["normalization"]
    assert found == pytest.approx(expected, rel=1e-6)


def test_long_lists_are_not_held_in_memory(evar, tmp_path, monkeypatch):
    import evar.audio.decode as decoding

    alive, most = weakref.WeakSet(), []

    class Wave(np.ndarray):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def decode(file, rate):
        wave = np.full(5000, 0.1, np.float32).view(Wave)
        alive.add(wave)
        most.append(len(alive))
        return wave

    for i in range(60):
        soundfile.write(tmp_path / f"{i:02}.wav", np.full(5000, 0.1), RATE)
    monkeypatch.setattr(decoding, "decode", decode)
    monkeypatch.setattr(encode, "GROUP_SAMPLES", 20_000)
    assert "60 files" in done(evar("encode", "logmel", ".", "-o", "x.npz"))
    assert len(most) == 60
    assert max(most) <= 2 * 4 + encode.AHEAD + 2, "a group of 4, its successor, and what is read ahead"


# ---- frames --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "dim"), [("fc", 512), ("block1+block3", 2560)])
def test_frames_with_times_in_all_three_formats(layer, dim, evar, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_files, "ROW_GROUP", 20_000)
    expected = frames(BYOLA, recordings, layer)
    total = sum(len(one.features) for one in expected)
    for name in ("x.npz", "x.npy", "x.parquet"):
        ran = evar("encode", BYOLA, "recordings", "-o", name, "--frames", "--layers", layer, *NORM)
        assert done(ran) == f"{name}: 6 files, {total} frames of {dim}\n"

    with np.load(tmp_path / "x.npz") as stored:
        assert stored["files"].tolist() == list(recordings)
        for i, one in enumerate(expected):
            close(stored[f"frames_{i}"], one.features)
            assert stored[f"times_{i}"].tolist() == one.times_ms.tolist()

    matrix = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert (matrix.shape, matrix.dtype) == ((total, dim), np.float32)
    assert (tmp_path / "x.npy").stat().st_size == matrix.offset + matrix.nbytes
    close(matrix, np.concatenate([one.features for one in expected]))
    lines = pd.read_csv(tmp_path / "x.times.csv")
    table = pd.read_parquet(tmp_path / "x.parquet")
    for found in (lines, table):
        assert found["file"].tolist() == [
            file for file, one in zip(recordings, expected, strict=True) for _ in one.times_ms
        ]
        assert found["frame"].tolist() == [i for one in expected for i in range(len(one.times_ms))]
        assert found["time_ms"].tolist() == [time for one in expected for time in one.times_ms.tolist()]
    close(table[[str(i) for i in range(dim)]].to_numpy(), matrix)
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups > 1
    assert list(table.columns[:3]) == ["file", "frame", "time_ms"]


def test_short_files_share_a_group_of_rows(evar, recordings, tmp_path):
    done(evar("encode", BYOLA, "recordings", "-o", "x.parquet", "--frames", *NORM))
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 1


# ---- what cannot be written ----------------------------------------------------------------------------------------

OWN = """
import torch
from evar import Encoder, Frames

class Own(Encoder):
    name, version, sample_rate, min_samples = "own", 1, 16000, 160
    layers, hop_ms = {"frames": 1, "loudness": 1}, {"frames": 10.0}
    default_layers, default_pooling = ("frames",), "mean"

    def _frames(self, wav, lengths):
        blocks = wav[:, : wav.shape[1] // 160 * 160].reshape(len(wav), -1, 160)
        return {"frames": Frames(FEATURES, torch.arange(blocks.shape[1]) * 10.0, lengths // 160)}

    def _clip(self, wav, lengths):
        return {"loudness": wav.abs().amax(1, keepdim=True)}
"""


def own(tmp_path, name, features="blocks.square().mean(2, keepdim=True)"):
    (tmp_path / f"{name}.py").write_text(OWN.replace("FEATURES", features))
    return f"py:{name}:Own"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.npy", "--layers", "all"], "x.npy holds one matrix, 2 are chosen"),
        (["x.npy", "--pooling", "mean,max"], "x.npy holds one matrix, 2 are chosen"),
        (["x.npz", "--frames", "--layers", "all"], "--frames takes one layer, or a fusion"),
        (["x.npz", "--frames", "--pooling", "max"], "--frames are not pooled: leave out --pooling max"),
        (["x.npz", "--frames", "--layers", "loudness"], "'loudness' is one vector per clip and has no frames"),
        (["x.npz", "--layers", "loundness"], "did you mean 'loudness'?"),
        (["x.npz", "--pooling", "median"], "unknown pooling 'median'"),
        (["x.hdf5"], "unknown output format '.hdf5'"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(words, said, evar, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("evar.audio.decode.decode", None)
    assert said in evar("encode", own(tmp_path, "own_fits"), "recordings", "-o", *words).one_line_error()
    assert not list(tmp_path.glob("*x.*"))


def test_clip_layers_and_frame_layers_in_one_file(evar, recordings, tmp_path):
    done(
        evar(
            "encode", own(tmp_path, "own_both"), "recordings", "-o", "x.npz", "--layers", "all", "--pooling", "mean,std"
        )
    )
    with np.load(tmp_path / "x.npz") as stored:
        assert set(stored) == {"files", "evar", "frames/mean", "frames/std", "loudness/clip"}
        close(stored["loudness/clip"][:, 0], [np.abs(wave).max() for wave in recordings.values()])


@pytest.mark.parametrize("words", [["x.npz"], ["x.npz", "--frames"], ["x.npy", "--frames"], ["x.parquet", "--frames"]])
def test_infinity_names_the_file_and_writes_nothing(words, evar, recordings, tmp_path):
    """Only the long file goes wrong; the others are encoded, and written, before it."""
    features = "torch.where(lengths[:, None, None] > 30000, torch.inf, blocks.square().mean(2, keepdim=True))"
    before = set(tmp_path.rglob("*"))
    spec = own(tmp_path, "own_infinite", features)
    said = evar("encode", spec, "recordings", "-o", *words, "--batch", 1).one_line_error()
    assert "gives NaN or infinity for recordings/4.wav: nothing is written" in said
    assert {path.name for path in set(tmp_path.rglob("*")) - before if "__pycache__" not in str(path)} == {
        "own_infinite.py"
    }


def test_an_encoder_that_fails_is_one_line(evar, recordings, tmp_path):
    spec = own(tmp_path, "own_fails", "blocks[:, :, 999]")
    assert (
        "failed on a batch of 6 clips (the first is recordings/"
        in evar("encode", spec, "recordings", "-o", "x.npz").one_line_error()
    )


def test_audio_beyond_all_bounds_is_named(evar, recordings, tmp_path):
    soundfile.write(tmp_path / "loud.wav", np.full(4000, 5000.0), RATE, subtype="FLOAT")
    said = evar("encode", "logmel", "loud.wav", "-o", "x.npz").one_line_error()
    assert "loud.wav: logmel: samples reach 5000" in said


def test_a_bad_header_shows_before_any_work(evar, recordings, tmp_path, monkeypatch):
    (tmp_path / "recordings" / "5.wav").write_bytes(b"RIFF????nothing")
    monkeypatch.setattr(encode, "encoded", None)
    assert "recordings/5.wav" in evar("encode", "logmel", "recordings", "-o", "x.npz").one_line_error()


@pytest.mark.parametrize("words", [[], ["--frames"]])
def test_bad_files_are_left_out_once_and_the_rest_keeps_its_names(words, evar, recordings, tmp_path):
    """One has no header; the other one is sound until its samples are read. Both passes (statistics, encoding) skip both."""
    (tmp_path / "recordings" / "1.wav").write_bytes(b"no audio at all")
    soundfile.write(tmp_path / "recordings" / "3.wav", np.full(4000, np.nan), RATE, subtype="FLOAT")
    assert "recordings/1.wav" in evar("encode", BYOLA, "recordings", "-o", "x.npz").one_line_error()
    ran = evar("encode", BYOLA, "recordings", "-o", "x.npz", "--skip-bad", *words)
    assert "x.npz: 4 files" in done(ran)
    assert (ran.err.count("skipped: "), ran.err.count("1.wav"), ran.err.count("3.wav")) == (2, 1, 1)
    with np.load(tmp_path / "x.npz") as stored:
        assert stored["files"].tolist() == [f"recordings/{i}.wav" for i in (0, 2, 4, 5)]
        if words:
            assert [len(stored[f"frames_{i}"]) for i in range(4)] == [6, 1, 25, 9]
        else:
            assert len(stored["embeddings"]) == 4


def test_nothing_but_bad_files(evar, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no audio at all")
    said = evar("encode", "logmel", "a.wav", "-o", "x.npz", "--skip-bad").one_line_error()
    assert "none of the files can be decoded" in said


def test_equal_lengths_only_is_honoured(evar, recordings, tmp_path):
    """The encoder subtracts the mean of what it is given: padding would move it."""
    features = (
        "(wav - wav.mean(1, keepdim=True))[:, : blocks.shape[1] * 160].view_as(blocks).square().mean(2, keepdim=True)"
    )
    text = OWN.replace("FEATURES", features).replace("name, version", "equal_lengths_only = True\n    name, version", 1)
    (tmp_path / "own_equal.py").write_text(text)
    done(evar("encode", "py:own_equal:Own", "recordings", "-o", "x.npz"))
    expected = []
    for wave in recordings.values():
        blocks = (wave - wave.mean())[: len(wave) // 160 * 160].reshape(-1, 160)
        expected.append(np.square(blocks).mean())
    with np.load(tmp_path / "x.npz") as stored:
        np.testing.assert_allclose(stored["embeddings"][:, 0], expected, rtol=1e-4)
