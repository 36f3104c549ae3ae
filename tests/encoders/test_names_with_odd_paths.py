"""A weights path may hold '@', '=' and ':'; a wrong name must be one line that names the right one."""

import sys
import textwrap

import pytest
import torch

from evar.encoders import EncoderName, load_encoder, parse
from evar.errors import EvarError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("logmel", ("logmel", "", "logmel", None)),
        ("base=logmel", ("base", "", "logmel", None)),
        ("byola-v2@runs/7.safetensors", ("byola-v2@7", "", "byola-v2", "runs/7.safetensors")),
        ("byola-v2@/a@b/c=d.pth", ("byola-v2@c=d", "", "byola-v2", "/a@b/c=d.pth")),
        ("v2=byola-v2@/a=b/c.pth", ("v2", "", "byola-v2", "/a=b/c.pth")),
        ("random:byola-v2", ("random:byola-v2", "random", "byola-v2", None)),
        ("r=random:byola-v2@3", ("r", "random", "byola-v2", "3")),
        ("random:byola-v2@3", ("random:byola-v2@3", "random", "byola-v2", "3")),
        ("py:pkg.mod:Class", ("py:pkg.mod:Class", "py", "pkg.mod:Class", None)),
        ("py:pkg.mod:Class@C:/w.pth", ("py:pkg.mod:Class@w", "py", "pkg.mod:Class", "C:/w.pth")),
    ],
)
def test_parts(spec, expected):
    assert parse(spec) == EncoderName(*expected)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("byola-v3@x.pth", {}, "did you mean 'byola-v2'"),
        ("logmell", {}, "did you mean 'logmel'"),
        ("radom:byola-v2", {}, "did you mean 'random:'"),
        ("", {}, "bad encoder name"),
        ("logmel@", {}, "bad encoder name"),
        ("logmel@x.pth", {}, "takes no weights"),
        ("byola-v2", {}, "byola-v2 needs weights: give byola-v2@FILE"),
        ("random:logmel", {}, "no weights to make random"),
        ("random:byola-v2@-1", {}, "whole number"),
        ("random:byola-v2@²", {}, "whole number"),
        ("random:random:byola-v2", {}, "stands once"),
        ("mfcc", {"coeficients": 20}, "did you mean 'coefficients'"),
        ("mfcc", {"coefficients": 65}, "from 1 to 64"),
        ("random:byola-v2", {"filterbank": "slaney"}, "did you mean 'slaney-norm'"),
        ("byola-v2@a.pth", {"weights": "b.pth"}, "two weights"),
        ("logmel", {"device": "gpu"}, "cannot use the device 'gpu'"),
        ("py:no_such_module_of_mine:X", {}, "cannot import no_such_module_of_mine"),
        ("py:json", {}, "expected py:pkg.module:Class"),
        ("py:json:JSONDecoder", {}, "is no encoder"),
        ("py:json:JSONDecodr", {}, "did you mean 'JSONDecoder'"),
        (7, {}, "is no encoder"),
    ],
)
def test_wrong_names_are_one_line(spec, options, message):
    with pytest.raises(EvarError) as caught:
        load_encoder(spec, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


OWN = """
    import torch
    from evar.encoders.base import Encoder, Frames

    class Mine(Encoder):
        name, version, sample_rate, min_samples = "mine", 1, 8000, 80
        layers, hop_ms = {"energy": 1}, {"energy": 10.0}
        default_layers, default_pooling = ("energy",), "mean"

        def __init__(self, gain=1.0):
            super().__init__()
            self.gain = gain

        def _frames(self, wav, lengths):
            n = wav.shape[1] // 80
            energy = self.gain * wav[:, : n * 80].view(len(wav), n, 80).square().sum(2, keepdim=True)
            return {"energy": Frames(energy, torch.arange(n) * 10.0, lengths // 80)}
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_encoders.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_encoders", None)


def test_own_class_from_the_working_directory(own_module):
    encoder = load_encoder("mine=py:my_encoders:Mine", gain=2.0)
    assert encoder.label == "mine"
    assert encoder.encode(torch.ones(160)).item() == 160.0
    cls = type(encoder)
    assert load_encoder(cls, gain=2.0).fingerprint() == encoder.fingerprint()
    assert load_encoder(encoder) is encoder
    assert load_encoder(cls).fingerprint() != encoder.fingerprint(), "another gain must not meet old embeddings"
    with pytest.raises(EvarError, match="gian"):
        load_encoder("py:my_encoders:Mine", gian=2.0)
    with pytest.raises(EvarError, match="takes no weights"):
        load_encoder("py:my_encoders:Mine@file.pth")


def test_an_edited_own_class_does_not_meet_its_old_embeddings(own_module):
    before = load_encoder("py:my_encoders:Mine").fingerprint()
    source = own_module / "my_encoders.py"
    source.write_text(source.read_text().replace("square().sum", "abs().sum") + "# edited\n")
    sys.modules.pop("my_encoders")
    import linecache

    linecache.checkcache()
    assert load_encoder("py:my_encoders:Mine").fingerprint() != before


def test_own_class_that_cannot_be_imported_is_one_line(own_module):
    (own_module / "my_encoders.py").write_text("def broken(:\n")
    with pytest.raises(EvarError, match=r"cannot import my_encoders .*SyntaxError"):
        load_encoder("py:my_encoders:Mine")


def test_entry_points_are_names(own_module, monkeypatch):
    info = own_module / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[evar.encoders]\nenergy = my_encoders:Mine\nbad = json:loads\n")
    monkeypatch.syspath_prepend(str(own_module))
    assert load_encoder("energy").label == "energy"
    with pytest.raises(EvarError, match="did you mean 'energy'"):
        load_encoder("enrgy")
    with pytest.raises(EvarError, match="is no encoder"):
        load_encoder("bad")


def test_a_class_that_overrides_sealed_methods_is_refused():
    from evar.encoders.base import Encoder

    with pytest.raises(TypeError, match="encode is sealed"):
        type("Cheat", (Encoder,), {"encode": lambda self, wav: wav})


def test_an_undeclared_class_is_one_line():
    from evar.encoders.base import Encoder

    cls = type("Bare", (Encoder,), {"name": "bare"})
    with pytest.raises(EvarError, match="Bare declares no version"):
        load_encoder(cls)


def test_a_missing_extra_names_its_install_line():
    from evar.extras import naming

    with pytest.raises(EvarError, match=r"pip install 'tensorflow-hub>=.*' 'tensorflow>="), naming("tfhub", "trill"):
        import tensorflow_hub_that_is_not_there  # noqa: F401
