"""float32 products by the fastest library that torch carries, in float32 throughout.

torch.mm on a CPU is MKL, and MKL keeps to AVX2 on processors that are not Intel's. oneDNN, which torch carries as well, uses
AVX-512 on all that have it: about twice MKL's rate on an AMD Zen 5. Which one is taken depends on the processor alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _ONEDNN else None


def product(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """A [m, k] @ B [k, n], float32; either may be a transposed view."""
    if _linear is None or A.device.type != "cpu" or not A.numel() or not B.numel():
        return A @ B
    return _linear(A, B.T, None, "none", [], "")


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
