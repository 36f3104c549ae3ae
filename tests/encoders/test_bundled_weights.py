"""The weights that come with evar: there, ours, openly licensed, and never taken for something else."""

import csv
from pathlib import Path

import pytest
import torch

import evar.encoders
from evar.encoders import load_encoder
from evar.encoders.registry import bundled_file
from evar.encoders.weights import read_weights
from evar.errors import EvarError

BUNDLED = Path(evar.encoders.__file__).parent / "bundled"
NAMES = ("byola", "byola-v1-512")


@pytest.mark.parametrize(("name", "dim"), [("byola", 3072), ("byola-v1-512", 512)])
def test_bundled_byola_works_out_of_the_box(name, dim):
    encoder = load_encoder(name)
    assert encoder.weights_kind == "bundled"
    assert encoder.embedding_dim == dim
    assert encoder.normalization is not None
    assert all(value.dtype == torch.float32 for value in encoder.parameters())
    wav = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    embedding = encoder.encode(wav)
    assert torch.isfinite(embedding).all()
    assert not torch.allclose(embedding[0], embedding[1])


@pytest.mark.parametrize("name", NAMES)
def test_bundled_files_say_where_they_come_from(name):
    weights = read_weights(bundled_file(name))
    assert weights.path.stat().st_size <= 16 * 2**20
    for key in (
        "frontend",
        "normalization",
        "preset",
        "corpus",
        "corpus_digest",
        "evar_version",
        "licence",
        "trained_on",
    ):
        assert weights.metadata[key], key
    assert weights.metadata["seed"] == 0
    assert weights.metadata["preset"]["method"] == "byol"


def test_bundled_weights_are_named_in_the_model_card():
    card = (BUNDLED / "MODEL_CARD.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert read_weights(bundled_file(name)).sha256 in card, f"{name}: the card has another SHA-256"


def test_bundled_weights_saw_openly_licensed_audio_only():
    with open(BUNDLED / "corpus.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1692
    allowed = {"CC BY 3.0", "CC BY 4.0", "CC BY", "CC0", "public domain", "Apache-2.0"}
    assert {row["licence"] for row in rows} <= allowed


def test_the_list_is_the_corpus_without_its_non_commercial_files(shared_data):
    manifest = shared_data / "unlabeled-pretrain" / "manifest.csv"
    if not manifest.is_file():
        pytest.skip("the unlabelled pack is not beside this checkout")
    with open(manifest, newline="", encoding="utf-8") as stream:
        wanted = [row["file"] for row in csv.DictReader(stream) if "NC" not in row["licence"]]
    with open(BUNDLED / "corpus.csv", newline="", encoding="utf-8") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == wanted


def test_the_bundled_checkpoint_never_stands_for_another():
    with pytest.raises(EvarError, match=r"byola-v2@x\.pth"):
        load_encoder("byola@x.pth")
    with pytest.raises(EvarError, match="random:byola-v2"):
        load_encoder("random:byola")
    with pytest.raises(EvarError, match="does not exist"):
        load_encoder("byola-v1-512@no-such-file.pth")


def test_random_is_random_although_weights_are_bundled():
    random, trained = load_encoder("random:byola-v1-512"), load_encoder("byola-v1-512")
    assert (random.weights_kind, trained.weights_kind) == ("random", "bundled")
    assert not torch.equal(random.features[0].weight, trained.features[0].weight)


def test_an_installation_without_the_weights_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("evar.encoders.registry.__file__", str(tmp_path / "registry.py"))
    with pytest.raises(EvarError, match="install evar again"):
        bundled_file("byola")
