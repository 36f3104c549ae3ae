"""Each augmentation against a slow, literal reference, and its numbers against the distributions of the papers.

The references work sample by sample in float64 and draw from a generator of the same seed in the same order.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional

from evar.pretraining import augment
from evar.pretraining.augment import (
    Augmentation,
    GaussianNoise,
    MixupBank,
    RandomLinearFader,
    RandomResizeCrop,
    post_normalize,
    resize_matrix,
)

OFF = {"mixup": 0.0, "crop": False, "fader": 0.0, "noise": 0.0, "norm": "none"}
EPS = 2.0**-23  # float32's
POSITION = 2e-4  # float32 places a pixel of the canvas to 1e-5; these images change by 10 from one pixel to the next


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=6, bands=8, frames=12, seed=0):
    return torch.randn(batch, bands, frames, generator=generator(1000 + seed))


def assert_uniform(values, low, high, bins=20):
    """All in [low, high], mean and histogram those of the uniform distribution: five standard errors."""
    values = np.asarray(values, dtype=np.float64).ravel()
    n, width = len(values), high - low
    assert n > 1000
    assert low - 1e-6 * width <= values.min() < low + 0.02 * width
    assert high + 1e-6 * width >= values.max() > high - 0.02 * width
    assert abs(values.mean() - (low + high) / 2) < 5 * width / np.sqrt(12 * n)
    counts, _ = np.histogram(values, bins, (low, high))
    chi2 = ((counts - n / bins) ** 2 / (n / bins)).sum()
    assert chi2 < (bins - 1) + 5 * np.sqrt(2 * (bins - 1))


def assert_unrelated(a, b):
    a, b = (np.asarray(v, dtype=np.float64).ravel() for v in (a, b))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


# ---- mixup ---------------------------------------------------------------------------------------------------------


def literal_mixup(x, slots, ratio, numbers):
    """x and the bank's slots: lists of float64 images; log((1 - l) e^x + l e^z + eps), sample by sample."""
    if not slots:
        return x
    mixing = ratio * torch.rand((len(x), 1, 1), generator=numbers)
    chosen = torch.randint(len(slots), (len(x),), generator=numbers)
    views = []
    for i, image in enumerate(x):
        share, z = float(mixing[i]), slots[int(chosen[i])]
        views.append(np.log((1 - share) * np.exp(image) + share * np.exp(z) + EPS))
    return views


@pytest.mark.parametrize("ratio", [0.2, 0.4])
def test_mixup_and_its_bank_are_the_papers(ratio):
    size, chain = 7, Augmentation((4, 5), **{**OFF, "mixup": ratio, "bank": 7})
    numbers, reference_numbers = generator(), generator()
    slots, taken = [], 0
    for step, batch in enumerate([3, 3, 3, 2, 7, 4, 3]):  # wraps around within a batch, and fills the bank at once
        x = 2 * images(batch, 4, 5, seed=step)
        found = chain(x, numbers)
        wide = list(x.double().numpy())
        # Both views are mixed with what was there before this batch ...
        for view in found:
            expected = np.stack(literal_mixup(wide, slots, ratio, reference_numbers))
            np.testing.assert_allclose(view.numpy(), expected, rtol=1e-5, atol=2e-6)
        # ... which then goes in unmixed, over the oldest.
        for image in wide:
            if len(slots) < size:
                slots.append(image)
            else:
                slots[taken % size] = image
            taken += 1
    np.testing.assert_array_equal(chain.mixup.bank.numpy(), np.stack(slots).astype(np.float32))


def test_the_bank_is_first_in_first_out():
    bank, everything = MixupBank(0.4, (1, 1), size=5), []
    for step, batch in enumerate([2, 2, 4, 1, 5, 8, 3]):
        x = torch.arange(batch).view(-1, 1, 1) + 100.0 * step
        bank.take_in(x)
        everything += x.flatten().tolist()
        held = bank.bank.flatten()[: min(len(everything), 5)].tolist()
        assert sorted(held) == sorted(everything[-5:])


