"""Two processes never encode the same embeddings twice, and pruning never takes what is in use."""

from __future__ import annotations

import os

import numpy as np
import pytest
import store_data as d

from evar.errors import EvarError
from evar.store import Store

WANTED = [("out", "mean+max")]


def test_eight_writers_on_one_key(tmp_path):
    writers = [d.spawn(tmp_path) for _ in range(8)]
    outputs = [writer.communicate(timeout=60) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 8, outputs
    pending = sorted(int(out.split()[1]) for out, _ in outputs)
    assert pending == [0] * 7 + [d.N_CLIPS]
    assert len(Store(tmp_path).list_sets()) == 1
    assert Store(tmp_path).verify() == []


def test_prune_leaves_what_is_being_written(tmp_path):
    store = Store(tmp_path)
    with store.writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "x", "y") as writer:
        writer.write(np.arange(3), d.blocks(np.arange(3)))
        assert store.prune(incomplete=True) == 0
        assert len(store.list_sets()) == 1
    assert store.prune(incomplete=True) > 0
    assert store.list_sets() == []


def test_an_open_set_can_be_pruned_and_is_still_readable(tmp_path):
    embeddings = d.fill(tmp_path)
    store = Store(tmp_path)
    size = store.list_sets()[0]["bytes"]
    assert store.prune(older_days=0, dry_run=True) == size
    assert store.find(d.SETTINGS, WANTED) is not None
    assert store.prune(older_days=0) == size
    assert store.find(d.SETTINGS, WANTED) is None
    np.testing.assert_array_equal(embeddings.rows("out", "mean+max"), d.rows("out", np.arange(d.N_CLIPS), 8))
    assert {path.name for path in tmp_path.iterdir()} <= {".locks"}  # no empty folders stay


def test_prune_takes_only_what_was_named(tmp_path):
    store = Store(tmp_path)
    for number in range(3):
        with store.writer({"n": number}, [("a", "mean", 2)], 2, f"encoder{number}", "esc50") as writer:
            writer.write(np.arange(2 if number else 1), {("a", "mean"): np.ones((2 if number else 1, 2))})
            if number:
                writer.finish()
    keys = {row["encoder"]: row["key"] for row in store.list_sets()}
    assert store.prune(older_days=1) == 0
    with pytest.raises(EvarError, match="no set with key"):
        store.prune(key="0" * 16)
    with pytest.raises(EvarError, match="nothing to prune was named"):
        store.prune()
    store.prune(lambda row: row["encoder"] == "encoder1")
    store.prune(incomplete=True)
    assert [row["key"] for row in store.list_sets()] == [keys["encoder2"]]
    assert store.prune(key=keys["encoder2"].split("-")[0]) > 0
    assert store.list_sets() == []


def test_other_folders_beside_the_sets_are_let_be(tmp_path):
    """Waveforms, minis and statistics live under the same root."""
    other = tmp_path / "waveforms" / "x" / "0123456789abcdef"
    other.mkdir(parents=True)
    (other / "meta.json").write_text("{}")
    (tmp_path / "normalization").mkdir()
    d.fill(tmp_path)
    store = Store(tmp_path)
    assert len(store.list_sets()) == 1
    store.prune(older_days=0)
    assert (other / "meta.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_store_is_read_and_one_line_to_write(tmp_path):
    d.fill(tmp_path / "s")
    os.chmod(tmp_path / "s", 0o500)
    try:
        assert Store(tmp_path / "s").find(d.SETTINGS, WANTED) is not None
        with pytest.raises(EvarError, match="permission"), Store(tmp_path / "s").writer({}, d.MATRICES, 1, "x", "y"):
            pass
    finally:
        os.chmod(tmp_path / "s", 0o700)


def test_a_file_where_the_store_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    assert Store(tmp_path / "file").find(d.SETTINGS, WANTED) is None
    with pytest.raises(EvarError, match="a file stands where a folder is needed"):
        d.fill(tmp_path / "file")
