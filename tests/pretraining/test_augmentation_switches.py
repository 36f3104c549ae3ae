"""The chain of augmentations: every row of the papers' ablation is a matter of switches, and nothing else draws numbers."""

import copy

import pytest
import torch

from evar.pretraining.augment import Augmentation, GaussianNoise, RandomLinearFader, RandomResizeCrop

OFF = {"mixup": 0.0, "crop": False, "fader": 0.0, "noise": 0.0, "norm": "none"}
FULL = {"mixup": 0.2, "crop": True, "fader": 1.0, "noise": 0.1, "norm": "batch", "bank": 16}
ABLATION = {
    "all": {"mixup": 0.4, "crop": True, "fader": 1.0},
    "no mixup": {"mixup": 0.0, "crop": True, "fader": 1.0},
    "no crop": {"mixup": 0.4, "crop": False, "fader": 1.0},
    "no fader": {"mixup": 0.4, "crop": True, "fader": 0.0},
    "noise instead": {"mixup": 0.0, "crop": False, "fader": 0.0, "noise": 0.4},
    "nothing": {"mixup": 0.0, "crop": False, "fader": 0.0},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=6, bands=8, frames=12, seed=0):
    return torch.randn(batch, bands, frames, generator=generator(1000 + seed))


def test_every_row_of_the_ablation_is_a_matter_of_switches():
    x, found = images(8, 16, 24), {}
    for norm in ("none", "views", "batch"):
        for row, switches in ABLATION.items():
            chain, numbers = Augmentation((16, 24), **switches, norm=norm), generator()
            chain(images(8, 16, 24, seed=1), numbers)
            views = found[row] = chain(x, numbers)
            assert views.shape == (2, 8, 16, 24)
            assert views.dtype == torch.float32
            assert bool(views.isfinite().all())
            per_sample = (views[0] - views[1]).abs().amax((1, 2))
            assert bool((per_sample > 1e-3).all()) == (row != "nothing"), row
        assert torch.equal(found["nothing"][0], found["nothing"][1])
        rows = list(found.values())
        assert all(not torch.allclose(a, b) for i, a in enumerate(rows) for b in rows[:i])


def test_with_everything_off_the_views_are_the_input():
    x = images()
    chain = Augmentation((8, 12), **OFF)
    assert not list(chain.buffers())
    for _ in range(2):
        assert torch.equal(chain(x, generator()), torch.stack([x, x]))


@pytest.mark.parametrize("switch", ["mixup", "crop", "fader", "noise"])
def test_one_switch_alone_changes_each_sample_in_its_own_way(switch):
    chain = Augmentation((8, 12), **{**OFF, switch: FULL[switch]})
    same, numbers = images(1).expand(6, 8, 12), generator()
    chain(images(16, seed=2), numbers)
    views = chain(same, numbers).flatten(0, 1)
    apart = torch.cdist(views.flatten(1), views.flatten(1)) + torch.eye(12)
    assert apart.min() > 1e-3  # 6 samples x 2 views of one image: all different


def test_the_order_is_mixup_crop_fader_noise():
    x, chain = images(6, 16, 24), Augmentation((16, 24), **{**FULL, "norm": "none"})
    chain(images(6, 16, 24, seed=1), generator())
    numbers, by_hand = generator(9), generator(9)
    parts = [copy.deepcopy(chain.mixup), RandomResizeCrop(), RandomLinearFader(1.0), GaussianNoise(0.1)]
    for found in chain(x, numbers):
        expected = x
        for part in parts:
            expected = part(expected, by_hand)
        assert torch.equal(found, expected)


def test_silence_stays_finite():
    silent = torch.full((4, 8, 12), -2.7)
    for norm in ("views", "batch"):
        chain, numbers = Augmentation((8, 12), mixup=0.4, crop=False, norm=norm), generator()
        for _ in range(3):
            assert bool(chain(silent, numbers).isfinite().all())
        assert bool(Augmentation((8, 12), norm=norm)(torch.zeros(4, 8, 12), generator()).isfinite().all())


def test_views_depend_on_the_generator_alone():
    def run(seed):
        chain, numbers = Augmentation((8, 12), **FULL), generator(5)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        views = [chain(images(seed=step), numbers) for step in range(3)]
        assert torch.equal(torch.get_rng_state(), before)  # and leave the global numbers alone
        return torch.stack(views)

    assert torch.equal(run(0), run(1))
    other, numbers = Augmentation((8, 12), **FULL), generator(6)
    assert not torch.equal(run(0)[0], other(images(), numbers))


def test_a_resumed_chain_draws_what_it_would_have_drawn(tmp_path):
    chain = Augmentation((8, 12), **FULL)
    for step in range(4):
        chain(images(seed=step), generator(step))
    torch.save(chain.state_dict(), tmp_path / "state.pt")
    resumed = Augmentation((8, 12), **FULL)
    resumed(images(3, seed=99), generator(99))  # what it saw before must be forgotten
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.mixup.n_seen == 24
    for step in range(4, 8):  # across the bank's end
        x = images(seed=step)
        assert torch.equal(chain(x, generator(step)), resumed(x, generator(step)))
    assert torch.equal(chain.mixup.bank, resumed.mixup.bank)


def test_views_carry_no_gradient():
    x = images().requires_grad_()
    assert not Augmentation((8, 12), **FULL)(x, generator()).requires_grad
