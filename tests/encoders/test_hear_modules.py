"""Fear: a HEAR 2021 module gives numbers of the wrong shape, clip or code, and evar stores them without a word."""

from __future__ import annotations

import sys
import textwrap

import numpy as np
import pytest
import torch

from evar.encoders import load_encoder, parse
from evar.encoders.check import check_encoder
from evar.errors import EvarError

GOOD = """
    import torch

    class Model(torch.nn.Module):
        sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 6, 8

        def __init__(self):
            super().__init__()
            self.frames = torch.nn.Conv1d(1, 8, 400, 320)
            self.scene = torch.nn.Linear(8, 6)

    def load_model(model_file_path=""):
        model = Model()
        if model_file_path:
            model.load_state_dict(torch.load(model_file_path, weights_only=True))
        return model

    def get_timestamp_embeddings(audio, model):
        frames = model.frames(audio[:, None]).transpose(1, 2)
        return frames, (12.5 + 20.0 * torch.arange(frames.shape[1])).repeat(len(audio), 1)

    def get_scene_embeddings(audio, model):
        return model.scene(model.frames(audio[:, None]).mean(2))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(text, name) puts a module into the working directory, which Python finds as a user's would be found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module edited within a second is read again
    written = []

    def write(text: str = GOOD, name: str = "a_hear_module") -> str:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        sys.modules.pop(name, None)
        written.append(name.partition(".")[0])
        return f"hear:{name}"

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in written]:
        del sys.modules[name]


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_a_hear_module_is_an_encoder_as_it_is(write):
    encoder = load_encoder(write())
    assert (encoder.sample_rate, encoder.equal_lengths_only) == (16000, True)
    assert encoder.layers == {"scene": 6, "timestamp": 8}
    assert encoder.hop_ms == {"timestamp": 20.0}
    assert encoder.min_samples == 400, "10 ms are too few for a kernel of 25 ms, 25 ms are not"
    assert encoder.choices() == [("scene", "clip")]
    wav = noise(2, 16000)
    with torch.no_grad():
        frames = encoder.model.frames(wav[:, None]).transpose(1, 2)
        assert torch.allclose(encoder.encode(wav), encoder.model.scene(frames.mean(1)), atol=1e-6)
    found = encoder.encode_frames(wav, layers="timestamp")
    assert torch.allclose(found.features, frames, atol=1e-6)
    assert found.times_ms[:3].tolist() == [12.5, 32.5, 52.5]
    assert encoder.encode_all(wav, None, ["timestamp"], ["mean+max"])["timestamp", "mean+max"].shape == (2, 8)


def test_a_hear_module_keeps_the_contract(write):
    failed = [result for result in check_encoder(load_encoder(write())) if not result.ok]
    assert not failed


def test_neighbours_of_other_lengths_do_not_change_a_clip(write):
    encoder, wav = load_encoder(write()), noise(3, 16000)
    lengths = [16000, 7000, 7000]
    rows = encoder.encode(wav, lengths)
    for row, clip, length in zip(rows, wav, lengths, strict=True):
        assert torch.allclose(row, encoder.encode(clip[:length]), atol=1e-6)


def test_weights_go_to_load_model_and_are_named_by_their_digest(write, tmp_path):
    from evar.files import sha256_file

    name = write()
    first = load_encoder(name)
    torch.manual_seed(7)
    changed = {key: torch.randn_like(value) for key, value in first.model.state_dict().items()}
    torch.save(changed, tmp_path / "other.pt")
    other = load_encoder(f"{name}@other.pt")
    assert other.label == "hear:a_hear_module@other"
    assert (other.weights_kind, other.weights_sha256) == ("trained", sha256_file(tmp_path / "other.pt"))
    assert torch.equal(other.model.scene.weight, changed["scene.weight"])
    assert other.fingerprint() != first.fingerprint()
    assert load_encoder(name, weights="other.pt").fingerprint() == other.fingerprint()
    with pytest.raises(EvarError, match=r"weights file othr.pt does not exist"):
        load_encoder(f"{name}@othr.pt")


def test_a_random_projection_is_the_same_every_time_and_leaves_the_global_seed_alone(write):
    """load_model runs under one seed: a module that draws its weights must not fill the store anew on each run."""
    name = write()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = load_encoder(name).fingerprint()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert load_encoder(name).fingerprint() == first


# ---- 32 kHz ----------------------------------------------------------------------------------------------------------


def test_a_model_of_32_khz_refuses_16_khz(write):
    encoder = load_encoder(write(GOOD.replace("= 16000, 6", "= 32000, 6").replace("20.0 *", "10.0 *")))
    assert encoder.sample_rate == 32000
    assert encoder.encode(noise(1, 32000), sample_rate=32000).shape == (1, 6)
    with pytest.raises(EvarError, match="expects 32000 Hz, found 16000 Hz"):
        encoder.encode(noise(1, 16000), sample_rate=16000)


# ---- modules that break the API --------------------------------------------------------------------------------------

SCENE = "return model.scene(model.frames(audio[:, None]).mean(2))"
FRAMES = "return frames, (12.5 + 20.0 * torch.arange(frames.shape[1])).repeat(len(audio), 1)"
LOAD = "model = Model()"
BROKEN = {
    "scene of the wrong size": (SCENE, "return torch.zeros(len(audio), 7)", r"scene_embedding_size is 6.* 7 dimen"),
    "one scene for all": (SCENE, "return torch.zeros(6)", r"get_scene_embeddings gives the shape \[6\].*\[2, size\]"),
    "scenes of frames": (SCENE, "return torch.zeros(2, 3, 6)", r"gives the shape \[2, 3, 6\]"),
    "an empty scene": (SCENE, "return torch.zeros(2, 0)", r"gives the shape \[2, 0\]"),
    "NaN": (SCENE, "return torch.full((len(audio), 6), torch.nan)", "get_scene_embeddings gives NaN or infinity"),
    "integers": (SCENE, "return torch.zeros(len(audio), 6, dtype=torch.int64)", "gives int64: expected float32"),
    "complex": (SCENE, "return torch.zeros(len(audio), 6, dtype=torch.complex64)", "gives complex64"),
    "objects": (SCENE, "import numpy; return numpy.array([None, None])", "gives object: expected float32"),
    "None": (SCENE, "return None", "get_scene_embeddings gives None"),
    "a list": (SCENE, "return [0.0]", "get_scene_embeddings gives a list"),
    "an error": (
        SCENE,
        "raise RuntimeError('no such\\nlayer')",
        r"failed on \[2, 32000\] .*RuntimeError: no such layer",
    ),
    "frames alone": (
        FRAMES,
        "return frames",
        r"get_timestamp_embeddings gives a Tensor: expected \(embeddings, timest",
    ),
    "other timestamps": (
        FRAMES,
        "return frames, torch.arange(3.0).repeat(2, 1)",
        r"\(timestamps\) gives the shape \[2, 3",
    ),
    "timestamps of one clip": (
        FRAMES,
        "return frames, torch.arange(frames.shape[1])",
        r"\(timestamps\) gives the shape",
    ),
    "NaN frames": (FRAMES, "return frames * torch.nan, torch.zeros(frames.shape[:2])", "get_[ts].* gives NaN"),
    "no rate": ("sample_rate, scene", "sampling_rate, scene", "the model has no sample_rate"),
    "a strange rate": ("= 16000, 6", "= 'high', 6", "sample_rate is a whole number of Hz above 0, found 'high'"),
    "no model": (LOAD, "return None", "load_model gives None"),
    "load_model fails": (
        LOAD,
        "raise OSError('x' * 5000)",
        r"load_model failed: OSError: x{400} \.\.\. \(EVAR_TRACEBACK",
    ),
    "load_model exits": (LOAD, "raise SystemExit('bye')", "load_model failed: SystemExit: bye"),
    "needs weights": ('model_file_path=""', "model_file_path", "takes a weights file: give hear:a_hear_module@FILE"),
    "a missing function": ("def get_scene_embeddings", "def get_scenes", "has no get_scene_embeddings: the HEAR"),
    "corpora": ("sample_rate, scene", "trained_on = 7; sample_rate, scene", "trained_on is a tuple of corpus names"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_module_that_breaks_the_api_is_one_line_with_its_name(case, write):
    found, replaced, message = BROKEN[case]
    assert found in GOOD
    with pytest.raises(EvarError, match=message) as caught:
        load_encoder(write(GOOD.replace(found, replaced)))
    assert "hear:a_hear_module" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_nan_for_some_clip_only_is_found_when_it_comes(write):
    encoder = load_encoder(write(GOOD.replace(SCENE, f"{SCENE} / (audio[:, :1] != 0)")))
    wav = noise(2, 16000)
    wav[1, 0] = 0.0
    with pytest.raises(EvarError, match="hear:a_hear_module: get_scene_embeddings gives NaN"):
        encoder.encode(wav)


def test_a_traceback_can_be_asked_for(write, monkeypatch):
    monkeypatch.setenv("EVAR_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        load_encoder(write(GOOD.replace(LOAD, "1 / 0")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hear:no_such_hear_module", "cannot import no_such_hear_module for hear:no_such_hear_module"),
        ("hear:json", "hear:json has no load_model and no get_scene_embeddings and no get_timestamp"),
        ("random:hear:json", "random:hear:json: the HEAR API has no untrained model"),
        ("haer:json", "did you mean 'hear:'"),
    ],
)
def test_wrong_names_are_one_line(name, message):
    with pytest.raises(EvarError, match=message):
        load_encoder(name)
    assert parse("hear:a.b@c@d.pt").weights == "c@d.pt"


# ---- timestamps that no layer can be made of -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ("(0.02 * torch.arange(n)).repeat(len(audio), 1)", "HEAR has them in ms"),
        ("(3.0 * torch.arange(n) ** 1.5).repeat(len(audio), 1)", "not regular"),
        ("torch.zeros(len(audio), n)", "not regular"),
        ("20.0 * torch.arange(n) + 100.0 * torch.arange(len(audio))[:, None]", "not regular"),
    ],
)
def test_strange_timestamps_leave_the_scene_layer_alone(times, reason, write):
    encoder = load_encoder(write(GOOD.replace(FRAMES, f"n = frames.shape[1]; return frames, {times}")))
    assert encoder.layers == {"scene": 6}
    assert encoder.encode(noise(2, 16000)).shape == (2, 6)
    assert encoder.choices("all") == [("scene", "clip")]
    with pytest.raises(EvarError, match=f"has no layer 'timestamp'.*{reason}"):
        encoder.choices("timestamp")


@pytest.mark.parametrize(("window_ms", "shortest_ms"), [(50, 50), (1500, 2000)])
def test_a_clip_shorter_than_a_window_of_timestamps_is_padded_to_it(window_ms, shortest_ms, write):
    """The shortest clip was measured on scenes alone: 10 ms were enough for them, and the layer timestamp failed."""
    text = GOOD.replace(SCENE, "return model.scene(audio[:, :8])")
    encoder = load_encoder(write(text.replace("Conv1d(1, 8, 400", f"Conv1d(1, 8, {16 * window_ms}")))
    assert encoder.min_samples == 16 * shortest_ms
    assert encoder.encode_all(noise(1, 400), None, ["timestamp"], ["mean"])["timestamp", "mean"].shape == (1, 8)


def test_timestamps_that_are_no_layer_do_not_lengthen_short_clips(write):
    text = GOOD.replace(SCENE, "return model.scene(audio[:, :8])").replace("20.0 *", "0.02 *")
    encoder = load_encoder(write(text))
    assert (list(encoder.layers), encoder.min_samples) == (["scene"], 160)


# ---- models that are no torch modules --------------------------------------------------------------------------------

FOREIGN = """
    import numpy as np

    class Foreign:  # as a tensor of TensorFlow or JAX: numpy understands it, torch does not
        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values, dtype)

    class Model:
        sample_rate = 16000
        GAIN = 1.0

    def load_model(model_file_path=""):
        return Model()

    def get_scene_embeddings(audio, model):
        audio = audio.numpy()
        return Foreign(model.GAIN * np.stack([audio.mean(1), audio.std(1), abs(audio).max(1)], 1).astype(np.float32))

    def get_timestamp_embeddings(audio, model):
        energy = np.square(audio.numpy()[:, : audio.shape[1] // 160 * 160].reshape(len(audio), -1, 160)).mean(2)
        return Foreign(energy[..., None]), np.tile(np.arange(energy.shape[1]) * 10, (len(audio), 1))
"""


def test_answers_of_other_frameworks_pass_through_numpy(write):
    encoder = load_encoder(write(FOREIGN))
    wav = noise(2, 16000)
    assert encoder.layers == {"scene": 3, "timestamp": 1}, "sizes that the model does not tell are measured"
    assert np.allclose(encoder.encode(wav)[:, 1], wav.numpy().std(1), atol=1e-6)
    assert encoder.encode(wav).dtype == torch.float32
    assert encoder.encode_frames(wav, layers="timestamp").times_ms[-1] == 990.0


def test_a_model_without_tensors_is_known_by_its_answers(write, monkeypatch):
    """Its weights may be anywhere (a file named by the environment): other answers are another encoder."""
    name = write(FOREIGN)
    first, again = load_encoder(name), load_encoder(name)
    assert first.weights_kind == "trained"
    assert first.fingerprint() == again.fingerprint()
    monkeypatch.setattr(sys.modules["a_hear_module"].Model, "GAIN", 1.01)
    other = load_encoder(name)
    assert other.fingerprint() != first.fingerprint()
    assert other.weights_sha256 != first.weights_sha256


def test_variables_of_a_tensorflow_model_are_in_the_fingerprint(write):
    text = FOREIGN.replace("GAIN = 1.0", "GAIN = 1.0; variables = [Foreign(np.arange(3.0))]")
    first = load_encoder(write(text))
    other = load_encoder(write(text.replace("arange(3.0)", "arange(1.0, 4.0)")))
    assert first.settings["tensors"] != other.settings["tensors"]
    assert first.fingerprint() != other.fingerprint()


def test_networks_inside_a_plain_object_are_frozen_and_digested(write):
    text = (
        GOOD
        + """
    class Around:
        sample_rate = 16000

        def __init__(self):
            self.inner = Model()

    def load_model(model_file_path="", draw=load_model):
        around = Around()
        if model_file_path:
            around.inner.scene.weight.data += 1.0
        return around

    def get_scene_embeddings(audio, model, scene=get_scene_embeddings):
        assert not model.inner.training
        return scene(audio, model.inner)

    def get_timestamp_embeddings(audio, model, frames=get_timestamp_embeddings):
        return frames(audio, getattr(model, "inner", model))
    """
    )
    name = write(textwrap.dedent(text))
    first, other = load_encoder(name), load_encoder(f"{name}@larger")
    assert sum(parameter.numel() for parameter in first.parameters()) == 8 * 400 + 8 + 8 * 6 + 6
    assert not first.encode(noise(1, 16000)).requires_grad
    assert first.fingerprint() != other.fingerprint()


# ---- stale code ------------------------------------------------------------------------------------------------------


def test_edited_code_beside_the_module_is_another_encoder(write):
    write("SCALE = 1.0", "pack_of_mine.parts")
    name = write("from . import parts\n" + textwrap.dedent(GOOD), "pack_of_mine.api")
    first = load_encoder(name).fingerprint()
    write("SCALE = 2.0", "pack_of_mine.parts")
    write("from . import parts\n" + textwrap.dedent(GOOD), "pack_of_mine.api")
    assert load_encoder(name).fingerprint() != first
    write("SCALE = 1.0", "pack_of_mine.parts")
    write("unrelated = True", "pack_of_mine.training")
    write("from . import parts\n" + textwrap.dedent(GOOD), "pack_of_mine.api")
    assert load_encoder(name).fingerprint() == first, "a file that is not imported makes no difference"


def test_a_file_edited_after_its_import_is_refused(write, tmp_path):
    """In a notebook the old code would run, and its embeddings be stored under the fingerprint of the new one."""
    name = write()
    load_encoder(name)
    path = tmp_path / "a_hear_module.py"
    path.write_text(path.read_text() + "# edited\n")
    with pytest.raises(EvarError, match=r"a_hear_module.py was edited after a_hear_module was imported"):
        load_encoder(name)
    import importlib

    importlib.reload(sys.modules["a_hear_module"])
    assert load_encoder(name).layers


def test_what_a_module_prints_is_no_part_of_our_output(write, capsys):
    load_encoder(write(GOOD.replace(LOAD, "print('loading'); model = Model()") + "\n    print('hello')\n"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello" in err
