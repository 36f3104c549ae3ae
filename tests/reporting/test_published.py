"""Published figures are data: what ships is whole, and a user's own CSV is taken exactly or refused in one line."""

from __future__ import annotations

import pytest

from evar.datasets import list_cards
from evar.encoders.registry import list_encoders
from evar.errors import EvarError
from evar.reporting.published import comparable, figures, own_tables, paper_tables, reproduction
from evar.reporting.tables import Line as TableLine
from evar.reporting.tables import average, published_values, rounded

HEADER = "table,model,task,mean\n"
N_SHIPPED = (
    425 + 336 + 610
)  # published.csv, published_more.csv, the HEAR leaderboard without its blanks and unit errors


def lines_of(name):
    """model -> Line of a shipped table."""
    models = {}
    for figure in figures():
        if figure.table == paper_tables()[name].source:
            models.setdefault(figure.model, {})[figure.task] = figure
    return {model: TableLine(model, by_task) for model, by_task in models.items()}


def test_every_figure_belongs_to_a_described_table():
    sources = {table.source for table in paper_tables().values()}
    assert {figure.table for figure in figures()} == sources
    assert own_tables(figures()) == {}
    assert len(figures()) == N_SHIPPED
    assert len(comparable(figures())) == 425
    assert all(figure.protocol and 0 < figure.mean <= 100 for figure in figures())


@pytest.mark.parametrize("name", ["byola-v1", "byola-v2", "fusion", "cola"])
def test_columns_are_exactly_the_tasks_that_are_published(name):
    table = paper_tables()[name]
    published = {figure.task for figure in figures() if figure.table == table.source}
    assert set(table.tasks) == published
    assert set(table.average) <= published
    assert len(set(table.tasks)) == len(table.tasks)


def test_the_average_named_in_the_paper_comes_out_again():
    quoted = {(name, model): mean for name, table in paper_tables().items() for model, mean in table.quoted.items()}
    assert quoted == {("byola-v2", "BYOL-A"): 72.4}
    for (name, model), mean in quoted.items():
        found = average(published_values(lines_of(name)[model]), paper_tables()[name].average)
        assert float(rounded(found)) == mean


@pytest.mark.parametrize("name", ["byola-v1", "byola-v2", "fusion"])
def test_averages_are_the_plain_mean_of_all_columns_to_a_tenth(name):
    covered = paper_tables()[name].average
    n_whole = 0
    for model, line in lines_of(name).items():
        values = published_values(line)
        found = average(values, covered)
        if set(values) != set(covered):
            assert found is None, model  # over fewer tasks it would compare nothing
            continue
        n_whole += 1
        assert float(rounded(found)) == pytest.approx(sum(map(float, values.values())) / len(covered), abs=0.0501)
    assert n_whole == {"byola-v1": 6, "byola-v2": 34, "fusion": 6}[name]


def test_the_six_tasks_of_ijcnn_hold_the_twelve_class_commands():
    assert sorted(paper_tables()["byola-v1"].average) == ["nsynth", "spcv2", "spcv2-12", "us8k", "vc1", "voxforge"]
    best = average(published_values(lines_of("byola-v1")["BYOL-A 2048-d"]), paper_tables()["byola-v1"].average)
    assert str(rounded(best)) == "77.8"
    assert paper_tables()["cola"].average == ()


def test_published_seconds_and_learning_rates_are_those_of_the_cards():
    cards = list_cards()
    for task, seconds in reproduction()["seconds"].items():
        assert cards[task].seconds == pytest.approx(seconds), task
    for task in paper_tables()["byola-v2"].tasks:
        assert cards[task].paper["lr"]["byola-v2"] > 0


def test_byola_rows_name_encoders_that_exist():
    names = {figure.evar_name for figure in figures() if figure.evar_name.startswith(("byola", "cola"))}
    assert names <= set(list_encoders())


