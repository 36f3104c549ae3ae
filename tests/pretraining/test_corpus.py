"""What is trained on: all of the audio, evenly, and nothing that was to be left out; bad folders and manifests in one line."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from evar.errors import EvarError
from evar.pretraining.corpus import open_corpus

RATE = 16000


def write(path, seconds, value=None, rate=RATE):
    """A ramp from 0 to 0.5, so that a sample tells its place; or a constant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n = round(seconds * rate)
    soundfile.write(path, np.linspace(0, 0.5, n) if value is None else np.full(n, value), rate)


def refused(*sources, cache, **options):
    with pytest.raises(EvarError) as caught:
        open_corpus(sources, RATE, cache, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path):
    """A folder tree of several rates and formats, with things that are no audio."""
    folder = tmp_path / "tree"
    write(folder / "a.wav", 3.0)
    write(folder / "deep" / "er" / "b.FLAC", 1.0, rate=44100)
    write(folder / "deep" / "c.ogg", 0.3, rate=22050)
    (folder / "notes.txt").write_text("hello")
    (folder / "folder.wav").mkdir()
    return folder


def test_any_tree_any_rate(tree, cache):
    corpus = open_corpus([tree], RATE, cache)
    assert corpus.waves.ids == ("a.wav", "deep/c.ogg", "deep/er/b.FLAC")
    assert corpus.clips == 3
    assert corpus.hours == pytest.approx(4.3 / 3600, rel=0.01)
    assert corpus.pieces.tolist() == [0, 0, 0, 1, 2]
    assert open_corpus([tree], RATE, cache).digest == corpus.digest


def test_the_digest_is_of_the_sound_and_not_of_the_place(tree, cache, tmp_path):
    import shutil

    shutil.copytree(tree, tmp_path / "copy" / "tree")
    first = open_corpus([tree], RATE, cache).digest
    assert open_corpus([tmp_path / "copy" / "tree"], RATE, cache).digest == first
    write(tmp_path / "copy" / "tree" / "a.wav", 2.9)
    assert open_corpus([tmp_path / "copy" / "tree"], RATE, cache).digest != first


def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide(tree, cache):
    for i in range(30):
        write(tree / f"{i}.wav", 1.0)
    corpus = open_corpus([tree], RATE, cache)
    orders = {(seed, epoch): corpus.order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    for order in orders.values():
        np.testing.assert_array_equal(np.sort(order), corpus.pieces)
    assert len({tuple(order) for order in orders.values()}) == 4
    np.testing.assert_array_equal(corpus.order(1, 0), orders[1, 0])


def test_crops_lie_evenly_over_a_clip(tree, cache):
    """3 s and crops of 1 s: starts are uniform over [0, 2] s, both ends included."""
    corpus = open_corpus([tree], RATE, cache)
    crops = corpus.crops(np.zeros(4000, dtype=np.int64), 1, RATE, np.random.default_rng(0))[:, 0]
    starts = crops[:, 0] / 0.5 * 48000
    assert starts.min() < 100
    assert starts.max() > 31900
    counts, _ = np.histogram(starts, bins=10, range=(0, 32000))
    assert counts.sum() >= 3999
    assert np.all(np.abs(counts - 400) < 5 * 400**0.5)


def test_both_ends_of_a_clip_are_reached(tree, cache):
    soundfile.write(tree / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 48000), RATE)
    corpus = open_corpus([tree], RATE, cache)
    crops = corpus.crops(np.zeros(300, dtype=np.int64), 1, 48000 - 2, np.random.default_rng(0))[:, 0]
    assert len({float(crop[0]) for crop in crops}) == 3


def test_all_audio_is_seen_equally_often(tree, cache):
    """An epoch gives a clip one crop per second of it, and a short one its one."""
    corpus = open_corpus([tree], RATE, cache)
    seen = np.bincount(np.concatenate([corpus.order(0, epoch) for epoch in range(10)]), minlength=3)
    assert seen.tolist() == [30, 10, 10]


def test_two_crops_of_one_clip_differ_and_short_clips_are_padded(tree, cache):
    corpus = open_corpus([tree], RATE, cache)
    crops = corpus.crops(np.array([0, 1]), 2, RATE, np.random.default_rng(0))
    assert crops.shape == (2, 2, RATE)
    assert crops.dtype == np.float32
    assert not np.array_equal(crops[0, 0], crops[0, 1])
    n = int(corpus.waves.lengths[1])
    assert n < RATE
    np.testing.assert_array_equal(crops[1, :, n:], 0.0)
    assert np.abs(crops[1, :, :n]).max() > 0.3


def test_statistics_see_the_same_crops_every_time(tree, cache):
    corpus = open_corpus([tree], RATE, cache)
    first, second = list(corpus.statistics_batches(8000, batch=2)), list(corpus.statistics_batches(8000, batch=2))
    assert [len(wav) for wav, _ in first] == [2, 2, 1]
    for (wav, lengths), (again, lengths_again) in zip(first, second, strict=True):
        np.testing.assert_array_equal(wav, again)
        np.testing.assert_array_equal(lengths, lengths_again)
        assert lengths.max() <= 8000


