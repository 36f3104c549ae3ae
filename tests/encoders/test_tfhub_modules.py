"""Modules of TensorFlow Hub against the same arithmetic in NumPy, and what must be one line when they are not as said.

The SavedModels are built here, with the signatures of the published ones; TensorFlow never enters this process.
"""

import hashlib
import http.server
import os
import signal
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
import torch

from evar import extras
from evar.audio.mel import mel_filterbank
from evar.encoders import load_encoder, tf_client, tfhub
from evar.encoders.catalog import fetch, hub_folder
from evar.encoders.check import check_encoder
from evar.errors import EvarError

needs_tensorflow = pytest.mark.skipif(bool(extras.missing("tfhub")), reason="needs the extra tfhub")

BUILD = '''
import sys
import numpy
import tensorflow as tf

FOLDER = sys.argv[1]
WAVE = tf.TensorSpec([None], tf.float32)
BATCH = tf.TensorSpec([None, None], tf.float32)

class Vggish(tf.Module):
    """One 1-D waveform -> [frames, 128]: log-mel of 0.96 s, and a layer of random weights for the convolutions."""
    def __init__(self):
        self.weight = tf.Variable(tf.random.stateless_normal([96 * 64, 128], [1, 2]) / 80.0)
        self.mel = tf.constant(tf.signal.linear_to_mel_weight_matrix(64, 257, 16000, 125.0, 7500.0))
    @tf.function(input_signature=[WAVE])
    def __call__(self, waveform):
        magnitude = tf.abs(tf.signal.stft(waveform, 400, 160, 512))
        log_mel = tf.math.log(magnitude @ self.mel + 0.01)
        return tf.reshape(tf.signal.frame(log_mel, 96, 96, axis=0), [-1, 96 * 64]) @ self.weight

class Trill(tf.Module):
    """samples [N] or [B, N], sample_rate -> {layer19, embedding}, a frame every 167 ms."""
    @tf.function
    def __call__(self, samples, sample_rate=16000):
        tf.debugging.assert_equal(sample_rate, 16000, "TRILL wants 16000 Hz")
        frames = tf.signal.frame(samples, 384, 2672, pad_end=True)
        layer19 = tf.repeat(frames, 32, axis=-1)
        return {"layer19": layer19, "embedding": tf.nn.relu(layer19[..., ::24])}

class Batches(tf.Module):
    """Signatures only: [B, N] -> one vector per clip, and frames; and something that is no feature."""
    @tf.function(input_signature=[BATCH])
    def serve(self, audio):
        frames = tf.signal.frame(audio, 160, 160, pad_end=True)
        low = tf.stack([tf.reduce_mean(tf.abs(audio), -1), tf.reduce_max(audio, -1), audio[:, 0]], -1)
        return {"clip/all": low, "frames": frames, "words": tf.strings.as_string(low)}

class Tuple(tf.Module):
    """Like YAMNet: a tuple, of different rates. It talks while it works."""
    @tf.function(input_signature=[WAVE])
    def __call__(self, waveform):
        tf.print("a line on standard error", tf.shape(waveform), output_stream=sys.stderr)
        tf.print("a line on standard output", tf.shape(waveform), output_stream=sys.stdout)
        frames = tf.signal.frame(waveform, 15600, 7680)
        return frames[:, :5], frames[:, 5:12], tf.signal.frame(waveform, 400, 160)[:, :9]

class Mood(tf.Module):
    """NaN for silence; another shape, or none, for clips that begin with certain samples."""
    @tf.function(input_signature=[WAVE])
    def __call__(self, waveform):
        frames = tf.signal.frame(waveform, 100, 100, pad_end=True) / tf.reduce_max(tf.abs(waveform))
        wide = tf.cond(waveform[0] > 0.9, lambda: tf.concat([frames, frames], 1), lambda: frames)
        tf.debugging.assert_less(waveform[0], 0.95, "this module wants 32000 Hz")
        return wide[: tf.cond(waveform[0] < -0.9, lambda: 0, lambda: 10**6)]

class Mixing(tf.Module):
    """Rows of a batch depend on each other: clips must be given one by one."""
    @tf.function(input_signature=[BATCH])
    def __call__(self, audio):
        return tf.signal.frame(audio, 100, 100, pad_end=True) - tf.reduce_mean(audio)

class Pictures(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)])
    def __call__(self, images):
        return tf.reduce_mean(images, [1, 2])

trill, vggish = Trill(), Vggish()
numpy.save(f"{FOLDER}/weight.npy", vggish.weight)
for spec in (WAVE, BATCH):
    trill.__call__.get_concrete_function(samples=spec, sample_rate=tf.TensorSpec([], tf.int32))
batches = Batches()
for name, module in dict(vggish=vggish, trill=trill, tuple=Tuple(), mood=Mood(), mixing=Mixing(), pictures=Pictures()).items():
    tf.saved_model.save(module, f"{FOLDER}/{name}")
tf.saved_model.save(batches, f"{FOLDER}/batches", signatures={"serving_default": batches.serve})
'''


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfhub")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    built = subprocess.run([sys.executable, "-c", BUILD, folder], env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def broken(encoder):
    return [f"{result.name}: {result.detail}" for result in check_encoder(encoder) if not result.ok]


