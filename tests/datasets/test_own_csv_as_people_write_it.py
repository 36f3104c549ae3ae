"""Fear: a csv that any person would call right is refused, or one with a slip in it gives another number in silence."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from evar.datasets import find_card, layouts, load_task
from evar.datasets.mini import make
from evar.errors import EvarError

FOLDS = "split: folds\nfolds: 2\n"
PARTS = "split: parts\n"
MULTI = FOLDS + "multilabel: true\nmetric: mAP\n"


def rows(names="1234", head="path,label,fold", row="{n}.wav,{label},{fold}"):
    lines = [row.format(n=n, label="ab"[i % 2], fold=i // 2 % 2 + 1) for i, n in enumerate(names)]
    return "\n".join([head, *lines]) + "\n"


FILES = [f"{n}.wav" for n in "1234"]


@pytest.mark.parametrize("before", ["./", ".\\", "s/", "s\\", "ABSOLUTE/", " "])
def test_a_path_is_found_however_it_is_written(own, before):
    inside = "s/" if before[0] == "s" else ""
    text = rows(row=before.replace("ABSOLUTE", str(own.root)) + "{n}.wav,{label},{fold}")
    assert own(FOLDS, [inside + name for name in FILES], clips=text).clips["clip_id"].tolist() == [
        inside + n for n in "1234"
    ]


@pytest.mark.parametrize("name", ["x\u00a0y", "x\u202fy", "x\u3000y", "caf\u00e9", "\u200cx"])
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_a_name_is_found_in_any_form_of_unicode_and_has_one_id(own, name, forms):
    written, there = (unicodedata.normalize(form, name) for form in forms)
    files = [f"{there}{n}/{there}.flac" for n in "1234"]
    task = own(FOLDS, files, clips=rows(row=written + "{n}/" + written + ".wav,{label},{fold}"))
    assert task.files()[0].exists()
    assert task.clips["clip_id"][0] == unicodedata.normalize("NFC", f"{name}1/{name}")


def test_spaces_around_values_are_none(own):
    text = "path , label,split,group\n1.wav,a,train, anna\n2.wav, b,Train,anna \n3.wav,a , test,eve\n4.wav,b,test,eve\n"
    task = own(PARTS + "group: speaker\n", FILES, clips=text)
    assert (task.classes, set(task.clips["group"])) == (("a", "b"), {"anna", "eve"})
    with pytest.raises(EvarError, match="in more than one split: anna"):
        own(PARTS + "group: speaker\n", FILES, clips=text.replace("eve", "anna\u00a0"))


@pytest.mark.parametrize("sign", ["\t", ";", "|"])
def test_other_signs_between_columns_are_seen_and_said(own, sign):
    with pytest.warns(UserWarning, match="delimiter"):
        assert len(own(FOLDS, FILES, clips=rows().replace(",", sign)).clips) == 4
    with pytest.raises(EvarError, match="delimiter"):
        own(FOLDS + "options: {delimiter: ','}\n", FILES, clips=rows().replace(",", sign))


def test_encodings(own):
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert len(own(FOLDS, FILES, clips=rows().encode(encoding)).clips) == 4
    with pytest.raises(EvarError, match=r"not UTF-8.*save it as UTF-8"):
        own(FOLDS, FILES, clips=rows("é234").encode("cp1252"))
    with pytest.raises(EvarError, match="spreadsheet"):
        own(FOLDS, FILES, clips=b"PK\x03\x04")


@pytest.mark.parametrize("words", [("Train", "validation", "testing"), ("training", "val", "eval")])
def test_words_for_parts(own, words):
    text = "path,label,split\n" + "".join(f"{w}{c}.wav,{c},{w}\n" for w in words for c in "ab")
    task = own(PARTS, [f"{w}{c}.wav" for w in words for c in "ab"], clips=text)
    assert set(task.clips["split"]) == {"train", "valid", "test"}


@pytest.mark.parametrize("words", [("dev", "eval"), ("train", "testing", "eval"), ("train", "wild")])
def test_ambiguous_words_for_parts_name_the_option(own, words):
    text = "path,label,split\n" + "".join(f"{w}{c}.wav,{c},{w}\n" for w in words for c in "ab")
    with pytest.raises(EvarError, match=r"options: \{parts: \{"):
        own(PARTS, [f"{w}{c}.wav" for w in words for c in "ab"], clips=text)


def test_folds_by_name_as_floats_and_from_zero(own):
    for form in ("fold{fold}", "{fold}.0", "Fold_0{fold}"):
        assert set(own(FOLDS, FILES, clips=rows(row="{n}.wav,{label}," + form)).clips["fold"]) == {1, 2}
    with pytest.warns(UserWarning, match="0 to 1 are taken as 1 to 2"):
        task = own(FOLDS, FILES, clips=rows().replace(",1\n", ",0\n").replace(",2\n", ",1\n"))
    assert task.clips["fold"].tolist() == [1, 1, 2, 2]
    named = rows().replace(",1\n", ",x\n").replace(",2\n", ",y\n")
    with pytest.raises(EvarError, match=r"options: \{parts"):
        own(FOLDS, FILES, clips=named)
    assert set(own(FOLDS + "options: {parts: {x: '1', y: '2'}}\n", FILES, clips=named).clips["fold"]) == {1, 2}


def test_numbers_with_and_without_decimals_are_one_class(own):
    text = "path,label,fold\n1.wav,0,1\n2.wav,1,1\n3.wav,0.0,2\n4.wav,1.0,2\n"
    with pytest.warns(UserWarning, match="taken as one"):
        assert own(FOLDS, FILES, clips=text).classes == ("0", "1")


def test_a_clip_without_labels_is_a_negative(own):
    task = own(MULTI, FILES, clips='path,label,fold\n1.wav,"a,b",1\n2.wav,,1\n3.wav,a,2\n4.wav,b,2\n')
    assert task.targets().tolist() == [[1, 1], [0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("sign", [";", "|", " "])
def test_a_forgotten_separator_is_named(own, sign):
    text = f"path,label,fold\n1.wav,a{sign}b,1\n2.wav,b,1\n3.wav,a,2\n4.wav,b{sign}a,2\n"
    with pytest.raises(EvarError, match=rf'separator: "\{sign}"'):
        own(MULTI, FILES, clips=text)
    assert own(MULTI + f"options: {{separator: '{sign}'}}\n", FILES, clips=text).classes == ("a", "b")


SEGMENTS = "path,start,end,label,fold\n" + "".join(f"{k}.wav,0,0.3,a,{k}\n{k}.wav,0.5,,b,{k}\n" for k in (1, 2))


def test_segments_have_ids_times_and_the_file_as_group(own):
    with pytest.warns(UserWarning, match="seconds of segments"):
        task = own(FOLDS, FILES, clips=SEGMENTS)
    assert task.clips["clip_id"].tolist() == ["1#0-0.3", "1#0.5-", "2#0-0.3", "2#0.5-"]
    assert task.clips["group"].tolist() == ["1", "1", "2", "2"]
    assert task.clips["start"].tolist() == [0, 0.5, 0, 0.5]
    named = own(FOLDS + "options: {start: start, stop: end}\n", FILES, clips=SEGMENTS)
    assert named.fingerprint == task.fingerprint


def test_slips_in_segments_are_named(own):
    options = FOLDS + "options: {start: start, stop: end}\n"
    for old, new, match in (
        ("0,0.3,a,1", "0.4,0.3,a,1", "start < stop"),
        ("0,0.3,a,1", "-1,0.3,a,1", "expected seconds"),
        ("0,0.3,a,1", "0,inf,a,1", "expected seconds"),
        ("0,0.3,a,1", "0,0.3,a,2", "segments in more than one fold: 1"),
    ):
        with pytest.raises(EvarError, match=match):
            own(options, FILES, clips=SEGMENTS.replace(old, new))
    with pytest.raises(EvarError, match=r"options: \{start: COLUMN, stop: COLUMN\}.*onset"):
        own(FOLDS, FILES, clips=SEGMENTS.replace("start,end", "onset,offset"))


def test_times_of_files_that_come_once_are_not_cut(own):
    text = "path,label,fold,start,end\n" + "".join(f"{n}.wav,{'ab'[n % 2]},{(n + 1) // 2},5,6\n" for n in range(1, 5))
    with pytest.warns(UserWarning, match=r"`start` and `end` are not used.*options: \{start: start, stop: end\}"):
        assert own(FOLDS, FILES, clips=text).clips["start"].tolist() == [0.0] * 4


def test_end_is_another_word_for_stop(own):
    named = own(FOLDS + "options: {start: start, end: end}\n", FILES, clips=SEGMENTS)
    assert named.fingerprint == own(FOLDS + "options: {start: start, stop: end}\n", FILES, clips=SEGMENTS).fingerprint
    with pytest.raises(EvarError, match="'end' is another word for 'stop'; remove one of the two"):
        own(FOLDS + "options: {start: start, stop: end, end: end}\n", FILES, clips=SEGMENTS)
    with pytest.raises(EvarError, match="'end'"):
        own(FOLDS + "options: {end: 5}\n", FILES, clips=SEGMENTS)


def test_the_card_is_shown_with_the_word_it_has_for_stop(tmp_path):
    from click.testing import CliRunner

    from evar.cli.listing import task_command

    (tmp_path / "c.yaml").write_text(
        "name: c\nversion: 1\ntitle: t\nasks: q\nseconds: 1\nmetric: accuracy\nlayout: csv_columns\n"
        + FOLDS.replace("name: c\n", "")
        + "options: {start: onset, end: offset}\n"
    )
    said = CliRunner().invoke(task_command, ["show", str(tmp_path / "c.yaml")]).output
    assert 'end: "offset"' in said, said
    assert "stop:" not in said


def test_a_segment_is_heard_as_the_same_sound_cut_out(own, tmp_path):
    from evar.datasets import synth
    from evar.embed import open_task_waveforms

    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    (tmp_path / "set").mkdir()
    for k in (1, 2):
        synth.write_wav(own.root / f"{k}.wav", sound * k / 2, 16000)
        synth.write_wav(own.root / f"cut{k}a.wav", (sound * k / 2)[:4800], 16000)
        synth.write_wav(own.root / f"cut{k}b.wav", (sound * k / 2)[8000:], 16000)
    segments = own(FOLDS + "options: {start: start, stop: end}\n", clips=SEGMENTS)
    files = own(FOLDS, clips="path,label,fold\n" + "".join(f"cut{k}{c}.wav,{c},{k}\n" for k in (1, 2) for c in "ab"))
    one, other = (open_task_waveforms(task, 16000, embeddings=tmp_path / "emb") for task in (segments, files))
    assert np.array_equal(one.batch(range(4), 16000)[0], other.batch(range(4), 16000)[0])


def test_a_named_group_is_looked_for_under_its_name(own):
    text = rows(head="path,label,fold,Speaker", row="{n}.wav,{label},{fold},s{fold}")
    assert set(own(FOLDS + "group: speaker\n", FILES, clips=text).clips["group"]) == {"s1", "s2"}
    with pytest.raises(EvarError, match=r"group: speaker.*options: \{group: COLUMN\}"):
        own(FOLDS + "group: speaker\n", FILES, clips=rows())


@pytest.mark.parametrize(
    "card",
    [
        FOLDS + "options: {parts: {dev: train}}\n",
        FOLDS + "split_file: clips.csv\noptions: {file: clips.csv}\n",
        FOLDS + "options: {separator: ';'}\n",
        FOLDS + "options: {key: path}\n",
        FOLDS + "options: {where: {label: [a, b]}}\n",
        FOLDS + "options: {where: {label: z}}\n",
    ],
)
def test_an_option_that_cannot_act_is_an_error(own, card):
    with pytest.raises(EvarError, match=r"no effect|expected a fold|leaves out none|no row has"):
        own(card, FILES, clips=rows())


def test_one_list_for_each_part(own):
    task = own(
        PARTS + "options: {file: {train: tr.csv, val: va.csv, test: te.csv}}\n",
        [f"{p}{c}.wav" for p in "xyz" for c in "ab"],
        **{name: f"path,label\n{p}a.wav,a\n{p}b.wav,b\n" for name, p in (("tr", "x"), ("va", "y"), ("te", "z"))},
    )
    assert task.clips["split"].tolist() == ["train"] * 2 + ["valid"] * 2 + ["test"] * 2


def test_labels_and_folds_in_two_tables(own):
    card = FOLDS + "options: {join: folds.csv, key: id}\n"
    labels, folds = "path,label\n1.wav,a\n2.wav,b\n3.wav,a\n4.wav,b\n", "id,fold\n4,2\n3,2\n2,1\n1,1\n"
    assert own(card, FILES, clips=labels, folds=folds).clips["fold"].tolist() == [1, 1, 2, 2]
    with pytest.raises(EvarError, match="no row for 1 of 4 clips: 1"):
        own(card, FILES, clips=labels, folds=folds.replace("1,1\n", ""))


def test_rows_are_left_out_and_counted(own):
    text = rows() + "5.wav,c,0\n"
    with pytest.warns(UserWarning, match="leaves out 1 of 5 rows"):
        task = own(FOLDS + "options: {where: {fold: '!0'}}\n", FILES, clips=text)
    assert len(task.clips) == 4
    with pytest.raises(EvarError, match=r'where: \{fold: "!0"\}'):
        own(FOLDS, FILES, clips=text)


def test_columns_from_file_names_and_without_a_header(own):
    names = [f"s{k}_{c}" for k in (1, 2) for c in "ab"]
    card = (
        FOLDS
        + "group: speaker\noptions: {columns: [path, fold], label: kind, pattern: '(?P<speaker>s.)_(?P<kind>.)'}\n"
    )
    text = "".join(f"{name}.wav,{name[1]}\n" for name in names)
    task = own(card, [f"{name}.wav" for name in names], clips=text)
    assert (task.classes, task.clips["group"].tolist()) == (("a", "b"), ["s1", "s1", "s2", "s2"])
    with pytest.raises(EvarError, match="does not match 1 of 5 names: odd"):
        own(card, clips=text + "odd.wav,1\n")


def test_a_pattern_without_end_is_stopped(own, monkeypatch):
    from evar.datasets import name_pattern

    monkeypatch.setattr(name_pattern, "SECONDS", 1.0)
    with pytest.raises(EvarError, match="repeats inside"):
        name_pattern.columns("(?P<g>(a+)+)b", ["a" * 60], "card")


@pytest.mark.parametrize(
    "options",
    [
        "file: {train: a.csv, valid: b.csv, test: c.csv}",
        "join: parts.csv, key: id",
        "where: {split: '!no'}, parts: {learn: train, try: train}",
        "start: from, stop: to, delimiter: ';', columns: [path, label, split, group, from, to]",
    ],
)
def test_a_mini_of_every_kind_of_table(options, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\nseconds: 1\nclasses: 2\nlayout: csv_columns\n{PARTS}options: {{{options}}}\n"
    )
    card = find_card("mine", tmp_path)
    assert layouts.load(card).OPTIONS
    assert len(load_task("mine", make(card, tmp_path / "mini"), tasks_dir=tmp_path).clips) == 40
