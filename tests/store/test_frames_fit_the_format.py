"""Frame embeddings of real event recordings go through the same store, so that frame-level tasks change no format."""

from __future__ import annotations

import os

import numpy as np
import pytest
import store_data as d

from evar.errors import EvarError
from evar.store import Store

HOP_MS = 80.0
LAYERS = [("bands", "frames", 16), ("slope", "frames", 15)]


def band_powers(path, seconds):
    """float32 [T, 16]: log power in 16 bands, a frame per 80 ms; float32 [T, 15]: their differences."""
    soundfile = pytest.importorskip("soundfile")
    wav, rate = soundfile.read(path, dtype="float32")
    hop = int(rate * HOP_MS / 1000)
    frames = wav[: int(seconds * rate) // hop * hop].reshape(-1, hop)
    power = np.abs(np.fft.rfft(frames * np.hanning(hop), axis=1)) ** 2
    bands = np.stack([part.mean(axis=1) for part in np.array_split(power, 16, axis=1)], axis=1)
    bands = np.log(bands + 1e-8).astype(np.float32)
    return {"bands": bands, "slope": np.diff(bands, axis=1)}


@pytest.fixture(scope="module")
def clips(shared_data):
    """34 recordings of 16 s, cut to lengths of 3 to 16 s."""
    paths = sorted((shared_data / "hear-events-esc10" / "16000").rglob("*.flac"))
    assert len(paths) == 34
    return [band_powers(path, 3 + (i * 5) % 14) for i, path in enumerate(paths)]


def write(root, clips, stop_after=None, order=None):
    n = len(clips)
    with Store(root).writer(d.SETTINGS, LAYERS, n, "bands", "events", ragged=True) as writer:
        todo = [i for i in (order if order is not None else range(n)) if i in set(writer.pending.tolist())]
        for number, start in enumerate(range(0, len(todo), 5)):
            if number == stop_after:
                return None
            part = todo[start : start + 5]
            frames = {layer: [clips[i][layer] for i in part] for layer, _, _ in LAYERS}
            writer.write_frames(np.array(part), frames, [HOP_MS * np.arange(len(clips[i]["bands"])) for i in part])
        return writer.finish()


def check(embeddings, clips):
    assert embeddings.ragged
    for i, clip in enumerate(clips):
        for layer in ("bands", "slope"):
            features, times = embeddings.frames(layer, i)
            np.testing.assert_array_equal(features, clip[layer])
            np.testing.assert_array_equal(times, HOP_MS * np.arange(len(features)))


def test_frames_of_real_events(tmp_path, clips):
    lengths = [len(clip["bands"]) for clip in clips]
    assert len(set(lengths)) > 5
    longest_first = np.argsort(lengths)[::-1]
    write(tmp_path, clips, order=longest_first)
    found = Store(tmp_path).find(d.SETTINGS, [("bands", "frames")])
    check(found, clips)
    assert Store(tmp_path).verify() == []
    with pytest.raises(ValueError, match="frames"):
        found.source("bands", "frames")


def random_clips(n=23):
    rng = np.random.default_rng(3)
    sizes = rng.integers(0, 9, n)
    return [{layer: rng.standard_normal((size, dim)).astype(np.float32) for layer, _, dim in LAYERS} for size in sizes]


@pytest.mark.parametrize("name", ["0.f32", "1.f32", "rows.i64", "offsets.i64", "times.f32", "journal"])
def test_interrupted_and_torn_frames_continue(tmp_path, name):
    clips = random_clips()
    write(tmp_path, clips, stop_after=3)
    folder = d.folder_of(tmp_path)
    os.truncate(folder / name, (folder / name).stat().st_size - 3)
    check(write(tmp_path, clips), clips)
    assert Store(tmp_path).verify() == []


def test_rubbish_past_the_last_commit_is_cut_off(tmp_path):
    clips = random_clips()
    write(tmp_path, clips, stop_after=3)
    for path in d.folder_of(tmp_path).iterdir():
        if path.name != "meta.json":
            with open(path, "ab") as stream:
                stream.write(b"torn by a kill" * 9)
    check(write(tmp_path, clips), clips)


@pytest.mark.parametrize("name", ["0.f32", "rows.i64", "offsets.i64", "times.f32"])
def test_a_flipped_byte_in_frames_is_found(tmp_path, name):
    write(tmp_path, random_clips())
    path = d.folder_of(tmp_path) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)
    assert [str(path) in problem for problem in Store(tmp_path).verify()] == [True]


def test_one_grid_of_times_serves_all_clips(tmp_path):
    clips = random_clips(4)
    with Store(tmp_path).writer(d.SETTINGS, LAYERS, 4, "x", "y", ragged=True) as writer:
        frames = {layer: [clip[layer] for clip in clips] for layer, _, _ in LAYERS}
        writer.write_frames(np.arange(4), frames, HOP_MS * np.arange(20))
        check(writer.finish(), clips)


def test_frames_that_do_not_fit_are_refused(tmp_path):
    clips = random_clips(4)
    with Store(tmp_path).writer(d.SETTINGS, LAYERS, 4, "x", "y", ragged=True) as writer:

        def attempt(match, bands, times):
            with pytest.raises(EvarError, match=match):
                writer.write_frames(np.array([2]), {"bands": bands, "slope": [np.zeros((3, 15))]}, times)

        times = [np.arange(3)]
        attempt("other frames", [np.zeros((4, 16))], times)
        attempt("expected shape", [np.zeros((3, 17))], times)
        attempt("not finite .*clip index 2", [np.full((3, 16), np.nan)], times)
        attempt("frame times", [np.zeros((3, 16))], [np.arange(2)])
        attempt("frame times", [np.zeros((3, 16))], np.arange(2))
        assert len(writer.pending) == 4
        with pytest.raises(ValueError, match="write_frames"):
            writer.write(np.array([2]), {("bands", "frames"): np.zeros((1, 16))})
        writer.write_frames(np.arange(4), {name: [c[name] for c in clips] for name in clips[0]}, HOP_MS * np.arange(9))
        check(writer.finish(), clips)
