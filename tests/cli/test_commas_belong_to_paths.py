"""Fear: a comma in a path cuts a name in two, or two names are taken for one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import evar as package
from evar.cells import Settings, expand_encoders, expand_tasks, split_encoders, split_tasks
from evar.cli.run import echo_command, read_grid
from evar.errors import EvarError

BUNDLED = Path(package.__file__).parent / "encoders/bundled/byola-v1-512.safetensors"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "lr=0.1,bs=32/x.pth",
        "a,b,c/deep,er/y.pth",
        "plain.pth",
        "m,1/config.json",
        "a,b/birds.yaml",
        "one.yaml",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("byola-v2@lr=0.1,bs=32/x.pth", ["byola-v2@lr=0.1,bs=32/x.pth"]),
        ("logmel,byola-v2@lr=0.1,bs=32/x.pth,mfcc", ["logmel", "byola-v2@lr=0.1,bs=32/x.pth", "mfcc"]),
        ("mine=byola-v2@a,b,c/deep,er/y.pth,logmel", ["mine=byola-v2@a,b,c/deep,er/y.pth", "logmel"]),
        ("logmel,byola-v2@plain.pth,mfcc", ["logmel", "byola-v2@plain.pth", "mfcc"]),
        ("logmel, hf:m,1 ,mfcc", ["logmel", "hf:m,1", "mfcc"]),
        ("byola-v2@lr=0.1,bs=32/x.pth,hf:m,1", ["byola-v2@lr=0.1,bs=32/x.pth", "hf:m,1"]),
        ("byola-v2@lr=0.1,bs=32", ["byola-v2@lr=0.1,bs=32"]),  # a folder
        ("random:byola-v2,logmel,", ["random:byola-v2", "logmel"]),
    ],
)
def test_a_path_that_is_there_is_kept_whole(here, text, words):
    assert split_encoders(text) == words
    assert expand_encoders(words) == words


def test_paths_of_cards_and_of_data_are_kept_whole(here):
    assert split_tasks("esc50,./a,b/birds.yaml,gtzan") == ["esc50", "./a,b/birds.yaml", "gtzan"]
    assert expand_tasks("one.yaml,esc10") == ["one.yaml", "esc10"]
    assert Settings.of(data="birds=a,b,lr=0.1,bs=32,a,b").data == ("birds=a,b", "lr=0.1,bs=32", "a,b")
    assert Settings.of(data=["x,y", "z"], probe="fair,paper").data == ("x,y", "z")


def test_an_item_of_a_list_is_never_split(here):
    absent = "byola-v2@not/there,yet/x.pth"
    assert expand_encoders([absent, "logmel"]) == [absent, "logmel"]
    assert expand_tasks(["no,such/birds.yaml"]) == ["no,such/birds.yaml"]
    with pytest.raises(EvarError, match=r"an item of a list is one encoder: write 'logmel', 'mfcc' as items"):
        expand_encoders(["logmel,mfcc"])
    with pytest.raises(EvarError, match=r"an item of a list is one task: write 'esc50', 'gtzan' as items"):
        expand_tasks(["esc50,gtzan"])


@pytest.mark.parametrize("text", ["byola-v2@lr=0.2,bs=32/x.pth", "logmel,byola-v2@lr=0.2,bs=32", "hf:./no,where"])
def test_a_path_that_is_not_there_names_the_ways(here, text):
    with pytest.raises(EvarError, match=r"is no file or folder that is there.*list in a grid file, or --weights"):
        expand_encoders(text)


def test_a_card_that_is_not_there_is_named_whole(here):
    with pytest.raises(EvarError, match=r"task card not found: \./c,d/birds\.yaml"):
        expand_tasks("esc50,./c,d/birds.yaml")


def test_a_text_that_can_be_read_in_two_ways_is_an_error(here):
    Path("plain.pth,logmel").touch()
    with pytest.raises(EvarError, match="can be read in two ways, as one encoder and as 2"):
        expand_encoders("byola-v2@plain.pth,logmel")
    assert expand_encoders(["byola-v2@plain.pth,logmel"]) == ["byola-v2@plain.pth,logmel"]


def test_the_kept_command_of_a_run_reads_back_the_same(here):
    encoders, tasks = "logmel,byola-v2@lr=0.1,bs=32/x.pth", "./a,b/birds.yaml"
    echo_command(encoders, tasks, {"data": ("birds=a,b",), "probe": "fair"}, here / "results=1,2")
    (kept,) = (here / "results=1,2/commands").iterdir()
    named, of, options = read_grid(kept)
    assert (expand_encoders(named), expand_tasks(of)) == (split_encoders(encoders), [tasks])
    assert Settings.of(**options).data == ("birds=a,b",)


def test_rows_of_such_an_encoder_are_measured_filtered_and_compared(evar, tmp_path):
    folder = tmp_path / "lr=0.1,bs=32"
    folder.mkdir()
    shutil.copy(BUNDLED, folder / "w,1.safetensors")
    place = ["--results", "res=1,2", "--embeddings", "emb=1,2"]
    name = f"byola-v1-512@{folder}/w,1.safetensors"
    done = evar("run", f"{name},logmel", "esc10", "--mini", "--limit", "60", *place)
    assert done.code == 0, done.err
    (kept,) = (tmp_path / "res=1,2/commands").iterdir()
    assert evar("run", str(kept)).err.count("already measured") == 2
    shown = evar("leaderboard", "--results", "res=1,2", "--encoders", "byola-v1-512@w,1,logmel")
    assert "byola-v1-512@w,1" in shown.out
    assert "logmel" in shown.out
    compared = evar("compare", "byola-v1-512@w,1", "logmel", "--no-run", "--mini", "--tasks", "esc10", *place)
    assert compared.code == 0, compared.err
    jobs = evar("run", name, "esc10", "--mini", "--limit", "60", "--workers", "2", *place)
    assert "already measured" in jobs.err, jobs.err
