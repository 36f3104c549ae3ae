"""Products by the faster library are products: values, gradients, names, and where it is kept out of the way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from evar import products
from evar.encoders.fingerprint import plain_attributes
from evar.encoders.registry import load_encoder
from evar.products import FEWEST_ROWS, Linear, linear, product, with_fast_linears

with_onednn = pytest.mark.skipif(products._linear is None, reason="a CPU without AVX-512 multiplies with MKL alone")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    expected = expected.detach()
    return torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5 * max([1.0, *expected.abs().flatten()]))


@pytest.mark.parametrize("rows", [(FEWEST_ROWS - 1,), (FEWEST_ROWS,), (5, 40), (2, 3, 40), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_float64(rows: tuple[int, ...], bias: bool) -> None:
    exact = nn.Linear(48, 33, bias=bias).double()
    fast = with_fast_linears(copy.deepcopy(exact).float())
    x, gradient = numbers(*rows, 48), numbers(*rows, 33, seed=1)
    inputs = [x.clone().requires_grad_(), x.double().requires_grad_()]
    outputs = [layer(values) for layer, values in zip((fast, exact), inputs, strict=True)]
    assert outputs[0].shape == (*rows, 33)
    assert close(*outputs)
    outputs[0].backward(gradient)
    outputs[1].backward(gradient.double())
    pairs = zip([inputs[0], *fast.parameters()], [inputs[1], *exact.parameters()], strict=True)
    if x.numel():
        assert all(close(found.grad, expected.grad) for found, expected in pairs)
    with torch.inference_mode():
        assert torch.equal(fast(x), linear(x, fast.weight, fast.bias))


def test_strided_operands_and_gradients_are_read_as_they_lie() -> None:
    layer, x = nn.Linear(48, 33), numbers(70, 2, 48)
    fast = with_fast_linears(copy.deepcopy(layer))
    for one in (layer, fast):
        one(x.transpose(0, 1)).transpose(0, 1)[:, :, ::2].sum().backward()
    assert close(fast.weight.grad, layer.weight.grad.double())
    assert close(fast.bias.grad, layer.bias.grad.double())
    assert close(product(x[:, 0].T, x[:, 1]), x[:, 0].double().T @ x[:, 1].double())


def test_only_what_needs_a_gradient_gets_one() -> None:
    fast = with_fast_linears(nn.Linear(8, 8))
    fast.weight.requires_grad_(False)
    x = numbers(FEWEST_ROWS, 8)
    fast(x).sum().backward()  # of the bias alone
    assert fast.weight.grad is None
    assert torch.equal(fast.bias.grad, torch.full((8,), float(FEWEST_ROWS)))
    fast.requires_grad_(False)
    assert not fast(x).requires_grad


@with_onednn
def test_autocast_double_precision_and_compiled_code_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, x = with_fast_linears(nn.Linear(8, 8)), numbers(FEWEST_ROWS, 8)
    monkeypatch.setattr(products, "_linear", lambda *_: pytest.fail("oneDNN was called"))
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(x).dtype == torch.bfloat16
    assert fast.double()(x.double()).dtype == torch.float64
    fast.float()(x[1:])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    fast(x)


@pytest.mark.parametrize("gives", [None, lambda x, weight, bias: x, lambda *_: torch.tensor([[11.0]])])
def test_an_operation_of_torch_that_is_gone_or_has_changed_is_not_used(gives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_ONEDNN", True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", gives, raising=False)
    assert products._by_onednn() is None
    monkeypatch.setattr(products, "_linear", products._by_onednn())
    layer, x = nn.Linear(8, 8), numbers(FEWEST_ROWS, 8)
    expected = layer(x)
    assert torch.equal(with_fast_linears(layer)(x), expected)
    assert torch.equal(product(x, x.T), x @ x.T)


def test_wrong_sizes_are_told_by_torch_itself() -> None:
    x = numbers(FEWEST_ROWS, 7)
    with pytest.raises(RuntimeError) as plain:
        nn.Linear(8, 8)(x)
    with pytest.raises(RuntimeError) as fast:
        with_fast_linears(nn.Linear(8, 8))(x)
    assert str(fast.value) == str(plain.value)


@with_onednn
def test_encoders_by_name_are_faster_and_objects_stay_what_their_author_made() -> None:
    named = load_encoder("random:byola-v1-512@0")
    kinds = {type(layer) for layer in named.modules() if isinstance(layer, nn.Linear)}
    assert kinds == {Linear}
    own = copy.deepcopy(named)
    for layer in own.modules():
        if isinstance(layer, nn.Linear):
            layer.__class__ = nn.Linear
    again = load_encoder(own)
    assert {type(layer) for layer in again.modules() if isinstance(layer, nn.Linear)} == {nn.Linear}
    assert list(named.state_dict()) == list(own.state_dict())
    named.normalization = own.normalization = {"mean": 0.0, "std": 1.0}
    wav = numbers(4, 32000) * 0.1
    found, expected = (one.encode(wav) for one in (named, own))
    for key, values in expected.items() if isinstance(expected, dict) else [("", expected)]:
        got = found[key] if isinstance(found, dict) else found
        assert torch.allclose(got, values, rtol=1e-4, atol=1e-5)


def test_a_subclass_of_linear_keeps_its_own_forward() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    assert type(with_fast_linears(nn.Sequential(Doubled(4, 4)))[0]) is Doubled


def test_a_fingerprint_does_not_depend_on_the_processor() -> None:
    """Regression: a layer that an encoder also keeps in a list was digested by its class, which oneDNN changes."""
    held = nn.Module()
    held.fc = nn.Linear(4, 4)
    held.heads = [held.fc]
    before = plain_attributes(held)
    assert plain_attributes(with_fast_linears(held)) == before


def test_what_torch_traces_keeps_its_own_product() -> None:
    fast = with_fast_linears(nn.Linear(8, 8).requires_grad_(False))
    x = numbers(FEWEST_ROWS, 8)
    assert torch.allclose(torch.jit.trace(fast, x)(x), fast(x), atol=1e-6)
