"""Fear: a slip in a csv of one's own is taken in silence, or its message does not say what mends it."""

from __future__ import annotations

import re
import warnings

import pytest

from evar.errors import EvarError

FOLDS = "split: folds\nfolds: 2\n"
PARTS = "split: parts\n"
MULTI = FOLDS + "multilabel: true\nmetric: mAP\n"
FILES = [f"{n}.wav" for n in "1234"]


def test_a_list_of_one_part_with_another_part_in_its_column_is_refused(own):
    lists = {
        "a": "path,label,split\n1.wav,a,Training\n2.wav,b,\n",
        "b": "path,label,split\n3.wav,a,test\n4.wav,b,train\n",
    }
    card = PARTS + "options: {file: {train: a.csv, test: b.csv}}\n"
    with pytest.raises(EvarError, match=r"b.csv: its own column split says train in 1 of 2 rows \(row 3\).*says test"):
        own(card, FILES, **lists)
    lists["b"] = lists["b"].replace(",train", ",testing")
    assert own(card, FILES, **lists).clips["split"].tolist() == ["train", "train", "test", "test"]


def test_rows_that_the_first_list_leaves_out_need_no_row_in_the_joined_one(own):
    labels = "path,label,use\n1.wav,a,1\n2.wav,b,1\n3.wav,a,1\n4.wav,b,1\n5.wav,a,0\n"
    folds = "path,fold,use,good\n1.wav,1,1,y\n2.wav,1,1,y\n3.wav,2,1,y\n4.wav,2,1,y\n"
    card = FOLDS + "options: {join: folds.csv, where: {use: '1'}}\n"
    with pytest.raises(EvarError, match=r"no row for 1 of 5 clips: 5; .*a column of the first list"):
        own(card.replace(", where: {use: '1'}", ""), FILES, clips=labels, folds=folds)
    with pytest.warns(UserWarning, match="leaves out 1 of 5 rows"):
        assert len(own(card, FILES, clips=labels, folds=folds).clips) == 4
    card, folds = card.replace("use: '1'", "use: '1', good: y"), folds.replace("4.wav,2,1,y", "4.wav,2,1,n")
    with pytest.warns(UserWarning, match="leaves out 2 of 5 rows"):
        assert len(own(card, FILES, clips=labels, folds=folds).clips) == 3


@pytest.mark.parametrize("sign", [" ", ":", "--", "/", "|", " + ", ";"])
def test_every_forgotten_separator_is_said(own, sign):
    text = f"path,label,fold\n1.wav,a,1\n2.wav,a{sign}b,1\n3.wav,a{sign}b,2\n4.wav,,2\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((EvarError, UserWarning), match=re.escape(f'separator: "{sign.strip() or " "}"')):
            own(MULTI, FILES, clips=text)


@pytest.mark.parametrize("labels", [("dog bark", "rain", "cat", "wind"), ("air conditioner", "car horn", "x", "y")])
def test_labels_of_several_words_are_no_forgotten_separator(own, recwarn, labels):
    rows = "".join(f"{n}.wav,{label},{(n + 1) // 2}\n" for n, label in enumerate(labels, 1))
    assert own(MULTI, FILES, clips="path,label,fold\n" + rows).classes == tuple(sorted(labels))
    assert not recwarn.list


def test_a_second_separator_is_said_and_a_stated_one_is_believed(own, recwarn):
    text = 'path,label,fold\n1.wav,"a,b",1\n2.wav,a;b,1\n3.wav,a,2\n4.wav,b,2\n'
    with pytest.warns(UserWarning, match=r'separator: ";"'):
        own(MULTI, FILES, clips=text)
    with pytest.warns(UserWarning, match="are split by ',' only"):
        task = own(MULTI + "options: {separator: ','}\n", FILES, clips=text.replace('"a,b"', "a"))
    assert task.classes == ("a", "a;b", "b")


def test_names_that_differ_in_capitals_only_are_said(own, recwarn):
    text = "path,label,fold,group\n1.wav,dog,1,Jos\u00e9\n2.wav,cat,1,eve\n3.wav,Dog,2,jOS\u00c9\n4.wav,cat,2,ann\n"
    own(FOLDS, FILES, clips=text)
    told = " ".join(str(warning.message) for warning in recwarn)
    assert "Dog and dog" in told
    assert "Jos\u00e9 and jOS\u00c9" in told


