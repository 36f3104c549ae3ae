"""BYOL-A against a plain network written here from the papers, with a state dict under the published names."""

import pytest
import torch
import torchaudio
from torch import nn

from evar.encoders import load_encoder
from evar.errors import EvarError

STATS = {"mean": -5.5, "std": 4.2}


def block(channels):
    return [nn.Conv2d(channels, 64, 3, stride=1, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2, stride=2)]


class Published(nn.Module):
    """v1: three blocks and two layers of d; v2: two blocks, local features beside the two layers' output."""

    def __init__(self, version, d):
        super().__init__()
        n_blocks, local = (3, 512) if version == 1 else (2, 1024)
        hidden, out = (d, d) if version == 1 else (2048, d - 1024)
        self.version = version
        self.features = nn.Sequential(*block(1), *[layer for _ in range(n_blocks - 1) for layer in block(64)])
        self.fc = nn.Sequential(nn.Linear(local, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, out), nn.ReLU())

    def forward(self, x):  # [B, 1, mel, T] -> [B, T', d]
        x = self.features(x).permute(0, 3, 2, 1)  # [B, T', mel, ch]
        batch, frames, mels, channels = x.shape
        x = x.reshape(batch, frames, mels * channels)
        return self.fc(x) if self.version == 1 else torch.cat([x, self.fc(x)], dim=-1)


def published(version, d, seed=0):
    torch.manual_seed(seed)
    network = Published(version, d)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "version", "d"),
    [("byola-v1-512", 1, 512), ("byola-v1-1024", 1, 1024), ("byola-v1-2048", 1, 2048), ("byola-v2", 2, 3072)],
)
@torch.no_grad()
def test_published_file_gives_the_published_embedding(name, version, d, tmp_path):
    network = published(version, d)
    torch.save(network.state_dict() | {"projector.0.weight": torch.ones(3)}, tmp_path / "w.pth")
    encoder = load_encoder(f"{name}@{tmp_path / 'w.pth'}")
    assert (encoder.label, encoder.weights_kind) == (f"{name}@w", "trained")
    assert set(encoder.state_dict()) == set(network.state_dict())
    encoder = encoder.with_normalization(STATS)
    wav = 0.1 * torch.randn(3, 15789, generator=torch.Generator().manual_seed(1))
    log_mel, _ = encoder._log_mel(wav, torch.full((3,), 15789))
    frames = network(((log_mel - STATS["mean"]) / STATS["std"])[:, None])
    expected = frames.max(dim=1).values + frames.mean(dim=1)
    found = encoder.encode(wav)
    assert found.shape == (3, d)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    torch.testing.assert_close(encoder.encode_frames(wav).features, frames, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_v1_front_end_is_torchaudios():
    encoder = load_encoder("random:byola-v1-512")
    mel = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=1024, win_length=1024, hop_length=160, n_mels=64, f_min=60, f_max=7800, power=2
    )
    wav = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(2))
    expected = (mel(wav) + torch.finfo().eps).log()
    found, frames = encoder._log_mel(wav, torch.tensor([16000, 16000]))
    assert frames.tolist() == [101, 101]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_v2_front_end_is_librosas():
    librosa = pytest.importorskip("librosa")
    encoder = load_encoder("random:byola-v2")
    wav = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(3))
    mel = librosa.feature.melspectrogram(
        y=wav[0].numpy(), sr=16000, n_fft=1024, hop_length=160, n_mels=64, fmin=60, fmax=7800, pad_mode="reflect"
    )
    found, _ = encoder._log_mel(wav, torch.tensor([16000]))
    expected = (torch.from_numpy(mel) + torch.finfo().eps).log()
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "frames", "layers"),
    [
        ("random:byola-v1-512", (50, 25, 12, 12), {"block1": 2048, "block2": 1024, "block3": 512, "fc": 512}),
        ("random:byola-v2", (50, 25, 25), {"block1": 2048, "block2": 1024, "fc": 3072}),
    ],
)
def test_layers_of_one_second(name, frames, layers):
    encoder = load_encoder(name).with_normalization(STATS)
    assert dict(encoder.layers) == layers
    hops = {"block1": 20.0, "block2": 40.0, "block3": 80.0, "fc": 80.0 if "v1" in name else 40.0}
    wav = torch.zeros(2, 16000)
    for layer, n_frames in zip(layers, frames, strict=True):
        found = encoder.encode_frames(wav, None, layer)
        assert found.features.shape == (2, n_frames, layers[layer])
        assert encoder.hop_ms[layer] == hops[layer]
        assert found.times_ms[0] == (hops[layer] - 10.0) / 2, "the centre of the log-mel frames under it"
        assert found.valid.tolist() == [n_frames, n_frames]


def test_v2_frames_are_local_then_global():
    encoder = load_encoder("random:byola-v2").with_normalization(STATS)
    wav = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(4))
    local, both = encoder.encode_frames(wav, None, "block2"), encoder.encode_frames(wav)
    assert torch.equal(both.features[..., :1024], local.features)


def test_foreign_weights_take_the_filterbank_as_an_option(tmp_path):
    torch.save(published(2, 3072).state_dict(), tmp_path / "w.pth")
    own = load_encoder(f"byola-v2@{tmp_path / 'w.pth'}")
    other = load_encoder(f"byola-v2@{tmp_path / 'w.pth'}", filterbank="htk")
    assert own.settings["filterbank"] == "slaney-norm"
    assert own.weights_sha256 == other.weights_sha256
    assert own.fingerprint() != other.fingerprint()
    wav = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(5))
    difference = other.measure_normalization([(wav, None)])["mean"] - own.measure_normalization([(wav, None)])["mean"]
    assert 4.0 < difference < 5.0, "torchaudio's default is 4.5 above nnAudio's"


def test_training_reaches_every_parameter():
    encoder = load_encoder("random:byola-v1-512")
    encoder.train()
    encoder.network(torch.randn(2, 64, 96)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


def test_statistics_are_asked_for():
    with pytest.raises(EvarError, match="no normalisation statistics: measure them on training audio"):
        load_encoder("random:byola-v2").encode(torch.zeros(16000))
