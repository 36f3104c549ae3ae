"""Fear: the wrong folder is scored, or the right one is not found and the message does not help."""

from __future__ import annotations

import json
import os

import pytest

from evar.datasets import find_card, layouts
from evar.datasets.locate import locate
from evar.errors import EvarError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def esc50(folder):
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    (folder / "meta/esc50.csv").touch()
    return folder


def find(name, *data):
    card = find_card(name)
    layout = layouts.load(card)
    return locate(card, layout, layouts.options(card, layout), [str(value) for value in data])


def test_a_root_its_parent_and_a_named_folder(tmp_path):
    root = esc50(tmp_path / "sets" / "my sounds")
    assert find("esc50", root) == root
    assert find("esc50", tmp_path / "sets") == root
    assert find("esc10", f"esc10={root}") == root
    assert find("esc50", f"us8k={tmp_path}", root) == root


def test_the_cards_folder_name_wins_over_markers(tmp_path):
    esc50(tmp_path / "copy")
    root = esc50(tmp_path / "ESC-50")
    assert find("esc50", tmp_path) == root


def test_an_empty_folder_of_the_right_name_does_not_hide_the_data(tmp_path):
    (tmp_path / "ESC-50").mkdir()
    root = esc50(tmp_path / "ESC-50-master")
    assert find("esc50", tmp_path) == root


def test_minis_of_two_tasks_side_by_side(tmp_path):
    for name in ("esc10", "esc50"):
        root = esc50(tmp_path / f"{name}-mini")
        (root / "EVAR_SYNTHETIC.json").write_text(json.dumps({"card": name, "counts": {}}))
    assert find("esc10", tmp_path) == tmp_path / "esc10-mini"
    assert find("esc50", tmp_path) == tmp_path / "esc50-mini"


def test_two_matches_are_an_error_that_lists_both(tmp_path):
    one, two = esc50(tmp_path / "a" / "ESC-50"), esc50(tmp_path / "b" / "ESC-50")
    for data in ([one, two], [one.parent, two.parent], [f"esc50={one}", f"esc50={two}"]):
        with pytest.raises(EvarError) as error:
            find("esc50", *data)
        assert str(one) in str(error.value)
        assert str(two) in str(error.value)


def test_one_folder_under_two_names_is_one_match(tmp_path):
    root = esc50(tmp_path / "ESC-50")
    (tmp_path / "ESC-50-master").symlink_to(root)
    assert find("esc50", tmp_path, root).samefile(root)


def test_order_of_places(tmp_path, monkeypatch):
    given, env, here = esc50(tmp_path / "given"), esc50(tmp_path / "env"), esc50(tmp_path / "cwd/data/ESC-50")
    assert find("esc50").samefile(here)
    monkeypatch.setenv("EVAR_DATA", os.pathsep.join([str(tmp_path / "cwd"), str(env)]))
    assert find("esc50") == env
    assert find("esc50", given) == given
    (tmp_path / "empty").mkdir()
    assert find("esc50", tmp_path / "empty") == env


def test_nothing_found_says_where_what_and_how(tmp_path):
    with pytest.raises(EvarError) as error:
        find("esc50", tmp_path)
    for part in (str(tmp_path), "ESC-50", "meta/esc50.csv", "--data", "evar data fetch esc50", "evar data mini esc50"):
        assert part in str(error.value)
    with pytest.raises(EvarError, match=r"voxforge\.csv with the columns path,label,split,group"):
        find("voxforge", tmp_path)


@pytest.mark.parametrize("value", ["absent", "esc50=absent", "file", "esc50=file"])
def test_a_value_that_is_no_folder(tmp_path, value):
    (tmp_path / "cwd/file").touch()
    with pytest.raises(EvarError, match="is not a folder"):
        find("esc50", value)


def test_a_folder_with_an_equals_sign(tmp_path):
    root = esc50(tmp_path / "a=b")
    assert find("esc50", root) == root


def test_the_split_file_marks_a_folder(tmp_path):
    root = tmp_path / "somewhere"
    root.mkdir()
    (root / "surge.csv").touch()
    assert find("surge", tmp_path) == root
    assert find("surge", root) == root


def test_no_split_is_invented_under_a_published_name(tmp_path):
    from evar.datasets import load_task

    for label in ("de", "en"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.wav").touch()
    with pytest.raises(EvarError, match=r"path,label,split\[,group\].*draws no split of its own"):
        load_task("voxforge", tmp_path)