def test_corrupt_files_are_left_out_and_named(tree, cache):
    (tree / "broken.wav").write_bytes(b"RIFF....")
    (tree / "empty.mp3").write_bytes(b"")
    soundfile.write(tree / "nothing.wav", np.zeros(0), RATE)
    corpus = open_corpus([tree], RATE, cache)
    assert corpus.clips == 3
    assert sorted(corpus.waves.ids[i] for i in corpus.waves.bad) == ["broken.wav", "empty.mp3", "nothing.wav"]
    assert all(name in reason for i, reason in corpus.waves.bad.items() for name in [corpus.waves.ids[i]])
    assert {corpus.waves.ids[i] for i in corpus.pieces} == {"a.wav", "deep/c.ogg", "deep/er/b.FLAC"}


def test_several_sources_and_a_single_file(tree, cache, tmp_path):
    write(tmp_path / "one.wav", 1.0)
    corpus = open_corpus([tree, tmp_path / "one.wav"], RATE, cache)
    assert corpus.clips == 4
    assert corpus.waves.ids[-1] == "one/one.wav"


def test_bad_sources(tree, cache, tmp_path, monkeypatch):
    (tmp_path / "hollow").mkdir()
    assert "does not exist" in refused(tmp_path / "nowhere", cache=cache)
    assert "no audio in" in refused(tmp_path / "hollow", cache=cache)
    assert "a.wav twice" in refused(tree, tree / "a.wav", cache=cache)
    monkeypatch.chdir(tree.parent)
    assert "a.wav twice" in refused("tree", tree / "deep" / ".." / "a.wav", cache=cache)
    (tmp_path / "hollow" / "x.wav").write_text("no audio")
    assert "1 of 1" in refused(tmp_path / "hollow", cache=cache)
    assert "--skip-licence needs a manifest" in refused(tree, cache=cache, skip_licence=["NC"])


# --- manifests --------------------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(tree):
    def make(text, encoding="utf-8"):
        (tree / "list.csv").write_bytes(text.encode(encoding))
        return tree / "list.csv"

    return make


ROWS = "file,licence\na.wav,CC BY 4.0\ndeep/c.ogg,CC BY-NC 3.0\ndeep/er/b.FLAC,cc0\n"


def test_a_manifest_names_files_relative_to_itself(manifest, cache):
    corpus = open_corpus([manifest(ROWS)], RATE, cache)
    assert corpus.waves.ids == ("a.wav", "deep/c.ogg", "deep/er/b.FLAC")
    assert corpus.left_out == 0


@pytest.mark.parametrize("text", ["NC", "by-nc", "Nc 3"])
def test_a_licence_is_left_out_however_it_is_written(text, manifest, cache):
    """A filter that silently matches nothing would train on what may not be trained on."""
    corpus = open_corpus([manifest(ROWS)], RATE, cache, skip_licence=[text])
    assert corpus.waves.ids == ("a.wav", "deep/er/b.FLAC")
    assert corpus.left_out == 1


def test_a_byte_order_mark_and_quoted_commas_are_fine(manifest, cache, tree):
    write(tree / "x, y.wav", 1.0)
    corpus = open_corpus([manifest('file,note\n"x, y.wav",hm\n\na.wav,\n', "utf-8-sig")], RATE, cache)
    assert corpus.waves.ids == ("x, y.wav", "a.wav")


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("path,licence\na.wav,x\n", {}, "no column 'file': it has path, licence"),
        ("", {}, "no column 'file': it has none"),
        ("file\na.wav\n", {"skip_licence": ["NC"]}, "no column 'licence'"),
        ("file,licence\na.wav\n", {}, "row 1 (a.wav) has 1 columns, expected 2"),
        ("file,licence\na.wav,x\ndeep/c,d.ogg,x\n", {}, "row 2 (deep/c,d.ogg,x) has 3 columns, expected 2"),
        ("file,licence\n,x\n", {}, "a file name"),
        ("file,licence\n", {}, "names no files"),
        ("file,licence\na.wav,CC BY-NC\n", {"skip_licence": ["NC"]}, "names no files under other licences"),
        ("file\na.wav\nz.wav\ny.wav\n", {}, "2 of 3 files are missing, such as z.wav"),
        ("file\na.wav\na.wav\n", {}, "a.wav twice"),
    ],
)
def test_bad_manifests(text, options, expected, manifest, cache):
    assert expected in refused(manifest(text), cache=cache, **options)


def test_manifests_that_are_none(manifest, cache, tree):
    assert "cannot read the manifest" in refused(tree / "missing.csv", cache=cache)
    assert "no CSV manifest in UTF-8" in refused(manifest("file\nä.wav\n", "latin-1"), cache=cache)
    (tree / "folder.csv").mkdir()
    assert "cannot read the manifest" in refused(tree / "folder.csv", cache=cache)
