"""Fear: a user's plain torch.nn.Module is pooled, timed or loaded wrongly because it declares next to nothing."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch

from evar.encoders import load_encoder
from evar.encoders.base import Encoder
from evar.encoders.check import check_encoder
from evar.errors import EvarError

MODULE = """
    import torch
    from torch.nn.functional import relu

    import layers_of_mine

    class Vectors(torch.nn.Module):
        sample_rate = 16000

        def __init__(self, gain=1.0):
            super().__init__()
            self.conv = layers_of_mine.Conv(1, 12, 400, 160)
            self.head = torch.nn.Dropout(0.5)
            self.gain = gain

        def forward(self, wav):
            return self.head(relu(self.conv(wav[:, None])).amax(2)) * self.gain

    class FramesOf32(Vectors):
        sample_rate = 32000

        def forward(self, wav):
            return self.conv(wav[:, None]).transpose(1, 2)

    def make(gain=3.0):
        print("building")
        return Vectors(gain)
"""
LAYERS = "import torch\nclass Conv(torch.nn.Conv1d):\n    pass\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write(tmp_path)
    yield tmp_path
    forget()


def write(folder, module: str = MODULE, layers: str = LAYERS) -> None:
    forget()
    (folder / "my_nets.py").write_text(textwrap.dedent(module))
    (folder / "layers_of_mine.py").write_text(layers)


def forget() -> None:
    for name in ("my_nets", "layers_of_mine"):
        sys.modules.pop(name, None)


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_vectors_are_a_clip_layer():
    encoder, wav = load_encoder("random:py:my_nets:Vectors"), noise(2, 16000)
    assert (encoder.layers, dict(encoder.hop_ms), encoder.default_pooling) == ({"output": 12}, {}, "clip")
    assert (encoder.min_samples, encoder.weights_kind, encoder.label) == (400, "random", "random:py:my_nets:Vectors")
    with torch.no_grad():
        own = encoder.module.eval()(wav)
    assert torch.allclose(encoder.encode(wav), own, atol=1e-6), "dropout must be off"
    assert load_encoder("random:py:my_nets:Vectors").fingerprint() == encoder.fingerprint()
    assert load_encoder("random:py:my_nets:Vectors@1").fingerprint() != encoder.fingerprint()


def test_frames_are_pooled_by_their_mean_and_lie_in_the_middle():
    encoder, wav = load_encoder("random:py:my_nets:FramesOf32"), noise(2, 32000)
    assert (encoder.sample_rate, encoder.hop_ms, encoder.default_pooling) == (32000, {"output": 5.0}, "mean")
    with torch.no_grad():
        frames = encoder.module(wav)
    assert torch.allclose(encoder.encode(wav), frames.mean(1), atol=1e-6)
    times = encoder.encode_frames(wav).times_ms
    assert times[0].item() == pytest.approx(7.5), "(1000 ms - 197 hops) / 2; the first kernel is centred on 6.25 ms"
    assert 1000.0 - times[-1].item() == pytest.approx(times[0].item())
    with pytest.raises(EvarError, match="expects 32000 Hz, found 16000 Hz"):
        encoder.encode(wav, sample_rate=16000)


@pytest.mark.parametrize("name", ["Vectors", "FramesOf32"])
def test_both_keep_the_contract(name):
    failed = [result for result in check_encoder(load_encoder(f"random:py:my_nets:{name}")) if not result.ok]
    assert not failed


def test_functions_objects_classes_and_entry_points_lead_to_the_same(folder, capsys):
    made = load_encoder("three=py:my_nets:make")
    assert (made.label, made.module.gain) == ("three", 3.0)
    assert load_encoder("py:my_nets:make", gain=5.0).module.gain == 5.0
    assert capsys.readouterr().out == "", "what it prints would break --format json"
    cls = sys.modules["my_nets"].Vectors
    assert load_encoder(cls, gain=2.0).module.gain == 2.0
    net = cls(4.0)
    assert load_encoder(net).module is net
    assert load_encoder(net).fingerprint() == load_encoder(net).fingerprint()
    (folder / "nets-1.dist-info").mkdir()
    (folder / "nets-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: nets\nVersion: 1\n")
    points = "[evar.encoders]\nvectors = my_nets:Vectors\nthree = my_nets:make\n"
    (folder / "nets-1.dist-info/entry_points.txt").write_text(points)
    sys.path.insert(0, str(folder))
    assert load_encoder("random:vectors").layers == {"output": 12}
    assert load_encoder("three").module.gain == 3.0


def test_a_function_may_build_an_encoder_of_evars_own_kind(folder):
    text = "import evar\n\ndef make():\n    return evar.load_encoder('logmel')\n"
    write(folder, text)
    encoder = load_encoder("py:my_nets:make")
    assert isinstance(encoder, Encoder)
    assert encoder.embedding_dim == 128
    with pytest.raises(EvarError, match=r"builds its encoder by itself: remove '@x.pt'"):
        load_encoder("py:my_nets:make@x.pt")


def test_weights_are_loaded_by_name_and_none_may_be_missing(folder):
    trained = load_encoder("random:py:my_nets:Vectors@5").module.state_dict()
    torch.save({**trained, "projector.weight": torch.zeros(1)}, "good.pt")
    encoder = load_encoder("py:my_nets:Vectors@good.pt")
    assert encoder.weights_kind == "trained"
    assert len(encoder.weights_sha256) == 64
    assert torch.equal(encoder.module.conv.weight, trained["conv.weight"])
    torch.save({"conv.weight": trained["conv.weight"]}, "half.pt")
    with pytest.raises(EvarError, match=r"half.pt does not fit py:my_nets:Vectors: no tensor conv.bias \[12\]"):
        load_encoder("py:my_nets:Vectors@half.pt")
    torch.save({**trained, "conv.bias": torch.zeros(13)}, "other.pt")
    with pytest.raises(EvarError, match=r"conv.bias should be \[12\], is \[13\]"):
        load_encoder("py:my_nets:Vectors@other.pt")
    with pytest.raises(EvarError, match=r"none.pt does not exist"):
        load_encoder("py:my_nets:Vectors@none.pt")


CONV = "self.conv(wav[:, None])"
VECTOR = "return self.head(relu(self.conv(wav[:, None])).amax(2)) * self.gain"
BROKEN = {
    "no rate": ("sample_rate = 16000", "rate = 16000", "py:my_nets:Vectors: the model has no sample_rate"),
    "half a rate": (
        "sample_rate = 16000",
        "sample_rate = 0.5",
        "sample_rate is a whole number of Hz above 0, found 0.5",
    ),
    "a rate without end": (
        "sample_rate = 16000",
        "sample_rate = float('inf')",
        "sample_rate is a whole number of Hz above 0, found inf",
    ),
    "one value": (VECTOR, "return wav.mean(1)", r"gives the shape \[2\]: expected \[2, D\], one vector per clip, or"),
    "images": (VECTOR, f"return {CONV}[:, None]", r"gives the shape \[2, 1, 12, 98\]"),
    "time last": (VECTOR, f"return {CONV}", r"depends on the clip's length: \[12, 98\] for 1 s, \[12, 498\] for 5 s"),
    "flattened": (VECTOR, f"return {CONV}.flatten(1)", r"depends on the clip's length: \[1176\] for 1 s"),
    "a fixed grid": (VECTOR, f"return {CONV}[..., :9].mT", r"\[9, 12\] for 1 s and \[9, 12\] for 5 s: expected frames"),
    "one row": (VECTOR, f"return {CONV}.amax(2)[:1]", r"gives the shape \[1, 12\]: expected \[2, D\]"),
    "NaN": (VECTOR, f"return {CONV}.amax(2) * torch.nan", r"forward\(wav \[2, 16000\]\) gives NaN or infinity"),
    "labels": (VECTOR, f"return {CONV}.argmax(2)", "gives int64: expected float32"),
    "a tuple": (VECTOR, f"return {CONV}, None", "gives a tuple: expected a float32 tensor"),
    "an error": (VECTOR, "return self.conv(wav[:, :, None])", r"forward failed on \[2, 16000\] samples: RuntimeError"),
    "a failing constructor": ("super().__init__()", "raise OSError('no file')", "cannot be built: OSError: no file"),
    "an argument": ("gain=1.0", "gain", "Vectors missing a required argument: 'gain'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_module_that_cannot_be_an_encoder_is_one_line(case, folder):
    found, replaced, message = BROKEN[case]
    assert found in MODULE
    write(folder, MODULE.replace(found, replaced, 1))
    with pytest.raises(EvarError, match=message) as caught:
        load_encoder("py:my_nets:Vectors")
    assert "my_nets:Vectors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("thing = 7", "py:my_nets:thing is no encoder: expected a subclass of evar.Encoder or torch.nn.Module"),
        ("thing = torch.nn.ReLU()", "is no encoder: expected a subclass"),
        ("class thing: pass", "is no encoder: expected a subclass"),
        ("def thing(size): pass", "called without arguments, and thing asks for size: give them defaults"),
        ("def thing(): pass", "py:my_nets:thing is no encoder: it gives a NoneType, expected a torch.nn.Module"),
        ("Things = 7", "unknown class in my_nets 'thing'; did you mean 'Things'|there are: FramesOf32, Vectors, make"),
    ],
)
def test_what_is_no_module_is_one_line(line, message, folder):
    write(folder, f"{textwrap.dedent(MODULE)}\n{line}\n")
    with pytest.raises(EvarError, match=message):
        load_encoder("py:my_nets:thing")


def test_attributes_options_and_code_are_in_the_fingerprint(folder):
    def fingerprint(**options: float) -> str:
        return load_encoder("random:py:my_nets:Vectors", **options).fingerprint()

    first = fingerprint()
    assert fingerprint(gain=2.0) != first, "another gain must not meet old embeddings"
    write(folder, layers=LAYERS + "\n# an edit beside it\n")
    assert fingerprint() != first
    write(folder, MODULE.replace("amax(2)", "mean(2)"))
    assert fingerprint() != first
    write(folder)
    assert fingerprint() == first


def test_a_file_edited_after_its_import_is_refused(folder):
    """The old code would run and be stored under the fingerprint of the new one (a notebook, an IDE's console)."""
    load_encoder("random:py:my_nets:Vectors")
    (folder / "layers_of_mine.py").write_text(LAYERS + "# edited\n")
    with pytest.raises(EvarError, match=r"layers_of_mine.py was edited after layers_of_mine was imported"):
        load_encoder("random:py:my_nets:Vectors")


def test_what_it_was_trained_on_is_known(folder):
    write(folder, MODULE.replace("sample_rate = 16000", 'sample_rate = 16000; trained_on = ("esc50",)'))
    assert load_encoder("py:my_nets:Vectors").trained_on == ("esc50",)
    assert load_encoder("random:py:my_nets:Vectors").trained_on == ()


def test_a_class_of_a_notebook_is_fingerprinted_by_its_compiled_code():
    def network(factor: float) -> type:
        names: dict = {"torch": torch, "__name__": "__notebook__"}
        code = (
            "class N(torch.nn.Module):\n    sample_rate = 8000\n    def forward(self, wav):\n        return wav[:, :3]"
        )
        exec(f"{code} * {factor}", names)
        return names["N"]

    one, other, again = (load_encoder(network(factor)) for factor in (1.5, 2.5, 1.5))
    assert one.fingerprint() == again.fingerprint()
    assert one.fingerprint() != other.fingerprint()
