"""float32 products by the fastest library that torch carries, in float32 throughout.

torch.mm on a CPU is MKL, and MKL keeps to AVX2 on processors that are not Intel's. oneDNN, which torch carries as well, uses
AVX-512 on all that have it: about twice MKL's rate on an AMD Zen 5. Which one is taken depends on the processor and on
the shapes alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _by_onednn() -> Callable[..., Tensor] | None:
    """oneDNN's product, an operation of torch that is not promised: None where it is gone or means something else."""
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _ONEDNN else None
    if found is None:
        return None
    x, weight, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([5.0])
    try:
        return found if float(found(x, weight, bias, "none", [], "")) == 16 else None
    except (RuntimeError, TypeError, ValueError):
        return None


_linear = _by_onednn()
FEWEST_ROWS = 64
"""Linear layers of fewer rows stay with MKL, which is up to three times faster for some of them (two threads)."""


def product(A: Tensor, B: Tensor) -> Tensor:
    """A [m, k] @ B [k, n], float32; either may be a transposed view."""
    if _linear is None or A.device.type != "cpu" or not A.numel() or not B.numel():
        return A @ B
    return _linear(A, B.T, None, "none", [], "")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., k] @ weight.T [k, n] + bias: torch.nn.functional.linear, by the faster library; differentiable once.

    oneDNN takes float32 on a CPU, outside autocast, torch.compile and torch.jit, from FEWEST_ROWS rows on.
    """
    if (
        _linear is None
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not weight.numel()
        or not x.device.type == weight.device.type == "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or torch.is_autocast_enabled("cpu")
        or x.shape[-1] != weight.shape[1]  # torch's own error says it best
        or math.prod(x.shape[:-1]) < FEWEST_ROWS
    ):
        return functional.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Linear.apply(x, weight, bias)
    return _linear(x, weight, bias, "none", [], "")


class Linear(nn.Linear):
    """torch.nn.Linear by `linear`: the same parameters, names and, but for rounding, values."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias)


def with_fast_linears(network: nn.Module) -> nn.Module:
    """The same network, whose torch.nn.Linear layers (subclasses are left alone) have become `Linear`."""
    for layer in network.modules():
        if type(layer) is nn.Linear and _linear is not None:
            layer.__class__ = Linear
    return network


class _Linear(torch.autograd.Function):
    """x [..., k] @ weight.T [k, n] + bias, and its three gradients, each one product."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN001 (torch's own signature)
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
        x, weight = ctx.saved_tensors
        rows, wanted = gradient.flatten(0, -2), ctx.needs_input_grad
        return (
            product(rows, weight).view(x.shape) if wanted[0] else None,
            product(rows.T, x.flatten(0, -2)) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """float32 products in float32 on every device (no TF32, no bfloat16), and the caller's settings afterwards."""
    settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.inference_mode():
            yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
