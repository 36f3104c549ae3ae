"""The literals that `evar encoders` prints without importing anything must be true of the objects that are built."""

import subprocess
import sys

import pytest
import torch

from evar.encoders import list_encoders, load_encoder
from evar.encoders.check import check_encoder

BUILDABLE = [name for name, entry in list_encoders().items() if entry.weights != "bundled" and entry.untrained]


def build(name, **options):
    entry = list_encoders()[name]
    if entry.extra:
        pytest.importorskip("tensorflow_hub", reason=f"needs the extra {entry.extra}")
    return load_encoder(name if entry.weights == "none" else f"random:{name}", **options)


@pytest.mark.parametrize("name", BUILDABLE)
def test_literal_equals_object(name):
    entry = list_encoders()[name]
    encoder = build(name, **entry.small)
    if encoder.embedding_dim != entry.dim:  # the small network has other dimensions
        encoder = build(name)
    assert (encoder.name, encoder.sample_rate, encoder.embedding_dim) == (name, entry.sample_rate, entry.dim)
    assert encoder.weights_kind == ("none" if entry.weights == "none" else "random")
    assert not encoder.training
    if encoder.needs_normalization:
        encoder = encoder.with_normalization({"mean": -5.0, "std": 4.0})
    assert encoder.encode(torch.zeros(entry.sample_rate)).shape == (entry.dim,)


@pytest.mark.parametrize("name", BUILDABLE)
def test_every_encoder_keeps_the_contract(name):
    results = check_encoder(build(name, **list_encoders()[name].small))
    assert len(results) >= 14
    assert not [f"{result.name}: {result.detail}" for result in results if not result.ok]


def test_listing_imports_no_torch():
    code = (
        "import sys; from evar.encoders.registry import list_encoders, parse;"
        "e = list_encoders(); parse('a=byola-v2@f');"
        "assert {'byola', 'byola-v1-512', 'byola-v2', 'logmel', 'mfcc'} <= set(e);"
        "assert list(e) == sorted(e); print(*(m for m in ('torch', 'numpy', 'pandas', 'sklearn') if m in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
