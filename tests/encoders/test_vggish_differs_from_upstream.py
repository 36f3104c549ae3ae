"""VGGish's log-mel, examples, network, layers and post-processing, each held to a reference written here in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from evar.encoders import list_encoders, load_encoder
from evar.encoders.check import check_encoder
from evar.encoders.vggish import Vggish, VggishRelu

VARIANTS = ["vggish", "vggish-relu", "vggish-4k", "vggish-fusion"]
SMALL = {"width": 2}


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(found, expected):
    return float(((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max())


def seen_by_network(encoder, wav):
    """The log-mel of all examples, float32 [E, 64, 96]."""
    seen = []

    def network(log_mel, layers):
        seen.append(log_mel.clone())
        return {"embedding": torch.zeros(len(log_mel), 1, 128)}

    encoder.network = network
    encoder.encode(wav)
    return torch.cat(seen)


@pytest.fixture
def small():
    return load_encoder("random:vggish", **SMALL)


@pytest.fixture(scope="module")
def full():
    return Vggish()


# ---- front end -----------------------------------------------------------------------------------------------------


def reference_examples(wav):
    """float64, frame by frame over the whole clip, then cut: [E, 96, 64]."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)

    def mel(hz):
        return 1127.0 * np.log(1.0 + hz / 700.0)

    edges = np.linspace(mel(125.0), mel(7500.0), 66)
    bank = np.zeros((257, 64))
    for k in range(257):
        at = mel(k * 16000 / 512)
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            bank[k, band] = max(0.0, min((at - low) / (centre - low), (high - at) / (high - centre)))
    wav = np.pad(wav, (0, max(0, 15600 - len(wav))))
    magnitude = [np.abs(np.fft.rfft(wav[s : s + 400] * hann, 512)) for s in range(0, len(wav) - 399, 160)]
    log_mel = np.log(np.array(magnitude) @ bank + 0.01)
    n_examples = 1 + (len(log_mel) - 96) // 96
    return log_mel[: n_examples * 96].reshape(n_examples, 96, 64)


