"""COLA's EfficientNet-B0, held to timm's with the same weights: float64 to 1e-10, float32 to 1e-4 of the largest value."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from evar.encoders import load_encoder
from evar.encoders.cola import efficientnet_b0, unit_norm

timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")

FLOAT64, FLOAT32 = 1e-10, 1e-4  # measured: 0 on equal memory layouts, 2e-5 where COLA has its channels last


def log_mel_like(batch, n_frames, seed=0):
    return torch.randn(batch, 1, 64, n_frames, generator=torch.Generator().manual_seed(seed)) - 4.0


@torch.no_grad()
def trained(network, inputs):
    """Batch norms as after training on such inputs: untrained statistics make rounding errors grow from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.8, 1.2, generator=generator)
        norm.bias.normal_(0.0, 0.2, generator=generator)
        norm.momentum = 1.0
    network.train()(inputs)
    for norm in norms:
        norm.running_var.clamp_(min=1e-3)
    return network.eval()


@pytest.fixture(scope="module")
def pair():
    """Ours and timm's, each tensor of timm's copied from ours."""
    ours = trained(efficientnet_b0(), log_mel_like(16, 96))
    theirs = timm.create_model("tf_efficientnet_b0", in_chans=1, num_classes=0, global_pool="")
    copy_in_order(ours, theirs)
    return ours, theirs.eval()


def copy_in_order(ours, theirs):
    """Both list their tensors in the order of computation; every shape has to agree, and none is left out."""
    values, names = list(ours.state_dict().values()), list(theirs.state_dict())
    assert [value.shape for value in values] == [theirs.state_dict()[name].shape for name in names]
    theirs.load_state_dict(dict(zip(names, values, strict=True)), strict=True)


def largest(found, expected):
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("n_frames", [96, 97, 98, 101, 127, 33])
def test_odd_and_even_numbers_of_frames(n_frames, pair):
    """98 frames are 49 and 25 further on: "same" padding puts the odd pixel at the end, and none where it is even."""
    ours, theirs = pair
    x = log_mel_like(2, n_frames, seed=n_frames)
    expected = theirs(x)
    assert float(expected.std()) > 0.01, "a network that gives nothing agrees with any"
    assert largest(ours(x), expected) < FLOAT32
    ours, theirs = (copy.deepcopy(network).double() for network in pair)
    assert largest(ours(x.double()), theirs(x.double())) < FLOAT64


@torch.no_grad()
def test_its_padding_and_epsilon_are_those_of_the_paper_not_of_pytorch(pair):
    """timm's plain efficientnet_b0 becomes ours by these two settings alone, and each of them matters."""
    ours, theirs = pair
    x = log_mel_like(2, 98, seed=1)
    found = {}
    for settings in ({"pad_type": "same", "bn_eps": 1e-3}, {"pad_type": "same"}, {"bn_eps": 1e-3}):
        plain = timm.create_model("efficientnet_b0", in_chans=1, num_classes=0, global_pool="", **settings)
        plain.load_state_dict(theirs.state_dict())
        found[tuple(settings)] = largest(plain.eval()(x), ours(x))
    assert found["pad_type", "bn_eps"] < FLOAT32
    assert min(found["pad_type",], found["bn_eps",]) > 10 * FLOAT32


def test_training_moves_both_alike(pair):
    """Gradients of every tensor, through batch norms in training mode."""
    ours, theirs = (copy.deepcopy(network).double().train() for network in pair)
    x = log_mel_like(4, 98, seed=2).double()
    for network in (ours, theirs):
        network(x).amax(dim=(2, 3)).square().mean().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert largest(mine.grad, other.grad) < FLOAT64, name


@torch.no_grad()
def test_cola_is_timm_on_its_log_mel():
    """End to end: windows of one second, timm's network with its own global max pooling, the mean over windows."""
    encoder = load_encoder("random:cola")
    wav = 0.1 * torch.randn(3, 40000, generator=torch.Generator().manual_seed(3))
    windows = functional.pad(unit_norm(wav), (0, 8000)).view(9, 16000)
    log_mel, _ = encoder.front_end(windows, torch.full((9,), 16000))
    trained(encoder.features, log_mel[:, None])
    theirs = timm.create_model("tf_efficientnet_b0", in_chans=1, num_classes=0, global_pool="max")
    copy_in_order(encoder.features, theirs)
    expected = theirs.eval()(log_mel[:, None]).view(3, 3, 1280).mean(dim=1)
    assert float(expected.std(dim=0).max()) > 0.01 * float(expected.abs().max()), "clips should differ"
    assert largest(encoder.encode(wav), expected) < FLOAT32
