"""Clips under the shortest that an extractor has features for are padded, not turned into one and the same vector."""

import pytest
import torch
import transformers

from evar.encoders import load_encoder

BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def folder_of(kind, tmp_path):
    if kind == "Wav2Vec2Bert":
        config, extractor = transformers.Wav2Vec2BertConfig(**BLOCKS), transformers.SeamlessM4TFeatureExtractor()
    elif kind == "Parakeet":
        config = transformers.ParakeetEncoderConfig(**BLOCKS, subsampling_conv_channels=8)
        torch.manual_seed(0)
        transformers.ParakeetEncoder(config).save_pretrained(tmp_path)
        transformers.ParakeetFeatureExtractor().save_pretrained(tmp_path)
        return tmp_path
    else:
        extractor = transformers.Speech2TextFeatureExtractor()
        config = transformers.Speech2TextConfig(
            vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=48, decoder_ffn_dim=48,
            encoder_attention_heads=4, decoder_attention_heads=4,
        )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["Wav2Vec2Bert", "Speech2Text", "Parakeet"])
def test_two_noises_of_a_few_hundred_samples_have_two_embeddings_and_silence_has_one(kind, tmp_path):
    encoder = load_encoder(f"hf:{folder_of(kind, tmp_path)}")
    for n_samples in (20, 50, 100, 159, 160, 161, 240, 399, 400, 480, 559, 700, 799):
        wav = 0.1 * torch.randn(2, n_samples, generator=torch.Generator().manual_seed(n_samples))
        found = encoder.encode(wav)
        assert bool(torch.isfinite(found).all())
        assert float((found[0] - found[1]).abs().max()) > 1e-4
        assert bool(torch.isfinite(encoder.encode(torch.zeros(1, n_samples))).all())
