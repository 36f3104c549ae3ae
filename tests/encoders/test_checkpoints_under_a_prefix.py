"""Weights that a trainer wrapped: taken where they are there once, said, and refused by name where they are not."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evar.encoders import load_encoder
from evar.encoders.registry import list_encoders
from evar.encoders.weights import write_weights
from evar.errors import EvarError

NAME = "byola-v1-512"


@pytest.fixture(scope="module")
def state():
    return {key: value.clone() for key, value in load_encoder(f"random:{NAME}").state_dict().items()}


@pytest.fixture(scope="module")
def expected():
    return load_encoder(f"random:{NAME}").fingerprint()


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


HEAD = {"projector.net.0.weight": torch.ones(3, 2), "predictor.0.bias": torch.ones(3)}
WRAPPED = {
    "plain": (lambda s: s, ""),
    "ddp": (lambda s: under("module.", s), "'module.'"),
    "compiled": (lambda s: under("_orig_mod.", s), "'_orig_mod.'"),
    "both": (lambda s: under("module._orig_mod.", s), "'module._orig_mod.'"),
    "both_the_other_way": (lambda s: under("_orig_mod.module.", s), "'_orig_mod.module.'"),
    "compiled_part": (lambda s: {k.replace("features.", "features._orig_mod."): v for k, v in s.items()}, "_orig_mod."),
    "fsdp": (lambda s: under("_fsdp_wrapped_module.", s), "_fsdp_wrapped_module."),
    "lightning": (lambda s: {"state_dict": under("learner.online_encoder.net.", s)}, "learner.online_encoder.net."),
    "lightning_ddp": (lambda s: {"state_dict": under("model.module.", s), "epoch": 3}, "'model.module.'"),
    "any_prefix": (lambda s: under("backbone.audio.", s) | HEAD, "'backbone.audio.'"),
    "model_state_dict": (lambda s: {"model_state_dict": s, "epoch": 3}, "'model_state_dict'"),
    "net": (lambda s: {"net": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "'net'"),
    "encoder": (lambda s: {"encoder": under("module.", s), "epoch": 1}, "'module.' in 'encoder'"),
    "deep": (lambda s: {"checkpoint": {"state": {"ema": s}}}, "'checkpoint.state.ema'"),
    "published": (lambda s: {"state_dict": s | HEAD}, ""),
    "as_before": (lambda s: s | under("target.", {k: v * 2 for k, v in s.items()}), ""),
    "twice_the_same": (lambda s: under("online.", s) | under("alias.", s), "'alias.'"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_that_are_there_once_are_taken_and_said(kind, state, expected, tmp_path):
    wrap, told = WRAPPED[kind]
    torch.save(wrap(state), tmp_path / "w.pth")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = load_encoder(f"{NAME}@{tmp_path / 'w.pth'}")
    assert encoder.fingerprint() == expected
    said = [str(one.message) for one in caught if "tensors" in str(one.message)]
    assert len(said) == bool(told)
    if told:
        assert told in said[0]
        assert f"read {sum('num_batches' not in key for key in state)} tensors" in said[0]


def test_safetensors_under_a_prefix_are_read_as_well(state, expected, tmp_path):
    save_file(under("module.", state), tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match="under the prefix 'module.'"):
        assert load_encoder(f"{NAME}@{tmp_path / 'w.safetensors'}").fingerprint() == expected


TWICE = {
    "online_and_target": (lambda s, t: under("online_encoder.", s) | under("target_encoder.", t), "online_encoder"),
    "teacher_container": (lambda s, t: {"model": s, "teacher": t}, "model"),
    "ema": (lambda s, t: {"state_dict": s, "state_dict_ema": t}, "state_dict"),
    "both_prefixed": (lambda s, t: {"state_dict": under("student.", s) | under("teacher.", t)}, "state_dict.student"),
}


@pytest.mark.filterwarnings("ignore:.*tensors.*:UserWarning")
@pytest.mark.parametrize("kind", TWICE)
def test_two_encoders_in_one_file_are_both_named_and_one_is_chosen_by_name(kind, state, expected, tmp_path):
    wrap, chosen = TWICE[kind]
    other = {key: value * 2 for key, value in state.items()}
    path = tmp_path / "w.pth"
    torch.save(wrap(state, other), path)
    with pytest.raises(EvarError) as caught:
        load_encoder(f"{NAME}@{path}")
    message = str(caught.value)
    assert chosen in message
    assert "2 times" in message
    assert f"{NAME}@{path}#" in message
    advised = message.rpartition(" ")[2]
    load_encoder(advised)
    encoder = load_encoder(f"{NAME}@{path}#{chosen}")
    assert encoder.fingerprint() == expected
    assert encoder.label == f"{NAME}@w#{chosen}"
    with pytest.raises(EvarError, match="under 'nothing'"):
        load_encoder(f"{NAME}@{path}#nothing")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_read_with_their_counters(dtype, state, tmp_path):
    counters = {key: torch.tensor(100_000) for key in state if key.endswith("num_batches_tracked")}
    torch.save({key: value.to(dtype) for key, value in (state | counters).items()}, tmp_path / "w.pth")
    encoder = load_encoder(f"{NAME}@{tmp_path / 'w.pth'}")
    for key, value in encoder.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert value.dtype == torch.float32
            assert torch.equal(value, state[key].to(dtype).float())


@pytest.mark.filterwarnings("ignore:.*tensors.*:UserWarning")
def test_a_wrapped_checkpoint_of_another_size_says_what_it_fits(tmp_path):
    torch.save(under("module.", load_encoder("random:byola-v1-1024").state_dict()), tmp_path / "w.pth")
    with pytest.raises(EvarError, match="the file fits byola-v1-1024@"):
        load_encoder(f"{NAME}@{tmp_path / 'w.pth'}")


@pytest.mark.parametrize("name", ["cola", "vggish", "cnn14-16k"])
def test_every_family_that_reads_state_dicts_reads_them_under_a_prefix(name, tmp_path):
    options = dict(list_encoders()[name].small or {})
    plain = load_encoder(f"random:{name}", **options)
    network = getattr(plain, "network", None)
    state = network.state_dict() if isinstance(network, nn.Module) else plain.state_dict()
    for path, tensors in ((tmp_path / "plain.pth", state), (tmp_path / "w.pth", under("module.", state))):
        if name == "cola":
            write_weights(path, tensors, {"encoder": "cola"})
        else:
            torch.save({"state_dict": tensors}, path)
    with pytest.warns(UserWarning, match="under the prefix 'module.'"):
        encoder = load_encoder(f"{name}@{tmp_path / 'w.pth'}", **options)
    assert encoder.fingerprint() == load_encoder(f"{name}@{tmp_path / 'plain.pth'}", **options).fingerprint()


class Plain(nn.Module):
    sample_rate = 16000

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 400, 160)

    def forward(self, wav):
        return self.conv(wav[:, None]).transpose(1, 2)


def test_a_users_own_module_is_loaded_from_a_wrapped_checkpoint(tmp_path):
    torch.manual_seed(1)
    state = Plain().state_dict()
    torch.save({"model_state_dict": under("_orig_mod.", state)}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="'_orig_mod.'"):
        encoder = load_encoder(Plain, weights=tmp_path / "w.pth")
    assert torch.equal(encoder.module.conv.weight, state["conv.weight"])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("outer", ["", "model."])
def test_names_of_which_half_are_under_a_wrapper_are_said(state, expected, tmp_path, first, outer):
    half = {f"{outer}module.{key}" if i % 2 == first else outer + key: v for i, (key, v) in enumerate(state.items())}
    torch.save(half, tmp_path / "w.pth")
    under_it = sum(key.startswith(f"{outer}module.") and "num_batches" not in key for key in half)
    without = sum("num_batches" not in key for key in half) - under_it
    with pytest.warns(
        UserWarning, match=rf"read tensors of mixed names.*: {under_it} under 'module\.' and {without} without"
    ):
        assert load_encoder(f"{NAME}@{tmp_path / 'w.pth'}").fingerprint() == expected


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_was_typed_is_never_the_advice(state, tmp_path, prefix):
    torch.save(under(prefix, {k: v for k, v in state.items() if k != "fc.0.bias"}), tmp_path / "w.pth")
    with pytest.raises(EvarError, match=r"no tensor fc\.0\.bias .*the file is cut or was changed") as caught:
        load_encoder(f"{NAME}@{tmp_path / 'w.pth'}")
    assert "the file fits" not in str(caught.value)
