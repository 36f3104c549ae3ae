"""BYOL-A's objective against a plain float64 pass written here from the papers; who learns, who follows, who collapses."""

import copy
import math

import pytest
import torch
from torch import nn

from evar.encoders.byola import ByolaV1, ByolaV2
from evar.encoders.registry import load_encoder
from evar.encoders.weights import write_weights
from evar.pretraining.byol import ByolMethod, byol_loss
from evar.pretraining.health import COLLAPSED_STD, embedding_std, uniformity

STATS = {"mean": -6.0, "std": 4.0}
HEADS = {"hidden": 24, "projection": 8}
V1, V2 = (ByolaV1, 16), (ByolaV2, 1024 + 16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def method_of(kind=ByolaV1, d=16, dropout=0.0, **options):
    """In training mode; the target stands apart from the online branch, as after some steps."""
    torch.manual_seed(0)
    method = ByolMethod(kind(d).with_normalization(STATS), **{**HEADS, **options}).train()
    for branch in (method.online, method.target):
        branch.encoder.fc[2].p = dropout
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator(parameter.numel()))
    return method


def views_of(batch=4, frames=32, seed=0):
    x = torch.randn(2, batch, 64, frames, generator=generator(seed))
    x[0, 0, :, : frames // 2] = 0  # what a crop leaves of the canvas
    return x


def parameters_of(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def train(method, steps=1, views=None, lr=1e-3):
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        loss, _ = method(views_of(seed=step) if views is None else views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step()
    return method


# ---- loss ----------------------------------------------------------------------------------------------------------


def literal_loss(predictions, goals):
    """2 - 2 cos, clip by clip, in Python's floats."""
    total = 0.0
    for p, z in zip(predictions.tolist(), goals.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(p, z, strict=True))
        total += 2 - 2 * dot / (math.sqrt(sum(a * a for a in p)) * math.sqrt(sum(b * b for b in z)))
    return total / len(predictions)


def test_loss_is_two_minus_two_cosines():
    p, z = torch.randn(2, 7, 5, generator=generator())
    assert float(byol_loss(p, z)) == pytest.approx(literal_loss(p, z), rel=1e-5)
    assert float(byol_loss(p, 3 * p)) == pytest.approx(0, abs=1e-6)
    assert float(byol_loss(p, -p)) == pytest.approx(4, abs=1e-6)
    assert float(byol_loss(torch.eye(4), torch.eye(4).roll(1, 0))) == pytest.approx(2)
    apart = (nn.functional.normalize(p, dim=1) - nn.functional.normalize(z, dim=1)).square().sum(1).mean()
    assert float(byol_loss(p, z)) == pytest.approx(float(apart), rel=1e-5)  # BYOL's own way to write it


def literal_pass(method, views):
    """The method as the papers tell it, with plain modules in float64: each view through each branch, separately."""
    online, predictor, target = (copy.deepcopy(m).double() for m in (method.online, method.predictor, method.target))

    def head(module, x):  # Linear -> batch normalisation over the batch -> ReLU, once or more, -> Linear
        *hidden, last = module
        for linear, norm in zip(hidden[::3], hidden[1::3], strict=True):
            x = x @ linear.weight.T + linear.bias
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
            x = x.clamp(min=0)
        return x @ last.weight.T + last.bias

    def project(branch, view):
        frames = branch.encoder.network(view.double())
        embedding = frames.mean(dim=1) + frames.max(dim=1).values
        return head(branch.projector, embedding), embedding

    predictions, goals, embeddings = [], [], []
    for view in views:
        projection, embedding = project(online, view)
        predictions.append(head(predictor, projection))
        embeddings.append(embedding)
        with torch.no_grad():
            goals.append(project(target, view)[0])
    loss = 0.0
    for prediction, goal in zip(predictions, reversed(goals), strict=True):
        cosines = [p @ z / (p.norm() * z.norm()) for p, z in zip(prediction, goal, strict=True)]
        loss = loss + sum(2 - 2 * cosine for cosine in cosines) / len(cosines)
    loss.backward()
    return loss.item(), online, predictor, target, embeddings


@pytest.mark.parametrize(("kind", "d", "depth"), [(*V1, 1), (*V2, 1), (*V1, 2)])
def test_a_step_is_that_of_a_plain_float64_pass(kind, d, depth):
    method, views = method_of(kind, d, depth=depth), views_of(5, 34)
    expected, online, predictor, target, embeddings = literal_pass(method, views)
    loss, found = method(views)
    loss.backward()
    assert expected > 0.5
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(found.double(), embeddings[0].detach(), rtol=1e-4, atol=1e-4)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    for part, reference in ((method.online, online), (method.predictor, predictor)):
        expected_gradients = {name: p.grad for name, p in reference.named_parameters() if p.requires_grad}
        largest = max(gradient.norm() for gradient in expected_gradients.values())
        found = dict(part.named_parameters())
        for name, gradient in expected_gradients.items():
            if gradient.norm() < 1e-9 * largest:
                continue  # biases before a batch normalisation: rounding only
            # By norm: in float32 a unit may fall on the other side of its kink.
            assert (found[name].grad - gradient).norm() < 2e-2 * gradient.norm(), name
    for part, reference in ((method.online, online), (method.target, target)):
        for name, value in reference.encoder.named_buffers():
            found = dict(part.encoder.named_buffers())[name]
            torch.testing.assert_close(found.double(), value.double(), rtol=1e-4, atol=1e-5, msg=name)


def test_bfloat16_gives_nearly_the_same_loss():
    views = views_of(8)
    exact, method = method_of(), method_of(dtype=torch.bfloat16)
    expected, (loss, embedding) = exact(views)[0], method(views)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.03)
    assert loss.dtype == embedding.dtype == torch.float32
    trained = [p for p in method.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {p.grad.dtype for p in trained} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bfloat16_reaches_the_convolutions_of_a_gpu():
    method, seen = method_of(dtype=torch.bfloat16).to("cuda"), []
    method.online.encoder.features[4].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    loss, _ = method(views_of().cuda())
    assert seen == [torch.bfloat16] * 2
    assert loss.item() == pytest.approx(method_of()(views_of())[0].item(), rel=0.05)


# ---- who learns, who follows ---------------------------------------------------------------------------------------


def test_gradients_reach_the_online_branch_only():
    method = method_of()
    method(views_of())[0].backward()
    for name, parameter in method.named_parameters():
        if name.startswith("target.") or name == "online.encoder.features.0.bias":
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name
        else:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
    assert {name.split(".")[0] for name, _ in method.target.named_parameters()} == {"encoder", "projector"}


def test_the_target_starts_as_the_online_branch():
    method = ByolMethod(ByolaV1(16).with_normalization(STATS), **HEADS)
    online, target = parameters_of(method.online), parameters_of(method.target)
    assert online.keys() == target.keys()
    assert all(torch.equal(online[name], target[name]) for name in online)
    assert {p.data_ptr() for p in method.online.parameters()}.isdisjoint(
        p.data_ptr() for p in method.target.parameters()
    )


@pytest.mark.parametrize("tau", [0.99, 0.9])
def test_the_target_moves_by_the_average_alone(tau):
    method = method_of(tau=tau)
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    expected = {name: value.double() for name, value in parameters_of(method.target).items()}
    for step in range(3):
        before = parameters_of(method.target)
        method(views_of(seed=step))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        after = parameters_of(method.target)
        assert all(torch.equal(before[name], after[name]) for name in before)
        online, buffers = parameters_of(method.online), copy.deepcopy(dict(method.target.named_buffers()))
        method.after_step()
        for name in expected:
            expected[name] = tau * expected[name] + (1 - tau) * online[name].double()
            torch.testing.assert_close(
                parameters_of(method.target)[name].double(), expected[name], rtol=1e-5, atol=1e-7
            )
        for name, value in method.target.named_buffers():
            assert torch.equal(value, buffers[name]), name  # the average is of parameters only
        assert all(torch.equal(online[name], value) for name, value in parameters_of(method.online).items())


def test_statistics_of_the_target_follow_its_own_passes():
    method, views = method_of(), views_of()
    target = copy.deepcopy(method.target).double()
    with torch.no_grad():
        for view in views:
            frames = target.encoder.network(view.double())
            target.projector(frames.mean(1) + frames.amax(1))
    method(views)
    found, online = dict(method.target.named_buffers()), dict(method.online.named_buffers())
    for name, value in target.named_buffers():
        torch.testing.assert_close(found[name].double(), value.double(), rtol=1e-4, atol=1e-5, msg=name)
    assert int(found["encoder.features.1.num_batches_tracked"]) == 2  # one pass for each view
    assert int(found["projector.1.num_batches_tracked"]) == 2
    assert int(method.predictor[1].num_batches_tracked) == 2
    assert not torch.allclose(found["encoder.features.5.running_mean"], online["encoder.features.5.running_mean"])


def test_the_target_normalises_by_its_batch():
    method = method_of()
    assert method.target.training
    assert all(m.training for m in method.target.modules())
    with torch.no_grad():
        alone = method.target(views_of(4)[1])[0]
        other = views_of(4)[1]
        other[1:] *= 3
        assert not torch.allclose(alone[0], method.target(other)[0][0], rtol=1e-2)
        # Running statistics play no part.
        method.target.encoder.features[5].running_mean += 10
        torch.testing.assert_close(alone, method.target(views_of(4)[1])[0])


def test_dropout_is_active_in_both_branches():
    method, views = method_of(dropout=0.3), views_of()
    assert ByolMethod(ByolaV1(16).with_normalization(STATS), **HEADS).target.encoder.fc[2].p == 0.3
    for branch in (method.online, method.target):
        outputs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.append(branch(views[0])[0].detach())
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.allclose(outputs[0], outputs[2])


def test_the_first_bias_is_idle():
    free, frozen, views = method_of(), method_of(), views_of()
    with torch.no_grad():
        for branch in (free.online, free.target):
            branch.encoder.features[0].bias += torch.linspace(-3, 3, 64)
    found, expected = free(views)[0], frozen(views)[0]
    torch.testing.assert_close(found, expected)
    # The running mean takes it in, so that the exported encoder does not see it either.
    for method in (free, frozen):
        for module in method.encoder.features:
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # as after many steps
        method(views)
    x = views_of(seed=5)[0]
    outputs = [method.encoder.eval().network(x) for method in (free, frozen)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)


# ---- views, state, export ------------------------------------------------------------------------------------------


def test_views_are_the_standardised_log_mel_of_a_unit():
    off = {"mixup": 0.0, "crop": False, "fader": 0.0, "norm": "none"}
    method = method_of(augmentation=off)
    wav = 0.1 * torch.randn(3, 1, 15200, generator=generator())
    log_mel, frames = method.encoder.front_end(wav[:, 0], torch.full((3,), 15200))
    assert frames.tolist() == [96] * 3  # 0.95 s
    expected = (log_mel - STATS["mean"]) / STATS["std"]
    found = method.views(wav, generator())
    torch.testing.assert_close(found, torch.stack([expected, expected]))
    assert found.shape == (2, 3, 64, 96)
    quiet = method_of().views(torch.zeros(3, 1, 15200), generator())
    assert bool(quiet.isfinite().all())


def test_a_resumed_method_goes_on_to_the_same_weights(tmp_path):
    def steps(method, optimizer, first, last):
        for step in range(first, last):
            wav = 0.1 * torch.randn(4, 1, 15200, generator=generator(step))
            torch.manual_seed(step)
            method(method.views(wav, generator(step)))[0].backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_step()

    def fresh():
        method = method_of(dropout=0.3, augmentation={"fader": 1.0, "norm": "batch", "bank": 6})
        return method, torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)

    method, optimizer = fresh()
    steps(method, optimizer, 0, 2)
    torch.save({"method": method.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    steps(method, optimizer, 2, 4)
    resumed, again = fresh()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(state["method"])
    again.load_state_dict(state["optimizer"])
    steps(resumed, again, 2, 4)
    for name, value in method.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(("kind", "d", "name"), [(ByolaV1, 512, "byola-v1-512"), (ByolaV2, 2048, "byola-v2-2048")])
def test_the_exported_encoder_gives_finite_features(kind, d, name, tmp_path):
    method = train(method_of(kind, d), steps=2)
    encoder = method.encoder
    front_end = {key: value for key, value in dict(encoder.settings).items() if key != "d"}
    metadata = {"encoder": name, "frontend": front_end, "normalization": STATS, "trained_on": []}
    write_weights(tmp_path / "w.safetensors", encoder.state_dict(), metadata)
    exported = load_encoder(f"{name}@{tmp_path / 'w.safetensors'}")
    wav = torch.stack([0.1 * torch.randn(16000, generator=generator()), torch.zeros(16000), torch.ones(16000)])
    found = exported.encode(wav)
    assert found.shape == (3, d)
    assert bool(found.isfinite().all())
    with torch.no_grad():
        log_mel, _ = exported.front_end(wav, torch.full((3,), 16000))
        frames = encoder.eval().network((log_mel - STATS["mean"]) / STATS["std"])
    torch.testing.assert_close(found, frames.mean(1) + frames.amax(1), rtol=1e-3, atol=1e-3)


def test_it_learns():
    method, views = method_of(), views_of(8)
    before = method(views)[0].item()
    after = train(method, 12, views, lr=3e-3)(views)[0].item()
    assert after < 0.6 * before


# ---- collapse ------------------------------------------------------------------------------------------------------


def test_a_collapsed_batch_is_told():
    vector = torch.randn(1, 64, generator=generator())
    one = vector.expand(32, 64)
    assert embedding_std(one) == pytest.approx(0, abs=1e-5)
    assert uniformity(one) == pytest.approx(0, abs=1e-5)
    scaled = vector * torch.linspace(0.1, 9, 32)[:, None]  # another length is no other direction
    assert embedding_std(scaled) < 1e-3
    near = one + 0.01 * torch.randn(32, 64, generator=generator(1))
    assert 0 < embedding_std(near) < COLLAPSED_STD
    line = torch.cat([one, -one])  # two points: spread, yet as far from uniform as two points are
    assert embedding_std(line) == pytest.approx(1, abs=1e-5)
    assert uniformity(line) == pytest.approx(
        math.log((2 * 32 * 31 / 2 + 32 * 32 * math.exp(-8)) / (64 * 63 / 2)), abs=1e-4
    )


def test_orthogonal_and_random_batches_are_spread():
    n = 40
    orthogonal = torch.eye(n)
    assert embedding_std(orthogonal) == pytest.approx(math.sqrt(1 - 1 / n), rel=1e-5)
    assert uniformity(orthogonal) == pytest.approx(-4, rel=1e-5)  # |x - y|^2 = 2 for every pair
    random = torch.randn(300, 512, generator=generator())
    assert embedding_std(random) == pytest.approx(1, abs=0.01)
    assert uniformity(random) == pytest.approx(-4, abs=0.05)
    # ReLU's outputs lie in one corner: less, and far from collapsed.
    cosine = 1 / math.pi  # of the rectified halves of two normal vectors
    assert embedding_std(random.relu()) == pytest.approx(math.sqrt(1 - cosine), abs=0.01)
    assert uniformity(random.relu()) == pytest.approx(-4 * (1 - cosine), abs=0.05)
    assert uniformity(random[:1]) == 0.0
