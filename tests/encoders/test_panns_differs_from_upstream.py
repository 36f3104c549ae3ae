"""CNN14 against panns-inference's own forward, run where its import may do no harm: a process with a home of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evar.encoders import load_encoder, panns
from evar.encoders.check import check_encoder

WIDTH = 8
RATES = {"cnn14": 32000, "cnn14-16k": 16000}
SECONDS = {"short": [0.31], "even": [1.0, 1.0, 1.0], "tiles": [11.003]}
UPSTREAM = """
import sys, torch
from pathlib import Path
from torch import nn
folder, width = Path(sys.argv[1]), int(sys.argv[2])
labels = Path.home() / "panns_data" / "class_labels_indices.csv"  # else the import runs wget
labels.parent.mkdir(parents=True)
labels.write_text("index,mid,display_name")
from panns_inference.models import Cnn14, ConvBlock
settings = {"cnn14": (32000, 1024, 320, 64, 50, 14000, 527), "cnn14-16k": (16000, 512, 160, 64, 50, 8000, 527)}

@torch.no_grad()
def trained(net, wav):
    "As after training: batch norms with scales and shifts of their own, and the statistics of such inputs."
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.8, 1.2)
            module.bias.normal_(0.0, 0.2)
            module.momentum = 1.0
    net.train()(wav)
    return net.eval()

def shrunk(net):
    for k in range(6):
        block = ConvBlock(width * 2 ** (k - 1) if k else 1, width * 2**k)
        setattr(net, f"conv_block{k + 1}", block)
    net.fc1, net.fc_audioset = nn.Linear(32 * width, 32 * width), nn.Linear(32 * width, 527)
    return net

@torch.no_grad()
def outputs(net, wav):
    found, blocks = {}, [getattr(net, f"conv_block{k}") for k in range(1, 7)]
    hooks = [
        block.register_forward_hook(lambda _, __, out, k=k: found.__setitem__(f"block{k}", out))
        for k, block in enumerate(blocks, start=1)
    ]
    found["fc"] = net(wav)["embedding"]
    for hook in hooks:
        hook.remove()
    return found

torch.manual_seed(0)
for name, setting in settings.items():
    wavs = torch.load(folder / f"{name}-wav.pt")
    net = Cnn14(*setting)
    if name == "cnn14-16k":
        full = trained(net, wavs["even"])
        torch.save({"iteration": 1, "model": full.state_dict()}, folder / "full.pth")
        torch.save(outputs(full, wavs["even"])["fc"], folder / "full-fc.pt")
    net = trained(shrunk(net), wavs["even"])
    torch.save({"iteration": 1, "model": net.state_dict()}, folder / f"{name}.pth")
    torch.save({case: outputs(net, wav) for case, wav in wavs.items()}, folder / f"{name}-out.pt")
