"""Fear: a typing mistake in a card silently changes a task."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from evar.datasets import find_card, list_cards, list_suites
from evar.errors import EvarError

GOOD = "name: mine\nseconds: 1.0\nsplit: folds\nfolds: 2\nlayout: csv_columns\n"


@pytest.fixture
def card_of(tmp_path):
    def read(text, name="mine"):
        (tmp_path / f"{name}.yaml").write_text(text)
        return find_card(name, tmp_path)

    return read


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("metrc: accuracy", "'metrc'; did you mean 'metric'"),
        ("seconds: five", "'seconds': expected a number"),
        ("seconds: .inf", "'seconds': expected a number"),
        ("seconds: true", "'seconds': expected a number"),
        ("folds: 2.5", "'folds': expected a whole number"),
        ("metric: acuracy", "did you mean 'accuracy'"),
        ("multilabel: true", "goes with 'multilabel: true'"),
        ("groups_disjoint: true", "needs 'group'"),
        ("groups_disjoint: false", "has no effect without 'group'"),
        ("classes: [yes, no]", "write it in quotes"),
        ("classes: [a, a]", "twice"),
        ("classes: 1", "from 2"),
        ("counts: {fold3: 1}", "did you mean 'fold"),
        ("counts: {clips: -1}", "from 0"),
        ("lists: {../x.txt: abc}", "without '..'"),
        ("lists: {x.txt: abc}", "64 digits"),
        ("split_file: /etc/passwd", "relative path"),
        ("paper: {lr: {byola-v2: fast}}", "expected a number"),
        ("paper: {rate: 1}", "'rate'"),
        ("folders: ESC-50", "expected a list"),
        ("options: [a]", "expected a mapping"),
        ("options: {x: 2020-01-01}", "date"),
        ("version: 0", "from 1"),
        ("title: {a: b}", "expected a text"),
        ("split: parts", "given twice"),
        ("fetch: [{sha256: abc}]", "'url' is missing"),
        ("fetch: [{url: 'file:///etc/passwd'}]", "http:// or https://"),
        ("fetch: [{url: 'http://a/b', unpack: rar}]", "tar.gz"),
        ("fetch: [{url: 'http://a/b', into: ../..}]", "without '..'"),
        ("fetch: [{url: 'http://a/b', md6: x}]", "did you mean 'md5'"),
        ("1: 2", "expected a text"),
        ("title: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("title: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(card_of, line, says):
    key = line.partition(":")[0]
    kept = [row for row in GOOD.splitlines() if row.partition(":")[0] != key or "twice" in says]
    with pytest.raises(EvarError) as error:
        card_of("\n".join([*kept, line]))
    assert says in str(error.value)
    assert "mine.yaml" in str(error.value)


@pytest.mark.parametrize("key", ["seconds", "split", "layout"])
def test_a_key_that_every_card_needs(card_of, key):
    with pytest.raises(EvarError, match=f"'{key}' is missing|goes with 'split: folds'"):
        card_of("\n".join(row for row in GOOD.splitlines() if not row.startswith(key)))


@pytest.mark.parametrize("text", ["", "- a", "just words", "\x00", "a: &x [*x]"])
def test_a_file_that_is_no_mapping(card_of, text):
    with pytest.raises(EvarError, match=r"mine\.yaml"):
        card_of(text)


def test_a_card_that_is_not_utf8(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(GOOD.encode() + b"title: \xff\xfe")
    with pytest.raises(EvarError, match="cannot read"):
        find_card("mine", tmp_path)


def test_the_name_is_the_file_name(card_of):
    with pytest.raises(EvarError, match="name is 'mine', expected 'yours'"):
        card_of(GOOD, "yours")


def test_unknown_layout_and_option_suggest_the_nearest(card_of, tmp_path):
    from evar.datasets import load_task

    card_of(GOOD.replace("csv_columns", "csv_colums"))
    with pytest.raises(EvarError, match="did you mean 'csv_columns'"):
        load_task("mine", tmp_path, tasks_dir=tmp_path)
    card_of(GOOD + "options: {labell: x}")
    with pytest.raises(EvarError, match="did you mean 'label'"):
        load_task("mine", tmp_path, tasks_dir=tmp_path)
    card_of(GOOD + "options: {label: 3}")
    with pytest.raises(EvarError, match="expected a text, found 3"):
        load_task("mine", tmp_path, tasks_dir=tmp_path)


def test_words_without_quotes_are_not_booleans(tmp_path):
    from evar.datasets import load_task

    (tmp_path / "mine.yaml").write_text("name: mine\nbase: spcv2\noptions: {words: [yes, no]}\n")
    with pytest.raises(EvarError, match="write it in quotes"):
        load_task("mine", tmp_path, tasks_dir=tmp_path)


def test_base_gives_every_key_that_is_not_given(card_of):
    parent = find_card("esc50")
    child = card_of("name: mine\nbase: esc50\nseconds: 2\ncounts: null\n")
    assert (child.seconds, child.counts) == (2.0, {})
    assert (child.layout, child.folds, child.licence, child.fetch) == (
        parent.layout,
        parent.folds,
        parent.licence,
        parent.fetch,
    )


def test_base_that_does_not_end(tmp_path):
    for name, base in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "d"), ("e", "esc500")):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nbase: {base}\n")
    with pytest.raises(EvarError, match="in a circle: a -> b -> c -> a"):
        find_card("a", tmp_path)
    with pytest.raises(EvarError, match="in a circle: d -> d"):
        find_card("d", tmp_path)
    with pytest.raises(EvarError, match="did you mean 'esc50'"):
        find_card("e", tmp_path)


def test_numbers_without_a_dot_are_numbers(card_of):
    assert card_of(GOOD + "paper: {lr: {byola-v2: 3e-5}}").paper["lr"]["byola-v2"] == pytest.approx(3e-5)


def test_a_card_cannot_be_changed_in_hand(card_of):
    with pytest.raises(FrozenInstanceError):
        card_of(GOOD).seconds = 2.0


def test_unknown_task_suggests_the_nearest(tmp_path):
    for name in ("esc5", "ESC50", "../esc50", "esc50/", "suites", "", "a\nb"):
        with pytest.raises(EvarError, match=r"unknown task .*(did you mean|there are)"):
            find_card(name)
    with pytest.raises(EvarError, match="not found"):
        find_card(str(tmp_path / "esc50.yaml"))
    with pytest.raises(EvarError, match="not a folder"):
        find_card("esc50", tmp_path / "absent")


def test_look_up_order(tmp_path, monkeypatch):
    for place in ("given", "env", "cwd/tasks"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text(GOOD + f"title: {place}\n")
    monkeypatch.setenv("EVAR_TASKS", str(tmp_path / "env"))
    monkeypatch.chdir(tmp_path / "cwd")
    assert find_card("mine", tmp_path / "given").title == "given"
    assert find_card("mine").title == "env"
    monkeypatch.delenv("EVAR_TASKS")
    assert find_card("mine").title == "cwd/tasks"
    assert find_card(tmp_path / "given" / "mine.yaml").title == "given"
    assert find_card("esc50").layout == "esc50"


def test_a_card_that_hides_a_shipped_one_warns(tmp_path):
    (tmp_path / "esc50.yaml").write_text(GOOD.replace("mine", "esc50"))
    with pytest.warns(UserWarning, match="hides the shipped card 'esc50'"):
        card = find_card("esc50", tmp_path)
    assert card.shadows is not None
    assert find_card("esc10", tmp_path).folds == 5, "a shipped card stands on shipped bases"


def test_an_equal_copy_of_a_shipped_card_hides_nothing(tmp_path):
    shipped = find_card("esc50")
    (tmp_path / "esc50.yaml").write_bytes(shipped.path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy = find_card("esc50", tmp_path)
    assert (copy.shadows, copy.sha) == (None, shipped.sha)


def test_a_strange_tasks_folder_of_another_program_does_not_stop_the_listing(tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "main.yaml").write_text("- hosts: all\n")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="left out"):
        assert "esc50" in list_cards()
    with pytest.raises(EvarError, match=r"main\.yaml"):
        list_cards(tmp_path / "tasks")


def test_every_shipped_card_is_valid_and_says_where_the_data_come_from():
    cards = list_cards()
    assert {"esc50", "esc10", "us8k", "spcv2", "spcv2-12", "voxforge", "surge"} <= set(cards)
    for name, card in cards.items():
        assert card.name == name
        assert card.title
        assert card.asks
        assert card.licence, name
        assert card.citation, name
        assert card.fetch or card.bring, f"{name} says neither where to fetch nor how to bring its data"


def test_suites():
    suites = list_suites()
    assert suites["paper9"] == ("esc50", "us8k", "spcv2", "vc1", "voxforge", "cremad", "gtzan", "nsynth", "surge")
    assert set(suites["seven"]) < set(suites["paper9"])
    assert "pack" not in suites
    own = list_suites(Path(__file__).parents[1] / "cards")
    assert (len(own["pack"]), len(own["pack-own"])) == (6, 6)
    assert find_card("pack-emodb", Path(__file__).parents[1] / "cards").seconds == 2.0
    assert find_card("emodb").seconds == 4.0


def test_listing_imports_nothing_heavy():
    code = (
        "import sys, evar.datasets as d; d.list_cards(); d.list_suites();"
        "print(*sorted({'torch', 'pandas', 'numpy', 'sklearn', 'scipy', 'soundfile'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