def test_own_figures_override_and_extend(tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(
        "\ufefftable,model,task,mean,std,evar_name,extra notes\r\nbyola-v2,BYOL-A,esc50,84.0,,byola-v2,x\r\n"
        "byola-v2,Mine,esc50,70,1.5,mine,\r\n\r\nnew,Mine,esc10,50,,mine,\r\nnew,Mine,emodb,40,,mine,\r\n",
        encoding="utf-8",
    )
    found = figures(own)
    assert len(found) == N_SHIPPED + 3
    nine = {(figure.model, figure.task): figure for figure in found if figure.table == "evar-readme"}
    assert (nine["BYOL-A", "esc50"].mean, nine["BYOL-A", "esc50"].std) == (84.0, None)
    assert nine["BYOL-A", "us8k"].mean == 79.7
    assert nine["Mine", "esc50"].std == 1.5
    table = own_tables(found)["new"]
    assert (table.tasks, table.average) == (("esc10", "emodb"), ("esc10", "emodb"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: no column table, model, task, mean"),
        (b"table,model,mean\na,b,1\n", "line 1: no column task"),
        (b"table,model,task,mean,evar_nmae\na,b,c,50,d\n", "did you mean 'evar_name'"),
        (b"table,model,task,mean,mean\na,b,c,50,50\n", "'mean' stands there twice"),
        (HEADER.encode(), "holds no figure"),
        (HEADER.encode() + b"a,b,c,50\na,b,d,NaN\n", "line 3: mean is 'NaN'"),
        (HEADER.encode() + b"a,b,c,\n", "line 2: mean is ''"),
        (HEADER.encode() + b"a,b,c,inf\n", "line 2: mean is 'inf'"),
        (HEADER.encode() + b"a,b,c,183\n", "line 2: mean is '183'"),
        (HEADER.encode() + b"a,b,c,-1\n", "line 2: mean is '-1'"),
        (HEADER.encode() + b"a,b,c,0.832\n", "expected percent"),
        (HEADER.encode() + b"a,b,c,50\na,b,d,50\na,b,c,51\n", "line 4: a / b / c stands in line 2 already"),
        (HEADER.encode() + b"a,b,c\n", "line 2: 3 fields, expected 4"),
        (HEADER.encode() + b"a,,c,50\n", "line 2: no model"),
        (HEADER.encode() + b'a,"b,c,50\n', "not CSV"),
        (HEADER.encode() + b"a,b\x00,c,50\n", "line 2: model 'b\\x00' holds a sign that cannot be printed"),
        (b"\xff\xfet\x00a\x00", "not UTF-8"),
        (b"table,model,task,mean,metric\na,b,c,50,acuracy\n", "did you mean 'accuracy'"),
        (b"table,model,task,mean,sample_rate\na,b,c,50,16k\n", "expected Hz"),
        (b"table,model,task,mean,std\na,b,c,50,x\n", "line 2: std is 'x'"),
    ],
)
def test_a_wrong_csv_is_one_line_that_names_it(tmp_path, content, said):
    path = tmp_path / "own.csv"
    path.write_bytes(content)
    with pytest.raises(EvarError) as caught:
        figures(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(EvarError, match="cannot read"):
            figures(path)


def test_a_short_name_and_the_source_are_one_figure(tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(HEADER + "byola-v2,BYOL-A,esc50,84\nevar-readme,BYOL-A,esc50,85\n")
    with pytest.raises(EvarError, match="line 3"):
        figures(own)


def test_an_interval_is_never_taken_for_a_deviation():
    """The papers of M2D and M2D-CLAP give 95 % intervals after the plus-minus."""
    of_m2d = [one for one in comparable(figures()) if one.model.startswith("M2D")]
    assert len(of_m2d) == 36
    assert all(one.std is None and one.ci95 is not None and one.spread == one.ci95 for one in of_m2d)
    assert all(one.std is None or one.ci95 is None for one in figures())
    others = [one for one in comparable(figures()) if not one.model.startswith("M2D")]
    assert not any(one.ci95 is not None for one in others)


def test_doubtful_figures_carry_their_remark():
    remarks = {(one.model, one.task): one.remark for one in comparable(figures()) if one.table == "evar-readme"}
    for key in (("Dasheng_1.2B", "gtzan"), ("CED", "gtzan"), ("WavCaps", "us8k")):
        assert "looks broken" in remarks[key]
    for model in ("EAT_base", "SSLAM_Base"):
        assert "first 10.24 s" in remarks[model, "gtzan"]
    assert not remarks["BYOL-A", "esc50"]


def test_tables_of_another_protocol_have_no_average_and_are_not_comparable():
    apart = {name: table for name, table in paper_tables().items() if table.protocol}
    assert {"matpac", "dasheng-knn", "eat-finetuned", "hear-leaderboard"} <= set(apart)
    assert all(table.average == () for table in apart.values())
    assert not {one.table for one in comparable(figures())} & {table.source for table in apart.values()}
    for name, table in apart.items():
        assert set(table.tasks) == {one.task for one in figures() if one.table == table.source}, name


def test_unit_errors_of_the_hear_leaderboard_are_no_figures():
    hear = {(one.model, one.task): one.mean for one in figures() if one.table == "hear-leaderboard"}
    marks = paper_tables()["hear-leaderboard"].marks
    assert set(marks) == {
        (model, task)
        for model in ("CVSSP PANNS", "Descript/MARL Wav2CLIP", "Soundsensing YAMNet")
        for task in ("DCASE 2016", "Maestro 5h")
    }
    assert not set(marks) & set(hear)
    assert all(mean > 0 for mean in hear.values())
    assert hear["RedRice ced_base", "ESC-50"] == pytest.approx(96.65, abs=0.01)


def test_a_spread_of_ones_own_figures_is_said_or_refused(tmp_path):
    own = tmp_path / "own.csv"
    own.write_text("table,model,task,mean,std,spread\nnew,A,esc50,50,1,ci95\nnew,B,esc50,50,2,\n")
    found = {one.model: (one.std, one.ci95) for one in figures(own) if one.table == "new"}
    assert found == {"A": (None, 1.0), "B": (2.0, None)}
    own.write_text("table,model,task,mean,std,spread\nnew,A,esc50,50,1,sd\n")
    with pytest.raises(EvarError, match="line 2: unknown spread 'sd'"):
        figures(own)