"""


def noise(*shape, seed=0):
    """Noise that fades in and out differently in each clip, so that time and clips are told apart."""
    wav = 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    time = torch.linspace(0, 6, shape[-1])
    return wav * (0.05 + torch.sin(time + torch.arange(shape[0])[:, None]).square())


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """Checkpoints in upstream's format, and what upstream's forward gives for our clips."""
    folder = tmp_path_factory.mktemp("upstream")
    for name, rate in RATES.items():
        wavs = {case: noise(len(s), round(s[0] * rate)) for case, s in SECONDS.items()}
        torch.save(wavs, folder / f"{name}-wav.pt")
    home = folder / "home"
    home.mkdir()
    mpl = {"MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(home / "mpl"))}
    done = subprocess.run(
        [sys.executable, "-c", UPSTREAM, str(folder), str(WIDTH)],
        env={**os.environ, "HOME": str(home), **mpl},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    yield folder
    (folder / "full.pth").unlink(missing_ok=True)  # 0.3 GB


def largest(found, expected):
    assert found.shape == expected.shape
    assert expected.abs().max() > 0.5  # else a small difference means nothing
    return float((found - expected).abs().max())


def per_frame(out):
    return out.permute(0, 2, 1, 3).flatten(2)


@pytest.mark.parametrize("case", SECONDS)
@pytest.mark.parametrize("name", RATES)
def test_the_embedding_is_that_of_upstreams_forward(upstream, name, case):
    wav, expected = torch.load(upstream / f"{name}-wav.pt")[case], torch.load(upstream / f"{name}-out.pt")[case]
    encoder = load_encoder(name, weights=upstream / f"{name}.pth", width=WIDTH)
    assert largest(encoder.encode(wav, sample_rate=RATES[name]), expected["fc"]) < 1e-4
    for layer in encoder.hop_ms:
        frames = encoder.encode_frames(wav, layers=layer)
        assert frames.valid.tolist() == [frames.features.shape[1]] * len(wav)
        assert largest(frames.features, per_frame(expected[layer])) < 2e-4, layer


def test_a_full_checkpoint_of_84_tensors_loads_by_name(upstream):
    state = torch.load(upstream / "full.pth", weights_only=True)["model"]
    assert len(state) == 84
    encoder = load_encoder("cnn14-16k", weights=upstream / "full.pth")
    ours = encoder.network.state_dict()
    heads = {key for key in state if not key.startswith(("spectrogram_", "logmel_", "fc_audioset"))}
    assert set(ours) == heads
    assert all(torch.equal(ours[key], state[key]) for key in heads)
    assert sum(v.numel() for v in state.values() if v.is_floating_point()) > 81e6
    assert (encoder.weights_kind, encoder.trained_on) == ("trained", ("audioset",))
    wav = torch.load(upstream / "cnn14-16k-wav.pt")["even"]
    assert largest(encoder.encode(wav), torch.load(upstream / "full-fc.pt")) < 1e-4
    assert encoder.encode(wav).shape == (3, 2048)
    assert encoder.dim("block3+block6", "mean+max") == 6144
    assert set(encoder.layers.values()) == {2048, 4096}


def test_a_padded_batch_gives_what_upstream_gives_for_each_clip_alone(upstream):
    wavs, expected = torch.load(upstream / "cnn14-wav.pt"), torch.load(upstream / "cnn14-out.pt")
    clips = [wavs["short"][0], wavs["tiles"][0], wavs["even"][1]]
    rows = [expected["short"]["fc"][0], expected["tiles"]["fc"][0], expected["even"]["fc"][1]]
    encoder = load_encoder("cnn14", weights=upstream / "cnn14.pth", width=WIDTH)
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=0.7)
    found = encoder.encode(batch, [len(clip) for clip in clips])
    assert largest(found, torch.stack(rows)) < 1e-4


def test_the_path_of_other_devices_gives_the_same(upstream, monkeypatch):
    """On a GPU the whole padded batch goes through masked blocks; here it is held to the CPU's tiles."""
    encoder = load_encoder("cnn14", weights=upstream / "cnn14.pth", width=WIDTH)
    lengths = [29000, 320 * 31, 352000, 100]
    wav, layers = noise(4, 352000, seed=3), [*encoder.hop_ms, "block3+block6"]
    tiled = encoder.encode_all(wav, lengths, layers, ["mean+max", "std"])
    tiled_fc = encoder.encode(wav, lengths)
    monkeypatch.setattr(panns, "EARLY", 0)
    assert largest(encoder.encode(wav, lengths), tiled_fc) < 1e-4
    for pair, vectors in encoder.encode_all(wav, lengths, layers, ["mean+max", "std"]).items():
        assert largest(vectors, tiled[pair]) < 2e-4, pair
    monkeypatch.setattr(panns, "CHUNK_FRAMES", {"cpu": 1200, "cuda": 1200})  # one clip of 11 s, and then three
    assert largest(encoder.encode(wav, lengths), tiled_fc) < 1e-4