def vggish_in_numpy(wav, weight):
    """The log-mel of VGGish and the layer of the built model, in float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.lib.stride_tricks.sliding_window_view(wav, 400)[::160]
    magnitude = np.abs(np.fft.rfft(frames * window, 512))
    log_mel = np.log(magnitude @ mel_filterbank(16000, 512, 64, 125.0, 7500.0, triangles="mel") + 0.01)
    n_examples = len(log_mel) // 96
    return log_mel[: n_examples * 96].reshape(n_examples, -1) @ weight


@needs_tensorflow
def test_vggish_is_the_module_s_own_arithmetic(models):
    encoder = load_encoder("vggish-tfhub", weights=models / "vggish")
    assert (encoder.name, encoder.label) == ("vggish-tfhub", "vggish-tfhub@vggish")
    assert (encoder.layers, encoder.hop_ms, encoder.min_samples) == ({"vggish": 128}, {"vggish": 960.0}, 15600)
    assert (encoder.default_pooling, encoder.trained_on, encoder.weights_kind) == ("mean", ("youtube-8m",), "trained")
    wav = noise(3, 80_000)
    weight = np.load(models / "weight.npy")
    for clip, frames in zip(wav, encoder.encode_frames(wav).features, strict=True):
        expected = vggish_in_numpy(clip.double().numpy(), weight)
        assert expected.shape == (5, 128)
        assert np.abs(frames.numpy() - expected).max() < 1e-4 * np.abs(expected).max()
    assert torch.allclose(encoder.encode(wav), encoder.encode_frames(wav).features.mean(1), atol=1e-6)
    assert encoder.encode_frames(wav).times_ms.tolist() == [480.0, 1440.0, 2400.0, 3360.0, 4320.0]
    assert broken(encoder) == []


@needs_tensorflow
def test_trill_has_both_layers_and_the_published_pooling(models):
    encoder = load_encoder(f"trill-tfhub@{models / 'trill'}")
    assert (encoder.layers, encoder.default_layers) == ({"layer19": 12288, "embedding": 512}, ("layer19",))
    assert encoder.hop_ms == {"layer19": 167.0, "embedding": 167.0}
    assert (encoder.default_pooling, encoder.trained_on) == ("mean+max", ("audioset",))
    wav = noise(2, 16_000)
    padded = np.pad(wav.numpy(), ((0, 0), (0, 400)))
    frames = np.stack([padded[:, i * 2672 : i * 2672 + 384] for i in range(6)], 1)
    layer19 = np.repeat(frames, 32, axis=2)
    found = encoder.encode_all(wav, None, ["layer19", "embedding", "19"], ["mean+max", "mean"])
    assert np.allclose(found["layer19", "mean+max"], layer19.mean(1) + layer19.max(1), atol=1e-6)
    assert np.allclose(found["embedding", "mean"], layer19[..., ::24].clip(0).mean(1), atol=1e-6)
    assert sorted(encoder.choices("all")) == [("embedding", "mean+max"), ("layer19", "mean+max")]
    assert broken(encoder) == []


@needs_tensorflow
def test_any_module_by_its_signature_with_clip_and_frame_layers(models):
    encoder = load_encoder(f"tfhub:{models / 'batches'}?rate=32000&layer=frames")
    assert encoder.model.way["rows"] == "batch", "whole batches are faster"
    assert (encoder.sample_rate, encoder.default_layers, encoder.default_pooling) == (32000, ("frames",), "mean")
    assert encoder.layers == {"clip_all": 3, "frames": 160}
    assert encoder.hop_ms == {"frames": 5.0}
    wav = noise(4, 1600)
    found = encoder.encode_all(wav, [1600, 800, 1600, 320], ["clip_all"], ["clip"])["clip_all", "clip"]
    for row, clip, n in zip(found, wav, (1600, 800, 1600, 320), strict=True):
        assert torch.allclose(row, torch.stack([clip[:n].abs().mean(), clip[:n].max(), clip[0]]), atol=1e-6)
    assert broken(encoder) == []
    with pytest.raises(EvarError, match="expects 32000 Hz, found 16000 Hz"):
        encoder.encode(wav, sample_rate=16000)
    python = load_encoder(f"tfhub:{models / 'batches'}", sample_rate=32000, layer="clip_all")
    assert (python.default_layers, python.default_pooling, python.hop_ms) == (("clip_all",), "clip", {"frames": 5.0})


@needs_tensorflow
def test_a_module_whose_rows_mix_gets_its_clips_one_by_one(models):
    encoder = load_encoder(f"tfhub:{models / 'mixing'}")
    assert encoder.model.way["rows"] == "one"
    assert broken(encoder) == []


@needs_tensorflow
def test_a_talking_module_prints_nothing_here_and_its_arrays_stay_whole(models, capfd):
    encoder = load_encoder(f"tfhub:{models / 'tuple'}")
    assert encoder.layers == {"output0": 5, "output1": 7, "output2": 9}
    assert encoder.hop_ms == {"output0": 480.0, "output1": 480.0, "output2": 10.0}
    wav = noise(2, 40_000)
    for i, features in enumerate(encoder.encode_frames(wav, layers="output1").features):
        expected = torch.stack([wav[i, j * 7680 + 5 : j * 7680 + 12] for j in range(4)])
        assert torch.equal(features, expected)
    assert capfd.readouterr() == ("", "")


@needs_tensorflow
def test_tensorflow_never_enters_the_process_that_asks(models):
    """In a process of its own: whatever else ran in this one may have imported it."""
    code = "import sys, torch; from evar.encoders import load_encoder; load_encoder(sys.argv[1]).encode(torch.zeros(1, 16000)); "
    code += "assert not {'tensorflow', 'tensorflow_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, f"tfhub:{models / 'tuple'}"], check=True, timeout=120)


@needs_tensorflow
@pytest.mark.parametrize(
    ("first", "message"),
    [
        (0.0, "its output 'embedding' holds NaN or infinity for clip 1 of a batch of 2"),
        (0.92, r"its output 'embedding' for 2 clips of 500 samples is \[2, 5, 200\]: expected \[2, frames, 100\]"),
        (-1.0, r"is \[2, 0, 100\]: expected \[2, frames, 100\]"),
        (1.0, "it failed: InvalidArgumentError: .*this module wants 32000 Hz"),
    ],
)
def test_what_a_module_gives_later_is_checked_too(models, first, message):
    encoder = load_encoder(f"mood=tfhub:{models / 'mood'}")
    wav = torch.full((2, 500), first)
    wav[0] = 0.5 if first == 0.0 else first
    with pytest.raises(EvarError, match=message) as caught:
        encoder.encode(wav)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
    assert encoder.encode(noise(500)).shape == (100,), "the worker serves on"


@needs_tensorflow
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfhub:{}/pictures", r"takes no waveform: it takes serving_default\(images float32 \(None, 8, 8, 3\)\)$"),
        (
            "vggish-tfhub@{}/trill",
            r"is not VGGish: expected 1 x 128 for 15600 samples, found .*; for any other .* tfhub:",
        ),
        ("vggish-tfhub@{}/mixing", "is not VGGish"),
        ("trill-tfhub@{}/vggish", r"is not TRILL: .* found embedding \[128\]"),
        ("tfhub:{}/trill?rate=8000", "TRILL wants 16000 Hz"),
        ("tfhub:{}/trill?layer=embeding", "did you mean 'embedding'"),
        ("tfhub:{}/damaged", "^tfhub:[^ ]*/damaged: [^ ]*/damaged cannot be loaded: "),
    ],
)
def test_another_module_is_one_line(models, spec, message):
    damaged = models / "damaged" / "saved_model.pb"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes((models / "trill" / "saved_model.pb").read_bytes()[:5000])
    with pytest.raises(EvarError, match=message) as caught:
        load_encoder(spec.format(models))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfhub:nowhere", "tfhub:nowhere: no folder nowhere: expected one with saved_model.pb, or a handle https://"),
        ("tfhub:{}", "is no SavedModel: expected saved_model.pb and variables/, it holds readme"),
        ("tfhub:{}/readme", "is a file: give the folder that holds saved_model.pb"),
        ("vggish-tfhub@{}", "vggish-tfhub: .* is no SavedModel"),
        ("tfhub:gs://bucket/model", "no folder gs:"),
        ("tfhub:https://tfhub.dev/a/b/1", "is not on this machine: evar weights fetch tfhub:https://tfhub.dev/a/b/1"),
        ("tfhub:a/b/1", "is not on this machine: evar weights fetch tfhub:https://tfhub.dev/a/b/1"),
        ("tfhub:{}@x", "remove '@x'"),
        ("tfhub:{}?rat=32000", "did you mean 'rate'"),
        ("tfhub:{}?rate=32k", "rate is Hz, from 1000 to 192000, found '32k'"),
        ("vggish-tfhub", "vggish-tfhub needs weights: .*give vggish-tfhub@FOLDER"),
        ("random:tfhub:{}", "no untrained form"),
        ("random:trill-tfhub", "trill-tfhub comes with its weights and has no untrained form"),
    ],
)
def test_wrong_places_are_one_line_and_start_nothing(tmp_path, spec, message, monkeypatch):
    (tmp_path / "readme").write_text("no model")
    monkeypatch.setitem(extras.EXTRAS, "tfhub", ())
    monkeypatch.setattr(tf_client._worker, "ask", None)
    with pytest.raises(EvarError, match=message) as caught:
        load_encoder(spec.format(tmp_path))
    assert "\n" not in str(caught.value)
    assert "random:" not in str(caught.value) or spec.startswith("random:")


@pytest.mark.parametrize("spec", ["tfhub:{}", "vggish-tfhub@{}", "trill-tfhub@{}"])
def test_without_tensorflow_the_extra_is_named(tmp_path, spec, monkeypatch):
    if not extras.missing("tfhub"):
        monkeypatch.setitem(extras.EXTRAS, "tfhub", ("no_such_module_of_evar",))
    with pytest.raises(EvarError, match=r"needs .* not installed: pip install 'tensorflow-hub>="):
        load_encoder(spec.format(tmp_path))


@needs_tensorflow
def test_the_fingerprint_is_of_the_content_not_of_the_place(models, tmp_path):
    import shutil

    before = load_encoder(f"tfhub:{models / 'mixing'}")
    moved = shutil.copytree(models / "mixing", tmp_path / "what?rate=1")
    after = load_encoder(f"tfhub:{moved}")
    assert (after.fingerprint(), after.weights_sha256) == (before.fingerprint(), before.weights_sha256)
    assert load_encoder(f"tfhub:{moved}", sample_rate=8000).fingerprint() != before.fingerprint()
    (moved / "assets").mkdir(exist_ok=True)
    (moved / "assets" / "labels.txt").write_text("one")
    assert load_encoder(f"tfhub:{moved}").fingerprint() != before.fingerprint()


@needs_tensorflow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_models_are_loaded_again_after_the_worker_died_and_freed_after_their_encoder(models, recwarn):
    kept, freed = load_encoder(f"tfhub:{models / 'mixing'}"), load_encoder(f"tfhub:{models / 'mixing'}")
    assert kept.fingerprint() == freed.fingerprint()
    wav = noise(2, 1000)
    before = kept.encode(wav)
    number = freed.model.number
    del freed
    assert number not in tf_client._worker._loaded, "its memory is kept for nobody"
    os.kill(tf_client._worker._process.pid, signal.SIGKILL)
    assert torch.equal(kept.encode(wav), before)
    assert ["died (killed" in str(warning.message) for warning in recwarn.list] == [True]


@needs_tensorflow
def test_a_handle_is_fetched_into_evar_s_cache_and_nowhere_else(models, tmp_path, monkeypatch):
    """The download is tensorflow_hub's own; the server is this process."""
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(models / "mixing", arcname=".")
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path.startswith("/a/b/1") else 404)
            self.end_headers()
            self.wfile.write((tmp_path / "model.tar.gz").read_bytes() if self.path.startswith("/a/b/1") else b"")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(tfhub, "LINKS", (host,))
    try:
        monkeypatch.setenv("EVAR_OFFLINE", "1")
        with pytest.raises(EvarError, match="EVAR_OFFLINE is set"):
            tfhub.fetch_model(f"{host}/a/b/1")
        assert not asked
        monkeypatch.delenv("EVAR_OFFLINE")
        with pytest.raises(EvarError, match=r"cannot fetch .*/a/b/2: .*404"):
            tfhub.fetch_model(f"{host}/a/b/2")
        folder = fetch(f"tfhub:{host}/a/b/1")
        assert asked[-1] == "/a/b/1?tf-hub-format=compressed"
        assert folder == hub_folder("tfhub", f"{host}/a/b/1") == tmp_path / "cache" / "weights" / "tfhub" / "a--b--1"
        assert sorted(file.name for file in folder.parent.iterdir()) == ["a--b--1"]
        assert load_encoder(f"tfhub:{host}/a/b/1").layers == {"embedding": 100}
        n_asked = len(asked)
        assert fetch(f"tfhub:{host}/a/b/1") == folder
        assert len(asked) == n_asked
    finally:
        server.shutdown()


