"""What is wrong with the words for an engine is said in one line, before any work."""

from __future__ import annotations

import pytest

import evar
from evar import extras
from evar.errors import EvarError

needs_cluster = pytest.mark.skipif(bool(extras.missing("cluster")), reason="needs the extra cluster")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"engine": "slurm"}, "unknown engine 'slurm'"),
        ({"engine": "locl"}, "did you mean 'local'"),
        ({"workers": 0}, "workers: expected a whole number of at least 1, found 0"),
        ({"workers": "2"}, "workers: expected a whole number"),
        ({"retries": -1}, "retries: expected a whole number of at least 0, found -1"),
        ({"engine_options": {"a": 1}}, "engine local takes no options, found a"),
        ({"engine_options": {"a": 1}, "workers": 2}, "engine local takes no options, found a"),
        ({"engine_options": ["a"]}, "engine_options: expected names and values"),
    ],
)
def test_wrong_words(place, message, tmp_path):
    with pytest.raises(EvarError, match=message) as error:
        evar.run("logmel", "fsdd", mini=True, results=tmp_path / "r", embeddings=tmp_path / "e", device="cpu", **place)
    assert "\n" not in str(error.value)


@needs_cluster
@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("ray", {"cpus": 1}, "unknown option of engine ray 'cpus'"),
        ("ray", {"num_cpus": "two"}, "num_cpus: expected a number, found 'two'"),
        ("ray", {"num_cpus": "nan"}, "at least 0, found 'nan'"),
        ("submitit", {"cluster": "pbs"}, "cluster: expected slurm or local, found 'pbs'"),
        ("submitit", {"no_such": "1"}, "engine submitit: .*no_such"),
        ("submitit", {"cluster": "slurm"}, "engine submitit: "),
    ],
)
def test_wrong_options(engine, options, message, tmp_path):
    with pytest.raises(EvarError, match=message):
        evar.run("logmel", "fsdd", results=tmp_path / "r", device="cpu", engine=engine, engine_options=options)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("engine", ["ray", "submitit"])
def test_a_missing_library_names_its_extra(engine, tmp_path, monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "cluster", ("no_such_module_of_evar",))
    with pytest.raises(EvarError, match=rf"--engine {engine} needs .*pip install 'submitit>=.* 'ray>="):
        evar.run("logmel", "fsdd", mini=True, results=tmp_path / "r", embeddings=tmp_path / "e", engine=engine)


def test_an_encoder_object_stays_in_its_process(tmp_path):
    encoder = evar.load_encoder("logmel")
    with pytest.raises(EvarError, match="named by words, found LogMelStatistics: use --engine local"):
        evar.run(encoder, "fsdd", mini=True, results=tmp_path / "r", embeddings=tmp_path / "e", workers=2)


def test_bad_input_is_said_by_the_driver_before_any_job(tmp_path):
    for encoders, tasks in (("logmell", "fsdd"), ("logmel", "fsd"), ("byola-v2@nothing.pth", "fsdd")):
        with pytest.raises(EvarError):
            evar.run(encoders, tasks, mini=True, results=tmp_path / "r", embeddings=tmp_path / "e", workers=2)
    assert not (tmp_path / "r" / ".jobs").exists()
