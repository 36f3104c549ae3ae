"""AST is ASTFeatureExtractor + ASTModel, layer by layer; frames stand where their sound is; other checkpoints are refused."""

import json

import pytest
import torch

from evar.encoders import load_encoder
from evar.encoders.check import check_encoder
from evar.encoders.registry import list_encoders
from evar.errors import EvarError

transformers = pytest.importorskip("transformers")

SMALL = list_encoders()["ast"].small["config"]
N_FREQ = 3
WINDOW = 1023 * 160 + 400  # samples of 1024 frames
STEP = 1010 * 160


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(found, expected):
    return float(((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max())


@torch.no_grad()
def saved(folder, extractor=None, **changes):
    """A published folder in small: classifier and all, every tensor drawn (the defaults leave tokens and positions 0)."""
    config = transformers.ASTConfig(**{**SMALL, **changes})
    model = transformers.ASTForAudioClassification(config)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.named_parameters():
        # Weights as large as trained ones: with the default 0.02, all clips have nearly one embedding.
        scale = tensor.shape[-1] ** -0.5 if name.endswith("weight") and tensor.ndim == 2 else 0.3
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator) + ("norm" in name and "weight" in name))
    model.save_pretrained(folder)
    transformers.ASTFeatureExtractor(max_length=config.max_length, **(extractor or {})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "ast", {"mean": -5.0, "std": 4.0})


@pytest.fixture(scope="module")
def ast(folder):
    return load_encoder("ast", weights=folder)


@pytest.fixture(scope="module")
def fusion(folder):
    return load_encoder("ast-fusion", weights=folder)


