"""A table shows what was measured beside what was published, and nothing that does not belong there."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from table_data import BYOLA, KNOWN, NINE, WEIGHTS, drawn, line_of, record, record_whole, table_of

from evar.errors import EvarError
from evar.leaderboard import format_leaderboard
from evar.reporting.rows import measured, summarised
from evar.reporting.table_formats import FORMATS
from evar.reporting.table_missing import missing
from evar.reporting.tables import Wanted, differences, percent, rounded
from evar.results import Results


@pytest.fixture
def whole(tmp_path):
    return record_whole(tmp_path / "results")


def test_measured_stands_beside_published_with_the_difference(whole):
    table = table_of(whole)
    (variant,) = line_of(table, "BYOL-A").variants
    points = differences(line_of(table, "BYOL-A"), variant, table.paper.average)
    assert set(points) == {*NINE, "average"}
    assert set(points.values()) == {Decimal("0.5")}
    text = drawn(table, "text").splitlines()
    at = next(i for i, line in enumerate(text) if line.startswith("BYOL-A"))
    assert text[at].split() == ["BYOL-A", "83.2±0.6", "79.7±0.5", "93.1±0.4", "57.6±0.2", "93.3±0.3", "63.8±1.0",
                                "70.1±3.6", "73.1±0.8", "37.6±0.3", "72.4"]  # fmt: skip
    assert text[at + 1].split()[0::10] == ["measured", "72.9"]
    assert text[at + 2].split() == ["difference", *["+0.5"] * 10]


def test_nothing_measured_gives_the_published_table_and_its_commands(tmp_path):
    table = table_of(tmp_path / "none")
    assert len(table.lines) == 34
    text = drawn(table, "text")
    assert f"evar run byola-v2@{WEIGHTS} {','.join(NINE)} --probe paper\n" in text
    assert "no such encoder in this evar: M2D, M2D-AS" in text
    assert "no cell" in text


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"synthetic": True}, "synthetic stand-in"),
        ({"partial": True}, "official clips were missing"),
        ({"contaminated": True}, "pre-trained on this task's data"),
        ({"limit": 100}, "subset of the clips"),
        ({"shots": 5}, "part of the training clips"),
        ({"train_fraction": 0.5}, "part of the training clips"),
        ({"skipped": 1}, "cannot be decoded"),
        ({"duration": "native"}, "not cut or padded"),
        ({"protocol": "fair"}, "protocol fair, not paper"),
        ({"protocol_version": 1}, "version 1 of the protocol, this evar has 2"),
        ({"seeds": "7 8 9"}, "seeds 7 8 9, the protocol has 42 43 44"),
        ({"norm": "weights"}, "the protocol takes the task's"),
        ({"metric": "mAP"}, "another one is published"),
        ({"mean": float("nan")}, "no score"),
        ({"mean": 84.0}, "no score"),
    ],
)
def test_a_row_that_does_not_belong_never_enters_and_is_named(tmp_path, changed, reason):
    record(tmp_path, **(BYOLA | changed))
    table = table_of(tmp_path)
    assert not any(line.variants for line in table.lines)
    (line,) = summarised(table.left_out)
    assert reason in line
    assert f"{BYOLA['encoder']} × esc50" in line
    assert line in drawn(table, "text")


def test_an_unpublishable_row_does_not_push_out_a_good_one(tmp_path):
    good = record(tmp_path, mean=0.83, **BYOLA)
    record(tmp_path, mean=0.99, start=1, **BYOLA | {"synthetic": True})
    record(tmp_path, mean=0.98, start=2, **BYOLA | {"seeds": "1 2 3"})
    (variant,) = line_of(table_of(tmp_path), "BYOL-A").variants
    assert variant.scores["esc50"].cell_id == good


def test_rows_that_are_asked_for_are_kept(tmp_path):
    record(tmp_path, partial=True)
    record(tmp_path, start=1, partial=True, contaminated=True)
    found = measured(Results(tmp_path), allow=("partial",))
    assert len(found.rows) == 1
    assert list(found.left_out["reason"]) == ["the encoder was pre-trained on this task's data"]
    with pytest.raises(EvarError, match="did you mean 'partial'"):
        measured(Results(tmp_path), allow=("partal",))


@pytest.mark.parametrize(
    ("changed", "model"),
    [
        ({}, "BYOL-A"),
        ({"encoder": "mine"}, "BYOL-A"),  # the user's label, the published file
        ({"weights": "own.safetensors", "encoder": "byola-v2@own"}, "byola-v2@own"),
        ({"weights": "", "weights_kind": "random", "encoder": "random:byola-v2"}, "random:byola-v2"),
        ({"weights_kind": "random"}, BYOLA["encoder"]),
        ({"weights": "", "weights_kind": "bundled", "encoder": "byola"}, "byola"),
        ({"pooling": "mean"}, BYOLA["encoder"]),
    ],
)
def test_only_the_published_weights_and_pooling_stand_beside_the_published_row(tmp_path, changed, model):
    record(tmp_path, **(BYOLA | changed))
    assert [line.model for line in table_of(tmp_path).lines if line.variants] == [model]


def test_two_ways_of_measuring_are_two_lines_and_share_no_average(tmp_path):
    for task in NINE[:5]:
        record(tmp_path, task, **BYOLA)
    for task in NINE[5:]:
        record(tmp_path, task, **BYOLA | {"layers": "conv"})
    variants = line_of(table_of(tmp_path), "BYOL-A").variants
    assert [variant.note for variant in variants] == ["conv", "fc"]
    text = drawn(table_of(tmp_path), "text")
    line = next(line for line in text.splitlines() if "{conv}" in line and line.startswith("  measured"))
    assert line.count("±") == 4
    assert line.rstrip().endswith("±0.5")  # no average over four tasks


def test_a_cell_measured_again_shows_the_newest_and_names_the_other(tmp_path):
    record(tmp_path, mean=0.80, **BYOLA)
    newest = record(tmp_path, mean=0.85, start=5, **BYOLA)
    table = table_of(tmp_path)
    assert line_of(table, "BYOL-A").variants[0].scores["esc50"].cell_id == newest
    assert list(table.left_out["reason"]) == ["measured again later"]


def test_rows_on_other_clips_do_not_share_a_column(tmp_path):
    for label in ("a", "b"):
        record(tmp_path, encoder=label)
    record(tmp_path, encoder="c", start=9, task_fingerprint="somebody's own clips")
    table = table_of(tmp_path)
    assert [line.model for line in table.lines if line.variants] == ["a", "b"]
    assert "other clips or splits" in summarised(table.left_out)[0]


def test_rows_of_fair_need_asking_and_the_heading_says_so(tmp_path):
    record(tmp_path, **BYOLA | {"protocol": "fair", "seeds": "0", "n_seeds": 1, "norm": "weights"})
    assert not any(line.variants for line in table_of(tmp_path).lines)
    table = table_of(tmp_path, protocol="fair")
    assert line_of(table, "BYOL-A").variants
    for form in FORMATS[:3]:
        assert "The protocols differ" in drawn(table, form)
    assert "The protocols differ" not in drawn(table_of(tmp_path), "text")


def test_missing_cells_come_with_a_command_that_measures_the_same_thing(tmp_path):
    record(tmp_path, **BYOLA)
    record(tmp_path, "us8k")
    record(tmp_path, "us8k", encoder="mine", weights="x.pth", weights_kind="trained", start=1)
    table = table_of(tmp_path)
    gaps = {gap.model: gap for gap in missing(table, KNOWN, NINE)}
    assert gaps[BYOLA["encoder"]].command(["--probe", "paper"]) == (
        f"evar run byola-v2@{WEIGHTS} {','.join(NINE[1:])} --probe paper --layers fc --pooling mean+max"
    )
    assert gaps["logmel"].tasks == tuple(task for task in NINE if task != "us8k")
    assert gaps["mine"].encoder == ""
    assert "--encoders mine=NAME[@FILE]" in gaps["mine"].why
    assert "mine=NAME" in drawn(table, "text")


def test_the_users_word_is_the_command(tmp_path):
    one = Wanted(f"byola-v2@my models/{WEIGHTS}", BYOLA["encoder"], "byola-v2", WEIGHTS)
    own = Wanted("mine=py:m:C", "mine")
    table = table_of(tmp_path, wanted=[one, own])
    assert [line.model for line in table.lines] == ["BYOL-A", "mine"]
    found = [gap.command() for gap in missing(table, KNOWN, NINE)]
    assert found == [
        f"evar run 'byola-v2@my models/{WEIGHTS}' {','.join(NINE)}",
        f"evar run mine=py:m:C {','.join(NINE)}",
    ]


def test_no_command_is_given_for_what_can_never_count(tmp_path):
    record(tmp_path, **BYOLA)
    record(tmp_path, "gtzan", **BYOLA | {"contaminated": True})
    command, reason = missing(table_of(tmp_path), KNOWN, NINE)[:2]
    assert "gtzan" not in command.tasks
    assert reason.encoder == ""
    assert "pre-trained on this task's data (gtzan)" in reason.why


def test_tasks_without_a_card_are_said():
    table = table_of("nowhere", "cola", [Wanted("cola", "cola", "cola")])
    gaps = missing(table, {"cola": "required"}, ("spcv2", "vc1", "nsynth"))
    assert [gap.why for gap in gaps] == ["FILE: weights of your own, no published file is known", "no task card"]
    assert "birdsong" in gaps[1].tasks


@pytest.mark.parametrize("mean", [0.7725, 0.8325, 0.7735, 2 / 3, 0.0, 1.0, 0.00049, 0.09950])
def test_a_number_reads_as_in_the_leaderboard(tmp_path, mean):
    record(tmp_path, mean=mean)
    shown = re.search(r"logmel +(\d+\.\d)", format_leaderboard(Results(tmp_path).leaderboard()))[1]
    assert str(rounded(percent(mean))) == shown


def test_many_rows_are_quick_to_sort_out(tmp_path):
    """40 encoders × 9 tasks: the work is per row, not per pair of rows."""
    for i in range(40):
        for j, task in enumerate(NINE):
            record(tmp_path, task, encoder=f"e{i:02d}", mean=i / 50, start=j, synthetic=i % 4 == 0)
    table = table_of(tmp_path)
    assert sum(len(line.variants) for line in table.lines) == 30
    assert len(table.left_out) == 90
    assert len(summarised(table.left_out)) == 1
