"""`evar data verify` must name all that is wrong with a folder, call nothing wrong that is right, and never stop half-way."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from evar.datasets import find_card, findings
from evar.datasets.mini import make
from evar.datasets.tables import list_sha256
from evar.datasets.verify import verify
from evar.errors import EvarError


@pytest.fixture
def whole(mine, rows, monkeypatch):
    """The small dataset of conftest, with sound in its files, and groups enough in its test part."""
    for number, (path, *_) in enumerate(rows, start=1):
        soundfile.write(mine.root / path, np.full(800, 0.1 * number, np.float32), 8000)
    monkeypatch.setattr(findings, "FEW_GROUPS", 1)
    return mine


def look(dataset, **options):
    return verify("mine", dataset.root, tasks_dir=dataset.cards, **options)


def test_whole_folder_is_in_order(whole):
    seen = []
    report = look(whole, audio=True, progress=lambda done, total: seen.append((done, total)))
    assert report.ok, str(report)
    assert (report.n_found, report.n_expected, report.extra) == (8, 8, 0)
    assert report.official
    assert seen == [(i, 8) for i in range(1, 9)]
    assert "complete, nothing wrong" in str(report)


def test_missing_files_are_named_and_others_counted(whole):
    (whole.root / "001.wav").unlink()
    (whole.root / "sub" / "005.wav").rename(whole.root / "sub" / "009.wav")
    report = look(whole)
    assert report.missing == ("001", "sub/005")
    assert (report.n_found, report.n_expected, report.extra, report.ok) == (6, 8, 1, False)
    assert "missing: sub/005" in str(report)


def test_stand_in_extension_is_neither_missing_nor_extra(whole):
    (whole.root / "001.wav").unlink()
    soundfile.write(whole.root / "001.flac", np.full(800, 0.1, np.float32), 8000)
    report = look(whole, audio=True)
    assert report.ok
    assert report.extra == 0


def test_altered_files_are_named_with_the_reason(whole):
    data = (whole.root / "001.wav").read_bytes()
    (whole.root / "001.wav").write_bytes(data[:-600])
    (whole.root / "002.wav").write_text("this is no audio")
    (whole.root / "003.wav").write_bytes(b"")
    (whole.root / "004.wav").write_bytes(data[:44])
    soundfile.write(whole.root / "007.wav", np.zeros(0, np.float32), 8000)
    report = look(whole, audio=True)
    reasons = dict(line.split(": ", 1) for line in report.altered)
    assert sorted(reasons) == ["001.wav", "002.wav", "003.wav", "004.wav", "007.wav"]
    assert reasons["001.wav"] == f"cut short: {len(data) - 600} bytes, its header says {len(data)}"
    assert reasons["002.wav"].startswith("is text, not audio (it begins 'this is no audio')")
    assert reasons["003.wav"] == "empty file"
    assert reasons["007.wav"] == "holds no samples"
    assert not report.ok
    assert not report.missing


def test_wav_of_a_writer_that_streams_is_not_altered(whole):
    path = whole.root / "001.wav"
    data = bytearray(path.read_bytes())
    data[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert look(whole, audio=True).ok


def test_altered_list_is_named_though_all_files_are_there(whole, rows, card_text):
    whole.write_card(card_text + f"lists: {{clips.csv: {list_sha256(whole.root / 'clips.csv')}}}\n")
    assert look(whole).ok
    whole.write_rows([*rows[:-1], ("008.wav", "cat", "test", "s4")])
    report = look(whole)
    assert not report.lists_ok
    assert not report.official
    assert not report.ok
    assert "clips.csv is not the official list" in report.messages[0]


def test_absent_list_is_one_message(whole, card_text):
    whole.write_card(card_text + f"lists: {{clips.csv: {'a' * 64}}}\n")
    (whole.root / "clips.csv").unlink()
    report = look(whole)
    assert len(report.messages) == 1
    assert "clips.csv not found" in report.messages[0]
    assert (report.n_found, report.n_expected, report.extra) == (0, 8, 8)


def test_group_on_both_sides_is_named(whole, rows):
    whole.write_rows([*rows[:-1], ("008.wav", "dog", "test", "s1")])
    report = look(whole)
    assert not report.groups_ok
    assert report.messages == ("1 groups (speaker) are in more than one split: s1",)


def test_wrong_counts_are_named_by_part(whole, rows):
    whole.write_rows([row for row in rows if row[0] != "004.wav"])
    report = look(whole)
    assert any(message.startswith("train: ") and "3 clips, the card says 4" in message for message in report.messages)
    assert (report.n_found, report.n_expected, report.ok) == (7, 8, False)


def test_faults_of_the_table_are_messages(whole, rows):
    whole.write_rows([*rows[:-1], ("008.wav", "fox", "test", "s4")])
    assert not look(whole).ok
    whole.write_rows([*rows[:-1], ("../008.wav", "dog", "test", "s4")])
    report = look(whole)
    assert any("008.wav" in message for message in report.messages)
    (whole.root / "clips.csv").write_bytes(b"\xff\xfe\x00binary")
    assert not look(whole).ok


def test_synthetic_stand_in_is_whole_and_not_official(tmp_path):
    root = make(find_card("esc50"), tmp_path / "mini")
    report = verify("esc50", root, audio=True)
    assert report.ok, str(report)
    assert not report.official
    assert "NOT the official data" in str(report)


def test_only_no_card_and_no_folder_raise(whole):
    with pytest.raises(EvarError, match="is not a folder"):
        verify("mine", whole.root / "none", tasks_dir=whole.cards)
    with pytest.raises(EvarError, match="did you mean 'mine'"):
        verify("mime", whole.root, tasks_dir=whole.cards)


def write(path, seed, n=800, **kind):
    sound = np.random.default_rng(seed).integers(-9000, 9000, n).astype(np.int16) if seed else np.zeros(n, np.int16)
    soundfile.write(path, sound, 8000, **kind)


def test_copies_across_parts_are_named_without_audio(whole):
    write(whole.root / "001.wav", 1)
    write(whole.root / "007.wav", 1)
    write(whole.root / "002.wav", 2)
    write(whole.root / "004.wav", 2)
    report = look(whole)
    assert report.ok
    assert report.copies == (("001.wav", "007.wav"), ("002.wav", "004.wav"))
    assert "in train and test: 001.wav = 007.wav" in report.findings[0]
    assert report.findings[1] == "copies: 1 clip is a copy of another in the same split"
    assert "nothing wrong" not in str(report)


def test_equal_sound_in_another_format_is_a_copy_with_audio(whole):
    write(whole.root / "001.wav", 1)
    (whole.root / "007.wav").unlink()
    write(whole.root / "007.flac", 1)
    assert not look(whole).copies
    assert look(whole, audio=True).copies == (("001.wav", "007.flac"),)


def test_copies_under_two_labels_are_named(whole):
    write(whole.root / "001.wav", 1)
    write(whole.root / "002.wav", 1)
    assert "copies: 1 clip under different labels: 001.wav (cat) = 002.wav (dog)" in look(whole).findings


def test_digital_silence_is_named_and_no_copy(whole):
    for path in ("001.wav", "007.wav"):
        write(whole.root / path, 0)
    (whole.root / "002.wav").unlink()
    write(whole.root / "002.flac", 0)
    assert look(whole).findings == ("silence: 2 clips are digital silence: 001.wav, 007.wav",)
    assert look(whole, audio=True).silent == ("001.wav", "002.flac", "007.wav")


def test_pointers_and_web_pages_are_altered_without_audio(whole):
    (whole.root / "001.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    (whole.root / "002.wav").write_bytes(b"<!DOCTYPE html><title>404</title>")
    report = look(whole)
    assert not report.ok
    assert "git lfs pull" in report.altered[0]
    assert "web page" in report.altered[1]


def test_files_of_one_fault_are_one_line_with_their_number(whole):
    pointers = ["001.wav", "002.wav", "003.wav", "004.wav"]
    for name in pointers:
        (whole.root / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    report = look(whole)
    assert [line.split(": ")[0] for line in report.altered] == pointers
    lines = [line for line in str(report).splitlines() if "git lfs pull" in line]
    assert len(lines) == 1
    assert lines[0].startswith("altered: 4 files: 001.wav, 002.wav, 003.wav, ...: is a Git LFS pointer")


def test_classes_that_are_not_tested_are_named(whole, rows):
    whole.write_rows([(path, "cat" if part == "test" else label, part, by) for path, label, part, by in rows])
    assert look(whole).findings == ("1 class without a test clip: dog (of 2)",)


def test_few_groups_are_named(whole, monkeypatch):
    monkeypatch.undo()
    assert look(whole).findings[0].startswith("only 1 group (speaker) tested: s4")


def test_what_is_left_out_is_named_by_kind(whole):
    (whole.root / "sub/x.m4a").touch()
    (whole.root / "sub/y.wav").symlink_to("gone")
    (whole.root / "notes.txt").touch()
    report = look(whole)
    assert "1 link without a target (sub/y.wav)" in report.findings[0]
    assert "1 audio file without a decoder here (sub/x.m4a)" in report.findings[0]
    assert "beside the audio: 2 files that are not audio (" in str(report)
    assert "nothing wrong" not in str(report)


def test_real_folders(shared_data):
    report = verify("esc10", data=[str(shared_data)], audio=True)
    assert report.ok, str(report)
    assert report.n_found == 400
    stand_in = verify("spcv2", shared_data / "speech_commands_v0.02")
    assert not stand_in.ok
    assert not stand_in.lists_ok
