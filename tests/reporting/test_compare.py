"""`compare` on stored rows: right numbers where cells compare, one line where they do not."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from compare_data import CLIPS, FOLDS, compared, frame, labelled, mean_average_precision, outcomes, record

from evar.reporting.compare_text import FORMATS, format_comparison
from evar.reporting.statistics import mcnemar, paired_bootstrap
from evar.results import Results


def test_numbers_are_those_of_the_statistics(two):
    folder, right = two
    (pair,) = compared(folder).pairs
    difference = right["new"].astype(float) - right["old"]
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    boot = paired_bootstrap(difference, np.arange(CLIPS) % FOLDS)
    assert (pair.first, pair.second, pair.n_clips) == ("new", "old", CLIPS)
    assert (pair.wins, pair.losses) == (wins, losses)
    assert pair.difference == pytest.approx(difference.mean())
    assert (pair.low, pair.high, pair.p_bootstrap) == pytest.approx((boot.low, boot.high, boot.p), abs=1e-9)
    assert pair.p == pair.p_mcnemar == pytest.approx(float(mcnemar(wins, losses)[1]))
    assert pair.test == "McNemar mid-p"
    assert pair.verdict == "new"


def test_groups_decide_where_there_are_groups(tmp_path):
    """Ten clips a speaker that are right or wrong together: over clips it looks sure, over speakers it is not."""
    speakers = np.random.default_rng(3)
    for number, (encoder, accuracy) in enumerate((("new", 0.62), ("old", 0.5))):
        record(tmp_path, encoder, "voices", frame(np.repeat(speakers.random(40) < accuracy, 10), 10), number)
    found = compared(tmp_path, groups={"voices": "speaker"})
    (pair,) = found.pairs
    assert pair.test == "bootstrap over groups"
    assert pair.p == pair.p_bootstrap
    assert pair.p > 10 * pair.p_mcnemar
    assert pair.n_groups == 40
    assert any("take clips as independent" in note for note in found.notes)
    assert "40 groups (speaker)" in format_comparison(found)
    assert not any("under 20" in note for note in found.notes)


def test_few_groups_are_said(tmp_path):
    for number, encoder in enumerate(("new", "old")):
        record(tmp_path, encoder, "voices", frame(outcomes(0.6, number), 40), number)
    text = format_comparison(compared(tmp_path, groups={"voices": "speaker"}))
    assert "warning: voices: 10 groups (speaker) in the test part, under 20" in text


def test_one_group_is_not_tested(tmp_path):
    for number, encoder in enumerate(("new", "old")):
        kept = frame(outcomes(0.6 + number / 5, number), CLIPS, folds=1)
        record(tmp_path, encoder, "voices", kept, number)
    found = compared(tmp_path)
    (pair,) = found.pairs
    assert np.isnan([pair.low, pair.p, pair.p_holm]).all()
    assert pair.verdict == ""
    assert "too few groups" in format_comparison(found)
    assert "nan" not in format_comparison(found).lower()


def test_holm_counts_every_comparison_made(tmp_path):
    for number, encoder in enumerate("abc"):
        for task in ("sounds", "voices"):
            record(tmp_path, encoder, task, frame(outcomes(0.6 + 0.08 * number, number + 10 * len(task))), number)
    found = compared(tmp_path)
    assert len(found.pairs) == 6
    least = min(found.pairs, key=lambda pair: pair.p)
    assert least.p_holm == pytest.approx(min(1, 6 * least.p))
    assert "6 comparisons" in format_comparison(found)
    against = compared(tmp_path, baseline="a")
    assert [(pair.first, pair.second) for pair in against.pairs] == 2 * [("b", "a"), ("c", "a")]
    least = min(against.pairs, key=lambda pair: pair.p)
    assert least.p_holm == pytest.approx(min(1, 4 * least.p))


def test_more_than_four_encoders_are_compared_with_the_first(tmp_path):
    for number, encoder in enumerate("abcde"):
        record(tmp_path, encoder, "sounds", frame(outcomes(0.6, number)), number)
    found = compared(tmp_path)
    assert found.baseline == "a"
    assert [(pair.first, pair.second) for pair in found.pairs] == [("b", "a"), ("c", "a"), ("d", "a"), ("e", "a")]


def test_ranks_ties_and_tally(tmp_path):
    same = outcomes(0.7, 5)
    for number, encoder in enumerate("abc"):
        record(tmp_path, encoder, "sounds", frame(same if encoder in "ab" else outcomes(0.3, 6)), number)
        record(tmp_path, encoder, "voices", frame(outcomes((0.5, 0.52, 0.9)[number], 20 + number)), number)
    record(tmp_path, "a", "alone", frame(outcomes(0.9, 30)), 0)
    record(tmp_path, "b", "alone", frame(outcomes(0.2, 31)), 1)
    found = compared(tmp_path)
    assert sorted(found.shared) == ["sounds", "voices"]
    scores = found.scores["voices"]
    place = {one: 1 + sum(other > scores[one] for other in scores.values()) for one in scores}
    assert found.ranks == pytest.approx({"a": (1.5 + place["a"]) / 2, "b": (1.5 + place["b"]) / 2, "c": (3 + 1) / 2})
    assert found.tally["a", "b"] == (1, 2, 0)
    assert found.tally["a", "c"] == (1, 0, 1)
    tie = next(pair for pair in found.pairs if (pair.task, pair.first, pair.second) == ("sounds", "a", "b"))
    assert (tie.difference, tie.p, tie.verdict) == (0, 1, "")
    text = format_comparison(found)
    line = next(line for line in text.splitlines() if line.startswith("a "))
    assert line.count("*") >= 2  # both of the equal best are marked
    assert "average rank over sounds, voices" in text


def test_several_seeds_are_averaged_per_clip(tmp_path):
    new, old = (np.stack([outcomes(accuracy, seed + s) for s in range(3)]) for accuracy, seed in ((0.8, 1), (0.6, 9)))
    record(tmp_path, "new", "sounds", frame(new), 0, protocol="paper")
    record(tmp_path, "old", "sounds", frame(old), 1, protocol="paper")
    found = compared(tmp_path)
    (pair,) = found.pairs
    difference = new.mean(0) - old.mean(0)
    assert pair.n_clips == CLIPS
    assert pair.difference == pytest.approx(difference.mean())
    assert (pair.wins, pair.losses) == ((difference > 1e-9).sum(), (difference < -1e-9).sum())
    assert pair.test == "bootstrap over clips"
    assert any("mean over seeds" in note for note in found.notes)


def test_map_is_compared_by_bootstrap_and_without_mcnemar(tmp_path):
    means = []
    for number, (encoder, quality) in enumerate((("new", 0.6), ("old", 0.3))):
        kept = labelled(quality, number)
        means.append(mean_average_precision(kept))
        record(tmp_path, encoder, "events", kept, number, metric="mAP", mean=means[-1])
    found = compared(tmp_path, resamples=400)
    (pair,) = found.pairs
    assert pair.difference == pytest.approx(means[0] - means[1], abs=1e-6)
    assert pair.low < pair.difference < pair.high
    assert (pair.wins, pair.test, pair.verdict) == (None, "bootstrap over clips", "new")
    text = format_comparison(found)
    assert "no McNemar's test" in text
    assert "alone right" not in text


def test_resampled_map_spreads_as_a_plain_loop_over_clips(tmp_path):
    from sklearn.metrics import average_precision_score

    from evar.reporting.pairs import load_outcomes, map_draws

    kept = labelled(0.4, 1)
    cell = record(tmp_path, "new", "events", kept, metric="mAP", mean=mean_average_precision(kept))
    loaded = load_outcomes(Results(tmp_path), cell, "evar run new events")
    drawn, units, df = map_draws(loaded, 500, seed=0)
    assert units - df == len(np.unique(loaded.fold))
    np.testing.assert_array_equal(drawn, map_draws(loaded, 500, seed=0)[0])  # so that two encoders share their draws
    random, plain = np.random.default_rng(1), []
    for _ in range(500):
        clips = random.integers(0, 200, 199)
        plain.append(average_precision_score(loaded.truth[clips], loaded.scores[0][clips]))
    assert drawn.mean() == pytest.approx(np.mean(plain), abs=0.005)
    assert drawn.std() == pytest.approx(np.std(plain), rel=0.15)


def test_names_cannot_break_a_markdown_table(tmp_path):
    for number, encoder in enumerate(("a|b", "c")):
        record(tmp_path, encoder, "sounds", frame(outcomes(0.6, number)), number)
    markdown = format_comparison(compared(tmp_path), "markdown")
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines[:4]}) == 1


def test_infinite_odds_stay_valid_json(tmp_path):
    right = outcomes(0.5, 1)
    record(tmp_path, "new", "sounds", frame(right | (np.arange(CLIPS) < 60)), 0)
    record(tmp_path, "old", "sounds", frame(right), 1)
    found = compared(tmp_path)
    kept = json.loads(format_comparison(found, "json"), parse_constant=lambda text: pytest.fail(text))
    assert kept["pairs"][0]["odds_ratio"] == "inf"
    assert " inf " in format_comparison(found)


def test_synthetic_partial_and_contaminated_are_said(tmp_path):
    changed = {"synthetic": True, "partial": True, "contaminated": True}
    for number, encoder in enumerate(("new", "old")):
        record(tmp_path, encoder, "sounds", frame(outcomes(0.6, number)), number, **changed)
    text = format_comparison(compared(tmp_path))
    for word in ("synthetic stand-ins", "official clips are missing", "old was pre-trained on data of sounds"):
        assert word in text


def test_every_format_holds_the_same_comparison(two):
    folder, _ = two
    found = compared(folder)
    (pair,) = found.pairs
    text, markdown, csv, data = (format_comparison(found, form) for form in FORMATS)
    for shown in (text, markdown):
        assert f"{100 * pair.difference:+.1f}" in shown
        assert f"[{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]" in shown
        assert "A better" in shown
    assert f"**{100 * pair.score_first:.1f}**" in markdown
    assert max(map(len, text.splitlines())) <= 132
    from io import StringIO

    (row,) = pd.read_csv(StringIO(csv)).to_dict("records")
    assert row["difference"] == pytest.approx(pair.difference)
    assert row["p_holm"] == pytest.approx(pair.p_holm)
    kept = json.loads(data)
    assert kept["pairs"][0]["cohens_g"] == pytest.approx(pair.cohens_g)
    assert kept["facts"]["sounds"]["cells"].keys() == {"new", "old"}
    assert kept["tally"] == [{"first": "new", "second": "old", "won": 1, "tied": 0, "lost": 0}]
