"""A clip alone must equal its row in any padded batch: on real lengths, for both ways the network is computed."""

import numpy as np
import pytest
import torch

from evar.encoders import load_encoder

LENGTHS = [16000, 15999, 12345, 8161, 8000, 2401, 1121, 1120, 1119, 160, 1]


def normalized(name):
    encoder = load_encoder(name)
    return encoder.with_normalization({"mean": -6.0, "std": 4.0}) if encoder.needs_normalization else encoder


def relative(found, expected):
    return float(((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max())


def real_clips(shared_data, n=12):
    import soundfile

    files = sorted((shared_data / "free-spoken-digit-dataset" / "recordings").iterdir())
    clips = [soundfile.read(path, dtype="float32")[0] for path in files[:: len(files) // n][:n]]
    lengths = [len(clip) for clip in clips]
    batch = np.full((len(clips), max(lengths) + 777), 0.5, np.float32)  # padding that must not be heard
    for row, clip in enumerate(clips):
        batch[row, : len(clip)] = clip
    assert len(set(lengths)) > n // 2, "the clips should differ in length"
    return clips, batch, lengths


@pytest.fixture(params=["clip by clip", "together"])
def way(request, monkeypatch):
    """The CPU's way, and the way of other devices, run here on the CPU."""
    from evar.encoders.byola import Byola

    if request.param == "together":
        monkeypatch.setattr(Byola, "_clip_by_clip", Byola._together)
    return request.param


@pytest.mark.parametrize("name", ["random:byola-v1-512", "random:byola-v2"])
def test_byola_on_real_lengths(name, way, shared_data):
    encoder = normalized(name)
    clips, batch, lengths = real_clips(shared_data)
    layers = [*encoder.layers, "block1+fc"]
    together = encoder.encode_all(batch, lengths, layers, ["mean+max", "mean_std"])
    for row, clip in enumerate(clips):
        for pair, alone in encoder.encode_all(clip, None, layers, ["mean+max", "mean_std"]).items():
            assert relative(together[pair][row], alone) < 1e-4, (pair, lengths[row])


@pytest.mark.parametrize("name", ["logmel", "mfcc", "random:byola-v1-512", "random:byola-v2"])
def test_odd_and_tiny_lengths(name, way):
    encoder = normalized(name)
    wav = 0.1 * torch.randn(len(LENGTHS), 16000, generator=torch.Generator().manual_seed(1))
    together = encoder.encode(wav, LENGTHS)
    for row, length in enumerate(LENGTHS):
        assert relative(together[row], encoder.encode(wav[row, :length])) < 1e-4, length


@pytest.mark.parametrize("name", ["random:byola-v1-512", "random:byola-v2"])
@pytest.mark.parametrize("n_frames", [511, 512, 513, 519, 520, 1023, 1031, 1601])
def test_tiles_leave_no_seams(name, n_frames):
    encoder = normalized(name)
    wav = 0.1 * torch.randn(2, (n_frames - 1) * 160, generator=torch.Generator().manual_seed(2))
    frames = encoder.encode_frames(wav)
    with torch.inference_mode():
        log_mel, _ = encoder._log_mel(wav, torch.full((2,), wav.shape[1]))
        expected = encoder.network((log_mel + 6.0) / 4.0)
    assert log_mel.shape[2] == n_frames
    assert frames.features.shape == expected.shape
    torch.testing.assert_close(frames.features, expected, rtol=1e-4, atol=1e-5)


def test_together_in_chunks_equals_at_once(monkeypatch, way):
    import evar.encoders.byola as byola

    encoder = normalized("random:byola-v1-512")
    wav = 0.1 * torch.randn(5, 16000, generator=torch.Generator().manual_seed(3))
    at_once = encoder.encode(wav, [16000, 9000, 16000, 4000, 15000])
    monkeypatch.setattr(byola, "CHUNK_FRAMES", 202)
    assert relative(encoder.encode(wav, [16000, 9000, 16000, 4000, 15000]), at_once) < 1e-5


def test_clips_below_the_minimum_are_zero_padded():
    encoder = normalized("random:byola-v1-512")
    assert encoder.min_samples == 1120
    clip = 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(4))
    padded = torch.nn.functional.pad(clip, (0, encoder.min_samples - 300))
    torch.testing.assert_close(encoder.encode(clip), encoder.encode(padded), rtol=1e-5, atol=1e-6)
    assert encoder.encode_frames(clip).features.shape == (1, 512)
