"""Clips of many minutes go through waveform encoders in pieces: the same frames, and memory that does not follow."""

from __future__ import annotations

import pytest
import torch
import transformers

from evar.encoders import long_clips
from evar.encoders.huggingface import LoadedModel
from evar.encoders.wav2vec2 import Wav2Vec2

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 4, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
KINDS = {
    "wav2vec2": ("Wav2Vec2", {}),
    "wav2vec2-large": ("Wav2Vec2", LARGE),
    "hubert": ("Hubert", {}),
    "hubert-large": ("Hubert", LARGE),
    "hubert-batch-norm": ("Hubert", {"conv_pos_batch_norm": True}),
    "unispeech": ("UniSpeech", {}),
    "unispeech-sat": ("UniSpeechSat", LARGE),
    "wavlm": ("WavLM", {}),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 3}),
    "sew": ("SEW", {"squeeze_factor": 2}),
    "conformer": ("Wav2Vec2Conformer", {"position_embeddings_type": None}),
}


def encoder_of(kind):
    name, values = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**TINY | values)
    torch.manual_seed(3)
    model = getattr(transformers, f"{name}Model")(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm) and module.weight is not None:
            torch.nn.init.normal_(module.weight, 1.0, 0.2)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
    return Wav2Vec2(LoadedModel(model.requires_grad_(False), config, "", None), kind, {}, kind)


def in_small_pieces(monkeypatch, samples=5003, frames=37):
    monkeypatch.setattr(long_clips, "WHOLE_SAMPLES", {"cpu": 1 << 8})
    monkeypatch.setattr(long_clips, "PIECE_SAMPLES", {"cpu": samples})
    monkeypatch.setattr(long_clips, "PIECE_FRAMES", {"cpu": frames})
    monkeypatch.setattr(long_clips, "HEADS", 3)


def noise(n_clips, n_samples):
    return 0.1 * torch.randn(n_clips, n_samples, generator=torch.Generator().manual_seed(n_samples))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_samples", [16000 * 2 + 77, 5003, 10007])
def test_pieces_give_every_layer_of_the_whole(kind, n_samples, monkeypatch):
    encoder, wav = encoder_of(kind), noise(2, n_samples) + 0.05
    whole = {layer: encoder.encode_frames(wav, layers=layer) for layer in encoder.layers}
    in_small_pieces(monkeypatch)
    together = encoder.encode_all(wav, layers=list(encoder.layers), poolings=["mean", "max"])
    for layer, expected in whole.items():
        found = encoder.encode_frames(wav, layers=layer)
        assert torch.equal(found.valid, expected.valid)
        valid = int(expected.valid.min())
        assert relative(found.features[:, :valid], expected.features[:, :valid]) < 1e-4
        average = expected.features[:, :valid].mean(dim=1)
        assert relative(together[layer, "mean"], average) < 1e-4
    assert not any("forward" in vars(module) for module in encoder.modules())  # nothing stays changed


@pytest.mark.parametrize("kind", ["wav2vec2-large", "wavlm", "hubert"])
def test_clips_of_several_lengths_in_one_long_batch_are_what_they_are_alone(kind, monkeypatch):
    encoder, wav, lengths = encoder_of(kind), noise(3, 20000), [20000, 7013, 12345]
    alone = torch.cat([encoder.encode(clip[None, :n]) for clip, n in zip(wav, lengths, strict=True)])
    in_small_pieces(monkeypatch)
    assert relative(encoder.encode(wav, lengths), alone) < 1e-4


def test_short_batches_go_through_at_once_bit_by_bit_as_before(monkeypatch):
    encoder = encoder_of("wav2vec2")
    x = noise(1, 16000)
    with torch.inference_mode():
        expected = encoder.model(encoder.normalised(x, torch.tensor([16000]))).last_hidden_state
    assert torch.equal(encoder.encode_frames(x).features, expected)
    monkeypatch.setattr(long_clips, "features_in_pieces", None)
    encoder.encode(x)


def test_only_wanted_layers_are_kept():
    from evar.encoders.wav2vec2 import blocks_of, hidden_states

    encoder = encoder_of("wav2vec2")
    x = encoder.normalised(noise(1, 4000), torch.tensor([4000]))
    seen = []
    blocks = blocks_of(encoder.model, "x")
    for block in blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(len(module._forward_hooks)))
    with torch.inference_mode():
        found = hidden_states(blocks, [3], lambda: encoder.model(x).last_hidden_state)
    assert list(found) == [3]
    assert seen == [1, 1, 1]  # no hook of ours on the blocks that nobody wants


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())