def upstream(folder, clip):
    """Input values, pooled output, last hidden state and all hidden states of one clip, by transformers alone."""
    extractor = transformers.ASTFeatureExtractor.from_pretrained(folder)
    model = transformers.ASTModel.from_pretrained(folder).eval()
    values = extractor(clip.numpy(), sampling_rate=16000, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        return values, model(values, output_hidden_states=True)


# ---- parity --------------------------------------------------------------------------------------------------------


# 160000: 10 s; 164080: all of 1024 frames; 164240: the last length of one window, whose end both leave out.
@pytest.mark.parametrize("n", [400, 2800, 80000, 160000, 164080, 164240])
def test_embedding_is_the_pooler_output_of_transformers(folder, ast, n):
    clip = noise(n, seed=n)
    values, theirs = upstream(folder, clip)
    with torch.inference_mode():
        front_end = ast._fbank(ast._windows(clip[None], 1)[:, 0], torch.tensor([1 + (n - 400) // 160]))
    torch.testing.assert_close(front_end, values, rtol=1e-4, atol=1e-3)
    assert relative(ast.encode(clip), theirs.pooler_output[0]) < 1e-4


def test_embedding_equals_transformers_on_real_sound(folder, ast, shared_data):
    import soundfile

    for path in sorted(shared_data.glob("emodb/**/*.flac"))[:3]:
        clip = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        assert relative(ast.encode(clip), upstream(folder, clip)[1].pooler_output[0]) < 1e-4


def test_every_layer_is_its_hidden_state(folder, ast, fusion):
    clip = noise(80000)
    _, theirs = upstream(folder, clip)
    states = [*theirs.hidden_states[:-1], theirs.last_hidden_state]
    assert list(ast.layers) == [f"layer{i}" for i in range(13)]
    assert len(states) == 13
    cls = ast.encode_all(clip, None, list(ast.layers), ["cls"])
    for layer, state in zip(ast.layers, states, strict=True):
        grid = state[0, 2:].view(N_FREQ, 101, 48)[:, :49]  # 498 frames hold 49 patches
        mean, concat = ast.encode_frames(clip, None, layer), fusion.encode_frames(clip, None, layer)
        assert relative(cls[layer, "cls"], state[0, :2].mean(0)) < 1e-4
        assert relative(mean.features, grid.mean(0)) < 1e-4
        assert relative(concat.features.view(49, 48, N_FREQ), grid.permute(1, 2, 0)) < 1e-3
        assert mean.valid == concat.valid == 49


def test_fusion_is_max_plus_mean_of_both_layers_columns(folder, fusion):
    clip = noise(80000)
    _, theirs = upstream(folder, clip)
    pooled = []
    for state in (theirs.hidden_states[5], theirs.last_hidden_state):
        columns = state[0, 2:].view(N_FREQ, 101, 48).permute(1, 2, 0).flatten(1)[:49]
        pooled.append(columns.mean(0) + columns.amax(0))
    assert relative(fusion.encode(clip), torch.cat(pooled)) < 1e-4
    assert fusion.choices("5+12") == [("layer5+layer12", "mean+max")]
    with pytest.raises(EvarError, match="no token for the whole clip"):
        fusion.encode_all(clip, None, None, ["cls"])


@pytest.mark.parametrize("name", ["ast", "ast-fusion"])
def test_published_architecture_has_the_declared_sizes(name):
    import evar.encoders.ast_transformer as module

    entry = list_encoders()[name]
    with torch.device("meta"):
        model = transformers.ASTModel(transformers.ASTConfig())
    encoder = getattr(module, entry.class_name)(model)
    assert encoder.embedding_dim == entry.dim
    assert (encoder.n_freq, encoder.n_time, encoder.hop_ms["layer12"]) == (12, 101, 100.0)
    assert encoder.layers["layer5"] == (768 if name == "ast" else 9216)


@pytest.mark.parametrize("name", ["random:ast", "random:ast-fusion"])
def test_contract(name):
    broken = [result for result in check_encoder(load_encoder(name, config=SMALL)) if not result.ok]
    assert not broken


def test_same_seed_same_network():
    first, second, other = (load_encoder(f"random:ast@{seed}", config=SMALL) for seed in (3, 3, 4))
    assert first.fingerprint() == second.fingerprint() != other.fingerprint()


# ---- frames and windows --------------------------------------------------------------------------------------------


def test_patch_grid_goes_on_unbroken_over_windows(ast):
    """layer0 without its positions is one convolution over the whole clip."""
    clip = noise(25 * 16000)
    embeddings = ast.model.embeddings
    frames = ast.encode_frames(clip, None, "layer0")
    with torch.inference_mode():
        fbank = (ast.front_end(clip[None]) - ast.mean) / (2 * ast.std)
        whole = embeddings.patch_embeddings.projection(fbank[:, None].transpose(2, 3))[0]  # [D, F, T]
        positions = embeddings.position_embeddings[0, 2:].view(N_FREQ, 101, 48).mean(0)
    expected = whole.mean(1).T + positions.repeat(3, 1)[: whole.shape[2]]
    assert fbank.shape[1] == 2498
    assert int(frames.valid) == len(frames.features) == whole.shape[2] == 249
    assert relative(frames.features, expected) < 1e-4


@pytest.mark.parametrize("second", [0.05, 3.2, 9.97, 10.2, 15.1, 19.99])
def test_frames_are_timed_where_their_sound_is(ast, second):
    """A click changes the frames that reach over it: 16 filterbank frames, 175 ms around their times."""
    clip = noise(22 * 16000)
    clicked = clip.clone()
    clicked[round(second * 16000)] += 0.9
    before, after = (ast.encode_frames(wav, None, "layer0") for wav in (clip, clicked))
    changed = (after.features - before.features).abs().amax(1) > 1e-3
    distance = (before.times_ms - 1000 * second).abs()
    assert changed[distance < 75.0].all()  # between the two, the Hann window lets little of it through
    assert not changed[distance > 87.5].any()
    assert changed.any()


def test_columns_are_ordered_by_channel_then_frequency(fusion):
    time_s = torch.arange(32000) / 16000
    quiet, patches = noise(32000) * 0.01, []
    for hz in (200.0, 7000.0):
        tone = quiet + 0.3 * torch.sin(2 * torch.pi * hz * time_s)
        change = (
            fusion.encode_frames(tone, None, "layer0").features - fusion.encode_frames(quiet, None, "layer0").features
        )
        patches.append(int(change.view(-1, 48, N_FREQ).square().sum((0, 1)).argmax()))
    # Patches cover mel bands 0-15, 56-71, 112-127: about 20-420, 1,850-2,650, 6,150-8,000 Hz.
    assert patches == [0, 2]


def test_long_clips_are_the_mean_of_their_windows_by_valid_frames(ast):
    clip = noise(23 * 16000)
    parts = [clip[:WINDOW], clip[STEP : STEP + WINDOW], clip[2 * STEP :]]
    counts = torch.tensor([101.0, 101.0, 27.0])  # 2298 frames hold 229 patches
    assert int(ast.encode_frames(clip, None, "layer12").valid) == 229
    alone = torch.stack([ast.encode(part) for part in parts])
    expected = (alone * counts[:, None]).sum(0) / counts.sum()
    assert relative(ast.encode(clip), expected) < 1e-4
    assert relative(alone[0], expected) > 1e-3, "the windows should differ"


def test_lengths_of_several_windows_in_one_batch(ast, fusion):
    lengths = [400, 16000, 164240, 164400, 330000, 480000]
    wav = noise(len(lengths), max(lengths))
    for encoder in (ast, fusion):
        together = encoder.encode_all(wav, lengths, ["layer3", "layer12"], ["mean", "max"])
        for row, length in enumerate(lengths):
            for pair, alone in encoder.encode_all(
                wav[row, :length], None, ["layer3", "layer12"], ["mean", "max"]
            ).items():
                assert relative(together[pair][row], alone) < 1e-4, (pair, length)
    valid = ast.encode_frames(wav, lengths, "layer0").valid
    assert valid.tolist() == [1, 9, 101, 102, 205, 299]


def test_no_block_past_the_deepest_is_run(ast):
    ran = []
    hooks = [block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(ast.model.layers, 1)]
    try:
        ast.encode_all(noise(8000), None, ["layer2", "layer4"], ["mean"])
        assert ran == [1, 2, 3, 4]
        ran.clear()
        ast.encode_all(noise(8000), None, ["layer0"], ["cls"])
        assert ran == []
    finally:
        for hook in hooks:
            hook.remove()


# ---- weights folders -----------------------------------------------------------------------------------------------


def refused(name, folder, **options):
    with pytest.raises(EvarError) as caught:
        load_encoder(name, weights=folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_are_named_and_statistics_come_from_the_folder(folder, ast, tmp_path):
    assert (ast.weights_kind, len(ast.weights_sha256)) == ("trained", 64)
    assert ast.trained_on == ("audioset",)
    assert (ast.mean, ast.std) == (-5.0, 4.0)
    other = load_encoder("ast", weights=saved(tmp_path / "other"))
    assert (other.mean, other.std) == (-4.2677393, 4.5689974)
    assert other.weights_sha256 == ast.weights_sha256
    assert other.fingerprint() != ast.fingerprint()
    assert load_encoder("ast", weights=folder, patches="concat").fingerprint() != ast.fingerprint()


def test_a_narrower_published_window_is_honoured(tmp_path):
    """As MIT's model of Speech Commands: 128 frames, another normalisation, and it saw those words."""
    words = dict(enumerate(["Marvin", "Sheila", "yes"]))
    folder = saved(
        tmp_path / "words",
        {"mean": -6.845978, "std": 5.5654526},
        max_length=128,
        id2label=words,
        label2id={word: i for i, word in words.items()},
    )
    encoder = load_encoder("ast", weights=folder)
    assert encoder.trained_on == ("speech-commands",)
    clip = noise(16000)
    assert relative(encoder.encode(clip), upstream(folder, clip)[1].pooler_output[0]) < 1e-4
    frames = encoder.encode_frames(noise(5 * 16000), None, "layer12")
    assert int(frames.valid) == 49
    assert frames.times_ms.diff().unique().tolist() == [100.0]


def test_wav2vec2_folder_is_refused(tmp_path):
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7
    )
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path)
    message = refused("ast", tmp_path)
    assert "wav2vec2" in message
    assert "audio-spectrogram-transformer" in message


def test_weights_of_another_size_are_refused(folder, tmp_path):
    other = saved(tmp_path / "other", hidden_size=24)
    (other / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "48" in refused("ast", other)


def test_front_end_of_another_model_is_refused(tmp_path):
    folder = saved(tmp_path / "ast")
    path = folder / "preprocessor_config.json"
    whole = json.loads(path.read_text())
    for key, value in [
        ("sampling_rate", 32000),
        ("num_mel_bins", 64),
        ("max_length", 512),
        ("feature_extractor_type", "Wav2Vec2FeatureExtractor"),
        ("std", 0.0),
        ("mean", "low"),
    ]:
        path.write_text(json.dumps({**whole, key: value}))
        message = refused("ast", folder)
        assert key in message
        assert repr(value) in message
    path.unlink()
    assert "preprocessor_config.json" in refused("ast", folder)


def test_fusion_of_another_depth_and_unknown_patches_are_refused(folder):
    with pytest.raises(EvarError, match="blocks 5 and 12"):
        load_encoder("random:ast-fusion", config={**SMALL, "num_hidden_layers": 6})
    assert "mean" in refused("ast", folder, patches="averaged")
