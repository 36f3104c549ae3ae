"""VGGish's files: the port's checkpoint by its names, PCA parameters of both releases; anything else is one clear line."""

import pickle

import numpy as np
import pytest
import torch

from evar.encoders import list_encoders, load_encoder
from evar.encoders.vggish import read_pca
from evar.encoders.weights import write_weights
from evar.errors import EvarError
from evar.files import sha256_file

VARIANTS = ["vggish", "vggish-relu", "vggish-4k", "vggish-fusion"]
SMALL = {"width": 1}


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def refused(spec, **options):
    with pytest.raises(EvarError) as caught:
        load_encoder(spec, **SMALL | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def port_state(width, seed=0):
    """A state dict under the port's names, written here and not taken from our network."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {}
    inside = 1
    for i, factor in ((0, 1), (3, 2), (6, 4), (8, 4), (11, 8), (13, 8)):
        shapes[f"features.{i}.weight"] = (factor * width, inside, 3, 3)
        inside = factor * width
    for i, out, inside in ((0, 64 * width, 192 * width), (2, 64 * width, 64 * width), (4, 128, 64 * width)):
        shapes[f"embeddings.{i}.weight"] = (out, inside)
    state = {}
    for key, shape in shapes.items():
        state[key] = 0.2 * torch.randn(shape, generator=generator)
        state[key.replace("weight", "bias")] = 0.1 * torch.randn(shape[0], generator=generator)
    return state


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "port.pth"
    torch.save(port_state(1), path)
    return path


# ---- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_a_checkpoint_of_the_port_loads_by_name(name, checkpoint):
    encoder = load_encoder(f"{name}@{checkpoint}", **SMALL)
    for key, value in port_state(1).items():
        assert torch.equal(encoder.state_dict()[key], value), key
    assert (encoder.name, encoder.weights_kind, encoder.trained_on) == (name, "trained", ("youtube-8m",))
    assert len(encoder.weights_sha256) == 64
    assert encoder.encode(noise(2, 16000)).shape == (2, encoder.embedding_dim)


def test_keys_of_the_ports_post_processor_are_left_alone(tmp_path):
    torch.save(
        port_state(1) | {"pproc.pca_matrix": torch.eye(128), "pproc.pca_means": torch.zeros(128, 1)}, tmp_path / "w.pth"
    )
    assert load_encoder(f"vggish@{tmp_path / 'w.pth'}", **SMALL).weights_kind == "trained"


def test_a_file_of_ours_comes_back(tmp_path):
    encoder = load_encoder("random:vggish", **SMALL)
    write_weights(tmp_path / "w.safetensors", encoder.state_dict(), {"encoder": "vggish", "trained_on": ["esc50"]})
    loaded = load_encoder(f"vggish-relu@{tmp_path / 'w.safetensors'}", **SMALL)
    assert loaded.trained_on == ("esc50",)
    assert torch.equal(
        loaded.encode_frames(noise(16000)).features, encoder.encode_frames(noise(16000)).features.clamp(min=0)
    )
    write_weights(tmp_path / "cola.safetensors", encoder.state_dict(), {"encoder": "cola"})
    assert "holds the encoder cola" in refused(f"vggish@{tmp_path / 'cola.safetensors'}")


def test_the_published_file_is_known_by_its_digest(tmp_path, monkeypatch):
    path = tmp_path / "vggish-10086976.pth"
    torch.save(port_state(1), path)
    entries = list_encoders()
    assert "expected 288567937 bytes" in refused(f"vggish@{path}")
    monkeypatch.setitem(entries["vggish"].source, "bytes", path.stat().st_size)
    for spec in (path, tmp_path):  # the file, and the folder that holds it
        message = refused(f"vggish@{spec}")
        assert "vggish-10086976.pth is named as the published weights of vggish, but is damaged" in message
        assert "expected sha256 10086976" in message
        assert "evar weights fetch vggish" in message
    for name in VARIANTS:
        source = entries[name].source
        assert len(source["sha256"]) == 64
        assert source["file"] == f"vggish-{source['sha256'][:8]}.pth", "torch.hub's convention"
        assert source["url"].endswith(source["file"])
    monkeypatch.setitem(entries["vggish"].source, "sha256", sha256_file(path))
    assert load_encoder(f"vggish@{tmp_path}", **SMALL).weights_kind == "trained"


def test_files_of_other_models_are_refused(tmp_path, checkpoint):
    assert "features.0.weight should be [2, 1, 3, 3], is [1, 1, 3, 3]" in refused(f"vggish@{checkpoint}", width=2)
    torch.save({"conv_block1.conv1.weight": torch.ones(2)}, tmp_path / "cnn14.pth")
    message = refused(f"vggish@{tmp_path / 'cnn14.pth'}")
    assert "no tensor features.0.weight" in message
    assert "PyTorch port's names" in message
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:-500])
    assert "damaged" in refused(f"vggish@{tmp_path / 'cut.pth'}")
    (tmp_path / "vggish_model.ckpt").write_bytes(b"\0" * 4096)  # TensorFlow's checkpoints are another format
    assert "is no weights file" in refused(f"vggish@{tmp_path / 'vggish_model.ckpt'}")
    assert "does not exist" in refused(f"vggish@{tmp_path / 'absent.pth'}")
    assert "vggish needs weights" in refused("vggish")


def test_options_are_checked():
    assert "width" in refused("random:vggish", width=0)
    assert "option of vggish-4k 'postprocess'" in refused("random:vggish-4k", postprocess="round")


# ---- PCA -----------------------------------------------------------------------------------------------------------


def pca_arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "pca_eigen_vectors": rng.normal(0, 0.2, (128, 128)).astype(np.float32),
        "pca_means": rng.normal(0, 1, 128).astype(np.float32),
    }


@pytest.fixture
def pca(tmp_path):
    np.savez(tmp_path / "pca.npz", **pca_arrays())
    return tmp_path / "pca.npz"


@pytest.mark.parametrize(("how", "quantise"), [("truncate", lambda x: x.astype(np.uint8)), ("round", np.round)])
def test_post_processing_is_that_of_its_release(how, quantise, pca):
    plain = load_encoder("random:vggish", **SMALL)
    encoder = load_encoder("random:vggish", postprocess=how, pca_params=str(pca), **SMALL)
    wav = noise(3, 48000)
    raw = plain.encode_frames(wav).features.reshape(-1, 128).double().numpy()
    arrays = pca_arrays()
    projected = (arrays["pca_eigen_vectors"].astype(float) @ (raw.T - arrays["pca_means"].reshape(-1, 1))).T
    steps = (np.clip(projected, -2.0, 2.0) + 2.0) * 63.75
    found = encoder.encode_frames(wav).features.reshape(-1, 128).numpy()
    edge = steps if how == "truncate" else steps + 0.5
    safe = np.abs(edge - np.round(edge)) > 1e-3  # elsewhere float32 may fall on either side
    safe |= (steps == 0) | (steps == 255)
    assert safe.mean() > 0.99
    np.testing.assert_array_equal(found[safe], quantise(steps)[safe])
    assert 0 <= found.min() < 100 < 150 < found.max() <= 255
    assert np.abs(found - steps).max() <= (1.0 if how == "truncate" else 0.5) + 1e-3
    fc = [one.encode_frames(wav, layers="fc19").features for one in (plain, encoder)]
    assert torch.equal(*fc), "other layers stay as they are"


def test_another_pca_is_another_fingerprint(pca, tmp_path):
    np.savez(tmp_path / "other.npz", **pca_arrays(seed=1))
    built = [
        load_encoder("random:vggish", postprocess=how, pca_params=str(file), **SMALL).fingerprint()
        for how, file in (("round", pca), ("truncate", pca), ("round", tmp_path / "other.npz"))
    ]
    assert len({*built, load_encoder("random:vggish", **SMALL).fingerprint()}) == 4
    assert built[0] == load_encoder("random:vggish", postprocess="round", pca_params=str(pca), **SMALL).fingerprint()


def test_all_files_of_pca_parameters_say_the_same(pca, tmp_path):
    expected = read_pca(pca)
    arrays = pca_arrays()
    assert torch.equal(expected[0], torch.from_numpy(arrays["pca_eigen_vectors"]))
    assert torch.equal(expected[1], torch.from_numpy(arrays["pca_means"]))
    column = arrays | {"pca_means": arrays["pca_means"].reshape(128, 1)}
    torch.save({key: torch.from_numpy(value) for key, value in column.items()}, tmp_path / "tensors.pth")
    torch.save({key: value.astype(np.float64) for key, value in arrays.items()}, tmp_path / "arrays.pth")
    torch.save(arrays, tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # as saved in 2020
    for name in ("tensors.pth", "arrays.pth", "old.pth"):
        found = read_pca(tmp_path / name)
        assert torch.equal(found[0], expected[0]), name
        assert torch.equal(found[1], expected[1]), name


def test_arrays_pickled_by_numpy_1_are_read(tmp_path):
    """They name numpy.core, which numpy 2 calls numpy._core."""
    arrays = pca_arrays()
    torch.save(arrays, tmp_path / "new.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "new.pth").read_bytes()
    (tmp_path / "old.pth").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert torch.equal(read_pca(tmp_path / "old.pth")[0], torch.from_numpy(arrays["pca_eigen_vectors"]))


class Runs:
    def __reduce__(self):
        return print, ("this must not run",)


def test_bad_pca_files_are_one_line(tmp_path, capsys):
    arrays = pca_arrays()

    def said(file, **content):
        if content:
            np.savez(tmp_path / file, **content)
        return refused("random:vggish", postprocess="round", pca_params=str(tmp_path / file))

    assert "does not exist" in said("absent.npz")
    assert "has no 'pca_means'" in said("a.npz", pca_eigen_vectors=arrays["pca_eigen_vectors"])
    assert "should be [128, 128]" in said("b.npz", **arrays | {"pca_eigen_vectors": np.zeros((64, 128))})
    assert "NaN" in said("c.npz", **arrays | {"pca_means": np.full(128, np.nan)})
    (tmp_path / "cut.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:1000])
    assert "cannot be read" in said("cut.npz")
    assert "cannot be read" in said("code.npz", **arrays | {"pca_means": np.array([Runs()], dtype=object)})
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"pca_means": Runs()}))
    assert "was not loaded" in said("code.pth")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    assert "holds a Tensor" in said("tensor.pth")
    assert "must not run" not in capsys.readouterr().out


def test_post_processing_needs_both_options(pca):
    assert "needs both options" in refused("random:vggish", postprocess="round")
    assert "needs both options" in refused("random:vggish", pca_params=str(pca))
    assert "postprocess 'floor'" in refused("random:vggish", postprocess="floor", pca_params=str(pca))
