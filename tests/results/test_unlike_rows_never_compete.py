"""Synthetic with real, protocol with protocol, part with whole: ranked apart, and the table says which is which."""

from __future__ import annotations

import pytest
import results_data as d

from evar.leaderboard import format_leaderboard, rank
from evar.results import Results

APART = [
    {"synthetic": True},
    {"partial": True},
    {"limit": 100},
    {"shots": 5},
    {"train_fraction": 0.1},
    {"protocol": "paper"},
    {"protocol_version": 2},
    {"metric": "mAP"},
    {"task_fingerprint": "other"},
    {"task": "esc10"},
    {"duration": "native"},
]


@pytest.mark.parametrize("difference", APART, ids=lambda difference: next(iter(difference)))
def test_ranked_apart(tmp_path, difference):
    d.record(tmp_path, 1, mean=0.5)
    d.record(tmp_path, 2, mean=0.25)
    d.record(tmp_path, 3, mean=0.75, **difference)
    ranks = rank(Results(tmp_path).leaderboard()).set_index("encoder")["rank"].to_dict()
    assert ranks == {"encoder001": 1, "encoder002": 2, "encoder003": 1}
    text = format_leaderboard(Results(tmp_path).leaderboard())
    best = [line for line in text.splitlines() if line.endswith("*")]
    assert len(best) == 1
    assert best[0].startswith("encoder001")


def test_volatile_and_encoder_columns_do_not_split(tmp_path):
    d.record(tmp_path, 1, mean=0.5)
    d.record(tmp_path, 2, mean=0.5, host="there", pooling="mean", weights_sha256="9", n_seeds=1, start=7)
    d.record(tmp_path, 3, mean=float("nan"))
    ranks = rank(Results(tmp_path).leaderboard()).set_index("encoder")["rank"]
    assert ranks.tolist()[:2] == [1, 1]
    assert ranks.isna().tolist() == [False, False, True]
    assert "no score" in format_leaderboard(Results(tmp_path).leaderboard())


def test_the_table(tmp_path):
    d.record(tmp_path, 1, mean=0.825, ci95_low=0.8, ci95_high=0.84)
    d.record(tmp_path, 1, mean=0.5, ci95_low=0.4, ci95_high=0.6, task="us8k", partial=True)
    d.record(tmp_path, 2, mean=0.9, ci95_low=0.88, ci95_high=0.92, contaminated=True, encoder="cnn14")
    d.record(tmp_path, 3, mean=1.0, ci95_low=1.0, ci95_high=1.0, synthetic=True, encoder="toy")
    text = format_leaderboard(Results(tmp_path).leaderboard())
    real, stand_in, _ = text.split("\n\n")
    assert real.splitlines() == [
        "protocol fair (version 1)",
        "            esc50         us8k          average",
        "----------  ------------  ------------  -------",
        "cnn14       90.0 ±2.0 c*",
        "encoder001  82.5 ±2.0     50.0 ±10.0 p  66.2",
        "c: contaminated: the encoder was pre-trained on this task's data",
        "p: partial: official clips are missing",
    ]
    assert "synthetic" in stand_in
    assert "toy" in stand_in


def test_two_poolings_of_one_encoder_are_told_apart(tmp_path):
    d.record(tmp_path, 1, pooling="mean")
    d.record(tmp_path, 1, pooling="mean+max")
    text = format_leaderboard(Results(tmp_path).leaderboard())
    assert "encoder001 {mean}" in text
    assert "encoder001 {mean+max}" in text


def test_a_wide_table_goes_on_below(tmp_path):
    for number in range(14):
        d.record(tmp_path, 1, task=f"a-task-with-a-name-{number}")
    lines = format_leaderboard(Results(tmp_path).leaderboard()).splitlines()
    assert max(map(len, lines)) <= 132
    assert sum(line.startswith("encoder001") for line in lines) > 1


def test_an_interval_of_no_width_in_an_older_row_is_shown_as_none(tmp_path):
    d.record(tmp_path, 1, mean=1.0, ci95_low=1.0, ci95_high=1.0)
    d.record(tmp_path, 2, mean=1.0, ci95_low=0.884, ci95_high=1.0, encoder="cnn14")
    d.record(tmp_path, 3, mean=0.5, ci95_low=0.49995, ci95_high=0.50005, encoder="large")
    rows = Results(tmp_path).leaderboard()
    assert rows["ci95_low"].isna().sum() == 1
    text = format_leaderboard(rows)
    assert "±0.0" not in text
    assert "100.0 n/a" in text
    assert "100.0 [88.4, 100.0]" in text
    assert "50.0 ±<0.1" in text
