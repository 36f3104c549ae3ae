"""Rows come back in clip order, exactly, under any label; bad rows are refused; a damaged set is never served."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import store_data as d
from hypothesis import given, settings
from hypothesis import strategies as st

import evar.store
from evar.errors import EvarError
from evar.store import Store

WANTED = [("out", "mean+max")]
EVERYTHING = [*WANTED, ("block2", "mean")]


def test_rows_come_back_in_clip_order(tmp_path):
    made = d.fill(tmp_path)
    found = Store(tmp_path).find(d.SETTINGS, [("out", "mean+max"), ("block2", "mean")])
    everything = np.arange(d.N_CLIPS)
    for layer, pooling, dim in d.MATRICES:
        expected = d.rows(layer, everything, dim)
        for embeddings in (made, found):
            np.testing.assert_array_equal(embeddings.rows(layer, pooling), expected)
        source = found.source(layer, pooling)
        assert (source.shape, source.dtype, len(source)) == ((d.N_CLIPS, dim), np.float32, d.N_CLIPS)
        some = np.array([299, 0, 17, 17])
        np.testing.assert_array_equal(source[some], expected[some])
        np.testing.assert_array_equal(found.rows(layer, pooling, some), expected[some])
        np.testing.assert_array_equal(np.concatenate([block for _, block in source.chunks(64)]), expected)
        assert [part.stop - part.start for part, _ in source.chunks(128)] == [128, 128, 44]
        np.testing.assert_array_equal(np.asarray(source), expected)
        subset = source.subset(some).subset(np.array([2, 0]))
        np.testing.assert_array_equal(subset[:], expected[[17, 299]])
        np.testing.assert_array_equal(next(iter(subset.chunks(5)))[1], expected[[17, 299]])


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(40)), st.integers(1, 13))
def test_any_order_and_batch_size(tmp_path_factory, order, batch):
    root = tmp_path_factory.mktemp("store")
    data = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    with Store(root).writer(d.SETTINGS, [("a", "mean", 3)], 40, "x", "y") as writer:
        for start in range(0, 40, batch):
            part = np.array(order[start : start + batch])
            writer.write(part, {("a", "mean"): data[part]})
        np.testing.assert_array_equal(writer.finish().rows("a", "mean"), data)


def test_found_under_any_label_and_as_part_of_more(tmp_path):
    d.fill(tmp_path)
    store = Store(tmp_path)
    with store.writer(d.SETTINGS, d.MATRICES[1:], d.N_CLIPS, "another label", "another/task") as writer:
        assert len(writer.pending) == 0  # the larger set holds it
        assert writer.finish().path == d.folder_of(tmp_path)
    assert store.find(d.SETTINGS, WANTED) is not None
    assert store.find(d.SETTINGS, [("block1", "mean")]) is None
    for name in d.SETTINGS:
        assert store.find({**d.SETTINGS, name: "else"}, WANTED) is None
    assert Store(tmp_path / "nowhere").find(d.SETTINGS, WANTED) is None


def test_an_interrupted_set_continues_under_another_label(tmp_path):
    d.fill(tmp_path, stop_after=10)
    with Store(tmp_path).writer(d.SETTINGS, d.MATRICES[::-1], d.N_CLIPS, "renamed", "us8k") as writer:
        assert len(writer.pending) == d.N_CLIPS - 30
    assert len(Store(tmp_path).list_sets()) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused(tmp_path, bad):
    indices = np.array([7, 3, 200])
    blocks = d.blocks(indices)
    blocks["out", "mean+max"][1, 5] = bad
    with Store(tmp_path).writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "x", "y") as writer:
        with pytest.raises(EvarError, match=r"out/mean\+max are not finite for 1 clips .*clip index 3"):
            writer.write(indices, blocks)
        assert len(writer.pending) == d.N_CLIPS
        writer.write(indices, d.blocks(indices))


def test_a_wrong_shape_is_said(tmp_path):
    with Store(tmp_path).writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "x", "y") as writer:
        blocks = d.blocks(np.arange(4))
        blocks["out", "mean+max"] = blocks["out", "mean+max"][:, :5]
        with pytest.raises(EvarError, match=r"expected shape \[4, 8\], found \[4, 5\]"):
            writer.write(np.arange(4), blocks)


def test_no_clip_is_written_twice(tmp_path):
    with Store(tmp_path).writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "x", "y") as writer:
        writer.write(np.arange(3), d.blocks(np.arange(3)))
        for indices in ([2, 5], [9, 9], [-1, 4], [300]):
            with pytest.raises(ValueError, match="clip"):
                writer.write(np.array(indices), d.blocks(np.array(indices)))
        with pytest.raises(ValueError, match="expected"):
            writer.write(np.arange(5, 8), {("out", "mean+max"): d.rows("out", np.arange(5, 8), 8)})


def rebuilt(root, of=EVERYTHING):
    """The set is found damaged, put aside with a warning, and made anew."""
    folder = d.folder_of(root)
    assert Store(root).find(d.SETTINGS, of) is None
    with pytest.warns(UserWarning, match=f"damaged .*put aside in {folder}.damaged"):
        made = d.fill(root)
    for layer, pooling, dim in d.MATRICES:
        np.testing.assert_array_equal(made.rows(layer, pooling), d.rows(layer, np.arange(d.N_CLIPS), dim))
    store = Store(root)
    assert store.find(d.SETTINGS, of) is not None
    assert store.verify() == []
    aside = [row for row in store.list_sets() if row["path"].endswith(".damaged")]
    assert ["put aside" in row["problem"] for row in aside] == [True]
    assert store.prune(incomplete=True) > 0
    assert len(store.list_sets()) == 1


@pytest.mark.parametrize("position", [0, 1000, -1])
@pytest.mark.parametrize("name", ["0.f32", "1.f32"])
def test_a_flipped_byte_is_found_and_the_set_made_anew(tmp_path, name, position):
    """Also where the disk did it: the time stamp is as it was."""
    d.fill(tmp_path)
    path = d.folder_of(tmp_path) / name
    before, data = path.stat(), bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (problem,) = Store(tmp_path).verify()
    assert str(path) in problem
    assert "altered" in problem
    rebuilt(tmp_path)


def test_only_the_files_that_are_wanted_are_read(tmp_path, monkeypatch):
    """Once per store, and not at all right after they were written."""
    seen = []
    real = evar.store.sha256_file
    monkeypatch.setattr(evar.store, "sha256_file", lambda path, *read: (seen.append(path.name), real(path, *read))[1])
    writer = Store(tmp_path)
    with writer.writer(d.SETTINGS, d.MATRICES, d.N_CLIPS, "x", "y") as writing:
        writing.write(np.arange(d.N_CLIPS), d.blocks(np.arange(d.N_CLIPS)))
        writing.finish()
    seen.clear()
    assert writer.find(d.SETTINGS, WANTED) is not None
    assert seen == []
    reader = Store(tmp_path)
    assert reader.find(d.SETTINGS, WANTED) is not None
    assert reader.find(d.SETTINGS, WANTED) is not None
    assert seen == ["1.f32"]


@pytest.mark.parametrize("harm", ["truncated", "empty", "gone"])
def test_a_truncated_or_lost_file_is_never_served(tmp_path, harm):
    d.fill(tmp_path)
    path = d.folder_of(tmp_path) / "0.f32"
    data = path.read_bytes()
    path.write_bytes(data[:-4] if harm == "truncated" else b"")
    if harm == "gone":
        path.unlink()
    assert len(Store(tmp_path).verify()) == 1
    rebuilt(tmp_path)


@pytest.mark.parametrize("there", ["a folder", "a folder that stays", "a file", "a link"])
def test_what_stands_where_a_damaged_set_is_put_aside_is_no_hindrance(tmp_path, monkeypatch, there):
    """Regression: a `.damaged` that cannot be removed (a file of it is open on NFS) or is no folder ended the run."""
    d.fill(tmp_path / "store")
    folder, outside = d.folder_of(tmp_path / "store"), tmp_path / "outside"
    aside = folder.with_name(folder.name + ".damaged")
    outside.mkdir()
    (outside / "mine").write_text("of the user")
    if there == "a file":
        aside.write_text("x")
    elif there == "a link":
        aside.symlink_to(outside)
    else:
        aside.mkdir()
        (aside / ".nfs0001").write_text("x")
    (folder / "0.f32").unlink()
    with monkeypatch.context() as patched:
        if there == "a folder that stays":
            patched.setattr("shutil.rmtree", lambda *args, **more: None)
        with pytest.warns(UserWarning, match=f"put aside in {aside}"):
            d.fill(tmp_path / "store")
    store = Store(tmp_path / "store")
    assert store.find(d.SETTINGS, EVERYTHING) is not None
    assert sorted(one.name for one in aside.iterdir() if one.name != "meta.json") == ["1.f32"]
    assert store.prune(incomplete=True) > 0
    assert not list((tmp_path / "store").rglob(".nfs*"))
    assert (outside / "mine").read_text() == "of the user"


def test_checking_a_large_set_is_shown(tmp_path):
    """Regression: 25 GB were read for 13 s without a word before a probe began."""
    d.fill(tmp_path)
    told = []

    @contextlib.contextmanager
    def bar(stage, what, unit):
        told.append((stage, what, unit))
        yield lambda done, total: told.append((done, total))

    store = Store(tmp_path, bar)
    assert store.find(d.SETTINGS, EVERYTHING) is not None
    total = sum(d.N_CLIPS * dim * 4 for _, _, dim in d.MATRICES)
    assert told[0] == ("check", "py:my.net:Net × esc50", "B")
    assert told[-1] == (total, total)
    told.clear()
    assert store.find(d.SETTINGS, EVERYTHING) is not None
    assert told == []
    store.verify(lambda done, total: told.append((done, total)))
    assert told
    assert all(0 < done <= total for done, total in told)


def test_a_kill_while_a_lost_file_is_made_anew_leaves_no_zeros(tmp_path):
    """The set said that it is complete: once it was written into anew, a kill left rows of zeros that passed for whole."""
    d.fill(tmp_path)
    (d.folder_of(tmp_path) / "0.f32").unlink()
    with pytest.warns(UserWarning, match="damaged"):
        d.fill(tmp_path, stop_after=1)
    assert Store(tmp_path).find(d.SETTINGS, WANTED) is None
    made = d.fill(tmp_path)
    np.testing.assert_array_equal(made.rows("out", "mean+max"), d.rows("out", np.arange(d.N_CLIPS), 8))


def damage(path, how):
    content = json.loads(path.read_text())
    if how == "format 2":
        path.write_text(json.dumps(content | {"format": 2}))
    elif how == "not JSON":
        path.write_text(path.read_text()[:100])
    elif how == "not text":
        path.write_bytes(b"\xff\x00\xfe")
    elif how == "a list":
        path.write_text("[]")
    elif how == "key missing":
        path.write_text(json.dumps({k: v for k, v in content.items() if k != "matrices"}))
    elif how == "other settings":
        path.write_text(json.dumps(content | {"settings": {"encoder_fingerprint": "forged"}}))


@pytest.mark.parametrize("how", ["format 2", "not JSON", "not text", "a list", "key missing", "other settings"])
def test_a_damaged_meta_is_told_and_can_be_pruned_or_made_anew(tmp_path, how):
    d.fill(tmp_path)
    folder = d.folder_of(tmp_path)
    damage(folder / "meta.json", how)
    store = Store(tmp_path)
    assert store.find(d.SETTINGS, WANTED) is None
    (problem,) = store.verify()
    assert f"{folder / 'meta.json'}" in problem
    assert f"evar store prune --key {folder.name}" in problem
    assert store.list_sets()[0]["problem"]
    assert store.prune(key=folder.name) > 0
    assert store.list_sets() == []
    d.fill(tmp_path)
    damage(folder / "meta.json", how)
    rebuilt(tmp_path)


@pytest.mark.parametrize("label", ["py:a.b:C", "../../etc", "..", "", "random:byola@0", "a/b\\c", "日本", "x" * 300])
def test_no_label_leaves_the_store(tmp_path, label):
    with Store(tmp_path / "in").writer(d.SETTINGS, [("a", "mean", 1)], 1, label, label) as writer:
        writer.write(np.array([0]), {("a", "mean"): np.ones((1, 1))})
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (row,) = Store(tmp_path / "in").list_sets()
    assert (row["encoder"], row["task"], row["complete"]) == (label, label, True)


def test_reading_a_large_set_stays_on_the_disk(tmp_path):
    """100 MB are read in chunks while anonymous memory grows by little more than a chunk (2 MB)."""
    code = """
