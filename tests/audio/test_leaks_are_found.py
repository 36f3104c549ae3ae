"""A clip that is scored hides in the corpus, re-encoded and cut; or an innocent recording is accused of it."""

import csv
import json

import numpy as np
import pytest
import soundfile
import soxr

from evar.audio import copies
from evar.audio.copies import Finder, flatten
from evar.audio.decode import decode
from evar.audio.landmarks import RATE, Index, hashes, peaks

TASK_RATE = 16000


def babble(seconds, seed, rate=TASK_RATE):
    """Syllables of coloured noise and gliding harmonics, never the same twice."""
    rng = np.random.default_rng(seed)
    n = int(seconds * rate)
    out = 0.002 * rng.standard_normal(n)
    t, time = 0, np.arange(n) / rate
    while t < n:
        length = int(rng.uniform(0.08, 0.3) * rate)
        part = time[t : t + length]
        bend = rng.uniform(100, 250) * (1 + rng.uniform(-1, 1) * (part - part[0]))
        phase = 2 * np.pi * np.cumsum(bend) / rate
        voice = sum(rng.uniform(0, 1) * np.sin(k * phase + rng.uniform(0, 6)) for k in range(1, 15))
        out[t : t + length] += np.hanning(len(part)) * (voice / 10 + 0.1 * rng.standard_normal(len(part)))
        t += int(length * rng.uniform(0.8, 1.5))
    return (0.3 * out / np.abs(out).max()).astype(np.float32)


def rain(seconds, seed, rate=TASK_RATE):
    return (0.05 * np.random.default_rng(seed).standard_normal(int(seconds * rate))).astype(np.float32)


