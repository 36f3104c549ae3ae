"""The fast training pass equals the plain network; batch normalisation over processes equals one process's.

Exactness is looked at in float64. In float32 single units may fall on the other side of a ReLU or of a maximum, which
no elementwise tolerance forgives: there the measure is the norm of the difference over the norm.
"""

import copy
import dataclasses
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from evar.encoders.byola import ByolaV1, ByolaV2
from evar.pretraining.forward import TILE, Patches, first_block, frame_embeddings
from evar.pretraining.norms import BatchNorm1d, all_sum, batch_norm, world_size

FIRST = ("features.0.weight", "features.1.weight", "features.1.bias")
LOST = ("features.0.bias", "features.4.bias", "features.8.bias")  # batch normalisation takes them out again
VERSIONS = [(ByolaV1, 16), (ByolaV2, 1024 + 16)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def encoder_of(kind, d, dropout=0.0):
    """In training mode; batch-norm scales of both signs, so that a fold cannot move past the maximum unseen."""
    torch.manual_seed(0)
    encoder = kind(d).train()
    encoder.fc[2].p = dropout
    for module in encoder.features:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, 0.3, 0.5)
    assert (encoder.features[1].weight < 0).sum() > 10
    return encoder


def images(batch=5, frames=34, seed=0):
    """Log-mel-like: smooth in both directions, with an offset, and zero where a crop left the clip."""
    x = torch.randn(batch, 64, frames, generator=generator(seed))
    x = nn.functional.avg_pool2d(x[:, None], 3, 1, 1)[:, 0] * 3 + 0.7
    x[1:3, :, : frames // 2] = 0
    x[-1, 20:] = 0
    return x


def exact(x):
    """Patches in float64."""
    patches = Patches.of(x.float(), torch.float32)
    flat = patches.values.view(-1, 10)[:, :9].double()
    assert torch.equal(flat.float(), patches.values.view(-1, 10)[:, :9])
    centred = flat - flat.mean(0)
    return dataclasses.replace(
        patches, values=patches.values.double(), mean=flat.mean(0), covariance=centred.T @ centred / len(flat)
    )


def scalar(frames):
    """A smooth loss that every output enters differently."""
    weights = torch.randn(frames.shape, generator=generator(7)).to(frames.dtype)
    return (weights * frames + 0.1 * frames.square()).sum()


def run(encoder, view, forward=frame_embeddings):
    """(outputs, {name: gradient}, {name: running statistics})."""
    frames = forward(encoder, view)
    scalar(frames.float() if frames.dtype == torch.bfloat16 else frames).backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters()}
    return frames.detach(), gradients, dict(encoder.named_buffers())


def network(encoder, x):
    return encoder.network(x)