@needs_tensorflow
def test_a_model_in_the_user_s_own_cache_of_tensorflow_hub_is_used(models, tmp_path, monkeypatch):
    theirs = tmp_path / hashlib.sha1(b"https://tfhub.dev/a/b/1").hexdigest()
    theirs.symlink_to(models / "mixing")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    encoder = load_encoder("tfhub:a/b/1")
    assert encoder.layers == {"embedding": 100}
    assert encoder.weights_file == "a--b--1", "its folder has the name of a digest"


@needs_tensorflow
def test_a_row_of_a_module_names_its_weights(models):
    """The column `weights` was empty beside `weights_kind` trained: the folder follows no `@`."""
    for reference in (f"tfhub:{models}/mixing", f"tfhub:{models}/mixing/?rate=8000"):
        encoder = load_encoder(reference)
        assert (encoder.weights_file, encoder.weights_kind) == ("mixing", "trained")
    assert load_encoder(f"vggish-tfhub@{models}/vggish").weights_file == "vggish"


@needs_tensorflow
def test_loading_a_module_leaves_nothing_in_the_home_folder(models, tmp_path):
    """The worker's libraries left ~/.keras/keras.json and ~/.cache/matplotlib, and read their settings there."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("EVAR_", "XDG_", "KERAS", "MPL"))}
    code = "import sys, evar; evar.load_encoder(sys.argv[1])"
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", code, f"tfhub:{models}/mixing"]
    subprocess.run(command, env=kept | {"HOME": str(home)}, cwd=tmp_path, check=True)
    others = [file for file in home.rglob("*") if file.is_file() and home / ".cache" / "evar" not in file.parents]
    assert others == []
    assert sorted(file.name for file in home.iterdir()) == [".cache"]
    assert [file.name for file in (home / ".cache").iterdir()] == ["evar"]


def facts(encoder):
    names = list(encoder.layers.items()), list(encoder.names.items()), encoder.hop_ms, encoder.default_layers
    return encoder.fingerprint(), encoder.weights_sha256, encoder.min_samples, names


def forbid_tensorflow(patched):
    patched.setattr(tf_client._Connection, "ask", lambda *_: pytest.fail("TensorFlow was asked"))


@needs_tensorflow
@pytest.mark.parametrize(
    "spec", ["vggish-tfhub@{}/vggish", "trill-tfhub@{}/trill", "tfhub:{}/tuple", "tfhub:{}/batches"]
)
def test_a_module_that_was_measured_loads_without_tensorflow(models, spec, monkeypatch):
    first = load_encoder(spec.format(models))
    wav = noise(2, 32000)
    expected = first.encode(wav)
    with monkeypatch.context() as patched:
        forbid_tensorflow(patched)
        again = load_encoder(spec.format(models))
        assert facts(again) == facts(first)
    assert torch.equal(again.encode(wav), expected)


@needs_tensorflow
def test_a_record_of_what_was_measured_that_rotted_is_made_anew(models, tmp_path):
    first = facts(load_encoder(f"tfhub:{models / 'mixing'}"))
    (record,) = (tmp_path / "cache" / "tensorflow" / "measured").glob("*.json")
    good = record.read_text()
    for rotten in ("", "[]", "{}", "nonsense", good.replace(": 100", ": 101"), '{"digest": 1}'):
        record.write_text(rotten)
        assert facts(load_encoder(f"tfhub:{models / 'mixing'}")) == first
        assert record.read_text() == good


@needs_tensorflow
def test_a_module_that_changes_before_it_is_loaded_gives_no_row(models, tmp_path):
    """What is measured is remembered, so the model itself is loaded later: it must be the one that the fingerprint names."""
    import shutil

    moved = shutil.copytree(models / "mixing", tmp_path / "moved")
    load_encoder(f"tfhub:{moved}")
    encoder = load_encoder(f"tfhub:{moved}")
    (moved / "assets").mkdir(exist_ok=True)
    (moved / "assets" / "labels.txt").write_text("one")
    with pytest.raises(EvarError, match=r"moved changed while this run was at work: run it again"):
        encoder.encode(noise(2, 1000))


@needs_tensorflow
def test_stored_embeddings_are_probed_without_tensorflow(models, tmp_path, monkeypatch):
    """Regression: a run that had nothing to encode waited for TensorFlow to start."""
    import evar

    given = {"mini": True, "limit": 60, "probe": "knn", "embeddings": tmp_path / "e", "device": "cpu"}
    name = f"tfhub:{models / 'mixing'}"
    first = evar.run(name, "fsdd", results=tmp_path / "one", **given)
    forbid_tensorflow(monkeypatch)
    again = evar.run(name, "fsdd", results=tmp_path / "two", **given)
    assert list(again["cell_id"]) == list(first["cell_id"])
    assert list(again["mean"]) == list(first["mean"])
