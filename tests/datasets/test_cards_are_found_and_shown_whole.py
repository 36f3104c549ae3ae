"""Fear: a card says something that `task show` hides, or lies beside the user and is not named."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from evar.cli.listing import task_command
from evar.datasets import find_card
from evar.errors import EvarError

CARD = "name: {}\nseconds: 1\nsplit: parts\nlayout: folder_per_class\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def put(path, more=""):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(CARD.format((tmp_path / path).stem) + more)

    return put


def shown(task):
    done = CliRunner().invoke(task_command, ["show", str(task)])
    assert done.exit_code == 0, done.output
    return dict(line.strip().split("  ", 1) for line in done.output.splitlines() if "  " in line.strip())


def test_options_lists_and_what_a_base_says_are_shown(here):
    here(
        "mine.yaml", "split_file: lists/mine.csv\noptions: {parts: {dev: train}}\nlists: {a.csv: '" + "0" * 64 + "'}\n"
    )
    with open("child.yaml", "w") as file:
        file.write("name: child\nbase: mine\noptions: {draw: true}\n")
    own = shown("./mine.yaml")
    assert own["options"] == 'parts: {"dev": "train"}'
    assert own["split_file"].startswith("lists/mine.csv (to lie beside the card")
    assert own["lists"].startswith("a.csv (sha256 0000")
    child = CliRunner().invoke(task_command, ["show", "./child.yaml"]).output
    for said in ("lists/mine.csv", "draw: true", "parts: {} (default)", "base  mine", "a.csv"):
        assert said in child


@pytest.mark.parametrize(
    ("typed", "lies", "named"),
    [
        ("birds", "birds.yaml", "./birds.yaml"),
        ("birds", "birds.yml", "./birds.yml"),
        ("birds", "cards/birds.yaml", "cards/birds.yaml"),
        ("birds.yaml", "cards/own/birds.yaml", "cards/own/birds.yaml"),
        ("./birds", "birds.yaml", "./birds.yaml"),
        ("cards/birds", "cards/birds.yaml", "cards/birds.yaml"),
        ("birds.yaml", "birds.yml", "./birds.yml"),
        ("brids.yaml", "birds.yaml", "birds.yaml"),
    ],
)
def test_a_card_that_lies_near_is_named_as_one_types_it(here, typed, lies, named):
    here(lies)
    with pytest.raises(EvarError, match=rf"did you mean {named}\?"):
        find_card(typed)
    assert find_card(named).name == "birds"


def test_a_yml_card_in_the_tasks_dir_is_named(here, tmp_path):
    here("cards/birds.yml")
    with pytest.raises(EvarError, match=r"did you mean cards/birds\.yml\?"):
        find_card("birds", tmp_path / "cards")


@pytest.mark.parametrize(("word", "meant"), [("val", "valid"), ("Validation", "valid"), ("training", "train")])
def test_counts_of_a_part_by_another_word_name_ours(here, word, meant):
    here("birds.yaml", f"counts: {{{word}: 3}}\n")
    with pytest.raises(EvarError, match=f"unknown count '{word}'; did you mean '{meant}'"):
        find_card("birds.yaml")
