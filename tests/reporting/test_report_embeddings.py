"""Points of a figure are the embeddings that were measured, with the right labels; else one line and no figure."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from evar.datasets import load_task
from evar.errors import EvarError
from evar.reporting.report import Options, collect
from evar.reporting.report_embeddings import labelled
from evar.reporting.report_rows import choose, select
from evar.results import Results
from evar.runner import run
from evar.store import Store

ENCODERS = "logmel,random:byola-v1-512"
LIMIT = 60  # clips


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Real cells on two synthetic minis: folds (emodb) and a fixed split (fsdd)."""
    folder = tmp_path_factory.mktemp("measured")
    where = {"results": str(folder / "results"), "embeddings": str(folder / "emb")}
    run(ENCODERS, "emodb,fsdd", mini=True, limit=LIMIT, **where)
    return folder


def row_of(folder, encoder, task):
    results = Results(folder / "results")
    return results, choose(select(results), encoder, task)


@pytest.mark.parametrize("encoder", ENCODERS.split(","))
@pytest.mark.parametrize("task", ["emodb", "fsdd"])
def test_rows_carry_their_own_clip_and_label(measured, encoder, task):
    results, row = row_of(measured, encoder, task)
    found = labelled(results, row, measured / "emb")
    (root,) = (measured / "emb" / "minis").glob(f"{task}*")
    clips = load_task(task, root=root).limited(LIMIT).clips
    tested = clips if task == "emodb" else clips[clips["split"] == "test"]
    assert found.clip_ids.tolist() == tested["clip_id"].tolist()
    assert found.labels.tolist() == tested["label"].tolist()
    assert found.rows.tolist() == tested.index.tolist()
    matrix = found.embeddings.rows(row["layers"], row["pooling"], found.rows)
    assert matrix.shape[0] == len(tested)
    predictions = results.predictions(row["cell_id"]).set_index("clip_id").loc[found.clip_ids]
    assert found.right.tolist() == (predictions["target"] == predictions["predicted"]).astype(int).tolist()


def test_a_fold_is_that_fold(measured):
    results, row = row_of(measured, "logmel", "emodb")
    predictions = results.predictions(row["cell_id"])
    found = labelled(results, row, measured / "emb", fold=2)
    assert set(found.clip_ids) == set(predictions["clip_id"][predictions["fold"] == 2])
    with pytest.raises(EvarError, match="no fold 9: choose of 1, 2, 3, 4, 5"):
        labelled(results, row, measured / "emb", fold=9)
    with pytest.raises(EvarError, match="fixed split"):
        labelled(*row_of(measured, "logmel", "fsdd"), measured / "emb", fold=1)


def test_projections_repeat_and_are_thinned(measured):
    found = labelled(*row_of(measured, "logmel", "emodb"), measured / "emb")
    for method in ("pca", "tsne"):
        a, b = found.project(method, most=40), found.project(method, most=40)
        assert (a.xy == b.xy).all()
        assert a.xy.shape == (40, 2)
        assert a.n_clips == len(found.rows) > 40
        assert np.isfinite(a.xy).all()
    assert 0 < found.project("pca").explained <= 1
    with pytest.raises(EvarError, match="unknown projection 'tnse'; did you mean 'tsne'"):
        found.project("tnse")


def test_a_set_that_is_gone_names_the_command(measured, tmp_path):
    with pytest.raises(
        EvarError, match=r"not in .*: evar run logmel emodb --probe fair .* --limit 60 --mini --embeddings"
    ):
        labelled(*row_of(measured, "logmel", "emodb"), tmp_path)


def test_other_audio_under_the_same_names_is_refused(measured, tmp_path):
    """The clips keep their ids and labels, but not their sound: these are not the embeddings that were measured."""
    emb = tmp_path / "emb"
    shutil.copytree(measured / "emb" / "minis", emb / "minis")
    rng = np.random.default_rng(0)
    for path in (emb / "minis").rglob("*.wav"):
        audio, rate = soundfile.read(path)
        soundfile.write(path, rng.uniform(-0.5, 0.5, len(audio)), rate)
    root = next((emb / "minis").glob("emodb*"))
    task = load_task("emodb", root=root).limited(LIMIT)
    run(ENCODERS, task, results=str(tmp_path / "results"), embeddings=str(emb))
    assert len(Store(emb).list_sets()) == 2
    for encoder in ENCODERS.split(","):
        results, row = row_of(tmp_path, encoder, "emodb")
        assert len(labelled(results, row, emb).rows) == len(task.clips)
        results, row = row_of(measured, encoder, "emodb")
        with pytest.raises(EvarError, match="are not in"):
            labelled(results, row, emb)


def test_the_page_shows_points_and_costs(measured):
    told = []
    options = Options(results=str(measured / "results"), embeddings=str(measured / "emb"), projections=3)
    data = collect(options, told.append)
    assert not told
    assert len(data["projections"]) == 3
    tasks = [data["rows"][one["row"]]["v"][data["columns"].index("task")] for one in data["projections"]]
    assert set(tasks[:2]) == {"emodb", "fsdd"}  # the best of each task first
    for one in data["projections"]:
        assert len(one["label"]) == len(one["clip"]) == len(one["right"]) == len(one["methods"][0]["xy"]) / 2
    dims = {row["v"][data["columns"].index("encoder")]: row["dim"] for row in data["rows"]}
    assert dims["random:byola-v1-512"] == 512
    assert all(row["speed"] > 0 for row in data["rows"])
