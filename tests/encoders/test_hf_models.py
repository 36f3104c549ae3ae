"""`hf:` must give what transformers gives, whichever way a model reads audio, and keep the contract of encoders."""

import numpy as np
import pytest
import torch

from evar.encoders import contract, load_encoder
from evar.errors import EvarError

BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WAVE = {**BLOCKS, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
WHISPER = {
    **HEADS,
    "vocab_size": 60,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_source_positions": 100,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}
WAVES = {
    "WavLM": {},
    "UniSpeechSat": {},
    "SEW": {"conv_dim": [8] * 13},
    "SEWD": {"conv_dim": [8] * 13},
    "Data2VecAudio": {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
    "Wav2Vec2Conformer": {"position_embeddings_type": "rotary"},
}


def saved(folder, kind, config, extractor):
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model


def clips(seconds, rate=16000, seed=0):
    time_s = torch.arange(round(max(seconds) * rate)) / rate
    generator = torch.Generator().manual_seed(seed)
    wav = 0.05 * torch.randn(len(seconds), len(time_s), generator=generator)
    return wav + 0.2 * torch.sin(2 * torch.pi * 300.0 * time_s), [round(one * rate) for one in seconds]


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def keeps_the_contract(encoder):
    for check in (
        contract.declarations,
        contract.shapes,
        contract.every_layer,
        contract.deterministic,
        contract.padding_invariance,
        contract.ten_milliseconds,
        contract.silence,
        contract.frames_agree,
        contract.frozen,
        contract.fingerprint,
    ):
        check(encoder)


@pytest.mark.parametrize("kind", WAVES)
def test_waveform_models(kind, tmp_path):
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{**WAVE, **WAVES[kind]})
    model = saved(tmp_path, kind, config, transformers.Wav2Vec2FeatureExtractor(do_normalize=False))
    encoder = load_encoder(f"hf:{tmp_path}")
    wav, _ = clips([1.0])
    with torch.no_grad():
        expected = model(wav).last_hidden_state[0]
    frames = encoder.encode_frames(wav[0])
    assert relative(frames.features, expected) < 1e-5
    hop = 20.0 * (2 if kind.startswith("SEW") else 1)
    assert encoder.hop_ms["layer1"] == hop
    assert abs(len(encoder.encode_frames(wav[0], layers="layer1").times_ms) * hop - 1000) < 2 * hop
    keeps_the_contract(encoder)


def test_wav2vec2_bert_by_its_own_feature_extractor(tmp_path):
    import transformers

    extractor = transformers.SeamlessM4TFeatureExtractor()
    model = saved(tmp_path, "Wav2Vec2Bert", transformers.Wav2Vec2BertConfig(**BLOCKS), extractor)
    encoder = load_encoder(f"hf:{tmp_path}")
    assert encoder.equal_lengths_only
    assert (encoder.hop_ms["layer2"], encoder.layers["layer2"]) == (20.0, 32)
    for seconds in (1.0, 1.01):  # 98 and 99 frames of the filterbank: the second has a frame of padding
        wav, _ = clips([seconds])
        inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs, output_hidden_states=True)
        count = int(inputs.attention_mask.sum())
        frames = encoder.encode_frames(wav[0])
        assert int(frames.valid) == count
        assert relative(frames.features[:count], outputs.last_hidden_state[0, :count]) < 1e-5
        found = encoder.encode_frames(wav[0], layers="layer1").features
        assert relative(found[:count], outputs.hidden_states[1][0, :count]) < 1e-5
    keeps_the_contract(encoder)


def test_an_encoder_of_another_rate_is_placed_in_time(tmp_path):
    """Nothing is known of Speech2Text here: its 40 ms are measured, and its decoder is not run."""
    import transformers

    config = transformers.Speech2TextConfig(
        vocab_size=60, encoder_layers=2, decoder_layers=1, d_model=32, conv_channels=32,
        encoder_ffn_dim=48, decoder_ffn_dim=48, **HEADS,
    )  # fmt: skip
    saved(tmp_path, "Speech2Text", config, transformers.Speech2TextFeatureExtractor())
    encoder = load_encoder(f"hf:{tmp_path}")
    assert encoder.hop_ms == dict.fromkeys(["layer0", "layer1", "layer2"], 40.0)
    keeps_the_contract(encoder)


def test_whisper_reads_windows_and_drops_what_is_past_the_end(tmp_path):
    import transformers

    extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
    model = saved(tmp_path, "Whisper", transformers.WhisperConfig(**WHISPER), extractor)
    encoder = load_encoder(f"hf:{tmp_path}")
    wav, lengths = clips([2.5, 1.0, 0.013])
    frames = encoder.encode_frames(wav, lengths)
    assert frames.valid.tolist() == [125, 50, 1]
    assert frames.times_ms[:3].tolist() == [0.0, 20.0, 40.0]
    for row, (start, end) in ((0, (0, 32000)), (0, (32000, 40000)), (1, (0, 16000)), (2, (0, 208))):
        inputs = extractor(wav[row, start:end].numpy(), sampling_rate=16000, return_tensors="pt").input_features
        with torch.no_grad():
            expected = model.encoder(inputs).last_hidden_state[0, : -(-(end - start) // 320)]
        first = start // 320
        assert relative(frames.features[row, first : first + len(expected)], expected) < 1e-5, (row, start)
    keeps_the_contract(encoder)


def test_whisper_with_windows_of_another_length_is_refused(tmp_path):
    import transformers

    saved(tmp_path, "Whisper", transformers.WhisperConfig(**WHISPER), transformers.WhisperFeatureExtractor())
    with pytest.raises(EvarError, match=r"windows of 480000 samples .* needs 32000"):
        load_encoder(f"hf:{tmp_path}")


@pytest.mark.parametrize("fused", [False, True])
def test_clap(fused, tmp_path):
    import transformers

    audio = {
        "patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "num_attention_heads": [2, 2, 2, 2], "hidden_size": 64,
        "enable_fusion": fused, "patch_size": 4, "spec_size": 128, "window_size": 4, "num_mel_bins": 32,
    }  # fmt: skip
    config = transformers.ClapConfig(
        text_config={**BLOCKS, "vocab_size": 60}, audio_config={**audio, "projection_dim": 24}, projection_dim=24
    )
    extractor = transformers.ClapFeatureExtractor(
        feature_size=32, sampling_rate=16000, hop_length=160, max_length_s=2,
        truncation="fusion" if fused else "rand_trunc",
    )  # fmt: skip
    model = saved(tmp_path, "Clap", config, extractor)
    encoder = load_encoder(f"hf:{tmp_path}")
    assert encoder.layers == {
        "stage0": 8, "stage1": 16, "stage2": 32, "stage3": 64, "stage4": 64, "pooled": 64, "embedding": 24
    }  # fmt: skip
    wav, lengths = clips([1.1, 3.0])
    before = np.random.get_state()[2]  # noqa: NPY002
    found = encoder.encode(wav, lengths)
    assert np.random.get_state()[2] == before, "the feature extractor's draws were noticed outside"  # noqa: NPY002

    def alone(clip):
        inputs = extractor(clip.numpy(), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            embedded = model.get_audio_features(inputs.input_features, torch.zeros(1, 1, dtype=torch.bool))
        return getattr(embedded, "pooler_output", embedded)[0]

    assert relative(found[0], alone(wav[0, :17600])) < 1e-5
    # Weighted equally, 1 s of a 3 s clip counted as much as the other 2.
    windows = torch.stack([alone(wav[1, :32000]), alone(wav[1, 32000:])])
    assert relative(found[1], (2 * windows[0] + windows[1]) / 3) < 1e-5
    assert relative(encoder.encode_all(wav, lengths, None, ["mean"])["embedding", "mean"][1], windows.mean(0)) < 1e-5
    keeps_the_contract(encoder)


def test_ast_is_the_encoder_of_that_name(tmp_path):
    import transformers

    saved(tmp_path, "AST", transformers.ASTConfig(**BLOCKS), transformers.ASTFeatureExtractor())
    encoder = load_encoder(f"hf:{tmp_path}")
    assert encoder.fingerprint() == load_encoder(f"ast@{tmp_path}").fingerprint()
    assert encoder.weights_sha256 == load_encoder(f"ast@{tmp_path}").weights_sha256
    assert load_encoder(f"random:hf:{tmp_path}").layers == encoder.layers


def test_ast_keeps_the_folders_front_end_without_its_weights_and_takes_config(tmp_path):
    """random:hf: had AudioSet's statistics whatever the folder says, and `config=` was dropped with weights."""
    import transformers

    extractor = transformers.ASTFeatureExtractor(mean=-6.0, std=5.0)
    saved(tmp_path, "AST", transformers.ASTConfig(**BLOCKS), extractor)
    untrained = load_encoder(f"random:hf:{tmp_path}")
    assert (untrained.mean, untrained.std, untrained.weights_kind) == (-6.0, 5.0, "random")
    whole = load_encoder(f"hf:{tmp_path}")
    other = load_encoder(f"hf:{tmp_path}", config={"hidden_act": "relu"})
    wav, _ = clips([0.5])
    assert whole.fingerprint() != other.fingerprint()
    assert not torch.equal(whole.encode(wav), other.encode(wav))
    short = load_encoder(f"random:hf:{tmp_path}", config={"max_length": 128})
    assert (short.window_frames, short.mean) == (128, -6.0)
    (tmp_path / "preprocessor_config.json").unlink()
    assert load_encoder(f"random:hf:{tmp_path}").mean == pytest.approx(-4.2677393)


@pytest.fixture
def hubert(tmp_path):
    import transformers

    saved(tmp_path / "one", "Hubert", transformers.HubertConfig(**WAVE), transformers.Wav2Vec2FeatureExtractor())
    return tmp_path / "one"


def test_a_copy_elsewhere_has_the_same_fingerprint(hubert, tmp_path):
    import shutil

    shutil.copytree(hubert, tmp_path / "two")
    first, second = load_encoder(f"hf:{hubert}"), load_encoder(f"hf:{tmp_path / 'two'}")
    assert first.fingerprint() == second.fingerprint()
    assert first.weights_sha256 == second.weights_sha256
    (tmp_path / "two" / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 16000}')
    assert load_encoder(f"hf:{tmp_path / 'two'}").fingerprint() != first.fingerprint()


def test_a_change_of_the_configuration_is_another_fingerprint(hubert):
    """A configuration is no tensor, and no plain attribute of the network either."""
    first = load_encoder(f"hf:{hubert}")
    other = load_encoder(f"hf:{hubert}", config={"hidden_act": "relu"})
    assert first.fingerprint() != other.fingerprint()
    wav, _ = clips([0.5])
    assert not torch.equal(first.encode(wav), other.encode(wav))


def test_random_weights_take_the_folders_configuration_alone(hubert):
    (hubert / "model.safetensors").unlink()
    first, again, other = (load_encoder(f"random:hf:{hubert}{seed}") for seed in ("", "@0", "@3"))
    assert first.weights_kind == "random"
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_what_known_models_were_trained_on(hubert, tmp_path):
    from evar.encoders.hf import known_corpora

    assert load_encoder(f"hf:{hubert}").trained_on == ()
    assert load_encoder(f"hf:{hubert}", trained_on=["esc50"]).trained_on == ("esc50",)
    assert known_corpora("microsoft/wavlm-base", tmp_path) == ("librispeech",)
    assert "voxceleb1" in known_corpora("microsoft/wavlm-base-plus-sv", tmp_path)
    assert known_corpora("facebook/wav2vec2-base-10k-voxpopuli", tmp_path) == ()
    assert "freesound" in known_corpora("x", tmp_path / "laion--clap-htsat-fused")


def test_the_column_of_weights_names_the_folder(hubert, tmp_path, monkeypatch):
    """It was empty: rows of two models could not be told apart by it."""
    assert load_encoder(f"hf:{hubert}").weights_file == "one"
    assert load_encoder(f"random:hf:{hubert}").weights_file == ""
    monkeypatch.chdir(hubert)
    assert load_encoder("hf:.").weights_file == "one"
    monkeypatch.setenv("EVAR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "weights" / "hf").mkdir(parents=True)
    hubert.rename(tmp_path / "cache" / "weights" / "hf" / "someone--a-hubert")
    monkeypatch.chdir(tmp_path)
    assert load_encoder("hf:someone/a-hubert").weights_file == "someone--a-hubert"


def test_rotary_conformers_forget_the_last_clip(tmp_path):
    """They keep the positions of the last length as a plain attribute: the fingerprint changed with every call."""
    import transformers

    config = transformers.Wav2Vec2ConformerConfig(**WAVE, position_embeddings_type="relative", max_source_positions=20)
    saved(tmp_path, "Wav2Vec2Conformer", config, transformers.Wav2Vec2FeatureExtractor())
    encoder = load_encoder(f"hf:{tmp_path}")
    before = encoder.fingerprint()
    encoder.encode(clips([1.0])[0])  # 49 frames, more than the 20 positions that are there
    assert encoder.fingerprint() == before