def off(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def assert_gradients(found, expected, limit, first=None):
    """Each parameter's gradient, by norm; `first`: the limit for the folded block's, where it is another."""
    for name, gradient in expected.items():
        if name in LOST:  # zero but for rounding, beside the weight's; the fast pass gives none for the first
            scale = expected[name.replace("bias", "weight")].abs().max()
            assert gradient.abs().max() < limit * scale, name
            assert found[name] is None or found[name].abs().max() < limit * scale, name
        else:
            assert off(found[name], gradient) < (first if first and name in FIRST else limit), name


@pytest.mark.parametrize(("kind", "d"), VERSIONS)
@pytest.mark.parametrize("frames", [34, 96])
def test_fast_pass_is_the_network_in_float64(kind, d, frames):
    plain, fast = (encoder_of(kind, d).double() for _ in range(2))
    x = images(5 if frames == 34 else 2, frames)
    assert len(x) * 32 * frames // 2 % TILE  # the last tile is a part of one
    for _ in range(2):  # running statistics of a second step build on the first
        expected, gradients, statistics = run(plain, x.double(), network)
        found, fast_gradients, fast_statistics = run(fast, exact(x))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert_gradients(fast_gradients, gradients, 1e-9, first=1e-6)  # the folded kernel's are summed in float32
    for name, value in statistics.items():
        torch.testing.assert_close(fast_statistics[name], value, rtol=1e-9, atol=1e-9, msg=name)
    assert int(fast.features[1].num_batches_tracked) == 2


@pytest.mark.parametrize(("kind", "d"), VERSIONS)
def test_fast_pass_in_float32_is_as_near_to_the_truth_as_the_network(kind, d):
    plain, fast = encoder_of(kind, d), encoder_of(kind, d)
    truth = copy.deepcopy(plain).double()
    x = images()
    expected, gradients, statistics = run(truth, x.double(), network)
    found, fast_gradients, fast_statistics = run(fast, Patches.of(x, torch.float32))
    near, plain_gradients, _ = run(plain, x, network)
    assert off(found, expected) < 1e-5
    assert off(near, expected) < 1e-5
    # One unit in 10^5 on the other side of its kink is 0.3 % of the gradient's norm.
    assert_gradients(plain_gradients, gradients, 5e-3)
    assert_gradients(fast_gradients, gradients, 5e-3)
    for name, value in statistics.items():
        torch.testing.assert_close(fast_statistics[name].double(), value.double(), rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(("kind", "d"), [(ByolaV1, 512), (ByolaV2, 1024 + 512)])
def test_bfloat16_is_as_near_to_the_truth_as_autocast(kind, d):
    fast, plain = encoder_of(kind, d), encoder_of(kind, d)
    truth, x = copy.deepcopy(fast).double(), images()
    expected, gradients, statistics = run(truth, x.double(), network)
    found, fast_gradients, fast_statistics = run(fast, Patches.of(x, torch.bfloat16))
    near, plain_gradients, _ = run(plain, x.bfloat16())  # an image in bfloat16: the network under autocast
    assert found.dtype == near.dtype == torch.bfloat16
    assert off(near, expected) < 0.01
    assert off(found, expected) < 0.01
    for name in gradients.keys() - set(LOST):
        assert fast_gradients[name].dtype == torch.float32
        # One value in 256 is one unit in a hundred on the other side of its kink: a tenth of a gradient's norm.
        assert off(fast_gradients[name], gradients[name]) < 0.25, name
        assert off(fast_gradients[name], gradients[name]) < 0.02 + 1.5 * off(plain_gradients[name], gradients[name]), (
            name
        )
    # The first block's statistics do not pass through bfloat16.
    for name in ("features.1.running_mean", "features.1.running_var"):
        assert off(fast_statistics[name], statistics[name]) < 1e-5


def test_statistics_stay_float32_under_the_callers_autocast():
    encoder, again = encoder_of(ByolaV1, 16), encoder_of(ByolaV1, 16)
    x = images(3, 36)
    outside = Patches.of(x, torch.bfloat16)
    expected = frame_embeddings(encoder, outside)
    with torch.autocast("cpu", torch.bfloat16):
        inside = Patches.of(x, torch.bfloat16)
        found = frame_embeddings(again, inside)
    assert inside.count == outside.count == 3 * 64 * 36
    assert torch.equal(inside.mean, outside.mean)
    assert torch.equal(inside.covariance, outside.covariance)
    assert torch.equal(found, expected)
    assert torch.equal(again.features[1].running_var, encoder.features[1].running_var)


def test_patches_hold_each_pixels_neighbourhood():
    x = torch.randn(2, 4, 6, generator=generator())
    patches = Patches.of(x, torch.float32)
    assert patches.shape == (2, 2, 3)
    assert patches.count == 48
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    values = patches.values.view(2, 2, 2, 2, 3, 10)  # row and column in the window, image, window
    for image in range(2):
        for row in range(4):
            for column in range(6):
                found = values[row % 2, column % 2, image, row // 2, column // 2]
                expected = padded[image, row : row + 3, column : column + 3].flatten()
                assert torch.equal(found, torch.cat([expected, torch.ones(1)]))
    flat = patches.values.view(-1, 10)[:, :9].double()
    torch.testing.assert_close(patches.mean.double(), flat.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(patches.covariance.double(), flat.T.cov(correction=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -2.7])
def test_a_batch_without_any_variance_stays_finite(value):
    plain, fast = (encoder_of(ByolaV1, 16) for _ in range(2))
    x = torch.full((2, 64, 16), value)
    found, gradients, statistics = run(fast, Patches.of(x, torch.float32))
    torch.testing.assert_close(found, run(plain, x, network)[0], rtol=1e-4, atol=1e-4)
    assert len(gradients) > 10
    assert all(bool(g.isfinite().all()) for g in gradients.values() if g is not None)
    assert bool((statistics["features.1.running_var"] >= 0).all())


@pytest.mark.parametrize("shape", [(2, 63, 96), (2, 64, 95)])
def test_odd_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=f"even image sizes, found {shape[1]} x {shape[2]}"):
        Patches.of(torch.zeros(shape), torch.float32)


@pytest.mark.parametrize(("kind", "d"), VERSIONS)
def test_dropout_is_the_networks(kind, d):
    fast, plain = encoder_of(kind, d, dropout=0.3), encoder_of(kind, d, dropout=0.3)
    patches, outputs = exact(images()), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(frame_embeddings(fast.double(), patches))
    torch.manual_seed(1)
    torch.testing.assert_close(outputs[0], plain.double().network(images().double()))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def test_running_statistics_serve_the_exported_encoder():
    encoder = encoder_of(ByolaV1, 16).double()
    patches = exact(images())
    with torch.no_grad():
        for _ in range(200):  # the running values reach the batch's
            first_block(patches, encoder.features[0], encoder.features[1])
        expected = first_block(patches, encoder.features[0], encoder.features[1])
        found = encoder.eval().features[:4](images().double()[:, None])
    # The running variance is the unbiased one.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


# ---- two processes -------------------------------------------------------------------------------------------------
# This file is also the program of each process: RANK, a folder for results.

SHARES = (slice(0, 3), slice(3, 5))  # of a batch of five: not equal


def inputs():
    # Means beside smaller deviations; the last channel does not vary at all.
    flat = torch.randn(5, 6, generator=generator(1)) * 0.5 + torch.arange(6.0)
    maps = torch.randn(5, 6, 4, 3, generator=generator(2)) * 2 - 1
    flat[:, -1], maps[:, -1] = 30.7, 100.3
    return {"flat": flat, "maps": maps}


def norm_of(x, own=True):
    kind = (BatchNorm1d if own else nn.BatchNorm1d) if x.ndim == 2 else nn.BatchNorm2d
    norm = kind(x.shape[1])
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, x.shape[1]))
        norm.bias.copy_(torch.linspace(1, -1, x.shape[1]))
    return norm


def loss_of(y, share):
    """Each row's part of a sum over the whole batch."""
    weights = torch.randn((5, *y.shape[1:]), generator=generator(3))
    return (weights[share] * y + 0.1 * y.square()).sum()


def work(rank, share):
    """What one process finds for its share of the batch."""
    found = {"world": world_size()}
    for name, x in inputs().items():
        x, norm = x[share].clone().requires_grad_(), norm_of(x)
        for _ in range(2):
            norm.zero_grad()
            x.grad = None
            y = norm(x) if name == "flat" and rank is not None else batch_norm(x, norm)
            loss_of(y, share).backward()
        found[name] = {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
        found[name] |= {"mean": norm.running_mean, "var": norm.running_var, "tracked": norm.num_batches_tracked}
        norm.eval()
        found[name]["eval"] = batch_norm(x, norm).detach() if name == "maps" else norm(x).detach()
    levels = torch.linspace(0.1, 1000.3, 64)  # no variance: their sums round to either side of zero
    norm = nn.BatchNorm1d(64, momentum=1.0)
    batch_norm(levels.expand(5, 64)[share], norm)
    found["levels"] = norm.running_var
    for kind, d in VERSIONS:
        encoder, x = encoder_of(kind, d), images()
        patches = Patches.of(x[share], torch.float32)
        frames = frame_embeddings(encoder, patches)
        loss_of(frames, share).backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
        found[kind.__name__] = {"y": frames.detach(), "count": patches.count, "gradients": gradients}
        found[kind.__name__]["buffers"] = dict(encoder.named_buffers())
    number = torch.tensor(2.0 if rank is None else float(rank), requires_grad=True)
    total = all_sum(number)
    (total * (1.0 if rank is None else rank + 1.0)).backward()
    found["sum"] = (total.item(), number.grad.item())
    return found


def main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(SHARES))
    torch.save(work(rank, SHARES[rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """(what one process finds for the whole batch, what each of two finds for its share)."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    started = [
        subprocess.Popen([*command, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(len(SHARES))
    ]
    try:
        for process in started:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said
    finally:
        for process in started:
            process.kill()
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(len(SHARES))]
    return work(None, slice(0, 5)), found


@pytest.mark.parametrize("name", ["flat", "maps"])
def test_batch_norm_of_two_processes_is_that_of_the_whole_batch(processes, name):
    whole, parts = processes
    assert [part["world"] for part in parts] == [2, 2]
    x = inputs()[name]
    norm = norm_of(x, own=False)
    for _ in range(2):
        expected = norm(x)
    # PyTorch's own, of all rows at once. In the channel that does not vary rounding is divided by sqrt(1e-5).
    vary = slice(0, 5)
    close = {"rtol": 1e-4, "atol": 1e-4}
    together = {key: torch.cat([part[name][key] for part in parts]) for key in ("y", "x", "eval")}
    torch.testing.assert_close(together["y"][:, vary], expected[:, vary], **close)
    for key in ("y", "x", "eval"):
        torch.testing.assert_close(together[key][:, vary], whole[name][key][:, vary], **close)
    for key in ("weight", "bias"):  # each process's part, which DDP sums
        total = sum(part[name][key] for part in parts)
        torch.testing.assert_close(total[vary], whole[name][key][vary], **close)
    for key in ("mean", "var", "tracked"):
        assert torch.equal(parts[0][name][key], parts[1][name][key])
    torch.testing.assert_close(parts[0][name]["mean"], norm.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts[0][name]["var"][vary], norm.running_var[vary], rtol=1e-4, atol=1e-6)
    assert int(parts[0][name]["tracked"]) == 2
    assert bool(together["eval"].isfinite().all())


def test_no_variance_is_negative_however_the_sums_were_rounded(processes):
    assert bool((processes[1][0]["levels"] >= 0).all())  # evaluation takes its root


@pytest.mark.parametrize("name", ["ByolaV1", "ByolaV2"])
def test_fast_pass_of_two_processes_is_that_of_the_whole_batch(processes, name):
    whole, parts = processes[0][name], [part[name] for part in processes[1]]
    assert [part["count"] for part in parts] == [whole["count"]] * 2
    assert off(torch.cat([part["y"] for part in parts]), whole["y"]) < 1e-5
    for key, gradient in whole["gradients"].items():
        if key not in LOST:
            assert off(sum(part["gradients"][key] for part in parts), gradient) < 5e-3, key
    for key, value in whole["buffers"].items():
        assert torch.equal(parts[0]["buffers"][key], parts[1]["buffers"][key]), key
        torch.testing.assert_close(parts[0]["buffers"][key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_a_sum_over_processes_has_the_gradient_of_all(processes):
    whole, parts = processes
    assert whole["sum"] == (2.0, 1.0)
    assert [part["sum"] for part in parts] == [(1.0, 3.0)] * 2


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
