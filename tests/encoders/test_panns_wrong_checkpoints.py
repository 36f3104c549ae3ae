"""Checkpoints that CNN14 must not take for its own, and the published 16 kHz file's extra arrays."""

import pickle

import numpy as np
import pytest
import torch

from evar.audio.mel import mel_filterbank
from evar.encoders import load_encoder, panns
from evar.errors import EvarError

WIDTH = 4


def refused(spec):
    with pytest.raises(EvarError) as caught:
        load_encoder(spec, width=WIDTH)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def state_of(name):
    """A state dict under upstream's names: the network, the head, the front end."""
    encoder = load_encoder(f"random:{name}", width=WIDTH)
    window = encoder.front_end._window
    stft = torch.zeros(len(window) // 2 + 1, 1, len(window))
    stft[0, 0] = window
    return {
        **encoder.network.state_dict(),
        panns.STFT_KEY: stft,
        panns.MEL_KEY: encoder.front_end._mel.clone(),
        "fc_audioset.weight": torch.zeros(527, 32 * WIDTH),
        "fc_audioset.bias": torch.zeros(527),
    }


@pytest.fixture
def state():
    return state_of("cnn14")


def saved(path, state, **beside):
    torch.save({"model": state, **beside}, path)
    return path


def test_a_checkpoint_of_the_other_rate_names_the_right_encoder(tmp_path, state):
    at_16k, at_32k = saved(tmp_path / "16k.pth", state_of("cnn14-16k")), saved(tmp_path / "32k.pth", state)
    message = refused(f"cnn14@{at_16k}")
    assert "32000 Hz, FFT 1024" in message
    assert "[257, 64]" in message
    assert f"give cnn14-16k@{at_16k}" in message
    for name in ("cnn14-16k", "cnn14-fusion"):
        message = refused(f"{name}@{at_32k}")
        assert f"give cnn14@{at_32k}" in message
        assert "16000 Hz, FFT 512" in message
    del state[panns.MEL_KEY]
    saved(at_32k, state)
    assert f"give cnn14@{at_32k}" in refused(f"cnn14-16k@{at_32k}")


def test_the_same_shape_with_another_filterbank_is_refused(tmp_path, state):
    mel = mel_filterbank(32000, 1024, 64, 50, 16000, "slaney", "slaney")  # up to 16 kHz, not 14
    state[panns.MEL_KEY] = torch.from_numpy(mel)
    message = refused(f"cnn14@{saved(tmp_path / 'w.pth', state)}")
    assert panns.MEL_KEY in message
    assert "differs" in message
    assert "give" not in message


def test_a_network_without_front_end_and_head_loads(tmp_path, state):
    bare = {key: value for key, value in state.items() if key not in (panns.MEL_KEY, panns.STFT_KEY)}
    torch.save(bare, tmp_path / "w.pth")
    encoder = load_encoder("cnn14", weights=tmp_path / "w.pth", width=WIDTH)
    assert encoder.label == "cnn14@w"
    assert encoder.trained_on == ("audioset",)


def test_other_networks_of_panns_are_refused(tmp_path, state):
    cnn10 = {key: value for key, value in state.items() if not key.startswith(("conv_block5", "conv_block6"))}
    message = refused(f"cnn14@{saved(tmp_path / 'w.pth', cnn10)}")
    assert "no tensor conv_block5.conv1.weight" in message
    assert "no CNN14 of PANNs" in message
    state["fc1.weight"] = torch.zeros(512, 32 * WIDTH)
    message = refused(f"cnn14@{saved(tmp_path / 'w.pth', state)}")
    assert "fc1.weight should be [128, 128], is [512, 128]" in message


def test_a_look_alike_with_another_head_is_told_by_its_digest(tmp_path, state, monkeypatch):
    """The tensors of Cnn14_DecisionLevelMax have CNN14's names and shapes, all 84 of them."""
    path = saved(tmp_path / "w.pth", state)
    encoder = load_encoder("cnn14", weights=path, width=WIDTH)
    monkeypatch.setattr(panns, "LOOK_ALIKES", {encoder.weights_sha256: "Cnn14_DecisionLevelMax_mAP=0.385.pth"})
    message = refused(f"cnn14@{path}")
    assert "Cnn14_DecisionLevelMax_mAP=0.385.pth" in message
    assert "expected Cnn14_mAP=0.431.pth" in message


@pytest.mark.parametrize("numpy_1", [False, True])
def test_the_16_khz_file_with_arrays_of_its_sampler_loads(tmp_path, numpy_1, monkeypatch):
    """The published file holds int64 arrays beside the model, pickled by NumPy 1: plain weights_only refuses it."""
    rebuild = np.empty(0).__reduce__()[0]
    if numpy_1:
        monkeypatch.setattr(rebuild, "__module__", "numpy.core.multiarray")
    path = tmp_path / "sampled.pth"
    content = {
        "iteration": 660000,
        "model": state_of("cnn14-16k"),
        "sampler": {"indexes_per_class": [np.arange(5), np.arange(3)], "queue": [1, 2], "pointers": [0, 1]},
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert (b"numpy.core.multiarray" in path.read_bytes()) == numpy_1
    monkeypatch.undo()
    before = set(torch.serialization.get_safe_globals())  # in no order
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert load_encoder("cnn14-16k", weights=path, width=WIDTH).weights_kind == "trained"
    assert set(torch.serialization.get_safe_globals()) == before  # nobody else's file gains from it


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_a_checkpoint_that_runs_code_is_not_loaded(tmp_path, state, capsys):
    assert "could run code" in refused(f"cnn14@{saved(tmp_path / 'w.pth', state, sampler=Evil())}")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [0, -1, 2.5, "wide"])
def test_a_width_that_is_none_is_one_line(width):
    with pytest.raises(EvarError, match="width is the channels of the first block"):
        load_encoder("random:cnn14", width=width)


def test_a_missing_panns_inference_is_one_line(monkeypatch):
    panns.upstream_models.cache_clear()
    monkeypatch.setattr(panns.importlib.util, "find_spec", lambda name: None)
    try:
        with pytest.raises(EvarError, match="pip install panns-inference"):
            load_encoder("random:cnn14", width=WIDTH)
    finally:
        monkeypatch.undo()
        panns.upstream_models.cache_clear()
