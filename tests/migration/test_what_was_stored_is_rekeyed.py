"""What an earlier evar stored is found again after `evar store migrate` and `evar results migrate`; nothing is made twice."""

from __future__ import annotations

import csv
import os
import shutil

import pytest
from click.testing import CliRunner
from earlier import age

import evar.encoders.base
from evar.cli.results import results_command
from evar.cli.store import store_command
from evar.encoders import load_encoder
from evar.encoders.fingerprint_v1 import fingerprints_v1
from evar.errors import EvarError
from evar.files import digest
from evar.migration import migrate_results, migrate_store, v1
from evar.probes import Protocol
from evar.reporting.report_embeddings import labelled
from evar.results import Results
from evar.results_files import AT, RUN_COLUMNS, read_rows
from evar.results_identity import cell_id
from evar.runner import Reporter, run
from evar.store import Store
from evar.store_format import read_meta, set_folders

ENCODERS, TASKS, PROBES = "logmel,byola", "emodb", "fair,paper"


class Told(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    warn = say


@pytest.fixture(scope="module", autouse=True)
def protocols_of_that_time():
    """Rows of version 1 can be found again by version 1 alone."""
    former = {
        name: Protocol(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
        for name, fields in v1.PROTOCOLS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evar.probes.protocol._SHIPPED", former)
        yield


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    measure(folder)
    return folder


@pytest.fixture
def old(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "old")
    age(tmp_path / "old")
    return tmp_path / "old"


def measure(folder, **options):
    told = Told()
    where = {"results": str(folder / "results"), "embeddings": str(folder / "emb")}
    # The rates of the card make ids of trained encoders by `paper`: none of the old ones may get lost.
    run(ENCODERS, TASKS, mini=True, limit=60, probe=PROBES, reporter=told, **(where | options))
    return told.lines


def board(folder):
    return Results(folder / "results").leaderboard(canonical=True).to_csv(index=False)


def migrate_both(folder):
    migrate_results(folder / "results", embeddings=folder / "emb")
    migrate_store(folder / "emb")


# ---- the recipes of that time, held to what evar at 4bf9c20 wrote --------------------------------------------------------


def test_fingerprints_of_that_time():
    assert fingerprints_v1(load_encoder("logmel"), [None]) == [
        "2e654232d9a0bf6e6592859425122d7e8dc8a11c62fd262e516c0bdaf2288084"
    ]
    assert fingerprints_v1(load_encoder("mfcc"), [None]) == [
        "47df3d9d5265c951250ae3a5d5b329f32a7949221d03447d549c2771db428bec"
    ]
    byola = load_encoder("byola")
    assert fingerprints_v1(byola, [byola.normalization]) == [
        "c8557933d13ee70bca197813bcc3d3c7b113778f36a3463565ecc9219b0b10e1"
    ]


def test_protocols_of_that_time():
    found = {name: digest(fields)[:16] for name, fields in v1.PROTOCOLS.items()}
    assert found == {
        "fair": "db25aa43e446b29f",
        "paper": "b1bbdd1360a09bf9",
        "mlp": "347770a14de7a4fd",
        "knn": "e40b5def24b50a63",
    }


def test_a_cell_id_of_that_time():
    task = "4005150f791ca5ce2fb76c72ebaba9d7e9deab9949853bbabfba50f9228e6a0a"
    row = dict.fromkeys(RUN_COLUMNS, "") | {
        "encoder": "logmel", "task_fingerprint": task, "norm": "none", "layers": "logmel", "pooling": "mean_std",
        "seeds": "0", "duration": "5", "precision": "fp32", "limit": "60",
    }  # fmt: skip
    clips = "1775b246e5a25eb2212da9665b23506788aecd0fcc8b8942c499d88e254299e0"
    encoder = "2e654232d9a0bf6e6592859425122d7e8dc8a11c62fd262e516c0bdaf2288084"
    assert v1.cell_id_v1(list(row.values()), encoder, clips, v1.PROTOCOLS["fair"], None) == "54ee984688d02185"


# ---- migration ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["store", "results"])
def test_in_both_orders_nothing_is_made_again_and_rows_are_those_of_today(fresh, old, first, monkeypatch):
    assert all("normalization" not in read_meta(path).settings for path in set_folders(old / "emb"))
    steps = [lambda: migrate_store(old / "emb"), lambda: migrate_results(old / "results", embeddings=old / "emb")]
    for step in steps if first == "store" else steps[::-1]:
        report = step()
        assert report.moved
        assert not report.left
        assert not report.notes
    assert board(old) == board(fresh)
    assert (old / "results" / "runs.csv").read_bytes() == (fresh / "results" / "runs.csv").read_bytes()
    assert names(old / "results" / "predictions") == names(fresh / "results" / "predictions")
    assert names(old / "emb", "*/*/*-*") == names(fresh / "emb", "*/*/*-*")
    assert Store(old / "emb").verify() == []
    monkeypatch.setattr(evar.encoders.base.Encoder, "encode_pairs", lambda *_, **__: pytest.fail("encoded again"))
    assert all(line.endswith("already measured, nothing to do") for line in measure(old))
    assert not any(step().moved for step in steps), "a second time there is nothing to do"


def test_rekeyed_embeddings_serve_new_cells(fresh, old, monkeypatch):
    migrate_store(old / "emb")
    shutil.rmtree(old / "results")
    monkeypatch.setattr(evar.encoders.base.Encoder, "encode_pairs", lambda *_, **__: pytest.fail("encoded again"))
    assert not [line for line in measure(old) if "earlier evar" in line]
    assert board(old) == board(fresh)


def names(folder, pattern="*"):
    return sorted(str(path.relative_to(folder)) for path in folder.glob(pattern))


def test_unmigrated_rows_and_sets_are_said_and_read(old):
    assert len(Results(old / "results").leaderboard()) == 4
    lines = measure(old)
    assert sum("evar results migrate --results" in line for line in lines) == 4
    assert sum("evar store migrate --embeddings" in line for line in lines) >= 2
    rows = Results(old / "results").leaderboard()
    assert len(rows) == 8
    assert sorted(rows["schema"]) == [1] * 4 + [2] * 4
    assert (rows.groupby(["encoder", "protocol"])["mean"].nunique() == 1).all(), "the same scores as before"
    assert all(Results(old / "results").finished(cell) is not None for cell in rows["cell_id"])
    n_rows = len(Results(old / "results").runs())
    again = migrate_results(old / "results", embeddings=old / "emb")
    assert not again.left
    assert len(Results(old / "results").leaderboard()) == 4, "both recordings are of the same cells"
    assert len(Results(old / "results").runs()) == n_rows


def test_a_dry_run_changes_nothing(old):
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file() and "lock" not in str(path)}
    of_results = (results_command, ["migrate", "--results", str(old / "results")])
    for command, words in ((store_command, ["migrate"]), of_results):
        done = CliRunner().invoke(command, [*words, "--embeddings", str(old / "emb"), "--dry-run"])
        assert done.exit_code == 0, done.output
        assert "would be re-keyed, 0 left as they are" in done.output
    assert {path: path.read_bytes() for path in before} == before


def test_without_the_store_ids_stay_and_it_is_said(old, tmp_path):
    ids = set(Results(old / "results").leaderboard()["cell_id"])
    report = migrate_results(old / "results", embeddings=tmp_path / "none")
    assert len(report.moved) == len(report.notes) == 4
    rows = Results(old / "results").leaderboard()
    assert set(rows["cell_id"]) == ids
    assert set(rows["schema"]) == {2}
    assert set(rows["clips_fingerprint"]) == {""}
    assert (rows["protocol_fingerprint"] != "").all()
    again = migrate_results(old / "results", embeddings=tmp_path / "none")
    assert (again.moved, len(again.notes)) == ([], 4)
    assert "is not known" in again.lines()[0]
    later = migrate_results(old / "results", embeddings=old / "emb")
    assert (len(later.moved), later.notes, later.left) == (4, {}, {})


def test_a_later_store_completes_a_row_with_the_statistics_too(fresh, old, tmp_path):
    migrate_results(old / "results", embeddings=tmp_path / "none")
    migrate_store(old / "emb")
    migrate_results(old / "results", embeddings=old / "emb")
    assert board(old) == board(fresh)


def test_other_weights_and_own_protocols_are_left(old):
    edit(
        old / "results" / "runs.csv",
        lambda row: row["encoder"] == "byola",
        weights_sha256="ab",
        encoder_fingerprint="cd",
    )
    edit(old / "results" / "runs.csv", lambda row: row["protocol"] == "paper", protocol="mine#12345678")
    report = migrate_results(old / "results", embeddings=old / "emb")
    assert len(report.moved) == 1
    assert sum("is not what was measured" in reason for reason in report.left.values()) == 2
    assert sum("not one that evar shipped" in reason for reason in report.left.values()) == 1
    assert sorted(Results(old / "results").leaderboard()["schema"]) == [1, 1, 1, 2]


def test_an_encoder_that_is_not_loaded_by_its_label_is_named(old):
    edit(old / "results" / "runs.csv", lambda row: row["encoder"] == "byola", encoder="byola-v2@of-mine")
    for path in (old / "emb").glob("byola/*/*/meta.json"):
        path.write_text(path.read_text().replace('"label": "byola"', '"label": "byola-v2@of-mine"'))
    report = migrate_store(old / "emb")
    assert {"name it, as in NAME@FILE" in reason for reason in report.left.values()} == {True}
    assert not migrate_store(old / "emb", ["byola"]).left
    assert len(migrate_results(old / "results", embeddings=old / "emb").left) == 2
    assert not migrate_results(old / "results", ["byola"], embeddings=old / "emb").left


def edit(path, which, **changed):
    with open(path, newline="") as stream:
        header, *rows = csv.reader(stream)
    for row in rows:
        if which(dict(zip(header, row, strict=True))):
            for column, text in changed.items():
                row[header.index(column)] = text
    with open(path, "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])


# ---- killed at any step --------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def stop(*_, **__):
    raise Killed


@pytest.mark.parametrize(
    "step",
    [
        "evar.results_identity._also_under",
        "evar.results_identity.atomic_writer",
        "evar.results.Results._write_leaderboard",
        "evar.results_identity._drop_copies",
    ],
)
def test_results_that_were_killed_at_a_step_go_on(fresh, old, step, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(step, stop)
        with pytest.raises(Killed):
            migrate_results(old / "results", embeddings=old / "emb")
    assert len(Results(old / "results").leaderboard()) == 4
    migrate_both(old)
    assert board(old) == board(fresh)
    assert names(old / "results" / "predictions") == names(fresh / "results" / "predictions")


@pytest.mark.parametrize("step", ["write", "rename", "replace"])
def test_a_set_that_was_killed_at_a_step_is_whole(fresh, old, step, monkeypatch):
    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr("evar.store_format._write", stop)
        elif step == "rename":
            patch.setattr("pathlib.Path.rename", stop)
        else:
            real = os.replace
            patch.setattr("os.replace", lambda a, b: stop() if str(b).endswith("meta.json") else real(a, b))
        with pytest.raises(Killed):
            migrate_store(old / "emb")
    assert Store(old / "emb").verify() == []
    assert all(one["complete"] for one in Store(old / "emb").list_sets())
    migrate_both(old)
    assert board(old) == board(fresh)
    assert names(old / "emb", "*/*/*-*/*") == names(fresh / "emb", "*/*/*-*/*"), "and nothing is left behind"
    assert not [line for line in measure(old) if "already" not in line]


# ---- rows name their clips: nothing is inverted ------------------------------------------------------------------------


def test_every_id_is_the_digest_of_its_row(fresh):
    for row, *_ in read_rows(fresh / "results" / "runs.csv"):
        assert cell_id(dict(zip(RUN_COLUMNS, row, strict=True))) == row[AT["cell_id"]]


def test_figures_of_earlier_rows_name_the_verb_and_work_after_it(old):
    results = Results(old / "results")
    with pytest.raises(EvarError, match="'evar results migrate --embeddings"):
        labelled(results, row_of(results), old / "emb")
    migrate_both(old)
    assert len(labelled(results, row_of(results), old / "emb").rows)


def row_of(results):
    rows = results.leaderboard(encoder="logmel", protocol="fair")
    return rows.iloc[0]


def test_an_unfinished_set_goes_on_where_it_was(tmp_path):
    """Encoding for days that was interrupted under the old names is not begun anew."""
    import numpy as np

    (before,) = fingerprints_v1(load_encoder("logmel"), [None])
    settings = {"encoder_fingerprint": before, "clips_fingerprint": "c", "duration": "5", "precision": "fp32"}
    rows = np.arange(10 * 3, dtype=np.float32).reshape(10, 3)
    matrix, pair = [("logmel", "mean", 3)], ("logmel", "mean")
    with Store(tmp_path).writer(settings, matrix, 10, "logmel", "esc10") as writer:
        writer.write(np.arange(4), {pair: rows[:4]})
    assert len(migrate_store(tmp_path).moved) == 1
    settings |= {"encoder_fingerprint": load_encoder("logmel").fingerprint(), "normalization": None}
    with Store(tmp_path).writer(settings, matrix, 10, "logmel", "esc10") as writer:
        assert writer.pending.tolist() == [4, 5, 6, 7, 8, 9]
        writer.write(np.arange(4, 10), {pair: rows[4:]})
        assert (writer.finish().rows(*pair) == rows).all()


def test_what_a_running_evar_writes_is_left_and_said(tmp_path):
    (before,) = fingerprints_v1(load_encoder("logmel"), [None])
    settings = {"encoder_fingerprint": before, "clips_fingerprint": "c", "duration": "5", "precision": "fp32"}
    with Store(tmp_path).writer(settings, [("logmel", "mean", 3)], 10, "logmel", "esc10"):
        report = migrate_store(tmp_path)
    assert not report.moved
    assert all("is held by another evar" in reason for reason in report.left.values())
    assert len(migrate_store(tmp_path).moved) == 1