def test_one_clip_with_two_labels_names_both_and_multilabel(own):
    text = "path,start,end,label,fold\n1.wav,0,1,a,1\n1.wav,0,1,b,1\n2.wav,0,1,a,2\n2.wav,1,2,b,2\n"
    with pytest.raises(EvarError, match=r"1#0-1 has the labels a and b; .*`multilabel: true`"):
        own(FOLDS + "options: {start: start, stop: end}\n", FILES, clips=text)
    with pytest.raises(EvarError, match=r"1.wav has the labels a and b; .*`multilabel: true`"):
        own(FOLDS, FILES, clips="path,label,fold\n1.wav,a,1\n1.wav,b,1\n2.wav,a,2\n")
    with pytest.raises(EvarError, match=r"occur twice: 1.wav; keep one row of each"):
        own(FOLDS, FILES, clips="path,label,fold\n1.wav,a,1\n1.wav,a,1\n2.wav,b,2\n")


def test_a_column_of_lengths_is_no_end_of_a_segment(own):
    text = "path,start,duration,label,fold\n" + "".join(f"{k}.wav,0,1,a,{k}\n{k}.wav,1,2,b,{k}\n" for k in (1, 2))
    compute = r"compute a column stop = start \+ duration"
    with pytest.raises(EvarError, match=compute):
        own(FOLDS, FILES, clips=text)
    for options in ("start: start", "start: start, stop: duration"):
        with pytest.warns(UserWarning, match=compute):
            own(FOLDS + f"options: {{{options}}}\n", FILES, clips=text)
    with pytest.warns(UserWarning, match=compute):
        own(MULTI, FILES, clips=text)
    with pytest.warns(UserWarning, match=compute):
        own(FOLDS, FILES, clips="path,start,duration,label,fold\n1.wav,0,1,a,1\n2.wav,1,2,b,2\n")


@pytest.mark.parametrize(("option", "mend"), [("separator: ';'", "say `multilabel: true`"), ("key: id", "say `join`")])
def test_an_option_without_effect_says_what_it_lacks(own, option, mend):
    with pytest.raises(EvarError, match=f"has no effect.*; remove it, or {mend}$"):
        own(FOLDS + f"options: {{{option}}}\n", FILES, clips="path,label,fold\n1.wav,a,1\n")


@pytest.mark.parametrize(
    ("row", "mend"),
    [
        ("2.wav,b,1,", r"row 3 has no group; fill it in there.*where"),
        ("2.wav,,1,s", r"row 3 has no label; fill it in there.*where"),
        (",b,1,s", r"row 3 has no path; fill it in there.*where"),
        ("2.wav,b,c,1,s", r"has 5 values, the header has 4; quote a value"),
        ("2.wav,b", r"has 2 values, the header has 4; add what is missing"),
    ],
)
def test_a_row_that_lacks_something_says_what_to_do(own, row, mend):
    with pytest.raises(EvarError, match=mend):
        own(FOLDS, FILES, clips=f"path,label,fold,group\n1.wav,a,1,s\n{row}\n")


def test_a_label_without_training_clips_is_named_with_ways_out(own):
    text = "path,label,split\n1.wav,a,train\n2.wav,c,train\n3.wav,b,test\n4.wav,a,test\n"
    with pytest.raises(EvarError, match=r"no training clip of the label b.*where: \{label: '!b'\}"):
        own(PARTS, FILES, clips=text)
    with pytest.warns(UserWarning, match="leaves out 1 of 4"):
        assert own(PARTS + "options: {where: {label: '!b'}}\n", FILES, clips=text).classes == ("a", "c")


@pytest.mark.parametrize("sign", [",", ";"])
def test_a_header_in_other_capitals_is_read_and_said(own, sign):
    text = "Path,LABEL,Fold\n1.wav,a,1\n2.wav,b,1\n3.wav,a,2\n4.wav,b,2\n".replace(",", sign)
    with pytest.warns(UserWarning, match="columns Path, LABEL, Fold are taken as path, label, fold"):
        assert own(FOLDS, FILES, clips=text).classes == ("a", "b")
    twice = "path,label,Fold,FOLD\n1.wav,a,1,1\n2.wav,b,2,2\n"
    with pytest.raises(EvarError, match="column fold is missing; found path, label, Fold, FOLD"):
        own(FOLDS, FILES, clips=twice)


def test_an_extension_without_its_dot_is_refused(own):
    with pytest.raises(EvarError, match=r"'extension': expected it with its dot, \".wav\", found 'wav'"):
        own(FOLDS + "options: {extension: wav}\n", FILES, clips="path,label,fold\n1,a,1\n2,b,2\n")


@pytest.mark.parametrize("second", ["S/A2.WAV", "2.wav"])
def test_files_in_other_capitals_are_named(own, second):
    text = f"path,label,fold\nS/A1.WAV,a,1\n{second},b,2\n"
    with pytest.raises(EvarError, match=r"S/A1.WAV is there as s/a1.wav: capitals count"):
        own(FOLDS, ["s/a1.wav", "s/a2.wav", "2.wav"], clips=text)
