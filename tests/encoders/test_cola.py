"""COLA's front end, network and windows, each held to a reference of its own; weights of another encoder are refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evar.encoders import load_encoder
from evar.encoders.cola import STAGES, efficientnet_b0, unit_norm
from evar.encoders.weights import write_weights
from evar.errors import EvarError


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def trained(network, inputs, seed=0):
    """As after training: batch norms with scales and shifts of their own, and the statistics of such inputs."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.8, 1.2, generator=generator)
            module.bias.normal_(0.0, 0.2, generator=generator)
            module.momentum = 1.0
    network.train()(inputs)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.clamp_(min=1e-3)
    return network.eval()


def log_mel_like(batch, n_frames, seed=0):
    return torch.randn(batch, 1, 64, n_frames, generator=torch.Generator().manual_seed(seed)) - 4.0


@pytest.fixture
def cola():
    encoder = load_encoder("random:cola@3")
    wav = noise(16, 16000)
    for row in range(16):
        wav[row, (row + 1) * 1000 :] = 0.0
    log_mel, _ = encoder.front_end(wav / wav.norm(dim=1, keepdim=True), torch.full((16,), 16000))
    trained(encoder.features, log_mel[:, None])
    return encoder


def refused(spec, **options):
    with pytest.raises(EvarError) as caught:
        load_encoder(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def relative(found, expected):
    return float(((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max())


# ---- front end -----------------------------------------------------------------------------------------------------


def reference_log_mel(wav):
    """float64, frame by frame: Hann 400 in an FFT of 1024, magnitude, HTK triangles straight in mel, [1e-5, 1e8]."""
    wav = wav / np.sqrt(np.sum(wav**2))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)

    def mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    edges = np.linspace(mel(60.0), mel(7800.0), 66)
    bins = mel(np.arange(513) * 16000 / 1024)
    bank = np.zeros((513, 64))
    for band in range(64):
        low, centre, high = edges[band : band + 3]
        for k in range(513):
            bank[k, band] = max(0.0, min((bins[k] - low) / (centre - low), (high - bins[k]) / (high - centre)))
    frames = [np.abs(np.fft.rfft(wav[s : s + 400] * hann, 1024)) @ bank for s in range(0, len(wav) - 399, 160)]
    return np.log(np.clip(frames, 1e-5, 1e8)).T


def test_the_front_end_is_the_papers(cola):
    wav = noise(16000).double().numpy()
    wav[:8000] *= 0.05  # a quiet half
    wav += 0.02 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    expected = reference_log_mel(wav)
    seen = []
    cola.network = lambda log_mel: seen.append(log_mel) or torch.zeros(len(log_mel), 1280)
    cola.encode(torch.from_numpy(wav))
    assert seen[0].shape == (1, 64, 98)
    np.testing.assert_allclose(seen[0][0].numpy(), expected, atol=1e-4)


def test_silence_lies_on_the_floor(cola):
    seen = []
    cola.network = lambda log_mel: seen.append(log_mel) or torch.zeros(len(log_mel), 1280)
    cola.encode(torch.zeros(16000))
    torch.testing.assert_close(seen[0], torch.full((1, 64, 98), np.log(1e-5)).float())


def test_loudness_does_not_matter(cola):
    wav = noise(24000)
    assert relative(cola.encode(wav * 2.0**-7), cola.encode(wav)) < 1e-6
    assert relative(cola.encode(wav * 0.01), cola.encode(wav)) < 1e-4


# ---- network -------------------------------------------------------------------------------------------------------


def copy_in_order(source, target):
    """Both networks list their tensors in the order of computation."""
    values = [v for v in source.state_dict().values() if v.ndim]
    names = [k for k, v in target.state_dict().items() if v.ndim]
    assert [list(v.shape) for v in values] == [list(target.state_dict()[k].shape) for k in names]
    target.load_state_dict(dict(zip(names, values, strict=True)), strict=False)


def test_b0_has_the_published_size():
    network = efficientnet_b0()
    assert sum(p.numel() for p in network.parameters()) == 4_007_548 - 2 * 32 * 9, "B0 for one channel in place of 3"
    assert sum(n_blocks for _, _, n_blocks, _, _ in STAGES) == 16
    assert network.eval()(torch.zeros(2, 1, 64, 98)).shape == (2, 1280, 2, 4)
    assert network(torch.zeros(1, 1, 64, 96)).shape == (1, 1280, 2, 3)


@torch.no_grad()
def test_b0_is_that_of_transformers():
    """On sizes that stay even: on odd ones transformers' padding drops the last column."""
    from transformers import EfficientNetConfig, EfficientNetModel

    settings = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "drop_connect_rate": 0.0}
    theirs = EfficientNetModel(EfficientNetConfig(num_channels=1, **settings)).eval()
    network = trained(efficientnet_b0(), log_mel_like(16, 96))
    copy_in_order(network, theirs)
    x = log_mel_like(3, 96, seed=1)
    expected = theirs(x).last_hidden_state
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_an_untrained_cola_tells_clips_apart():
    """Eval mode with fresh batch-norm statistics: weights that are too small make every embedding exactly zero."""
    encoder = load_encoder("random:cola")
    embeddings = encoder.encode(torch.stack([noise(16000, seed=1), torch.sin(torch.arange(16000) * 0.1)]))
    assert float((embeddings[0] - embeddings[1]).abs().amax() / embeddings.abs().amax()) > 0.01


# ---- windows -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_one_frame_per_second_and_their_mean(cola):
    wav = noise(40000)
    frames = cola.encode_frames(wav)
    assert frames.features.shape == (3, 1280)
    assert frames.times_ms.tolist() == [500.0, 1500.0, 2500.0]
    padded = nn.functional.pad(wav / wav.norm(), (0, 8000)).view(3, 16000)
    log_mel, _ = cola.front_end(padded, torch.full((3,), 16000))
    expected = cola.features(log_mel[:, None]).amax(dim=(2, 3))
    assert relative(frames.features, expected) < 1e-5
    assert relative(cola.encode(wav), expected.mean(0)) < 1e-5


def test_padding_does_not_move_the_norm():
    """One bit of it is 3e-3 in the embedding of a clip whose high bands a codec left empty."""
    generator = torch.Generator().manual_seed(0)
    for i in range(100):
        wav = torch.randn(1, int(torch.randint(1000, 60000, (1,), generator=generator)), generator=generator)
        assert torch.equal(unit_norm(nn.functional.pad(wav, (0, 7 + 61 * i)))[:, : wav.shape[1]], unit_norm(wav)), i


def test_neighbours_and_padding_are_not_heard(cola, monkeypatch):
    lengths = [48000, 47999, 32001, 32000, 16000, 15999, 5000, 399, 1]
    wav = noise(len(lengths), 50000)
    together = cola.encode(wav, lengths)
    assert cola.encode_frames(wav, lengths).valid.tolist() == [3, 3, 3, 2, 1, 1, 1, 1, 1]
    for row, length in enumerate(lengths):
        assert relative(together[row], cola.encode(wav[row, :length])) < 1e-4, length
    monkeypatch.setattr("evar.encoders.cola.CHUNK_WINDOWS", {"cpu": 4})
    assert relative(cola.encode(wav, lengths), together) < 1e-5


def test_training_reaches_every_parameter():
    encoder = load_encoder("random:cola").train()
    encoder.network(torch.randn(4, 64, 98, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_transformers_is_not_loaded():
    code = "import sys; from evar.encoders import load_encoder; load_encoder('random:cola'); print('transformers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# ---- weights -------------------------------------------------------------------------------------------------------

STATS = {"mean": -6.5, "std": 4.25}


def saved(encoder, path, **metadata):
    write_weights(path, encoder.state_dict(), {"encoder": encoder.name, "frontend": {}, **metadata})
    return path


def test_cola_comes_back_from_its_file(cola, tmp_path):
    front_end = {**cola.settings, "sample_rate": 16000}
    path = saved(cola, tmp_path / "w.safetensors", frontend=front_end, corpus="pack", trained_on=["esc50"])
    loaded = load_encoder(f"cola@{path}")
    assert (loaded.label, loaded.weights_kind, loaded.trained_on) == ("cola@w", "trained", ("esc50",))
    wav = noise(2, 20000)
    assert torch.equal(loaded.encode(wav), cola.encode(wav))
    assert loaded.fingerprint() == load_encoder("cola", weights=path).fingerprint() != cola.name


@pytest.mark.parametrize("d", [512, 1024, 2048])
def test_cola_prime_comes_back_from_its_file(d, tmp_path):
    encoder = load_encoder(f"random:cola-prime-{d}").with_normalization(STATS)
    path = saved(encoder, tmp_path / "w.safetensors", frontend={"filterbank": "htk"}, normalization=STATS)
    loaded = load_encoder(f"cola-prime-{d}@{path}")
    assert (loaded.name, loaded.embedding_dim, loaded.normalization) == (f"cola-prime-{d}", d, STATS)
    wav = noise(2, 20000)
    assert torch.equal(loaded.encode(wav), encoder.encode(wav))


def test_cola_prime_is_byola_but_for_its_training():
    prime, byola = (load_encoder(f"random:{n}@5").with_normalization(STATS) for n in ("cola-prime-512", "byola-v1-512"))
    assert torch.equal(prime.encode(noise(1, 16000)), byola.encode(noise(1, 16000)))
    assert prime.fingerprint() != byola.fingerprint()


def test_weights_of_another_encoder_are_refused(cola, tmp_path):
    byola, prime = load_encoder("random:byola-v1-512"), load_encoder("random:cola-prime-1024")
    of_byola = saved(byola, tmp_path / "byola.safetensors", normalization=STATS)
    of_prime = saved(prime, tmp_path / "prime.safetensors", normalization=STATS)
    of_cola = saved(cola, tmp_path / "cola.safetensors")
    assert f"holds the encoder byola-v1-512, not cola: give byola-v1-512@{of_byola}" in refused(f"cola@{of_byola}")
    assert "holds the encoder byola-v1-512, not cola-prime-512" in refused(f"cola-prime-512@{of_byola}")
    assert f"give cola-prime-1024@{of_prime}" in refused(f"cola-prime-512@{of_prime}")
    assert "holds the encoder cola, not cola-prime-512" in refused(f"cola-prime-512@{of_cola}")


def test_foreign_files(cola, tmp_path):
    torch.save(load_encoder("random:byola-v1-512").state_dict(), tmp_path / "AudioNTT2020-BYOLA-64x96d512.pth")
    path = tmp_path / "AudioNTT2020-BYOLA-64x96d512.pth"
    assert f"give byola-v1-512@{path}" in refused(f"cola-prime-512@{path}")
    assert "no COLA encoder" in refused(f"cola@{path}")
    save_file(dict(cola.state_dict()), tmp_path / "plain.safetensors")
    wav = noise(16000)
    assert torch.equal(load_encoder(f"cola@{tmp_path / 'plain.safetensors'}").encode(wav), cola.encode(wav))


def test_another_front_end_is_refused(cola, tmp_path):
    for front_end, message in [
        ({"power": 2.0}, "trained with power 2.0, but cola has 1.0"),
        ({"sample_rate": 32000}, "trained with sample_rate 32000"),
        ({"hop": 160}, "unknown front end key 'hop'"),
    ]:
        metadata = {"evar": json.dumps({"format": 1, "encoder": "cola", "frontend": front_end})}
        save_file(dict(cola.state_dict()), tmp_path / "w.safetensors", metadata=metadata)
        assert message in refused(f"cola@{tmp_path / 'w.safetensors'}")


def test_missing_and_damaged_weights(cola, tmp_path):
    assert "cola needs weights: give cola@FILE" in refused("cola")
    path = saved(cola, tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:100_000])
    assert "damaged" in refused(f"cola@{path}")
