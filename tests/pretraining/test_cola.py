"""COLA's objective against a literal reference; its gradients; that it learns; what it refuses."""

import json

import numpy as np
import pytest
import torch

from evar.encoders import load_encoder
from evar.encoders.weights import write_weights
from evar.errors import EvarError
from evar.pretraining.cola import ColaMethod

STATS = {"mean": -6.0, "std": 4.0}
NAMES = ["cola", "cola-prime-512"]


def method_of(name, seed=0, **options):
    encoder = load_encoder(f"random:{name}@{seed}")
    if encoder.needs_normalization:
        encoder = encoder.with_normalization(STATS)
    torch.manual_seed(seed)
    return ColaMethod(encoder, **options).train()


def crops(n_clips, seed=0):
    """Two crops of each of `n_clips` synthetic clips: two tones of its own under noise; float32 [B, 2, 16000]."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(16000) / 16000
    pitches = np.geomspace(150, 5000, 2 * n_clips).reshape(2, n_clips)
    wav = [
        [sum(np.sin(2 * np.pi * (f * time_s + rng.random())) for f in pair) * rng.uniform(0.05, 0.2) for _ in range(2)]
        for pair in pitches.T
    ]
    return torch.from_numpy(np.array(wav) + 0.01 * rng.standard_normal((n_clips, 2, 16000))).float()


def views_of(method, wav):
    return method.views(wav, torch.Generator().manual_seed(0))


# ---- loss ----------------------------------------------------------------------------------------------------------


def reference_loss(embeddings, head, w):
    """Clip by clip in float64: Linear, LayerNorm, tanh, g^T W g', and the softmax over the batch's second crops."""
    weight, bias = (p.detach().double().numpy() for p in head[0].parameters())
    gain, shift = (p.detach().double().numpy() for p in head[1].parameters())

    def g(h):
        z = weight @ h + bias
        return np.tanh(gain * (z - z.mean()) / np.sqrt(z.var() + 1e-5) + shift)

    n = len(embeddings) // 2
    losses = []
    for i in range(n):
        scores = [g(embeddings[i]) @ w @ g(embeddings[n + j]) for j in range(n)]
        top = max(scores)
        losses.append(top + np.log(sum(np.exp(s - top) for s in scores)) - scores[i])
    return np.mean(losses)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_papers(name):
    method = method_of(name).eval()
    with torch.no_grad():
        for parameter in (*method.head[1].parameters(), method.similarity_matrix):
            parameter.add_(0.1 * torch.randn_like(parameter))
    views = views_of(method, crops(5))
    loss, embeddings = method(views)
    with torch.no_grad():
        both = method.embed(views.flatten(0, 1))
    torch.testing.assert_close(embeddings, both[:5])
    assert embeddings.dtype == torch.float32
    assert not embeddings.requires_grad
    w = method.similarity_matrix.detach().double().numpy()
    expected = reference_loss(both.double().numpy(), method.head, w)
    assert expected > 0.1
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_rows_are_first_crops_and_columns_second_ones():
    method = method_of("cola-prime-512").eval()
    with torch.no_grad():
        method.similarity_matrix.add_(0.1 * torch.randn_like(method.similarity_matrix))
    embeddings = torch.randn(6, 512, generator=torch.Generator().manual_seed(1))
    g = method.head(embeddings)
    found = method.similarity(embeddings)
    expected = g[0] @ method.similarity_matrix @ g[5]
    torch.testing.assert_close(found[0, 2], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, found.T), "W is not symmetric: the direction matters"


@torch.no_grad()
def test_cola_prime_pools_max_and_mean_of_the_network():
    method = method_of("cola-prime-512")
    method.encoder.fc[2].p = 0.0
    views = views_of(method, crops(4))
    frames = method.encoder.network(views.flatten(0, 1))
    expected = frames.amax(1) + frames.mean(1)
    torch.testing.assert_close(method.embed(views.flatten(0, 1)), expected, rtol=1e-3, atol=1e-4)


# ---- views ---------------------------------------------------------------------------------------------------------


def test_views_are_the_encoders_own_front_end():
    wav = crops(3)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    lengths = torch.full((3,), 16000)
    cola = method_of("cola")
    views = cola.views(wav, generator)
    assert views.shape == (2, 3, 64, 98)
    scaled = wav[:, 1] / wav.flatten(1).norm(dim=1, keepdim=True)  # one scale for both crops of a clip
    torch.testing.assert_close(views[1], cola.encoder.front_end(scaled, lengths)[0])
    prime = method_of("cola-prime-512")
    views = prime.views(wav, generator)
    assert views.shape == (2, 3, 64, 100)
    log_mel, _ = prime.encoder.front_end(wav[:, 0], lengths)
    torch.testing.assert_close(views[0], (log_mel[:, :, :100] + 6.0) / 4.0)
    assert not views.requires_grad
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_silent_and_short_clips_give_numbers(name):
    method = method_of(name)
    wav = crops(4)
    wav[0], wav[1, :, 400:] = 0.0, 0.0
    loss, embeddings = method(views_of(method, wav))
    loss.backward()
    assert torch.isfinite(embeddings).all()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


# ---- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_encoder_head_and_similarity(name):
    method = method_of(name)
    loss, _ = method(views_of(method, crops(6)))
    loss.backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert float(parameter.grad.abs().sum()) > 0, key
    still = [key for key, parameter in method.named_parameters() if not parameter.requires_grad]
    assert still == ([] if name == "cola" else ["encoder.features.0.bias"])


@pytest.mark.parametrize("name", NAMES)
def test_eight_clips_are_learned(name):
    method = method_of(name)
    views = views_of(method, crops(8))
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-4)
    losses = []
    for _ in range(24):
        loss, _ = method(views)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        found = method.similarity(method.embed(views.flatten(0, 1))).argmax(1)
    assert (found == torch.arange(8)).float().mean() >= 7 / 8


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_sees_the_same_clips(name):
    wav = crops(8)
    seen = []
    for dtype in (torch.float32, torch.bfloat16):
        method = method_of(name, dtype=dtype)
        for module in method.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        loss, embeddings = method(views_of(method, wav))
        loss.backward()
        assert (loss.dtype, embeddings.dtype) == (torch.float32, torch.float32)
        assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
        seen.append(embeddings)
    difference = (seen[1] - seen[0]).norm(dim=1) / seen[0].norm(dim=1)
    assert 0.0 < float(difference.max()) < 0.3, "in bfloat16: twenty untrained layers round to 0.1 to 0.2"


def test_a_checkpoint_holds_everything():
    method, other = method_of("cola-prime-512", seed=0), method_of("cola-prime-512", seed=1)
    other.load_state_dict(method.state_dict())
    views = views_of(method, crops(4))
    assert torch.equal(method.eval()(views)[0], other.eval()(views)[0])
    assert json.loads(json.dumps(dict(method.settings))) == {"projection": 512}


@pytest.mark.parametrize("name", NAMES)
def test_the_trained_encoder_is_exported_as_it_is(name, tmp_path):
    method = method_of(name)
    for _ in range(3):
        method(views_of(method, crops(6)))
    stats = method.encoder.normalization
    metadata = {"encoder": name, "frontend": {}, "normalization": stats, "trained_on": []}
    write_weights(tmp_path / "w.safetensors", method.encoder.state_dict(), metadata)
    wav = crops(2)[:, 0]
    loaded = load_encoder(f"{name}@{tmp_path / 'w.safetensors'}")
    assert torch.equal(loaded.encode(wav), method.encoder.encode(wav))


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_one_clip_has_no_negatives():
    method = method_of("cola-prime-512")
    with pytest.raises(EvarError, match="batches of 2 or more, found 1"):
        views_of(method, crops(1))


def test_other_encoders_are_refused():
    with pytest.raises(EvarError, match="COLA trains cola and cola-prime"):
        ColaMethod(load_encoder("random:byola-v1-512").with_normalization(STATS))
    with pytest.raises(EvarError, match="no normalisation statistics"):
        ColaMethod(load_encoder("random:cola-prime-512"))
    with pytest.raises(EvarError, match="projection is a whole number"):
        ColaMethod(load_encoder("random:cola"), projection=0)
