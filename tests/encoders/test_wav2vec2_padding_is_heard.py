"""Padding must not be heard: exact where a mask makes it so, one pass per length where nothing does."""

import pytest
import torch

from evar.encoders import load_encoder

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
LENGTHS = [16000, 12345, 9999, 9999, 400]


def encoder_of(tmp_path, kind, **values):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **values})
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    return load_encoder(f"hf:{tmp_path}")


def worst(encoder, layers=None):
    """Largest relative difference of a clip's row in a padded batch from the clip alone."""
    wav = 0.1 * torch.randn(len(LENGTHS), max(LENGTHS), generator=torch.Generator().manual_seed(0)).cumsum(1).sin()
    layers = layers or list(encoder.layers)
    together = encoder.encode_all(wav, LENGTHS, layers, ["mean", "max"])
    found = 0.0
    for row, length in enumerate(LENGTHS):
        for pair, alone in encoder.encode_all(wav[row, :length], None, layers, ["mean", "max"]).items():
            found = max(found, float((together[pair][row] - alone).abs().max() / alone.abs().max()))
    return found


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM", "UniSpeechSat", "UniSpeech"])
def test_layer_normalisation_and_a_mask_are_exact(kind, tmp_path):
    encoder = encoder_of(tmp_path, kind, **LAYER_NORM)
    assert not encoder.equal_lengths_only
    assert worst(encoder) < 1e-4


def test_wav2vec2_base_needs_its_declared_exception(tmp_path):
    """Group normalisation runs over time, padding included: without the exception the numbers are wrong."""
    encoder = encoder_of(tmp_path, "Wav2Vec2")
    assert encoder.equal_lengths_only
    passes = []
    encoder.model.feature_extractor.register_forward_hook(lambda *call: passes.append(list(call[1][0].shape)))
    wav = 0.1 * torch.randn(len(LENGTHS), max(LENGTHS), generator=torch.Generator().manual_seed(0))
    encoder.encode(wav, LENGTHS)
    assert passes == [[1, 400], [2, 9999], [1, 12345], [1, 16000]]
    assert worst(encoder) < 1e-4
    encoder.equal_lengths_only = False
    assert worst(encoder) > 1e-2


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("Data2VecAudio", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
        ("Wav2Vec2Conformer", LAYER_NORM),
        ("Hubert", {**LAYER_NORM, "conv_pos_batch_norm": True}),
        ("SEW", {**LAYER_NORM, "conv_dim": [16] * 13}),
    ],
)
def test_models_with_other_convolutions_go_by_length(kind, values, tmp_path):
    """A mask is not enough where a convolution runs over what an earlier one made of the padding."""
    encoder = encoder_of(tmp_path, kind, **values)
    assert encoder.equal_lengths_only
    assert worst(encoder) < 1e-4


def test_the_exception_of_data2vec_is_no_caution(tmp_path):
    encoder = encoder_of(tmp_path, "Data2VecAudio", num_conv_pos_embeddings=3, conv_pos_kernel_size=5)
    encoder.equal_lengths_only = False
    assert worst(encoder, ["features"]) < 1e-4
    assert worst(encoder) > 1e-3


def test_sew_has_no_frame_of_zeros_at_its_end(tmp_path):
    """SEW fills up its output to the input's frames with zeros: a mean over them would be too small."""
    encoder = encoder_of(tmp_path, "SEW", conv_dim=[16] * 13)
    wav = 0.1 * torch.randn(10000, generator=torch.Generator().manual_seed(0))
    frames, features = encoder.encode_frames(wav), encoder.encode_frames(wav, layers="features")
    assert int(frames.features.shape[0]) % 2 == 1, "an odd number of frames was wanted for this test"
    assert not frames.features[-1].any()
    assert int(frames.valid) == frames.features.shape[0] - 1
    torch.testing.assert_close(encoder.encode(wav), frames.features[:-1].mean(0))
    assert int(encoder.encode_frames(wav, layers="layer1").valid) == int(features.valid) // 2
