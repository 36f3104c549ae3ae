"""A reproduction says yes or no by a stated tolerance, and in words what is not the same as in the publication."""

from __future__ import annotations

import pytest
import table_data

from evar.datasets import find_card
from evar.errors import EvarError
from evar.probes import get_protocol
from evar.reporting.published import Figure, figures
from evar.reporting.reproduce import as_dict, choose, format_verdict, judge, settings_of, stored_row
from evar.results import Results

GIVEN = table_data.BYOLA | {"task": "spcv2", "mean": 0.93, "duration": "1", "n_seeds": 1}
ROW = table_data.ROW | GIVEN | {"cell_id": "0" * 16}
LR = ["lr=3e-05 epoch=12"]
PAPER = get_protocol("paper")


def verdict(task="spcv2", settings=LR, **changed):
    row = ROW | {"task": task} | changed
    figure, others = choose(figures(), "byola-v2", task)
    return judge(row, figure, settings=settings, card=find_card(task), sample_rate=16000, others=others)


def record(folder, start=0, setting=LR[0], **changed):
    return table_data.record(folder, start=start, setting=setting, **(GIVEN | changed))


@pytest.mark.parametrize(
    ("mean", "within"), [(0.931, True), (0.921, True), (0.92099, False), (0.941, True), (0.94101, False)]
)
def test_the_tolerance_is_kept_exactly(mean, within):
    found = verdict(mean=mean)  # published 93.1 ±0.4: one point
    assert float(found.tolerance) == 1.0
    assert found.within == within
    assert format_verdict(found).splitlines()[0].endswith(f"{'within' if within else 'outside'} the tolerance")


@pytest.mark.parametrize("mean", [0.569, 0.579, 0.57])
def test_a_difference_of_exactly_the_tolerance_is_within(mean):
    published = Figure("t", "m", "spcv2", round(100 * mean, 1) + 1)
    assert judge(ROW | {"mean": mean}, published).within
    assert not judge(ROW | {"mean": mean - 1e-6}, published).within


def test_a_noisy_published_figure_allows_twice_its_deviation():
    found = verdict("gtzan", mean=0.64, duration="30", settings=["lr=0.001 epoch=3"])  # 70.1 ±3.6
    assert float(found.tolerance) == 7.2
    assert found.within
    assert "twice the published deviation" in format_verdict(found)


def test_without_a_published_deviation_it_is_one_point():
    figure, _ = choose(figures(), "byola-v1-512", "spcv2")
    found = judge(ROW | {"weights": "AudioNTT2020-BYOLA-64x96d512.pth"}, figure)
    assert float(found.tolerance) == 1.0
    assert "no deviation is published" in found.why_tolerance


def test_the_published_recipe_leaves_nothing_that_differs():
    found = verdict()
    assert found.differs == ()
    assert any(note.startswith("learning rate: 3e-05") for note in found.same)
    assert any("no digest is published" in note for note in found.same)
    assert len(found.same) == 8


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"protocol": "fair", "seeds": "0"}, "probe: protocol fair"),
        ({"settings": ["lr=0.0003 epoch=2"]}, "learning rate: 0.0003; published is 3e-05"),
        ({"seeds": "1"}, "seeds: 1; published are 42, 43, 44"),
        ({"pooling": "mean"}, "pooling: mean; published is mean+max"),
        ({"duration": "5"}, "length of clips: 5 s; published is 1 s"),
        ({"duration": "native"}, "length of clips: the clips' own"),
        ({"norm": "weights"}, "statistics of the weights file"),
        (
            {"weights": "own.safetensors"},
            "weights: own.safetensors (sha256 abababababababab); published is AudioNTT2022",
        ),
        ({"weights_kind": "random", "weights": ""}, "weights: untrained"),
        ({"weights_kind": "bundled", "weights": ""}, "weights: those that come with evar"),
    ],
)
def test_each_departure_is_said_in_words(changed, said):
    found = verdict(**changed)
    assert any(said in note for note in found.differs), found.differs
    assert said in format_verdict(found)


def test_another_sample_rate_is_said():
    figure, _ = choose(figures(), "cnn14-16k", "esc50")
    found = judge(ROW | {"task": "esc50", "weights": "Cnn14_16k_mAP=0.438.pth"}, figure, sample_rate=32000)
    assert any("32000 Hz; published is 16000 Hz" in note for note in found.differs)


@pytest.mark.parametrize(
    ("name", "task", "said"),
    [
        ("cnn14-16k", "esc50", "16 kHz model"),
        ("vggish-relu", "esc50", "ends in a ReLU"),
        ("vggish-4k", "esc50", "ends in a ReLU"),
        ("wav2vec2-c", "spcv2", "not certain"),
        ("byola-v1-512", "spcv2", "HTK"),
        ("byola-v2", "spcv2", "Slaney"),
        ("cola", "spcv2", "no weights of COLA were ever published"),
        ("cola-prime-512", "spcv2", "no weights of COLA'"),
    ],
)
def test_caveats_of_the_published_rows_are_said(name, task, said):
    figure, _ = choose(figures(), name, task)
    assert any(said in note for note in judge(ROW | {"task": task}, figure).unknown)


