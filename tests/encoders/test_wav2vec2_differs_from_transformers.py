"""wav2vec 2.0 and HuBERT must give what transformers gives for a single clip, layer by layer, from the same folder."""

import json

import numpy as np
import pytest
import torch

from evar.encoders import list_encoders, load_encoder
from evar.errors import EvarError

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CASES = {
    "wav2vec2-group": ("Wav2Vec2", {}, True),
    "wav2vec2-layer": ("Wav2Vec2", LAYER_NORM, True),
    "wav2vec2-adapter": ("Wav2Vec2", {**LAYER_NORM, "add_adapter": True}, True),
    "hubert-group": ("Hubert", {}, True),
    "hubert-layer": ("Hubert", LAYER_NORM, False),
}


def saved(folder, kind, values, do_normalize=True, dims=SMALL):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**dims, **values})
    model = getattr(transformers, f"{kind}Model")(config).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:  # at 1 and 0, a normalisation too many or too few would hardly show
            torch.nn.init.normal_(weight, 1.0, 0.3)
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return model


def clip(seconds=1.37, seed=0):
    generator = torch.Generator().manual_seed(seed)
    wav = 0.1 * torch.randn(round(seconds * 16000), generator=generator) + 0.02
    return wav.cumsum(0).mul(0.05).sin() * 0.3 + wav


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_every_layer_of_a_single_clip(case, tmp_path):
    from transformers import AutoFeatureExtractor

    kind, values, do_normalize = CASES[case]
    model = saved(tmp_path, kind, values, do_normalize)
    encoder = load_encoder(f"hf:{tmp_path}")
    wav = clip()
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        outputs = model(inputs, output_hidden_states=True)
        features = model.feature_extractor(inputs).transpose(1, 2)
    assert relative(encoder.encode_frames(wav, layers="features").features, features[0]) < 1e-5
    for number in range(3):
        found = encoder.encode_frames(wav, layers=f"layer{number}").features
        assert relative(found, outputs.hidden_states[number][0]) < 1e-5, number
    if "adapter" in case:  # left out: layer3 is what it reads
        assert encoder.encode_frames(wav, layers="layer3").features.shape == (len(features[0]), 32)
        return
    assert relative(encoder.encode_frames(wav, layers="layer3").features, outputs.last_hidden_state[0]) < 1e-5
    assert relative(encoder.encode(wav), outputs.last_hidden_state[0].mean(0)) < 1e-5


def test_all_layers_at_once_are_the_layers_one_by_one(tmp_path):
    saved(tmp_path, "Wav2Vec2", LAYER_NORM)
    encoder = load_encoder(f"hf:{tmp_path}")
    wav, lengths = torch.stack([clip(1.0), clip(1.0, 1)]), [16000, 9000]
    for (layer, pooling), vectors in encoder.encode_all(wav, lengths, list(encoder.layers), ["mean"]).items():
        alone = encoder.encode_all(wav, lengths, [layer], [pooling])[layer, pooling]
        torch.testing.assert_close(vectors, alone, rtol=1e-5, atol=1e-6)


def test_blocks_behind_the_deepest_layer_are_not_run(tmp_path):
    saved(tmp_path, "Hubert", {})
    encoder = load_encoder(f"hf:{tmp_path}")
    run = []
    for number, block in enumerate(encoder.model.encoder.layers, 1):
        block.register_forward_hook(lambda *call, number=number: run.append(number))
    encoder.encode_frames(clip(), layers="features")
    assert run == []
    encoder.encode_frames(clip(), layers="layer1")
    assert run == [1]
    run.clear()
    encoder.encode(clip())
    assert run == [1, 2, 3]


def test_a_frame_is_where_its_samples_are(tmp_path):
    saved(tmp_path, "Wav2Vec2", LAYER_NORM, do_normalize=False)
    encoder = load_encoder(f"hf:{tmp_path}")
    frames = encoder.encode_frames(torch.zeros(16000), layers="features")
    click = torch.zeros(16000)
    click[8000] = 1.0
    moved = (encoder.encode_frames(click, layers="features").features - frames.features).abs().sum(-1)
    centre = float((moved * frames.times_ms).sum() / moved.sum())
    assert abs(centre - 500.0) < 10.0
    assert frames.times_ms[:2].tolist() == [12.5, 32.5]
    assert frames.features.shape[0] == 49


SIZED = {**SMALL, "hidden_size": 768, "num_hidden_layers": 1, "conv_dim": [8] * 6 + [512]}


def test_the_four_entries_pool_as_published(tmp_path):
    model = saved(tmp_path / "base", "Wav2Vec2", {}, dims=SIZED)
    context, features = (load_encoder(f"{name}@{tmp_path / 'base'}") for name in ("wav2vec2-c", "wav2vec2-f"))
    wav = clip()
    normal = (wav - wav.mean()) / (wav.var(unbiased=False) + 1e-7).sqrt()
    with torch.no_grad():
        z = model.feature_extractor(normal[None])[0].T
        c = model(normal[None]).last_hidden_state[0]
    assert relative(context.encode(wav), c.mean(0)) < 1e-5
    assert relative(features.encode(wav), z.mean(0) + z.amax(0)) < 1e-5
    assert (context.embedding_dim, features.embedding_dim) == (768, 512)
    assert context.equal_lengths_only
    assert context.weights_kind == "trained"
    assert len(context.weights_sha256) == 64
    assert context.trained_on == ("librispeech",)
    with pytest.raises(EvarError, match=r"hidden_size should be 1024, is 768: give wav2vec2-f@"):
        load_encoder(f"wav2vec2-f-large@{tmp_path / 'base'}")


KEYWORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_"]
"""The labels of keyword spotting in SUPERB: Speech Commands."""


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_fine_tuned_model_says_what_its_head_was_trained_on(tmp_path):
    """A keyword spotter had ("librispeech",) as wav2vec2-c and () as hf: neither was flagged on Speech Commands."""
    saved(tmp_path, "Wav2Vec2", {}, dims=SIZED)
    assert load_encoder(f"hf:{tmp_path}").trained_on == ()
    change_config(tmp_path, id2label=dict(enumerate(KEYWORDS)), label2id={word: i for i, word in enumerate(KEYWORDS)})
    assert load_encoder(f"wav2vec2-c@{tmp_path}").trained_on == ("librispeech", "speech-commands")
    assert load_encoder(f"hf:{tmp_path}").trained_on == ("speech-commands",)
    change_config(tmp_path, _name_or_path="facebook/wav2vec2-base")
    assert load_encoder(f"hf:{tmp_path}").trained_on == ("librispeech", "speech-commands")
    assert load_encoder(f"hf:{tmp_path}", trained_on=["esc50"]).trained_on == ("esc50",)


def test_a_large_model_is_libri_lights_only_where_that_is_known(tmp_path, monkeypatch):
    """XLSR has that size too, and was trained on other speech."""

    folder = tmp_path / "xlsr"
    large = {**SIZED, "hidden_size": 1024, "intermediate_size": 16}
    saved(folder, "Wav2Vec2", LAYER_NORM, dims=large)
    unknown = load_encoder(f"wav2vec2-c-large@{folder}")
    assert unknown.trained_on == ()
    change_config(folder, _name_or_path="facebook/wav2vec2-large-960h-lv60-self")
    assert load_encoder(f"wav2vec2-c-large@{folder}").trained_on == ("libri-light", "librispeech")
    change_config(folder, _name_or_path="facebook/wav2vec2-large-xlsr-53")
    assert load_encoder(f"wav2vec2-f-large@{folder}").trained_on == ()
    monkeypatch.setitem(list_encoders()["wav2vec2-f-large"].source, "sha256", unknown.weights_sha256)
    assert load_encoder(f"wav2vec2-f-large@{folder}").trained_on == ("libri-light",)
    folder.rename(tmp_path / "facebook--wav2vec2-large-lv60")
    found = load_encoder(f"wav2vec2-c-large@{tmp_path / 'facebook--wav2vec2-large-lv60'}")
    assert found.trained_on == ("libri-light",)


def test_large_is_exact_under_padding():
    small = {"num_hidden_layers": 1, "intermediate_size": 16, "conv_dim": [8] * 6 + [512]}
    large = load_encoder("random:wav2vec2-c-large", config=small)
    assert (large.embedding_dim, large.equal_lengths_only) == (1024, False)
    assert large.label == "random:wav2vec2-c-large"


def test_random_weights_are_those_of_the_seed():
    small = {"num_hidden_layers": 1, "intermediate_size": 16, "conv_dim": [8] * 6 + [512]}
    first, again, other = (load_encoder(f"random:wav2vec2-f{seed}", config=small) for seed in ("@1", "@1", "@2"))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_a_checkpoint_for_pretraining_or_recognition_loads(tmp_path):
    """Published base weights are those of pre-training: other names, a quantiser beside the encoder, old key names."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    torch.manual_seed(0)
    model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**SMALL, codevector_dim=16, proj_codevector_dim=16)).eval()
    model.save_pretrained(tmp_path / "new")
    state = {}
    for name, value in model.state_dict().items():
        old = name.replace("parametrizations.weight.original0", "weight_g")
        state[old.replace("parametrizations.weight.original1", "weight_v")] = value
    del state["wav2vec2.masked_spec_embed"]
    (tmp_path / "old").mkdir()
    torch.save(state, tmp_path / "old" / "pytorch_model.bin")
    for name in ("new", "old"):
        (tmp_path / name / "preprocessor_config.json").write_text('{"sampling_rate": 16000, "do_normalize": true}')
    (tmp_path / "old" / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    wav = clip()
    with torch.no_grad():
        normal = (wav - wav.mean()) / wav.std(unbiased=False)
        expected = model.wav2vec2(normal[None]).last_hidden_state[0].mean(0)
    for name in ("new", "old"):
        assert relative(load_encoder(f"hf:{tmp_path / name}").encode(wav), expected) < 1e-5, name


def test_normalisation_does_not_lose_digits_on_an_offset(tmp_path):
    """Mean and variance in float32 over 10 s with a large offset would differ between batches."""
    saved(tmp_path, "Wav2Vec2", LAYER_NORM)
    encoder = load_encoder(f"hf:{tmp_path}")
    wav = clip(4.0) * 1e-3 + 0.9
    expected = (wav.double() - wav.double().mean()) / (wav.double().var(unbiased=False) + 1e-7).sqrt()
    found = encoder.normalised(torch.nn.functional.pad(wav, (0, 5000))[None], torch.tensor([len(wav)]))[0]
    np.testing.assert_allclose(found[: len(wav)].numpy(), expected.numpy(), atol=1e-5)
    assert not found[len(wav) :].any()