def test_an_empty_bank_mixes_nothing():
    x = images()
    assert MixupBank(0.4, (8, 12))(x, generator()) is x


def test_mixing_ratio_and_partner_are_drawn_per_sample_and_uniformly():
    n, size, ratio = 20000, 16, 0.4
    bank = MixupBank(ratio, (2, 1), size)
    # The first band tells the ratio (e^z = 2), the second, given the ratio, the partner (e^z = its number).
    partners = torch.arange(1.0, size + 1)
    bank.take_in(torch.stack([torch.full((size,), 2.0), partners], 1).log()[..., None])
    first = bank(torch.zeros(n, 2, 1), generator(1)).double().exp()[..., 0]
    shares = first[:, 0] - 1
    assert_uniform(shares, 0.0, ratio)
    clear = shares > 0.05
    chosen = ((first[:, 1] - 1) / shares + 1)[clear]
    assert (chosen - chosen.round()).abs().max() < 1e-2
    counts = np.bincount(chosen.round().long().numpy(), minlength=size + 1)[1:]
    expected = counts.sum() / size
    assert ((counts - expected) ** 2 / expected).sum() < (size - 1) + 5 * np.sqrt(2 * (size - 1))
    second = bank(torch.zeros(n, 2, 1), generator(2)).double().exp()[..., 0]
    assert_unrelated(shares, second[:, 0] - 1)


def test_mixup_of_the_lowest_values_stays_finite():
    bank = MixupBank(0.4, (1, 1), size=4)
    bank.take_in(torch.full((4, 1, 1), -200.0))
    mixed = bank(torch.full((10, 1, 1), -200.0), generator())
    torch.testing.assert_close(mixed, torch.full_like(mixed, np.log(EPS)))


def test_mixup_never_meets_the_empty_part_of_the_bank():
    bank = MixupBank(0.4, (1, 1), size=1000)
    bank.take_in(torch.full((3, 1, 1), 5.0))
    mixed = bank(torch.full((500, 1, 1), 5.0), generator())
    torch.testing.assert_close(mixed, torch.full_like(mixed, 5.0))


# ---- random resize crop --------------------------------------------------------------------------------------------


def literal_cut(image, boxes):
    """One float64 image [F, T], resized from its part of the canvas; boxes: (start, length) per axis, image axes.

    The canvas is written out, zero-filled, with a wide margin; the cut-out is resized by PyTorch, in float64.
    """
    (top, height), (left, width) = boxes
    bands, frames = image.shape
    margin = 3 * max(bands, frames)
    canvas = torch.zeros(bands + 2 * margin, frames + 2 * margin, dtype=torch.float64)
    canvas[margin : margin + bands, margin : margin + frames] = image
    part = canvas[margin + top : margin + top + height, margin + left : margin + left + width]
    return functional.interpolate(part[None, None], (bands, frames), mode="bicubic", align_corners=False)[0, 0]


def resized(x, boxes):
    (top, height), (left, width) = (torch.tensor(box).T for box in zip(*boxes, strict=True))
    rows = resize_matrix(top, height, x.shape[1])
    columns = resize_matrix(left, width, x.shape[2])
    return rows @ x @ columns.transpose(1, 2)