def test_fusion_is_blocks_3_and_6_at_the_coarser_rate(upstream):
    """EUSIPCO 2022: block3 averaged four by four to block6's rate, concatenated, max + mean over time."""
    out = torch.load(upstream / "cnn14-16k-out.pt")["tiles"]
    encoder = load_encoder("cnn14-fusion", weights=upstream / "cnn14-16k.pth", width=WIDTH)
    wav = torch.load(upstream / "cnn14-16k-wav.pt")["tiles"]
    coarse = per_frame(out["block6"])
    fine = per_frame(out["block3"])[:, : 4 * coarse.shape[1]]
    fused = torch.cat([fine.unflatten(1, (-1, 4)).mean(2), coarse], dim=2)
    expected = fused.amax(1) + fused.mean(1)
    assert largest(encoder.encode(wav), expected) < 2e-4
    assert encoder.choices("3+6") == [("block3+block6", "mean+max")]
    assert encoder.hop_ms["block3"] == 80.0
    assert encoder.hop_ms["block6"] == 320.0


def test_frame_times_are_the_middles_of_what_was_averaged():
    encoder = load_encoder("random:cnn14", width=4)
    wav = noise(1, 32000)
    assert encoder.encode_frames(wav, layers="block1").times_ms[:3].tolist() == [5.0, 25.0, 45.0]
    frames = encoder.encode_frames(wav, layers="block6")
    assert frames.times_ms.tolist() == [155.0, 475.0, 795.0]
    assert frames.features.shape == (1, 3, encoder.layers["block6"])


def test_all_layers_take_one_pass_of_the_network():
    """The clip layer and the frame layers used to be two passes: twice the time of a run with `--layers all`."""
    encoder = load_encoder("random:cnn14", width=4)
    calls = []
    encoder.network.conv_block6.conv1.register_forward_hook(lambda *_: calls.append(1))
    pairs = encoder.choices("all")
    assert [layer for layer, _ in pairs] == [*(f"block{k}" for k in range(1, 7)), "fc"]
    encoder.encode_pairs(noise(2, 32000), None, pairs)
    assert len(calls) == 1


def test_blocks_that_nobody_asked_for_are_not_computed():
    encoder = load_encoder("random:cnn14", width=4)
    calls = []
    for k in (3, 4, 6):
        getattr(encoder.network, f"conv_block{k}").conv1.register_forward_hook(lambda *_, k=k: calls.append(k))
    encoder.encode_frames(noise(1, 32000), layers="block3")
    assert calls == [3]


@pytest.mark.parametrize("name", ["cnn14", "cnn14-16k", "cnn14-fusion"])
def test_the_contract_holds(name):
    failed = [result for result in check_encoder(load_encoder(f"random:{name}", width=4)) if not result.ok]
    assert not failed


WATCH = """
import os, sys
from pathlib import Path
home = Path.home()
SHELLS = ("os.system", "subprocess.Popen", "os.posix_spawn", "os.exec", "os.fork", "socket.connect", "urllib.Request")
import torch  # what torch's own import starts (2.14 asks ldconfig for libdl) is not ours
sys.addaudithook(lambda event, _: event in SHELLS and os._exit(99))
from evar.encoders import load_encoder
encoder = load_encoder("random:cnn14", width=4)
encoder.encode(torch.zeros(1, 32000))
print([name for name in ("panns_inference", "matplotlib", "librosa", "torchlibrosa") if name in sys.modules])
print([str(path) for path in home.rglob("*")])
"""


def test_building_cnn14_writes_nothing_home_and_runs_no_shell(tmp_path):
    """`import panns_inference` runs wget and leaves an empty file, its `models` a font cache of matplotlib."""
    clean = {k: v for k, v in os.environ.items() if k not in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", WATCH], env={**clean, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr or "a shell or the network was used"
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
    assert list(Path(tmp_path).iterdir()) == []