def test_of_several_figures_one_is_chosen_and_the_others_are_named():
    figure, others = choose(figures(), "cnn14-16k", "esc50")
    assert (figure.mean, [other.mean for other in others]) == (90.7, [90.1])
    assert choose(figures(), "cnn14-16k", "esc50", "fusion")[0].mean == 90.1
    assert choose(figures(), "M2D", "esc50")[0].mean == 91.3
    assert "--table fusion" in format_verdict(judge(ROW | {"task": "esc50"}, figure, others=others))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("byola-v3", "esc50"), "did you mean 'byola-v"),
        (("byola-v2", "esc10"), "nothing is published for byola-v2 on esc10; published: esc50, us8k"),
        (("byola-v2", "esc50", "fusoin"), "did you mean 'fusion'"),
        (("byola-v2", "esc50", "cola"), "unknown published encoder"),
    ],
)
def test_what_is_not_published_is_one_line(words, said):
    with pytest.raises(EvarError, match=said):
        choose(figures(), *words)


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"metric": "mAP"}, {}, "mAP was measured, accuracy is published"),
        ({"mean": float("nan")}, {}, "no score"),
        ({}, {"tolerance": -1.0}, "--tolerance"),
        ({}, {"tolerance": float("nan")}, "--tolerance"),
    ],
)
def test_what_cannot_be_judged_is_one_line(row, options, said):
    with pytest.raises(EvarError, match=said):
        judge(ROW | row, Figure("t", "m", "spcv2", 93.0), **options)


def test_numbers_for_programs_are_not_rounded():
    found = as_dict(verdict(mean=0.93049))
    assert found["measured"] == pytest.approx(93.049)
    assert found["difference"] == pytest.approx(-0.051)
    assert found["within"] is True


def test_the_stored_row_is_the_newest_that_counts(tmp_path):
    record(tmp_path, 0, mean=0.90)
    newest = record(tmp_path, 1, mean=0.91, setting="lr=1 epoch=2")
    record(tmp_path, 2, mean=0.99, partial=True)
    figure, _ = choose(figures(), "byola-v2", "spcv2")
    row = stored_row(Results(tmp_path), ROW["encoder"], "spcv2", PAPER, figure)
    assert row["cell_id"] == newest
    assert settings_of(Results(tmp_path), row) == ["lr=1 epoch=2"]


def test_a_row_that_may_not_be_published_is_not_judged(tmp_path):
    cell = record(tmp_path, contaminated=True)
    figure, _ = choose(figures(), "byola-v2", "spcv2")
    for given in (None, cell):
        with pytest.raises(EvarError, match="only rows that do not count: the encoder was pre-trained"):
            stored_row(Results(tmp_path), ROW["encoder"], "spcv2", PAPER, figure, given)
    with pytest.raises(EvarError, match="no row by protocol fair"):
        stored_row(Results(tmp_path / "none"), ROW["encoder"], "spcv2", get_protocol("fair"), figure)


def test_a_row_of_another_version_of_the_protocol_is_not_judged(tmp_path):
    """`--no-run` took the newest row by the protocol's name, whatever its version."""
    record(tmp_path, 0, protocol_version=PAPER.version - 1)
    figure, _ = choose(figures(), "byola-v2", "spcv2")
    with pytest.raises(EvarError, match="do not count: version 1 of the protocol, this evar has 2 by protocol paper"):
        stored_row(Results(tmp_path), ROW["encoder"], "spcv2", PAPER, figure)
    mine = record(tmp_path, 1)
    record(tmp_path, 2, protocol_version=PAPER.version - 1)
    assert stored_row(Results(tmp_path), ROW["encoder"], "spcv2", PAPER, figure)["cell_id"] == mine


def test_stored_rows_of_two_kinds_are_not_guessed_between(tmp_path):
    record(tmp_path, 0)
    record(tmp_path, 1, pooling="mean")
    figure, _ = choose(figures(), "byola-v2", "spcv2")
    assert stored_row(Results(tmp_path), ROW["encoder"], "spcv2", PAPER, figure)["pooling"] == "mean+max"
    record(tmp_path, 2, weights_sha256="cd" * 32)
    with pytest.raises(EvarError, match="differ in weights_sha256"):
        stored_row(Results(tmp_path), ROW["encoder"], "spcv2", PAPER, figure)


def test_a_published_interval_sets_no_tolerance():
    """M2D's 8.7 on gtzan-like rows would allow 17 points if it were taken for a deviation."""
    wide = Figure("t", "m", "spcv2", 93.0, ci95=4.0, evar_name="m")
    found = judge(ROW, wide)
    assert float(found.tolerance) == 1.0
    assert "a 95 % interval, no deviation over seeds" in found.why_tolerance
    assert "±4.0 (a 95 % interval)" in format_verdict(found)
    told = as_dict(found)
    assert (told["published_std"], told["published_ci95"]) == (None, 4.0)


def test_a_doubtful_figure_is_said_to_be_doubtful():
    figure = next(one for one in figures() if (one.model, one.task) == ("CED", "gtzan") and one.table == "evar-readme")
    found = judge(ROW | {"task": "gtzan"}, figure)
    assert "the published figure itself: looks broken" in format_verdict(found)
    assert as_dict(found)["remark"].startswith("looks broken")


def test_figures_of_another_protocol_are_chosen_only_where_their_table_is_named():
    figure, others = choose(figures(), "BEATs_iter3", "esc50")
    assert {one.table for one in (figure, *others)} == {"evar-readme"}
    with pytest.raises(EvarError):
        choose(figures(), "MATPAC++", "esc50")
    figure, _ = choose(figures(), "MATPAC++", "esc50", "matpac")
    assert (figure.mean, figure.std) == (93.1, None)
    assert "protocol: published is another one (the linear probe of the MATPAC++" in format_verdict(
        judge(ROW | {"task": "esc50"}, figure)
    )
