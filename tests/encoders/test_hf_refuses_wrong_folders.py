"""transformers leaves layers that a checkpoint lacks random, and downloads names: here both are one line."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from evar.encoders import load_encoder
from evar.errors import EvarError

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    folder = tmp_path_factory.mktemp("models") / "small"
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**SMALL)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture
def model(built, tmp_path):
    return shutil.copytree(built, tmp_path / "model")


def refused(spec, **options):
    with pytest.raises(EvarError) as caught:
        load_encoder(spec, **options)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_missing_layer_is_not_left_random(model):
    state = load_file(model / "model.safetensors")
    del state["encoder.layers.1.final_layer_norm.bias"]
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    message = refused(f"hf:{model}")
    assert "checkpoint of another model" in message
    assert "lacks 1 of" in message
    assert "encoder.layers.1.final_layer_norm.bias" in message


def test_more_layers_than_the_checkpoint_has(model):
    change_config(model, num_hidden_layers=3)
    assert "lacks 16 of" in refused(f"hf:{model}")


def test_another_models_weights_under_this_config(model):
    save_file({"bert.embeddings.word_embeddings.weight": torch.ones(4, 4)}, model / "model.safetensors")
    message = refused(f"hf:{model}")
    assert "another model" in message
    assert "it holds bert.embeddings" in message


def test_another_size(model):
    change_config(model, intermediate_size=64)
    assert "feed_forward.intermediate_dense.bias should be [64], is [48]" in refused(f"hf:{model}")


def test_another_model_for_a_named_encoder(model):
    change_config(model, model_type="hubert")
    message = refused(f"wav2vec2-c@{model}")
    assert "config.json says 'hubert', expected 'wav2vec2'" in message
    assert f"hf:{model}" in message


def test_truncated_weights(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    message = refused(f"hf:{model}")
    assert "model.safetensors" in message
    assert "damaged" in message


def test_nan_weights(model):
    state = load_file(model / "model.safetensors")
    state["feature_projection.projection.bias"][3] = torch.nan
    save_file(state, model / "model.safetensors")
    assert "feature_projection.projection.bias holds NaN" in refused(f"hf:{model}")


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_with_code_is_not_run(model, tmp_path):
    (model / "model.safetensors").unlink()
    torch.save({"a": torch.ones(1), "b": RunsCode(tmp_path / "was-run")}, model / "pytorch_model.bin")
    assert "could run code" in refused(f"hf:{model}")
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(RunsCode(tmp_path / "was-run")))
    refused(f"hf:{model}")
    assert not (tmp_path / "was-run").exists()


def test_no_weights_no_config_and_a_folder_of_something_else(model, tmp_path):
    (model / "model.safetensors").rename(model / "tf_model.h5")
    assert "holds no weights: expected model.safetensors or pytorch_model.bin" in refused(f"hf:{model}")
    (model / "config.json").unlink()
    assert "no config.json, it holds preprocessor_config.json, tf_model.h5" in refused(f"hf:{model}")
    (tmp_path / "empty").mkdir()
    assert "no config.json, it holds nothing" in refused(f"hf:{tmp_path / 'empty'}")
    assert "no folder" in refused(f"hf:{tmp_path / 'absent'}")
    assert "is a file: give the folder" in refused(f"hf:{model / 'tf_model.h5'}")


def test_config_files_that_say_nothing(model):
    (model / "config.json").write_text('{"hidden_size": ')
    assert "is no JSON" in refused(f"hf:{model}")
    (model / "config.json").write_text("[]")
    assert "expected a JSON mapping" in refused(f"hf:{model}")
    (model / "config.json").write_text("{}")
    assert "names no model_type" in refused(f"hf:{model}")
    (model / "config.json").write_text('{"model_type": "wav2vec"}')
    assert "unknown model_type 'wav2vec'; did you mean 'wav2vec2'?" in refused(f"hf:{model}")


def test_a_model_of_text(tmp_path):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(**sizes, vocab_size=60)).save_pretrained(tmp_path)
    assert "no preprocessor_config.json" in refused(f"hf:{tmp_path}")


def test_sample_rate_and_normalisation_are_not_guessed(model):
    (model / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json, which says the sample rate" in refused(f"hf:{model}")


def test_a_model_that_needs_another_rate(model):
    (model / "preprocessor_config.json").write_text('{"sampling_rate": 32000, "do_normalize": true}')
    encoder = load_encoder(f"hf:{model}")
    assert encoder.sample_rate == 32000
    with pytest.raises(EvarError, match="expects 32000 Hz, found 16000 Hz"):
        encoder.encode(torch.zeros(16000), sample_rate=16000)


def test_shards_are_read_together_and_missed_one_by_one(model):
    whole = load_encoder(f"hf:{model}")
    state = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    keys = sorted(state)
    parts = dict(zip(names, (keys[:20], keys[20:]), strict=True))
    for name, held in parts.items():
        save_file({key: state[key] for key in held}, model / name)
    index = {"weight_map": {key: name for name, held in parts.items() for key in held}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = load_encoder(f"hf:{model}")
    wav = torch.linspace(-0.5, 0.5, 8000).sin()
    assert torch.equal(sharded.encode(wav), whole.encode(wav))
    assert len(sharded.weights_sha256) == 64
    assert sharded.weights_sha256 != whole.weights_sha256
    (model / names[1]).unlink()
    assert f"lacks {names[1]}" in refused(f"hf:{model}")
    index["weight_map"] = dict.fromkeys(keys, "../outside.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks ../outside.safetensors" in refused(f"hf:{model}")


def test_half_precision_weights_compute_in_float32(model):
    state = {key: value.half() for key, value in load_file(model / "model.safetensors").items()}
    save_file(state, model / "model.safetensors")
    change_config(model, dtype="float16")
    encoder = load_encoder(f"hf:{model}")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_code_that_comes_with_a_model_is_not_run_unasked(model, tmp_path, monkeypatch):
    code = "from pathlib import Path\nfrom transformers import Wav2Vec2Config, Wav2Vec2Model\n"
    code += f"Path({str(tmp_path / 'was-run')!r}).touch()\n"
    code += "class OwnConfig(Wav2Vec2Config):\n    model_type = 'own'\n"
    code += "class OwnModel(Wav2Vec2Model):\n    config_class = OwnConfig\n"
    (model / "own.py").write_text(code)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    change_config(model, model_type="own", auto_map=auto_map)
    message = refused(f"hf:{model}")
    assert "EVAR_TRUST_REMOTE_CODE=1" in message
    assert not (tmp_path / "was-run").exists()
    monkeypatch.setenv("EVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVAR_TRUST_REMOTE_CODE", "1")
    assert type(load_encoder(f"hf:{model}").model).__name__ == "OwnModel"
    assert (tmp_path / "was-run").exists()
    assert list((tmp_path / "cache").rglob("own.py")), "its copy belongs into evar's cache"


OWN_EXTRACTOR = """
from pathlib import Path
from transformers import {base}
Path({marker!r}).touch()
class OwnExtractor({base}):
    pass
