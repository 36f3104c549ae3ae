"""Fear: weights that are damaged, of another model or of nobody knows where stand for the published ones."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evar.encoders import catalog, load_encoder, registry
from evar.encoders.registry import Entry, list_encoders
from evar.errors import EvarError

NAME, TWIN = "byola-v1-1024", "byola-v2-2048"  # two entries of ours that need weights; given sources of their own here


def refused(call, *arguments, **options) -> str:
    with pytest.raises(EvarError) as caught:
        call(*arguments, **options)
    return str(caught.value)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EVAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(dict(load_encoder(f"random:{NAME}").state_dict()), path)
    return path.read_bytes()


@pytest.fixture
def publish(monkeypatch):
    """Give entries another `source`: publish(NAME={...}); returns the first one."""

    def call(**sources) -> Entry:
        entries, schemes = registry._shipped()
        entries = entries | {
            name.replace("_", "-"): replace(entries[name.replace("_", "-")], source=source)
            for name, source in sources.items()
        }
        monkeypatch.setattr(registry, "_shipped", lambda: (entries, schemes))
        return entries[next(iter(sources)).replace("_", "-")]

    return call


@pytest.fixture
def entry(publish, content) -> Entry:
    return publish(
        byola_v1_1024={
            "url": "http://127.0.0.1:9/x/best%3D1.pth?download=1",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "licence": "CC BY 4.0",
        }
    )


# --- where -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"EVAR_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"EVAR_CACHE": "~/b"}, "/home/me/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/evar"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/evar"),  # as the XDG specification asks
        ({}, "/home/me/.cache/evar"),
    ],
)
def test_cache_is_where_the_environment_says(variables, expected, monkeypatch):
    for name in ("EVAR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | variables).items():
        monkeypatch.setenv(name, value)
    assert catalog.cache_folder() == Path(expected)


@pytest.mark.parametrize("name", ["google/vggish/1", "https://tfhub.dev/google/vggish/1", "/google/vggish/1/"])
def test_a_hubs_handle_and_link_are_one_folder(name, cache):
    assert catalog.hub_folder("tfhub", name) == cache / "weights" / "tfhub" / "google--vggish--1"


@pytest.mark.parametrize("name", ["..", "../../x", "a/../../../x", "/etc", "c:\\x"])
def test_no_name_leads_out_of_the_cache(name, cache):
    folder = catalog.hub_folder("hf", name)
    assert folder.parent == cache / "weights" / "hf" or folder == cache / "weights" / "hf"
    assert ".." not in folder.parts


# --- what is published -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, entry in list_encoders().items() if entry.source])
def test_every_source_is_well_formed(name):
    entry = list_encoders()[name]
    source = catalog.source_of(entry)
    if source.kind == "url":
        assert source.url.startswith("https://")
        assert source.file
        assert "/" not in source.file
        assert source.sha256 or source.md5, "a download that cannot be checked"
    if source.kind:
        assert entry.weights == "required"
        assert f"evar weights fetch {name}" in catalog.how_to_get(entry)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"urll": "https://x/y"}, "did you mean 'url'"),
        ({"url": "https://x/y", "hf": "a/b"}, "more than one of url, hf, tfhub"),
        ({"url": "https://x/y", "sha256": "xyz"}, "'xyz' is no digest"),
    ],
)
def test_a_mistyped_source_is_refused(source, message, publish):
    assert message in refused(catalog.source_of, publish(byola_v1_1024=source))


def test_the_file_name_comes_from_the_link(entry):
    assert catalog.source_of(entry).file == "best=1.pth"


def test_missing_weights_say_how_to_get_them(entry, monkeypatch):
    message = refused(load_encoder, NAME)
    assert f"evar weights fetch {NAME}" in message
    assert "CC BY 4.0" in message
    assert f"give {NAME}@FILE" in message
    monkeypatch.setenv("EVAR_OFFLINE", "1")
    message = refused(load_encoder, NAME)
    assert "EVAR_OFFLINE is set" in message
    assert f"bring best=1.pth and type 'evar weights add {NAME} PATH'" in message


# --- is it what it says? ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["sha256", "sha256_prefix", "md5"])
def test_a_damaged_file_under_the_published_name_is_refused(known, publish, content, tmp_path):
    digest = hashlib.new(known.partition("_")[0], content).hexdigest()
    source = {"url": "https://x/best.pth", known: digest[:8] if known == "sha256_prefix" else digest}
    entry, path = publish(byola_v1_1024=source), tmp_path / "best.pth"
    path.write_bytes(content)
    catalog.verify_known(entry, path)
    catalog.verify_known(entry, str(path), sha256=hashlib.sha256(content).hexdigest())
    path.write_bytes(content[:-1] + b"?")
    message = refused(catalog.verify_known, entry, path)
    assert f"{path} is named as the published weights of {NAME}" in message
    assert "damaged or another file" in message
    assert f"{known[:6].rstrip('_')} {source[known]}, found " in message
    assert f"evar weights fetch {NAME}" in message


def test_a_truncated_file_is_told_by_its_size(entry, content, tmp_path):
    (tmp_path / "best=1.pth").write_bytes(content[:1000])
    message = refused(catalog.verify_known, entry, tmp_path / "best=1.pth")
    assert f"expected {len(content)} bytes, found 1000" in message


def test_files_of_other_names_and_folders_are_anybodys(entry, publish, content, tmp_path):
    for name in ("mine.pth", "best.pth"):
        (tmp_path / name).write_bytes(b"my own")
        catalog.verify_known(entry, tmp_path / name)
    catalog.verify_known(entry, tmp_path / "absent" / "best=1.pth")
    hub = publish(byola_v1_1024={"hf": "a/b", "file": "model.safetensors", "sha256": "0" * 64})
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "model.safetensors").write_bytes(b"fine-tuned")
    catalog.verify_known(hub, tmp_path / "tuned")
    catalog.verify_known(hub, tmp_path / "tuned" / "model.safetensors")


def test_the_hubs_model_in_the_cache_is_checked(publish):
    hub = publish(byola_v1_1024={"hf": "a/b", "file": "model.safetensors", "sha256": "0" * 64})
    folder = catalog.hub_folder("hf", "a/b")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert "expected sha256 000" in refused(catalog.verify_known, hub, folder)


@pytest.mark.parametrize(
    ("came", "found"),
    [
        (["pytorch_model.bin"], "pytorch_model.bin"),
        (["model.safetensors.index.json", "pytorch_model.bin"], "model.safetensors.index.json"),
        (["weights.h5"], "none of that name"),
    ],
)
def test_a_hubs_model_whose_published_file_did_not_come_is_not_checked_on_nothing(came, found, publish, monkeypatch):
    """A model without the file, or with another that is read first, passed because there was no file to compare."""
    published = "model.safetensors" if len(came) == 1 else "pytorch_model.bin"
    publish(byola_v1_1024={"hf": "a/b", "file": published, "sha256": hashlib.sha256(b"w").hexdigest()})

    def fetch_model(name, folder):
        folder.mkdir(parents=True)
        for file in ("config.json", *came):
            (folder / file).write_bytes(b"w")
        return folder

    monkeypatch.setattr("evar.encoders.huggingface.fetch_model", fetch_model)
    message = refused(catalog.fetch, NAME)
    folder = catalog.hub_folder("hf", "a/b")
    assert f"the weights of {NAME} were published as {published}, found {found} in {folder}" in message
    assert "\n" not in message
    assert (folder.with_name("a--b.bad") / came[0]).is_file()
    assert not folder.exists()
    came[:] = [published]
    assert catalog.fetch(NAME) == folder


# --- adding ----------------------------------------------------------------------------------------------------------


def test_added_weights_are_used_without_a_file(entry, content, tmp_path, cache):
    given = tmp_path / "renamed by me.pth"
    given.write_bytes(content)
    path = catalog.add(NAME, given)
    assert path == cache / "weights" / NAME / "best=1.pth", "the published file has its published name"
    assert path.read_bytes() == content
    given.unlink()
    assert catalog.fetched(entry) == path
    encoder = load_encoder(NAME)
    assert encoder.label == NAME
    assert encoder.weights_sha256 == hashlib.sha256(content).hexdigest()
    assert catalog.digest_of(path) == encoder.weights_sha256


def test_other_weights_need_force_and_keep_their_name(entry, tmp_path, cache):
    other = tmp_path / "other.pth"
    torch.save(dict(load_encoder(f"random:{NAME}@1").state_dict()), other)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    message = refused(catalog.add, NAME, other)
    assert "is not what was published as" in message
    assert "--force" in message
    assert not (cache / "weights" / NAME).exists()
    assert catalog.add(NAME, other, force=True) == cache / "weights" / NAME / "other.pth"
    assert load_encoder(NAME).weights_sha256 == digest
    impostor = other.rename(tmp_path / "best=1.pth")
    assert "rename the file" in refused(catalog.add, NAME, impostor, force=True)


def test_what_does_not_load_is_not_added(entry, publish, tmp_path, cache):
    publish(byola_v1_1024=None)
    wrong = tmp_path / "wrong.pth"
    torch.save(dict(load_encoder("random:byola-v2").state_dict()), wrong)
    assert "does not fit" in refused(catalog.add, NAME, wrong)
    wrong.write_bytes(b"<html>")
    assert "no weights file" in refused(catalog.add, NAME, wrong)
    assert "does not exist" in refused(catalog.add, NAME, tmp_path / "absent.pth")
    assert not list(cache.rglob("*.pth"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("byola-v1-1042", "did you mean 'byola-v1-1024'"),
        ("logmel", "it has no weights"),
        ("byola", "they come with evar"),
        ("hf:a/b", "unknown encoder 'hf:a/b'"),
    ],
)
def test_nothing_is_added_for_an_encoder_that_takes_none(name, message, tmp_path):
    assert message in refused(catalog.add, name, tmp_path)


def test_weights_of_before_are_removed_only_when_the_new_ones_are_there(publish, content, tmp_path, cache):
    publish(byola_v1_1024=None)
    first, second = tmp_path / "first.pth", tmp_path / "second.pth"
    first.write_bytes(content)
    torch.save(dict(load_encoder(f"random:{NAME}@1").state_dict()), second)
    catalog.add(NAME, first)
    catalog.add(NAME, second)
    assert sorted(path.name for path in (cache / "weights" / NAME).iterdir()) == ["second.pth"]
    assert catalog.add(NAME, cache / "weights" / NAME / "second.pth").read_bytes() == second.read_bytes()
    (cache / "weights" / NAME / "third.pth").write_bytes(b"half a copy")  # a copy that was killed before it was noted
    assert catalog.fetched(list_encoders()[NAME]).name == "second.pth"


def test_a_run_is_added_as_its_final_weights(publish, content, tmp_path, cache):
    publish(byola_v1_1024=None)
    from evar.encoders.weights import write_weights

    state = load_encoder(f"random:{NAME}").state_dict()
    norm = {"mean": -6.0, "std": 4.0}
    write_weights(tmp_path / "run" / "run.safetensors", state, {"encoder": NAME, "normalization": norm})
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"large")
    assert catalog.add(NAME, tmp_path / "run") == cache / "weights" / NAME / "run.safetensors"


def test_a_folder_is_copied_with_the_files_that_its_links_name(tmp_path):
    blobs, model = tmp_path / "blobs", tmp_path / "snapshot"
    for folder in (blobs, model, model / "variables", model / ".cache"):
        folder.mkdir()
    (blobs / "abc").write_bytes(b"content")
    (model / "variables" / "model.safetensors").symlink_to(blobs / "abc")
    (model / ".cache" / "junk").touch()
    catalog._copy(model, tmp_path / "copy")
    (blobs / "abc").unlink()
    assert (tmp_path / "copy" / "variables" / "model.safetensors").read_bytes() == b"content"
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["variables"]
    assert not list(tmp_path.glob(".*.tmp"))


# --- one file, several encoders --------------------------------------------------------------------------------------


def test_two_encoders_of_one_published_file_share_it(publish, content, tmp_path):
    source = {"url": "https://x/best.pth", "sha256": hashlib.sha256(content).hexdigest()}
    publish(byola_v1_1024=source, byola_v2_2048=source)
    (tmp_path / "best.pth").write_bytes(content)
    path = catalog.add(NAME, tmp_path / "best.pth")
    assert catalog.fetched(list_encoders()[TWIN]) == path
    assert catalog.fetch(TWIN) == path, "nothing is downloaded twice"


def test_two_encoders_of_one_hub_model_share_it(publish):
    publish(byola_v1_1024={"hf": "a/b"}, byola_v2_2048={"hf": "a/b"})
    folder = catalog.hub_folder("hf", "a/b")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert catalog.fetched(list_encoders()[NAME]) is None, "without config.json it is no whole model"
    (folder / "config.json").touch()
    assert catalog.fetched(list_encoders()[NAME]) == catalog.fetched(list_encoders()[TWIN]) == folder


def test_a_file_put_there_by_hand_is_found_but_not_the_beginning_of_one(entry, cache):
    folder = cache / "weights" / NAME
    folder.mkdir(parents=True)
    for name in ("best=1.pth.part", "best=1.pth.part.json", "best=1.pth.bad", ".tmp"):
        (folder / name).touch()
    assert catalog.fetched(entry) is None
    (folder / "best=1.pth").touch()
    assert catalog.fetched(entry) == folder / "best=1.pth"


@pytest.mark.parametrize("record", ["", "[]", '{"file": 3}', '{"file": "gone.pth"}', '{"file": ""}'])
def test_a_damaged_record_is_no_error(record, entry, cache):
    (cache / "weights" / NAME).mkdir(parents=True)
    (cache / "weights" / f"{NAME}.json").write_text(record)
    assert catalog.fetched(entry) is None
    (cache / "weights" / NAME / "w.pth").touch()
    assert catalog.fetched(entry).name == "w.pth"
    assert catalog.digest_of(catalog.fetched(entry)) == hashlib.sha256(b"").hexdigest()