@pytest.mark.parametrize(("n_samples", "n_examples"), [(48000, 3), (31000, 2), (30959, 1), (15600, 1), (7000, 1)])
def test_log_mel_and_examples_are_those_of_the_paper(small, n_samples, n_examples):
    wav = noise(n_samples).numpy()
    wav[: n_samples // 2] *= 0.01  # a quiet half, in which float32 would round the tone into the empty bands
    wav += 0.3 * np.sin(2 * np.pi * 440 * np.arange(n_samples) / 16000).astype(np.float32)
    expected = reference_examples(wav.astype(np.float64))
    assert len(expected) == n_examples
    found = seen_by_network(small, wav)
    assert found.shape == (n_examples, 64, 96)
    np.testing.assert_allclose(found.transpose(1, 2).numpy(), expected, rtol=0, atol=1e-5)


def test_triangles_straight_in_hz_would_be_seen():
    """torchaudio's triangles differ by 0.01 in log-mel: far above the tolerance of the test above."""
    from evar.audio.mel import FILTERBANKS, LogMel
    from evar.encoders.vggish import FRONT_END

    assert FILTERBANKS[FRONT_END["filterbank"]]["triangles"] == "mel"
    wav = noise(15600)
    found, _ = LogMel(16000, **FRONT_END | {"filterbank": "htk"})(wav[None], torch.tensor([15600]))
    assert np.abs(found[0].T.numpy() - reference_examples(wav.double().numpy())[0]).max() > 1e-3


def test_silence_lies_on_the_offset(small):
    torch.testing.assert_close(
        seen_by_network(small, torch.zeros(16000)), torch.full((1, 64, 96), np.log(0.01)).float()
    )


# ---- network -------------------------------------------------------------------------------------------------------


def test_the_published_network_has_these_tensors(full):
    channels = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
    expected = {f"features.{i}.weight": [out, inside, 3, 3] for i, (inside, out) in channels.items()}
    expected |= {f"embeddings.{i}.weight": s for i, s in ((0, [4096, 12288]), (2, [4096, 4096]), (4, [128, 4096]))}
    expected |= {key.replace("weight", "bias"): shape[:1] for key, shape in expected.items()}
    assert {key: list(value.shape) for key, value in full.state_dict().items()} == expected
    assert sum(p.numel() for p in full.parameters()) == 72_141_184
    with_relu = VggishRelu(**SMALL)
    assert with_relu.state_dict().keys() == expected.keys()
    assert (type(full.embeddings[-1]), type(with_relu.embeddings[-1])) == (nn.Linear, nn.ReLU)


def reference_layers(state, log_mel):
    """float64 layers of one example [96, 64]: convolutions as sums of shifted products, the flattening spelt out."""
    state = {key: value.double().numpy() for key, value in state.items()}
    x = log_mel.double().numpy()[None]
    layers = {}
    for i, layer in ((0, "pool2"), (3, "pool5"), (6, ""), (8, "pool10"), (11, ""), (13, "pool15")):
        weight, bias = state[f"features.{i}.weight"], state[f"features.{i}.bias"]
        time, mel = x.shape[1:]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        x = np.maximum(
            0,
            bias[:, None, None]
            + sum(
                np.einsum("oi,itf->otf", weight[:, :, a, b], padded[:, a : a + time, b : b + mel])
                for a in range(3)
                for b in range(3)
            ),
        )
        if layer:
            x = x.reshape(len(x), time // 2, 2, mel // 2, 2).max(axis=(2, 4))
            n_channels, time, mel = x.shape
            layers[layer] = np.array([[x[c, t, f] for f in range(mel) for c in range(n_channels)] for t in range(time)])
    flat = layers["pool15"].reshape(-1)  # time, then mel, then channel
    for i, layer in ((0, "fc17"), (2, "fc19"), (4, "embedding")):
        flat = state[f"embeddings.{i}.weight"] @ flat + state[f"embeddings.{i}.bias"]
        if layer != "embedding":
            flat = np.maximum(0, flat)
        layers[layer] = flat[None]
    return layers


def with_biases(encoder, seed=0):
    """As after training: no bias is zero, and log-mels of noise reach every layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in encoder.state_dict().items():
            if key.endswith("bias"):
                value.normal_(0.0, 0.1, generator=generator)
    return encoder


def test_every_layer_is_the_references(small):
    encoder = with_biases(small)
    wav = noise(31000)
    log_mel, _ = encoder.front_end(wav[None], torch.tensor([31000]))
    expected = [reference_layers(encoder.state_dict(), log_mel[0, :, s : s + 96].T) for s in (0, 96)]
    for layer in encoder.layers:
        found = encoder.encode_frames(wav, layers=layer).features
        wanted = torch.from_numpy(np.concatenate([example[layer] for example in expected]))
        assert found.shape == wanted.shape, layer
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5, layer


def test_the_two_variants_differ_by_the_final_relu_only(small):
    relu = load_encoder("random:vggish-relu", **SMALL)
    wav = noise(2, 32000)
    without, clipped = (encoder.encode_frames(wav).features for encoder in (small, relu))
    assert bool((without < 0).any())
    assert torch.equal(clipped, without.clamp(min=0))
    assert torch.equal(
        relu.encode_frames(wav, layers="fc19").features, small.encode_frames(wav, layers="fc19").features
    )
    assert relu.fingerprint() != small.fingerprint()


def test_an_untrained_network_tells_clips_apart():
    """PyTorch's default initialisation gives all clips nearly the same embedding."""
    encoder = load_encoder("random:vggish", width=8)
    embeddings = encoder.encode(torch.stack([noise(15600), 0.5 * torch.sin(torch.arange(15600) * 0.1)]))
    assert float((embeddings[0] - embeddings[1]).abs().amax() / embeddings.abs().amax()) > 0.1


# ---- layers --------------------------------------------------------------------------------------------------------


def test_layers_10_and_15_have_the_papers_size(full):
    assert full.layers == dict.fromkeys(("pool2", "pool5", "pool10", "pool15"), 2048) | {
        "fc17": 4096, "fc19": 4096, "embedding": 128,
    }  # fmt: skip
    assert full.choices("10+15", "mean+max") == [("pool10+pool15", "mean+max")]
    assert full.dim("pool10+pool15", "mean+max") == 4096
    assert full.encode_frames(noise(15600), layers="10+15").features.shape == (6, 4096)
    assert [full.choices(number) for number in ("2", "5", "17", "19")] == [
        [(layer, "mean")] for layer in ("pool2", "pool5", "fc17", "fc19")
    ]
    entries = list_encoders()
    assert [entries[name].dim for name in VARIANTS] == [128, 128, 4096, 4096]


def test_a_layers_number_is_the_checkpoints_module():
    from evar.encoders.vggish import MODULES

    encoder = load_encoder("random:vggish", **SMALL)
    assert all(isinstance(encoder.features[MODULES[name]], nn.MaxPool2d) for name in encoder.layers if "pool" in name)
    assert all(isinstance(encoder.embeddings[MODULES[name] - 16], nn.ReLU) for name in ("fc17", "fc19"))
    assert all(name.endswith(str(number)) for name, number in MODULES.items())


def test_the_fusion_is_the_finer_layer_averaged_beside_the_coarser():
    encoder = load_encoder("random:vggish-fusion", **SMALL)
    wav = noise(1, 31000)
    ten, fifteen = (encoder.encode_frames(wav, layers=layer).features for layer in ("pool10", "pool15"))
    fused = torch.cat([(ten[:, ::2] + ten[:, 1::2]) / 2, fifteen], dim=2)
    assert fused.shape == (1, 12, 128)
    assert relative(encoder.encode(wav), fused.mean(1) + fused.amax(1)) < 1e-5
    assert (encoder.default_layer, encoder.default_pooling) == ("pool10+pool15", "mean+max")


def test_frames_lie_where_their_windows_are(small):
    """An impulse in the second example moves only frames whose windows, widened by the kernels, reach it."""
    wav = torch.zeros(1, 32000)
    quiet = {layer: small.encode_frames(wav, layers=layer) for layer in small.layers}
    at_ms, wav[0, 16 * 1500] = 1500.0, 0.9
    for layer, reach_ms in (("pool2", 40), ("pool5", 80), ("pool10", 160), ("pool15", 330), ("embedding", 490)):
        loud = small.encode_frames(wav, layers=layer)
        moved = (loud.features - quiet[layer].features).abs().amax(-1)[0] > 0
        times = loud.times_ms[moved]
        assert len(times), layer
        assert float((times - at_ms).abs().max()) < reach_ms, layer
    assert small.encode_frames(wav, layers="embedding").times_ms.tolist() == [487.5, 1447.5]
    assert small.encode_frames(wav, layers="pool10").times_ms[:2].tolist() == [47.5, 127.5]
    counts = {layer: small.encode_frames(wav, layers=layer).features.shape[1] for layer in small.layers}
    assert list(counts.values()) == [96, 48, 24, 12, 2, 2, 2]


def test_nothing_behind_the_wanted_layer_is_computed(small):
    run = []
    for name, module in small.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda *_, name=name: run.append(name))
    small.encode_all(noise(1, 16000), None, ["pool5"], ["mean"])
    assert run == ["features.0", "features.3"]
    run.clear()
    small.encode_all(noise(1, 16000), None, list(small.layers), ["mean"])
    assert len(run) == len(set(run)) == 9, "all layers come from one pass"


# ---- clips ---------------------------------------------------------------------------------------------------------


def test_neighbours_and_padding_are_not_heard(small, monkeypatch):
    lengths = [50000, 46320, 46319, 30960, 30959, 15600, 15599, 400, 1]
    wav = noise(len(lengths), 50000)
    together = small.encode_all(wav, lengths, ["pool10+pool15", "embedding"], ["mean+max"])
    assert small.encode_frames(wav, lengths).valid.tolist() == [3, 3, 2, 2, 1, 1, 1, 1, 1]
    assert small.encode_frames(wav, lengths, "pool15").valid.tolist() == [18, 18, 12, 12, 6, 6, 6, 6, 6]
    for row, length in enumerate(lengths):
        for (layer, pooling), vectors in together.items():
            alone = small.encode_all(wav[row, :length], None, [layer], [pooling])[layer, pooling]
            assert relative(vectors[row], alone) < 1e-4, (layer, length)
    monkeypatch.setattr("evar.encoders.vggish.CHUNK_EXAMPLES", {"cpu": 2})
    assert relative(small.encode(wav, lengths), small.encode_all(wav, lengths)["embedding", "mean"]) == 0.0
    chunked = small.encode_all(wav, lengths, ["embedding"], ["mean+max"])["embedding", "mean+max"]
    assert relative(chunked, together["embedding", "mean+max"]) < 1e-5


def test_what_follows_the_last_whole_example_is_dropped(small):
    wav = noise(46320)
    wav[30960:] = 0.9  # one sample more would make a third example
    assert torch.equal(small.encode(wav[:46319]), small.encode(wav[:30960]))
    assert not torch.equal(small.encode(wav), small.encode(wav[:30960]))


def test_a_short_clip_is_padded_with_zeros(small):
    wav = noise(5000)
    assert torch.equal(small.encode(wav), small.encode(nn.functional.pad(wav, (0, 10600))))


def test_the_contract_holds():
    results = check_encoder(load_encoder("random:vggish-fusion", **SMALL))
    assert not [f"{result.name}: {result.detail}" for result in results if not result.ok]