def note(seconds, seed, pitch=220.0, rate=TASK_RATE):
    """A held note: harmonics of one pitch; what makes the instrument is their strengths, phases, attack and noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    tone = sum(
        rng.uniform(0.05, 1) / k * np.sin(2 * np.pi * k * pitch * time + rng.uniform(0, 2 * np.pi))
        for k in range(1, 12)
    )
    envelope = np.minimum(time / rng.uniform(0.01, 0.1), 1) * np.exp(-time * rng.uniform(0.1, 1.0))
    return (0.2 * tone * envelope + 1e-4 * rng.standard_normal(len(time))).astype(np.float32)


def encoded(path, wav, rate, gain_db=0.0, level=0.7):
    """Write a 16 kHz waveform as Ogg Vorbis at another rate and level; quality is 1 - `level`."""
    other = soxr.resample(wav, TASK_RATE, rate) * 10 ** (gain_db / 20)
    soundfile.write(path, np.clip(other, -1, 1), rate, format="OGG", subtype="VORBIS", compression_level=level)
    return path


def finder_of(*clips):
    clips = [soxr.resample(clip, TASK_RATE, RATE) for clip in clips]
    finder = Finder(clips.__getitem__)
    for clip in clips:
        finder.add(clip)
    return finder


@pytest.mark.parametrize("rate", [44100, 22050])
@pytest.mark.parametrize("gain", [-12.0, 6.0])
@pytest.mark.parametrize("kind", [babble, rain])
def test_two_seconds_as_ogg_at_another_rate_level_and_offset(tmp_path, rate, gain, kind):
    clips = [kind(5, seed) for seed in range(3)]
    begin = 19237  # samples: on no grid of ours
    path = encoded(tmp_path / "planted.ogg", clips[1][begin : begin + 2 * TASK_RATE], rate, gain)
    found, seconds = finder_of(*clips).search_file(path)
    assert [copy.clip for copy in found] == [1]
    assert found[0].start - found[0].clip_start == pytest.approx(-begin / TASK_RATE, abs=0.001)
    assert found[0].stop - found[0].start > 1.7
    assert seconds == pytest.approx(2.0, abs=0.01)
    assert 0.8 < found[0].score <= 1


def test_excerpt_inside_of_another_recording(tmp_path):
    clip = babble(4, 1)
    mixed = np.concatenate([rain(5, 8), clip[16000:48000], babble(6, 9)])
    (copy,) = finder_of(babble(4, 0), clip).search_file(encoded(tmp_path / "m.ogg", mixed, 44100))[0]
    assert copy.clip == 1
    assert (copy.start, copy.stop) == (pytest.approx(5, abs=0.15), pytest.approx(7, abs=0.15))
    assert (copy.clip_start, copy.clip_stop) == (pytest.approx(1, abs=0.15), pytest.approx(3, abs=0.15))


@pytest.mark.parametrize("seconds", [1.0, 0.5])
def test_short_clip_within_a_longer_file(tmp_path, seconds):
    clip = babble(seconds, 5)
    path = encoded(tmp_path / "long.ogg", np.concatenate([babble(2, 6), clip, babble(2, 7)]), 22050, -6)
    assert [copy.clip for copy in finder_of(babble(seconds, 4), clip).search_file(path)[0]] == [1]


def test_exact_duplicate_and_inverted_polarity():
    clip = babble(3, 0)
    for wav in (clip, -clip):
        (copy,) = finder_of(clip).search(soxr.resample(wav, TASK_RATE, RATE))
        assert copy.score > 0.999
        assert (copy.start, copy.stop) == (pytest.approx(0, abs=0.05), pytest.approx(3, abs=0.05))


def test_the_innocent_are_not_accused():
    noise = [rain(5, seed) for seed in range(4)]
    talk = [babble(5, seed) for seed in range(4)]
    finder = finder_of(*noise[:2], *talk[:2])
    for wav in (*noise[2:], *talk[2:]):
        assert finder.search(soxr.resample(wav, TASK_RATE, RATE)) == []


def test_notes_of_one_pitch_by_other_instruments_are_innocent():
    finder = finder_of(*(note(4, seed) for seed in range(6)))
    for seed in range(6, 12):
        assert finder.search(soxr.resample(note(4, seed), TASK_RATE, RATE)) == []
    (copy,) = finder.search(soxr.resample(note(4, 3), TASK_RATE, RATE))  # the very same note is no coincidence
    assert copy.clip == 3


def test_two_sines_of_one_pitch_prove_nothing():
    time = np.arange(3 * TASK_RATE) / TASK_RATE
    finder = finder_of(np.sin(2 * np.pi * 440 * time).astype(np.float32))
    assert finder.search(soxr.resample(np.cos(2 * np.pi * 440 * time), TASK_RATE, RATE).astype(np.float32)) == []


def test_silence_and_scraps_match_nothing():
    silence, hush = np.zeros(RATE, np.float32), 1e-7 * np.random.default_rng(0).standard_normal(RATE)
    finder = Finder({0: silence, 1: hush.astype(np.float32), 2: np.ones(5, np.float32)}.get)
    for i in range(3):
        finder.add(finder._read(i))
    for wav in (silence, hush.astype(np.float32), np.ones(1, np.float32), babble(2, 0, RATE)):
        assert finder.search(wav) == []
    assert len(peaks(silence)[0]) == 0
    assert len(hashes(silence)[0]) == 0
    assert Index().search(babble(1, 0, RATE)) == []
    assert not flatten(silence).any()


def test_flattening_forgets_the_level():
    wav = babble(2, 0, RATE)
    np.testing.assert_allclose(flatten(wav), flatten(wav / 8), atol=1e-4)


def test_passage_across_the_stretches_of_a_long_file_is_one_leak(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "STRETCH", 3.0)
    monkeypatch.setattr(copies, "OVERLAP", 1.0)
    clip = babble(4, 3)
    soundfile.write(tmp_path / "long.wav", np.concatenate([rain(4.3, 1), clip, rain(3.1, 2)]), TASK_RATE)
    (copy,), seconds = finder_of(clip).search_file(tmp_path / "long.wav")
    assert seconds == pytest.approx(11.4)
    assert (copy.start, copy.stop) == (pytest.approx(4.3, abs=0.1), pytest.approx(8.3, abs=0.1))
    assert (copy.clip_start, copy.clip_stop) == (pytest.approx(0, abs=0.1), pytest.approx(4, abs=0.1))


def test_waveforms_are_read_again_when_memory_is_short():
    clips = [soxr.resample(babble(2, seed), TASK_RATE, RATE) for seed in range(3)]
    read = []
    finder = Finder(lambda i: read.append(i) or clips[i], keep=1)
    for clip in clips:
        finder.add(clip)
    for _ in range(2):
        for i, clip in enumerate(clips):
            assert [copy.clip for copy in finder.search(clip)] == [i]
    assert read.count(0) == read.count(1) == read.count(2) == 2


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def evar(tmp_path, monkeypatch, capfd):
    """The command in `tmp_path`: (exit code, standard output, standard error)."""
    from evar.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return stop.value.code or 0, *capfd.readouterr()

    return call


@pytest.fixture
def task(tmp_path):
    """Four clips of two classes in two folds, and a clean corpus of two files, one of them for a linked folder."""
    (tmp_path / "sounds").mkdir()
    rows = ["filename,species,fold"]
    for i in range(4):
        soundfile.write(tmp_path / "sounds" / f"{i}.wav", babble(3, i), TASK_RATE)
        rows.append(f"{i}.wav,{'ab'[i % 2]},{1 + i // 2}")
    (tmp_path / "sounds" / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "sounds.yaml").write_text(
        "name: sounds\nversion: 1\ntitle: t\nasks: q\nseconds: 3\nmetric: accuracy\nsplit: folds\nfolds: 2\n"
        "layout: csv_columns\noptions: {file: labels.csv, path: filename, label: species}\n"
    )
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    encoded(tmp_path / "corpus" / "clean.ogg", babble(3, 20), 22050)
    soundfile.write(tmp_path / "corpus" / "deep" / "rain.flac", rain(3, 21), TASK_RATE)
    return tmp_path


def leaks(evar, *arguments):
    return evar("data", "leaks", *arguments, "./sounds.yaml", "--data", "sounds")


def plant(folder, name="planted.ogg"):
    return encoded(folder / name, babble(3, 2)[8000:40000], 44100, -6)


def test_clean_corpus_exits_0_and_a_leak_exits_1(evar, task):
    code, out, _ = leaks(evar, "corpus")
    assert (code, out.splitlines()[0]) == (0, "2 corpus files (0.00 h) against 4 clips of sounds: 0 leaks")
    plant(task / "corpus" / "deep")
    code, out, _ = leaks(evar, "corpus")
    assert code == 1
    line = next(line for line in out.splitlines() if line.startswith("deep/planted.ogg"))
    assert line.split()[2:6] == ["sounds", "2", "fold", "2"]
    assert "\n3 corpus files (0.00 h) against 4 clips of sounds: 1 leaks\n" in out


def test_manifest_several_sources_and_machine_forms(evar, task):
    plant(task / "corpus")
    (task / "corpus" / "list.csv").write_text("licence,file\nCC0,planted.ogg\nCC0,clean.ogg\n", encoding="utf-8-sig")
    code, out, err = leaks(evar, "corpus/list.csv", "corpus/deep", "--format", "csv")
    (row,) = csv.DictReader(out.splitlines())
    assert (code, row["file"], row["clip"], row["split"]) == (1, "corpus/list.csv: planted.ogg", "2", "fold 2")
    assert float(row["clip_start"]) == pytest.approx(0.5, abs=0.1)
    code, out, err = leaks(evar, "corpus/list.csv", "--format", "json", "--write", "out/report.json")
    assert (code, err) == (1, "")
    assert out.splitlines() == ["2 corpus files (0.00 h) against 4 clips of sounds: 1 leaks", "out/report.json"]
    report = json.loads((task / "out" / "report.json").read_text())
    assert (report["files"], report["clips"], len(report["leaks"])) == (2, {"sounds": 4}, 1)
    assert [path.name for path in (task / "out").iterdir()] == ["report.json"]


def test_linked_folder_is_searched_and_a_loop_of_links_ends(evar, task):
    (task / "elsewhere").mkdir()
    plant(task / "elsewhere")
    (task / "corpus" / "link").symlink_to(task / "elsewhere")
    (task / "elsewhere" / "loop").symlink_to(task / "corpus")
    code, out, _ = leaks(evar, "corpus")
    assert code == 1
    assert "link/planted.ogg" in out
    assert "3 corpus files" in out


def test_unreadable_files_are_counted_and_named(evar, task):
    (task / "corpus" / "broken.wav").write_text("no sound")
    (task / "corpus" / "list.csv").write_text("file\nclean.ogg\nbroken.wav\ngone.wav\n")
    code, out, _ = leaks(evar, "corpus/list.csv")
    assert code == 0
    assert "1 corpus files (0.00 h)" in out
    assert "2 corpus files could not be read" in out
    assert "broken.wav: " in out
    assert "gone.wav: " in out
    assert json.loads(leaks(evar, "corpus/list.csv", "--format", "json")[1])["unreadable"].keys() == {
        "broken.wav",
        "gone.wav",
    }


def test_bad_input_is_one_line(evar, task):
    (task / "empty").mkdir()
    (task / "bad").mkdir()
    (task / "bad" / "x.wav").write_text("no sound")
    (task / "columns.csv").write_text("path\nx.wav\n")
    (task / "rows.csv").write_text("file\n")
    (task / "gap.csv").write_text("file,licence\n,CC0\n")
    for corpus, words in (
        ("nowhere", "does not exist"),
        ("empty", "no audio in empty"),
        ("bad", "none of the 1 corpus files"),
        ("sounds.yaml", "expected a folder of audio or a CSV manifest"),
        ("columns.csv", "no column 'file'"),
        ("rows.csv", "names no files"),
        ("gap.csv", "row 1 has no value"),
    ):
        code, out, err = leaks(evar, corpus)
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.splitlines()) == 1
    code, _, err = evar("data", "leaks", "corpus", "esc5")
    assert code == 2
    assert "esc5" in err


# --- real audio ------------------------------------------------------------------------------------------------------


def test_planted_real_excerpts_are_found_and_the_corpus_is_clean(shared_data, tmp_path):
    from evar.datasets import load_task

    rng = np.random.default_rng(0)
    clips = [load_task(name, data=[str(shared_data)]) for name in ("esc10", "emodb")]
    files = [file for t in clips for file in rng.permutation(np.array(t.files(), dtype=object))[:10]]
    finder = Finder(lambda i: decode(files[i], RATE))
    for file in files:
        finder.add(decode(file, RATE))
    for i in (0, 5, 10, 15):
        wav = decode(files[i], TASK_RATE)
        loudest = int(np.argmax(np.convolve(wav**2, np.ones(2 * TASK_RATE), "valid"))) if len(wav) > 32000 else 0
        path = encoded(tmp_path / "x.ogg", wav[loudest : loudest + 32000], (44100, 22050)[i % 2], rng.uniform(-12, 6))
        assert [copy.clip for copy in finder.search_file(path)[0]] == [i]
    for file in sorted((shared_data / "unlabeled-pretrain" / "audio").rglob("*.ogg"))[::80]:
        assert finder.search_file(file)[0] == []
