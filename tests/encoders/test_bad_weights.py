"""Weights that do not fit, are damaged or would run code: one line each, nothing run, nothing half loaded."""

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from evar.encoders import load_encoder
from evar.encoders.weights import read_weights, write_weights
from evar.errors import EvarError


def refused(spec, **options):
    with pytest.raises(EvarError) as caught:
        load_encoder(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def state():
    return dict(load_encoder("random:byola-v1-1024").state_dict())


def test_another_shape_names_key_shapes_and_what_fits(state, tmp_path):
    path = tmp_path / "big.pth"
    torch.save(state, path)
    message = refused(f"byola-v1-512@{path}")
    assert "fc.0.weight should be [512, 512], is [1024, 512]" in message
    assert f"the file fits byola-v1-1024@{path}" in message
    message = refused(f"byola-v2@{path}")
    assert "fits byola-v1-1024" in message
    save_file(dict(load_encoder("random:byola-v2").state_dict()), tmp_path / "v2.safetensors")
    message = refused(f"byola-v1-512@{tmp_path / 'v2.safetensors'}")
    assert "no tensor features.8.weight [64, 64, 3, 3]" in message
    assert "fits byola-v2@" in message


def test_a_missing_tensor_is_named(state, tmp_path):
    del state["features.4.bias"]
    torch.save(state, tmp_path / "w.pth")
    assert "no tensor features.4.bias [64]" in refused(f"byola-v1-1024@{tmp_path / 'w.pth'}")


def test_another_model_is_no_byola(tmp_path):
    save_file({"encoder.weight": torch.ones(2, 2)}, tmp_path / "w.safetensors")
    message = refused(f"byola-v2@{tmp_path / 'w.safetensors'}")
    assert "encoder.weight" in message
    assert "no BYOL-A encoder" in message


def test_wrapped_state_dicts_and_extra_keys_are_read(state, tmp_path):
    plain = load_encoder("random:byola-v1-1024").fingerprint()
    for wrapper in ("state_dict", "model"):
        torch.save({wrapper: state | {"predictor.0.bias": torch.ones(1)}, "epoch": 100}, tmp_path / "w.pth")
        assert load_encoder(f"byola-v1-1024@{tmp_path / 'w.pth'}").fingerprint() == plain


def test_nan_weights_are_refused(state, tmp_path):
    state["fc.3.bias"][7] = torch.nan
    torch.save(state, tmp_path / "w.pth")
    assert "fc.3.bias holds NaN" in refused(f"byola-v1-1024@{tmp_path / 'w.pth'}")


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_a_pickle_that_runs_code_is_not_run(form, tmp_path):
    marker, path = tmp_path / "was-run", tmp_path / "evil.pth"
    content = {"features.0.weight": RunsCode(marker)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = refused(f"byola-v1-512@{path}")
    assert "could run code" in message
    assert not marker.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01])
def test_truncated_files(suffix, keep, state, tmp_path):
    path = tmp_path / f"w.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    message = refused(f"byola-v1-1024@{path}")
    assert "damaged" in message
    assert "again" in message


def test_a_truncated_legacy_file(state, tmp_path):
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=False)
    (tmp_path / "w.pth").write_bytes(stream.getvalue()[:5000])
    assert "damaged" in refused(f"byola-v1-1024@{tmp_path / 'w.pth'}")


def test_what_is_no_weights_file(tmp_path):
    text, empty, missing, archive = (tmp_path / name for name in ("t.pth", "e.pth", "m.pth", "a.zip"))
    text.write_text("<html>404 not found</html>")
    empty.touch()
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("hello.txt", "hello")
    assert "no weights file" in refused(f"byola-v2@{text}")
    assert "0 bytes" in refused(f"byola-v2@{empty}")
    assert "does not exist" in refused(f"byola-v2@{missing}")
    assert "is a folder" in refused(f"byola-v2@{tmp_path}")
    assert "damaged" in refused(f"byola-v2@{archive}")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    assert "expected a state dict" in refused(f"byola-v2@{tmp_path / 'tensor.pth'}")
    torch.save({"epoch": 3}, tmp_path / "no-tensors.pth")
    assert "no tensors" in refused(f"byola-v2@{tmp_path / 'no-tensors.pth'}")


META = {
    "encoder": "byola-v1-1024",
    "frontend": {"n_mels": 64, "filterbank": "slaney-norm"},
    "normalization": {"mean": -6.5, "std": 4.25},
    "corpus": "pack",
    "trained_on": ["esc50"],
}


def test_our_file_brings_front_end_and_statistics(state, tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, state, META)
    assert read_weights(path).metadata == {**META, "format": 1}
    first = path.read_bytes()
    write_weights(path, dict(reversed(state.items())), META)
    assert path.read_bytes() == first, "the same weights are the same file"
    encoder = load_encoder(f"byola-v1-1024@{path}")
    assert encoder.normalization == META["normalization"]
    assert encoder.settings["filterbank"] == "slaney-norm"
    assert encoder.trained_on == ("esc50",)
    assert encoder.encode(torch.zeros(16000)).shape == (1024,)
    assert load_encoder("byola-v1-1024", weights=path).weights_sha256 == encoder.weights_sha256
    message = refused(f"byola-v1-1024@{path}", filterbank="htk")
    assert "trained with filterbank 'slaney-norm', not 'htk'" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frontend": {"n_mels": 128}}, "trained with n_mels 128, not 64"),
        ({"frontend": {"sample_rate": 32000}}, "trained with sample_rate 32000, not 16000"),
        ({"frontend": {"n_mel": 64}}, "did you mean 'n_mels'"),
        ({"frontend": {"filterbank": "bark"}}, "unknown mel filterbank 'bark'"),
        ({"normalization": {"mean": 0.0, "std": 0.0}}, "std"),
        ({"normalization": {"mean": 0.0}}, "std"),
        ({"format": 2}, "format 2, this evar reads 1"),
        ({"format": "1"}, "metadata"),
        ({"encodr": "x"}, "did you mean 'encoder'"),
    ],
)
def test_metadata_that_does_not_fit(change, message, state, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(state, path, metadata={"evar": json.dumps({"format": 1, **META, **change})})
    assert message in refused(f"byola-v1-1024@{path}")


def test_metadata_that_is_no_json(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors", metadata={"evar": "{"})
    assert "no JSON mapping" in refused(f"byola-v1-1024@{tmp_path / 'w.safetensors'}")


def test_writing_refuses_unknown_metadata(state, tmp_path):
    with pytest.raises(EvarError, match="did you mean 'corpus'"):
        write_weights(tmp_path / "w.safetensors", state, {"encoder": "byola-v2", "corpsu": "pack"})
    assert not (tmp_path / "w.safetensors").exists()