@pytest.mark.parametrize(("bands", "frames"), [(64, 96), (16, 25), (7, 10)])
def test_resize_is_pytorchs_bicubic_of_each_cut_out(bands, frames):
    random = np.random.default_rng(bands)
    special = [
        ((0, bands), (0, frames)),  # as it is
        ((0, bands), (-(frames // 4), frames + 2 * (frames // 4))),  # the whole canvas
        ((0, 1), (0, 1)),  # one pixel
        ((bands - 1, 1), (frames - 1, 1)),
        ((2, 3), (-(frames // 4), 2)),  # outside
        ((0, 2), (-1, 2)),  # over the edge
        ((-1, bands + 2), (frames - 2, frames // 2)),
    ]
    drawn = []
    for _ in range(60):
        height, width = random.integers(1, bands + 1), random.integers(1, frames * 3 // 2 + 1)
        top = random.integers(0, bands - height + 1)
        left = random.integers(-frames // 4, frames * 5 // 4 - width + 1)
        drawn.append(((int(top), int(height)), (int(left), int(width))))
    boxes = special + drawn
    x = 2 * torch.randn(len(boxes), bands, frames, generator=generator())
    found = resized(x, boxes)
    for i, box in enumerate(boxes):
        expected = literal_cut(x[i].double(), box)
        assert (found[i] - expected).abs().max() < POSITION, box
    torch.testing.assert_close(found[0], x[0])
    assert not found[4].any()


def literal_boxes(batch, bands, frames, scale, numbers):
    """The papers' boxes in image coordinates: canvas 1.0 F x 1.5 T, its middle the image."""
    axes = []
    for size, stretch in ((bands, 1.0), (frames, 1.5)):
        room = int(stretch * size)
        low, high = scale
        lengths = low + (high - low) * torch.rand(batch, generator=numbers)
        places = torch.rand(batch, generator=numbers)
        axis = []
        for i in range(batch):
            length = min(int(size * lengths[i]), room)
            start = int(float(places[i]) * (room - length + 1))
            axis.append((start - (room - size) // 2, length))
        axes.append(axis)
    return list(zip(*axes, strict=True))


def test_crops_of_a_batch_are_the_papers_one_by_one():
    x = images(12, 64, 96)
    found = RandomResizeCrop()(x, generator(7))
    for i, box in enumerate(literal_boxes(12, 64, 96, (0.6, 1.5), generator(7))):
        assert (found[i] - literal_cut(x[i].double(), box)).abs().max() < POSITION


@pytest.fixture
def boxes_of(monkeypatch):
    """Draws boxes for a batch: int64 arrays (top, height, left, width) as the module hands them to the resize."""

    def draw(batch, crop=None, seed=0):
        seen = []

        def note(start, length, size):
            seen.append((start.numpy(), length.numpy()))
            return torch.zeros(batch, 1, size)

        with monkeypatch.context() as patched:
            patched.setattr(augment, "resize_matrix", note)
            (crop or RandomResizeCrop())(torch.zeros(1, 64, 96).expand(batch, 64, 96), generator(seed))
        (top, height), (left, width) = seen
        return top, height, left, width

    return draw


def test_crop_sizes_and_places_have_the_papers_distribution(boxes_of):
    n = 40000
    top, height, left, width = boxes_of(n)
    # Heights: F * U(0.6, 1.5), floored, and the 5/9 above the canvas clipped to it.
    full = (height == 64).mean()
    assert abs(full - 5 / 9) < 5 * np.sqrt(5 / 9 * 4 / 9 / n)
    assert height.min() == 38
    assert height.max() == 64
    clear = height[(height > 38) & (height < 64)]
    assert_uniform(clear + np.random.default_rng(0).random(len(clear)), 39, 64, bins=25)
    # Widths: T * U(0.6, 1.5) is inside the canvas of 144.
    assert width.min() == 57
    assert width.max() == 143
    assert abs(width.mean() - (96 * 1.05 - 0.5)) < 5 * 0.9 * 96 / np.sqrt(12 * n) + 0.02
    assert_unrelated(height, width)
    # Places: every one that leaves the box inside the canvas, equally likely.
    assert top.min() == 0
    assert (top + height).max() == 64
    assert left.min() == -24
    assert (left + width).max() == 120
    dither = np.random.default_rng(1).random((2, n))
    assert_uniform((left + 24 + dither[0]) / (144 - width + 1), 0, 1)
    assert_uniform(((top + dither[1]) / (64 - height + 1))[height < 64], 0, 1)
    assert_unrelated(left, top)


def test_crop_scales_are_options(boxes_of):
    top, height, left, width = boxes_of(2000, RandomResizeCrop((1.0, 1.0), (0.5, 0.75)))
    assert (top == 0).all()
    assert (height == 64).all()
    assert (width.min(), width.max()) == (48, 71)
    assert (left.min(), (left + width).max()) == (-24, 120)


# ---- fader, noise --------------------------------------------------------------------------------------------------


def test_fader_adds_a_straight_line():
    x = images(9, 4, 33)
    found = RandomLinearFader(1.0)(x, generator(3))
    ends = 2 * torch.rand((2, 9, 1, 1), generator=generator(3)).double() - 1
    for i in range(9):
        first, last = (float(end[i]) for end in ends)
        for t in range(33):
            expected = x[i, :, t].double() + first + (last - first) * t / 32
            assert (found[i, :, t] - expected).abs().max() < 1e-6


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_fader_ends_are_uniform_and_unrelated(gain):
    line = RandomLinearFader(gain)(torch.zeros(20000, 1, 3), generator(4))[:, 0].double()
    first, middle, last = line.T
    assert_uniform(first, -gain, gain)
    assert_uniform(last, -gain, gain)
    assert_unrelated(first, last)
    assert (middle - (first + last) / 2).abs().max() < 1e-6


def test_noise_is_mixed_in_by_a_ratio_of_its_own_for_each_sample():
    n, ratio, std = 4000, 0.4, 1.5
    noise = GaussianNoise(ratio, std)
    x = images(5)
    shares = ratio * torch.rand((5, 1, 1), generator=generator(5))
    drawn = generator(5)
    torch.rand((5, 1, 1), generator=drawn)
    expected = (1 - shares.double()) * x + shares.double() * std * torch.randn(x.shape, generator=drawn).double()
    torch.testing.assert_close(noise(x, generator(5)).double(), expected, rtol=1e-5, atol=1e-5)
    level = 1000.0
    view = noise(torch.full((n, 8, 8), level), generator(6)).double()
    shares = 1 - view.mean((1, 2)) / level
    assert_uniform(shares.clamp(0, ratio), 0, ratio)
    residue = (view - view.mean((1, 2), keepdim=True))[shares > 0.05] / shares[shares > 0.05, None, None]
    assert abs(float(residue.std()) / std - np.sqrt(63 / 64)) < 0.02
    assert abs(float((residue**4).mean() / (residue**2).mean() ** 2) - 3) < 0.2  # normal, not uniform


# ---- post-normalisation --------------------------------------------------------------------------------------------


def test_post_normalisation_covers_its_own_scope():
    views = torch.stack([images() * 3 + 5, images(seed=1) * 0.2 - 1])
    apart, together = post_normalize(views, together=False), post_normalize(views, together=True)
    for view, before in zip(apart, views.double(), strict=True):
        expected = (before - before.mean()) / before.std(correction=0)
        torch.testing.assert_close(view.double(), expected, rtol=1e-5, atol=1e-5)
        assert abs(float(view.mean())) < 1e-5
        assert float(view.std(correction=0)) == pytest.approx(1, abs=1e-5)
    wide = views.double()
    expected = (wide - wide.mean()) / wide.std(correction=0)
    torch.testing.assert_close(together.double(), expected, rtol=1e-5, atol=1e-5)
    assert abs(float(together.mean())) < 1e-5
    assert float(together.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert abs(float(together[0].mean())) > 0.5  # the views' own levels stay


@pytest.mark.parametrize(("norm", "together"), [("views", False), ("batch", True)])
def test_the_chain_takes_the_scope_by_name(norm, together):
    x = images()
    raw = Augmentation((8, 12), **{**OFF, "fader": 1.0})(x, generator())
    found = Augmentation((8, 12), **{**OFF, "fader": 1.0, "norm": norm})(x, generator())
    torch.testing.assert_close(found, post_normalize(raw, together))