"""


def own_extractor(folder, base, marker, **settings):
    """Make the feature extractor of a folder one that transformers has not, in a file beside it."""
    (folder / "own.py").write_text(OWN_EXTRACTOR.format(base=base, marker=str(marker)))
    path = folder / "preprocessor_config.json"
    own = {"feature_extractor_type": "OwnExtractor", "auto_map": {"AutoFeatureExtractor": "own.OwnExtractor"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own, **settings}))


def heard_by_its_own_extractor(folder, kind):
    """A small model of each way of reading audio that builds a feature extractor; returns the extractor's class."""
    import transformers

    blocks = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    if kind == "Whisper":
        config = transformers.WhisperConfig(
            vocab_size=60, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8,
            encoder_attention_heads=2, decoder_attention_heads=2, max_source_positions=100,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
    elif kind == "Clap":
        audio = {
            "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16,
            "patch_size": 4, "spec_size": 128, "window_size": 4, "num_mel_bins": 32,
        }  # fmt: skip
        config = transformers.ClapConfig(text_config={**blocks, "vocab_size": 60}, audio_config=audio)
        extractor = transformers.ClapFeatureExtractor(
            feature_size=32, sampling_rate=16000, hop_length=160, max_length_s=2, truncation="rand_trunc"
        )
    else:
        config, extractor = transformers.Wav2Vec2BertConfig(**blocks), transformers.SeamlessM4TFeatureExtractor()
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    extractor.save_pretrained(folder)
    return type(extractor).__name__


@pytest.mark.parametrize("kind", ["Wav2Vec2Bert", "Whisper", "Clap"])
def test_code_of_a_feature_extractor_is_not_run_whatever_stands_on_stdin(kind, tmp_path, monkeypatch):
    """transformers asked, and `yes | evar check hf:FOLDER` answered: the folder's Python ran."""
    folder, marker = tmp_path / "model", tmp_path / "was-run"
    own_extractor(folder, heard_by_its_own_extractor(folder, kind), marker)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on stdin"))
    for spec in (f"hf:{folder}", f"random:hf:{folder}"):
        message = refused(spec)
        assert "comes with code of its own" in message
        assert "EVAR_TRUST_REMOTE_CODE=1" in message
    assert not marker.exists()
    monkeypatch.setenv("EVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVAR_TRUST_REMOTE_CODE", "1")
    encoder = load_encoder(f"hf:{folder}")
    assert type(encoder.extractor).__name__ == "OwnExtractor"
    assert marker.exists()
    before = encoder.fingerprint()
    (folder / "own.py").write_text((folder / "own.py").read_text() + "VALUE = 1\n")
    assert load_encoder(f"hf:{folder}").fingerprint() != before, "another code may give other numbers"


def test_yes_in_a_pipe_runs_no_code(tmp_path):
    folder, marker = tmp_path / "model", tmp_path / "was-run"
    own_extractor(folder, heard_by_its_own_extractor(folder, "Wav2Vec2Bert"), marker)
    environment = {key: value for key, value in os.environ.items() if key != "EVAR_TRUST_REMOTE_CODE"}
    done = subprocess.run(
        [sys.executable, "-m", "evar", "check", f"hf:{folder}"],
        input="y\n" * 100, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert not marker.exists()
    assert done.returncode != 0
    assert "EVAR_TRUST_REMOTE_CODE=1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_question_for_a_model_inside_a_model(tmp_path, monkeypatch):
    """transformers builds the parts of composed models by itself, and passes on no word about trust."""
    from transformers import AutoModel, VitsConfig

    from evar.encoders.huggingface import quiet

    class Part(VitsConfig):
        model_type = "part"

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on stdin"))
    part = Part()
    part.auto_map = {"AutoModel": "own.OwnModel"}
    with pytest.raises(EvarError, match="EVAR_TRUST_REMOTE_CODE=1"), quiet("hf:composed"):
        AutoModel.from_config(part)


def test_an_attention_of_the_hub_is_not_fetched(model):
    """config.json can name a kernel on the hub: code that transformers would download and run."""
    change_config(model, attn_implementation="someone/kernel", _attn_implementation="someone/kernel")
    for spec in (f"hf:{model}", f"random:hf:{model}"):
        assert load_encoder(spec).model.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("rate", ['"abc"', '"16000"', "null", "0", "-16000", "16000.5", "true", "Infinity", "[16000]"])
def test_a_sampling_rate_that_is_none(rate, model):
    """It was reported as a bug of evar."""
    (model / "preprocessor_config.json").write_text(f'{{"sampling_rate": {rate}}}')
    for spec in (f"hf:{model}", f"random:hf:{model}"):
        message = refused(spec)
        assert "preprocessor_config.json: sampling_rate is a whole number of Hz above 0, found" in message


@pytest.mark.parametrize("kind", ["wav2vec2-c", "Wav2Vec2Bert", "Whisper", "Clap"])
def test_a_sampling_rate_that_is_none_in_every_way_of_reading(kind, tmp_path):
    if kind == "wav2vec2-c":
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        Wav2Vec2Model(Wav2Vec2Config(**{**SMALL, "hidden_size": 768})).save_pretrained(tmp_path)
    else:
        heard_by_its_own_extractor(tmp_path, kind)
    for rate in ("abc", None, 0):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": rate}))
        message = refused(f"wav2vec2-c@{tmp_path}" if kind == "wav2vec2-c" else f"hf:{tmp_path}")
        assert f"sampling_rate is a whole number of Hz above 0, found {rate!r}" in message


def test_weights_after_at_and_unknown_words(model):
    assert f"hf:{model} takes no weights" in refused(f"hf:{model}@{model}")
    assert "unknown configuration key of wav2vec2 'hiden_size'; did you mean 'hidden_size'?" in refused(
        f"hf:{model}", config={"hiden_size": 3}
    )
    assert "config is a mapping" in refused(f"hf:{model}", config="small")
    assert "num_heads" in refused(f"hf:{model}", num_heads=3)
    assert "cannot be built" in refused(f"random:hf:{model}", config={"feat_extract_norm": "batch"})
    assert "does not hold together" in refused(f"random:hf:{model}", config={"hidden_size": "many"})
