"""`export_fc`: which linear layers a weights file has, that training knows nothing of it, and that it says so."""

import dataclasses
import shutil

import pytest
import torch

from evar.encoders.byola import ByolaV1
from evar.encoders.registry import bundled_file, load_encoder
from evar.encoders.weights import read_weights, write_weights
from evar.errors import EvarError
from evar.pretraining.byol import EXPORTS, ByolMethod
from evar.pretraining.presets import PRESETS
from evar.pretraining.pretrain import Options, pretrain

HEADS = {"hidden": 24, "projection": 8}
PRESET = "quick-v1-512"


def trained(export_fc):
    """Three steps, enough to move every parameter."""
    torch.manual_seed(0)
    encoder = ByolaV1(512).with_normalization({"mean": -6.0, "std": 4.0})
    method = ByolMethod(encoder, export_fc=export_fc, **HEADS).train()
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        torch.manual_seed(step)
        method(torch.randn(2, 4, 64, 16))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step()
    return method


@pytest.fixture(scope="module")
def methods():
    return {export_fc: trained(export_fc) for export_fc in EXPORTS}


def test_identity_gives_block_3_of_the_trained_network_bit_for_bit(methods, tmp_path):
    method = methods["identity"]
    front_end = {key: value for key, value in dict(method.encoder.settings).items() if key != "d"}
    told = {"encoder": "byola-v1-512", "frontend": front_end, "normalization": dict(method.encoder.normalization)}
    write_weights(tmp_path / "w.safetensors", method.exported(), told)
    exported = load_encoder(f"byola-v1-512@{tmp_path / 'w.safetensors'}")
    wav = 0.1 * torch.randn(3, 20000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([20000, 16000, 9000])
    chosen = ("block3", "mean+max")
    block3 = method.encoder.encode_pairs(wav, lengths, [chosen])[chosen]
    assert torch.equal(exported.encode(wav, lengths), block3)
    assert not torch.allclose(method.encoder.encode(wav, lengths), block3)


def test_training_is_the_same_whatever_is_exported(methods):
    states = {name: method.state_dict() for name, method in methods.items()}
    for name, value in states["trained"].items():
        assert torch.equal(value, states["identity"][name]), name
        assert torch.equal(value, states["initial"][name]), name
    assert {name for name in states["initial"] if name not in states["trained"]} == {
        f"initial_fc.{i}.{part}" for i in (0, 3) for part in ("weight", "bias")
    }
    assert states["identity"].keys() == states["trained"].keys()


def test_only_the_linear_layers_differ(methods):
    found = {name: method.exported() for name, method in methods.items()}
    torch.manual_seed(0)
    began = ByolaV1(512).state_dict()
    for name, value in found["trained"].items():
        assert torch.equal(value, methods["trained"].encoder.state_dict()[name])
        alike = not name.startswith("fc.")
        assert torch.equal(found["identity"][name], value) == alike, name
        assert torch.equal(found["initial"][name], value if alike else began[name]), name
        assert found["identity"][name].dtype == value.dtype


@pytest.mark.parametrize("name", ["byola-v1-1024", "byola-v1-2048", "byola-v2", "byola-v2-2048"])
def test_identity_needs_square_layers(name):
    with pytest.raises(EvarError, match="identity is for square linear layers") as caught:
        ByolMethod(load_encoder(f"random:{name}"), export_fc="identity", **HEADS)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_export_is_refused():
    with pytest.raises(EvarError, match="unknown export_fc 'identty'; did you mean 'identity'"):
        ByolMethod(ByolaV1(512), export_fc="identty", **HEADS)


def test_one_preset_exports_the_identity():
    assert [name for name, preset in PRESETS.items() if preset.options.get("export_fc") == "identity"] == [PRESET]


def test_the_bundled_v1_512_is_block_3():
    encoder, chosen = load_encoder("byola-v1-512"), ("block3", "mean+max")
    assert read_weights(bundled_file("byola-v1-512")).metadata["preset"]["export_fc"] == "identity"
    wav = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder.encode(wav), encoder.encode_pairs(wav, None, [chosen])[chosen])


@pytest.mark.parametrize(("first", "then"), [("initial", "identity"), ("trained", "initial")])
def test_a_run_resumed_with_another_export_goes_on_to_the_same_weights(first, then, sounds, tmp_path, monkeypatch):
    def run(folder, export_fc, steps, resume=False):
        preset = PRESETS[PRESET]
        options = {**preset.options, **HEADS, "export_fc": export_fc}
        monkeypatch.setitem(PRESETS, PRESET, dataclasses.replace(preset, options=options, schedule="constant"))
        words = Options((str(sounds),), PRESET, str(folder), batch=4, steps=steps, resume=resume)
        return read_weights(pretrain(dataclasses.replace(words, cache=str(tmp_path / "cache"))).weights)

    whole = run(tmp_path / "whole" / "run", then, 2)
    assert whole.metadata["preset"]["export_fc"] == then
    before = run(tmp_path / "run", first, 1)
    assert before.metadata["preset"]["export_fc"] == first
    shutil.copytree(tmp_path / "run", tmp_path / "finished" / "run")
    after = run(tmp_path / "run", then, 2, resume=True)
    assert after.metadata["preset"]["export_fc"] == then
    assert all(torch.equal(after.state[name], value) for name, value in whole.state.items())
    again = run(tmp_path / "finished" / "run", then, 1, resume=True)  # nothing to train: exported anew
    assert again.metadata["preset"]["export_fc"] == then
    assert all(torch.equal(again.state[k], v) == (not k.startswith("fc.")) for k, v in before.state.items())