import sys, numpy as np
from evar.store import Store
s = {"encoder_fingerprint": "e"}
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1000
with Store(sys.argv[1]).writer(s, [("a", "mean", 2500)], 10_000, "x", "y") as writer:
    block = np.ones((200, 2500), np.float32)
    for start in range(0, 10_000, 200):
        writer.write(np.arange(start, start + 200)[::-1], {("a", "mean"): block})
    source = writer.finish().source("a", "mean")
before = anonymous()
total = sum(float(block.sum()) for _, block in source.chunks(200))
assert total == 25e6, total
print(anonymous() - before)
"""
    with open("/proc/self/status") as status:
        if "RssAnon" not in status.read():
            pytest.skip("no RssAnon on this system")
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 20


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ESTALE])
def test_a_passing_trouble_of_the_disk_puts_no_good_set_aside(tmp_path, monkeypatch, code):
    """Regression: too many open files counted as damage, and the intact set was renamed and encoded again."""
    settings = {"encoder_fingerprint": "e", "clips_fingerprint": "c", "duration": "1", "precision": "fp32"}
    matrices, rows = [("out", "mean", 3)], np.arange(6, dtype=np.float32).reshape(2, 3)
    with Store(tmp_path).writer(settings, matrices, 2, "mine", "task") as writer:
        writer.write(np.arange(2), {("out", "mean"): rows})
        writer.finish()

    def trouble(path, *read):
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patched:
        patched.setattr("evar.store_sets.sha256_file", trouble, raising=False)
        patched.setattr("evar.store.sha256_file", trouble, raising=False)
        with (
            pytest.raises(EvarError, match="run the same command again"),
            Store(tmp_path).writer(settings, matrices, 2, "mine", "task"),
        ):
            pass
    assert not list(tmp_path.rglob("*.damaged"))
    found = Store(tmp_path).find(settings, [("out", "mean")])
    assert np.array_equal(found.rows("out", "mean"), rows)
