"""A clip's log-mel is its own: neither its neighbours in the batch nor the padding behind it change a frame."""

import pytest
import torch

from evar.audio.mel import LogMel

FRONTS = {
    "byola": LogMel(16000, 1024, 1024, 160, 64, 60, 7800),
    "short window": LogMel(16000, 1024, 400, 160, 64, 60, 7800),
    "odd sizes": LogMel(16000, 601, 401, 147, 40, 60, 7800),
    "not centred": LogMel(16000, 512, 400, 160, 64, 125, 7500, 1.0, 0.01, filterbank="htk-mel", center=False),
}


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("fill", [0.0, 1e3])
def test_row_of_a_padded_batch_equals_the_clip_alone(name, fill):
    front = FRONTS[name]
    shortest = front.min_samples
    lengths = torch.tensor([16000, shortest, 15999, shortest + 1, 1600, 1601, 12345, 16000])
    wav = 0.1 * torch.randn(8, 16000, generator=torch.Generator().manual_seed(0))
    wav[torch.arange(16000) >= lengths[:, None]] = fill
    for width in (16000, 20000):
        batch = torch.nn.functional.pad(wav, (0, width - 16000), value=fill)
        together, frames = front(batch, lengths)
        assert together.isfinite().all()
        assert torch.equal(frames, front.frames(lengths))
        for i, n in enumerate(lengths.tolist()):
            alone, alone_frames = front(wav[i : i + 1, :n], lengths[i : i + 1])
            assert alone.shape[2] == alone_frames.item() == frames[i]
            torch.testing.assert_close(together[i, :, : frames[i]], alone[0], rtol=0, atol=1e-5)


def test_the_callers_waveforms_are_left_as_they_were():
    wav = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    before = wav.clone()
    FRONTS["byola"](wav, torch.tensor([4000, 2000]))
    FRONTS["byola"](wav, torch.tensor([4000, 4000]))
    assert torch.equal(wav, before)


def test_autocast_does_not_coarsen_the_spectrum():
    wav = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([4000, 3000])
    plain, _ = FRONTS["byola"](wav, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = FRONTS["byola"](wav, lengths)
    assert torch.equal(plain, cast)


def test_too_short_or_wrong_lengths_say_so():
    front = FRONTS["byola"]
    with pytest.raises(ValueError, match="at least 513 samples"):
        front(torch.zeros(2, 4000), torch.tensor([4000, 512]))
    with pytest.raises(ValueError, match="more than the 4000"):
        front(torch.zeros(1, 4000), torch.tensor([4001]))
    with pytest.raises(ValueError, match="wav \\[B, N\\]"):
        front(torch.zeros(4000), torch.tensor([4000]))
