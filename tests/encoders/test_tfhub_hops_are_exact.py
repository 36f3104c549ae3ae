"""A module says neither its hop nor its dimensions nor its shortest clip: what is measured must be exact, not nearly so."""

import numpy as np
import pytest

from evar.encoders.tf_client import ModelError
from evar.encoders.tf_probe import measure, noise
from evar.errors import EvarError


def staircase(window, hop, dim=3, pad_end=False):
    """Frames of `window` samples every `hop`; with pad_end also those that begin inside the clip."""

    def run(wav):
        n = wav.shape[1]
        frames = -(-n // hop) if pad_end else max(0, 1 + (n - window) // hop)
        return {"embedding": np.zeros((1, frames, dim), np.float32)}

    return run


@pytest.mark.parametrize(
    ("window", "hop", "pad_end", "shortest"),
    [
        (15600, 15360, False, 15600),  # VGGish
        (15600, 7680, False, 15600),  # YAMNet
        (400, 160, False, 400),
        (400, 2672, True, 1),
        (1, 1, False, 1),
        (48000, 16000, False, 48000),  # no frame for clips below 3 s
        (16000, 100_000, False, 16000),  # slower than one frame every 6 s
    ],
)
def test_hop_and_shortest_clip_are_exact_to_the_sample(window, hop, pad_end, shortest):
    measured = measure(staircase(window, hop, pad_end=pad_end), 16000, "m")
    assert (measured.layers, measured.hops) == ({"embedding": 3}, {"embedding": hop})
    assert measured.min_samples == shortest


def test_outputs_of_several_rates_each_have_their_own_hop():
    fine, coarse = staircase(400, 160, 64), staircase(15600, 7680, 1024)

    def run(wav):
        return {"output0": fine(wav)["embedding"], "output1": coarse(wav)["embedding"], "clip": np.zeros((1, 7))}

    measured = measure(run, 16000, "m")
    assert measured.layers == {"output0": 64, "output1": 1024, "clip": 7}
    assert measured.hops == {"output0": 160, "output1": 7680}
    assert measured.min_samples == 15600, "shorter clips would lose the coarse layer"


@pytest.mark.parametrize("shape", [(1, 7), (1, 1, 7)])
def test_one_vector_whatever_the_length_is_a_clip_layer(shape):
    measured = measure(lambda wav: {"embedding": np.zeros(shape)}, 16000, "m")
    assert (measured.layers, measured.hops, measured.min_samples) == ({"embedding": 7}, {}, 1)


def test_outputs_that_are_no_features_are_left_out():
    def run(wav):
        n = wav.shape[1]
        return {
            "wave": np.zeros((1, n)),
            "ten": np.zeros((1, 10, 4)),
            "loss": np.zeros(1),
            "embedding": np.zeros((1, 7)),
        }

    measured = measure(run, 16000, "m")
    assert measured.layers == {"embedding": 7}
    assert set(measured.left_out) == {"wave", "ten"}


def refusing_below(n_samples):
    def run(wav):
        if wav.shape[1] < n_samples:
            raise ModelError("m", f"needs {n_samples} samples")
        return {"embedding": np.full((1, 5), 0.0 if wav.shape[1] >= 2 * n_samples else np.nan)}

    return run


def test_refusals_and_nan_below_a_length_make_it_the_shortest_clip():
    assert measure(refusing_below(100), 16000, "m").min_samples == 200


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda wav: {"embedding": np.full((1, 7), np.nan)}, "its output 'embedding' holds NaN or infinity"),
        (lambda wav: {"wave": wav}, "no output that is features"),
        (lambda wav: {}, "gives nothing for noise"),
        (refusing_below(10**7), "gives nothing for noise of 30 s at 16000 Hz: needs 10000000 samples"),
        (lambda wav: {"embedding": np.zeros((1, min(8, wav.shape[1] // 4000), 7))}, "do not rise with the length"),
    ],
)
def test_no_encoder_is_one_line(run, message):
    with pytest.raises(EvarError) as caught:
        measure(run, 16000, "m")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_noise_is_the_same_every_time_and_longer_noise_begins_with_the_shorter():
    assert np.array_equal(noise(1000), noise(3000)[:1000])
    assert noise(10).dtype == np.float32
