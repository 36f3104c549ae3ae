"""`evar pretrain` as a user types it: weights that `evar run` takes, and one line for whatever cannot be done."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from evar.encoders.registry import load_encoder, parse
from evar.encoders.weights import find_weights, read_weights
from evar.errors import EvarError

QUICK = ("--preset", "v1-512", "--batch", 4, "--steps", 2, "--augment", "bank=10", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_sounds(folder, n, seconds=(0.5, 1.5)):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for i in range(n):
        t = np.arange(int(16000 * random.uniform(*seconds))) / 16000
        wave = 0.3 * np.sin(2 * np.pi * random.uniform(80, 4000) * t) + random.normal(0, 0.02, len(t))
        soundfile.write(folder / f"{i:02}.wav", wave, 16000)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("audio") / "sounds", 16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sounds):
    """A run in a store of its own, with TensorBoard events, and its weights again as float16."""
    from evar.cli import main

    folder = tmp_path_factory.mktemp("store")
    words = ["pretrain", "byola", "--audio", sounds, *QUICK, "--out", folder / "mix0.2-s1", "--seed", 1, "-q"]
    words += ["--licence", "CC0", "--trained-on", "sines", "--embeddings", folder / "embeddings"]
    for more in (["--tensorboard"], ["--resume", "--half"]):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, words + more)))
        assert stop.value.code == 0
        name = "half" if "--half" in more else "whole"
        (folder / name).mkdir()
        (folder / name / f"{name}.safetensors").write_bytes(
            (folder / "mix0.2-s1" / "mix0.2-s1.safetensors").read_bytes()
        )
    return folder


# --- the weights ------------------------------------------------------------------------------------------------------


def test_the_file_says_what_it_is(trained, sounds):
    import evar

    metadata = read_weights(trained / "whole").metadata
    assert metadata["encoder"] == "byola-v1-512"
    assert metadata["frontend"]["n_mels"] == 64
    assert metadata["frontend"]["filterbank"] == "htk"
    assert metadata["normalization"]["std"] > 0
    assert metadata["preset"]["preset"] == "v1-512"
    assert metadata["preset"]["batch"] == 4
    assert metadata["preset"]["steps"] == 2
    assert metadata["preset"]["augmentation"]["bank"] == 10
    assert metadata["corpus"].startswith("16 clips, ")
    assert len(metadata["corpus_digest"]) == 64
    assert (metadata["seed"], metadata["licence"], metadata["trained_on"]) == (1, "CC0", ["sines"])
    assert metadata["evar_version"] == evar.__version__
    assert str(sounds) not in json.dumps(metadata), "folders of this machine are nobody's business"


def test_half_is_half_and_sounds_the_same(trained):
    whole, half = (trained / name / f"{name}.safetensors" for name in ("whole", "half"))
    assert half.stat().st_size < 0.52 * whole.stat().st_size
    wav = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (4, 16000)).astype(np.float32))
    embeddings = [load_encoder(f"byola-v1-512@{path}").encode(wav) for path in (whole, half)]
    assert embeddings[1].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in load_encoder(f"byola-v1-512@{half}").parameters())
    assert torch.linalg.norm(embeddings[0] - embeddings[1]) < 1e-2 * torch.linalg.norm(embeddings[0])


def test_a_run_is_found_by_file_folder_or_name(trained, monkeypatch, tmp_path):
    file = trained / "mix0.2-s1" / "mix0.2-s1.safetensors"
    assert find_weights(file) == file
    assert find_weights(trained / "mix0.2-s1") == file
    monkeypatch.setenv("EVAR_PRETRAINED", str(trained))
    assert find_weights("mix0.2-s1") == file
    monkeypatch.delenv("EVAR_PRETRAINED")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained").symlink_to(trained)
    assert find_weights("mix0.2-s1").resolve() == file
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "other.safetensors").write_bytes(file.read_bytes())
    assert find_weights("x").name == "other.safetensors", "the only file of a folder is meant"
    labels = {parse(f"byola-v1-512@{name}").label for name in ("mix0.2-s1", str(file), f"{trained}/mix0.2-s1")}
    assert labels == {"byola-v1-512@mix0.2-s1"}


def test_what_is_no_run_lists_what_is_there(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvarError, match="no run in the store: pretrained holds no runs"):
        find_weights("mix0.3")
    monkeypatch.setenv("EVAR_PRETRAINED", str(trained))
    with pytest.raises(EvarError, match=r"holds half, mix0\.2-s1, whole"):
        find_weights("mix0.3")
    with pytest.raises(EvarError, match="does not exist: check the path"):
        find_weights("runs/mix0.3")
    (trained / "embeddings").mkdir(exist_ok=True)
    with pytest.raises(EvarError, match=r"is a folder: .* or a run with embeddings.safetensors; it holds no .safetens"):
        find_weights("embeddings")
    (tmp_path / "probed").mkdir()
    for name in ("step-2", "step-4"):
        (tmp_path / "probed" / f"{name}.safetensors").touch()
    with pytest.raises(EvarError, match=r"it holds step-2.safetensors, step-4.safetensors"):
        find_weights("probed")


def test_evar_run_takes_them_by_name(trained, evar, monkeypatch):
    monkeypatch.setenv("EVAR_PRETRAINED", str(trained))
    ran = evar("run", "byola-v1-512@mix0.2-s1", "fsdd", "--mini", "-o", "json")
    assert ran.code == 0, ran.err
    (row,) = json.loads(ran.out)
    assert (row["encoder"], row["weights"]) == ("byola-v1-512@mix0.2-s1", "mix0.2-s1")
    assert (row["norm"], row["weights_kind"]) == ("weights", "trained")
    assert row["weights_sha256"] == read_weights(trained / "mix0.2-s1").sha256


def test_tensorboard_events_can_be_read(trained):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(trained / "mix0.2-s1" / "tensorboard"))
    events.Reload()
    assert {"pretrain/loss", "pretrain/embedding_std"} <= set(events.Tags()["scalars"])
    with open(trained / "mix0.2-s1" / "log.csv", newline="") as stream:
        logged = {int(row["step"]): float(row["loss"]) for row in csv.DictReader(stream)}
    for event in events.Scalars("pretrain/loss"):
        assert event.value == pytest.approx(logged[event.step], rel=1e-4)


def test_without_tensorboard_there_is_one_line(evar, sounds, monkeypatch):
    from evar.extras import EXTRAS

    monkeypatch.setitem(EXTRAS, "train", ("no_such_module_of_evar",))
    line = evar("pretrain", "byola", "--audio", sounds, *QUICK, "--tensorboard").one_line_error()
    assert "pip install 'tensorboard>=" in line


# --- what is said -----------------------------------------------------------------------------------------------------


def test_off_a_terminal_the_lines_are_few(evar, sounds, tmp_path):
    ran = evar("pretrain", "byola", "--audio", sounds, *QUICK)
    assert ran.code == 0, ran.err
    assert "\r" not in ran.err
    lines = ran.err.splitlines()
    assert len(lines) <= 4, ran.err
    assert lines[0].startswith("corpus: 16 clips, 0.00 h, digest ")
    assert lines[-1].startswith("step 2/2: loss ")
    assert "samples/s" in lines[-1]
    assert "finished after 2 steps" in ran.out
    assert "evar run byola-v1-512@pretrained/byola-v1-512-s0/byola-v1-512-s0.safetensors" in ran.out


def test_quiet_and_the_store_of_the_environment(evar, sounds, tmp_path, monkeypatch):
    monkeypatch.setenv("EVAR_PRETRAINED", str(tmp_path / "mine"))
    ran = evar("pretrain", "byola", "--audio", sounds, *QUICK, "-q")
    assert ran.code == 0
    assert ran.err == ""
    assert (tmp_path / "mine" / "byola-v1-512-s0" / "byola-v1-512-s0.safetensors").exists()


def test_out_may_be_the_working_directory(evar, sounds, tmp_path):
    ran = evar("pretrain", "byola", "--audio", sounds, *QUICK, "--out", ".")
    assert ran.code == 0, ran.err
    assert (tmp_path / f"{tmp_path.name}.safetensors").exists()
    assert find_weights(tmp_path).name == f"{tmp_path.name}.safetensors"


def test_corrupt_files_are_counted_and_named_and_short_clips_are_fine(evar, tmp_path):
    write_sounds(tmp_path / "a", 8, seconds=(0.05, 0.3))
    for i in range(5):
        (tmp_path / "a" / f"broken{i}.flac").write_text("no audio")
    ran = evar("pretrain", "byola", "--audio", "a", *QUICK, "-q")
    assert ran.code == 0, ran.err
    warning = ran.err.splitlines()[0]
    assert warning.startswith("evar: warning: 5 files cannot be decoded and are left out: ")
    assert "broken0.flac" in warning
    assert warning.endswith("and 2 more")


def test_left_out_licences_are_counted(evar, tmp_path):
    write_sounds(tmp_path / "a", 8)
    rows = [f"a/{i:02}.wav,{'CC BY-NC' if i == 3 else 'CC BY'}" for i in range(8)]
    (tmp_path / "list.csv").write_text("\n".join(["file,licence", *rows]) + "\n")
    ran = evar("pretrain", "byola", "--audio", "list.csv", *QUICK, "--skip-licence", "nc")
    assert ran.code == 0, ran.err
    assert "corpus: 7 clips" in ran.err
    assert "1 manifest rows left out for their licence" in ran.err


def test_presets_and_help_cost_no_torch():
    code = (
        "import sys\nfrom evar.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert not {'torch', 'numpy', 'pandas', 'soundfile'} & set(sys.modules), 'heavy'\n"
    )
    for words in (["--help"], ["--list-presets"], ["byola", "--list-presets"]):
        done = subprocess.run([sys.executable, "-c", code, "pretrain", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "v1-512" in done.stdout
        if "--help" in words:
            assert "Examples:" in done.stdout
            assert "--checkpoint-every" in done.stdout
        else:
            assert "cola-prime-512" in done.stdout


# --- probing ----------------------------------------------------------------------------------------------------------


def test_probing_writes_the_curve_and_changes_no_weight(evar, sounds, tmp_path):
    from evar.datasets import find_card
    from evar.datasets.mini import make

    make(find_card("fsdd"), tmp_path / "data" / "fsdd")
    probing = ("--probe-every", 1, "--probe-tasks", "fsdd", "--data", "data")
    for out, more in (("plain", ()), ("probed", probing)):
        ran = evar("pretrain", "byola", "--audio", sounds, *QUICK, "--out", out, *more)
        assert ran.code == 0, ran.err
    assert "step 1: fsdd:inner " in ran.err
    plain, probed = (read_weights(tmp_path / out).state for out in ("plain", "probed"))
    assert all(torch.equal(plain[name], probed[name]) for name in plain)
    with open(tmp_path / "probed" / "probe.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["step"], row["task"], row["split"]) for row in rows] == [
        (str(i), "fsdd:inner", "inner") for i in (1, 2)
    ]
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    assert (tmp_path / "probed" / "probe.png").read_bytes().startswith(b"\x89PNG")

    more = ("--steps", 3, "--resume", *probing)  # goes on, and keeps what was measured
    ran = evar("pretrain", "byola", "--audio", sounds, *QUICK, "--out", "probed", *more)
    assert ran.code == 0, ran.err
    with open(tmp_path / "probed" / "probe.csv", newline="") as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["1", "2", "3"]

    # A probe that fails costs a point of the curve, not the training.
    for file in (tmp_path / "data" / "fsdd").rglob("*.wav"):
        file.write_text("no audio any more")
    more = ("--steps", 4, "--resume", *probing)
    ran = evar("pretrain", "byola", "--audio", sounds, *QUICK, "--out", "probed", *more)
    assert ran.code == 0, ran.err
    assert "warning: the weights of step 4 could not be scored" in ran.err


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["byola"], "needs audio"),
        (["byol", "--audio", "."], "byol"),
        (["byola", "--audio", "."], "no audio in"),
        (["byola", "--audio", "nowhere"], "nowhere does not exist"),
        (["byola", "--audio", "{sounds}", "--preset", "v3"], "preset 'v3'"),
        (["byola", "--audio", "{sounds}", "--preset", "cola"], "evar pretrain cola --preset cola"),
        (["cola", "--audio", "{sounds}", "--preset", "v2"], "evar pretrain byola --preset v2"),
        (["cola", "--audio", "{sounds}", "--batch", "4", "--augment", "mixup=0.2"], "--augment is for byola presets"),
        (["cola", "--audio", "{sounds}", "--batch", "4", "--tau", "0.9"], "--tau is for byola presets"),
        (["byola", "--audio", "{sounds}"], "a batch of 256 is more than the corpus's 16 pieces"),
        (["byola", "--audio", "{sounds}", "--augment", "mixxup=0.2"], "did you mean 'mixup'"),
        (["byola", "--audio", "{sounds}", "--augment", "mixup"], "--augment mixup: expected a value"),
        (["byola", "--audio", "{sounds}", "--augment", "mixup=many"], "a number from 0 to 1, or off"),
        (["byola", "--audio", "{sounds}", "--augment", "crop=maybe"], "on|off"),
        (["byola", "--audio", "{sounds}", "--augment", "crop_time=2:1"], "LOW:HIGH"),
        (["byola", "--audio", "{sounds}", "--augment", "crop_time=0.6:inf"], "LOW:HIGH"),
        (["byola", "--audio", "{sounds}", "--augment", "bank=0"], "entries"),
        (["byola", "--audio", "{sounds}", "--augment", "norm=batches"], "views|batch|none"),
        (["byola", "--audio", "{sounds}", "--skip-licence", "NC"], "--skip-licence needs a manifest"),
        (["byola", "--audio", "{sounds}", "--device", "cuda:9"], "cuda:9"),
        (["byola", "--audio", "{sounds}", "--resume"], "no checkpoint in"),
        (["byola", "--audio", "{sounds}", "--probe-every", "5"], "go together"),
        (["byola", "--audio", "{sounds}", "--probe-every", "5", "--probe-tasks", "esc500"], "did you mean 'esc50'"),
        (["byola", "--audio", "{sounds}", "--probe-every", "5", "--probe-tasks", "esc50"], "esc50"),
        (["byola", "--audio", "{sounds}", "--epochs", "0"], "--epochs"),
        (["byola", "--audio", "{sounds}", "--epochs", "nan"], "--epochs nan"),
        (["byola", "--audio", "{sounds}", "--lr", "nan"], "--lr nan"),
        (["byola", "--audio", "{sounds}", "--lr", "0"], "--lr"),
        (["byola", "--audio", "{sounds}", "--max-hours", "inf"], "--max-hours inf"),
        (["byola", "--audio", "{sounds}", "--batch", "1"], "--batch"),
        (["byola", "--audio", "{sounds}", "--checkpoint-every", "0"], "--checkpoint-every"),
        (["byola", "--audio", "{sounds}", "--batch", "4", "--out", "file/run"], "file/run"),
    ],
)
def test_bad_words(words, expected, evar, sounds, tmp_path):
    (tmp_path / "file").write_text("a file where a folder is needed")
    (tmp_path / "notes.txt").write_text("no audio")
    line = evar("pretrain", *[word.format(sounds=sounds) for word in words]).one_line_error()
    assert expected in line
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_cuda_without_one(evar, sounds):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "cuda" in evar("pretrain", "byola", "--audio", sounds, "--device", "cuda").one_line_error()


def test_one_clip(evar, tmp_path):
    write_sounds(tmp_path / "a", 1, seconds=(9, 10))
    assert "holds 1 clip: expected at least 2" in evar("pretrain", "byola", "--audio", "a", *QUICK).one_line_error()


@pytest.mark.parametrize("method", ["byola", "cola"])
def test_silence(method, evar, tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(6):
        soundfile.write(tmp_path / "a" / f"{i}.wav", np.zeros(20000), 16000)
    words = ("--preset", {"byola": "v1-512", "cola": "cola"}[method], "--batch", 4, "--steps", 2, "--device", "cpu")
    assert "every clip is silent" in evar("pretrain", method, "--audio", "a", *words).one_line_error()


def test_only_corrupt_files(evar, tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(5):
        (tmp_path / "a" / f"{i}.wav").write_text("no audio")
    line = evar("pretrain", "byola", "--audio", "a", *QUICK).one_line_error()
    assert "5 of 5 clips cannot be decoded" in line
    assert "0.wav" in line


def test_a_learning_rate_that_is_far_too_high(evar, sounds, tmp_path):
    words = ("--audio", sounds, *QUICK[:-4], "--steps", 6, "--device", "cpu", "--lr", "1e30", "--checkpoint-every", 1)
    line = evar("pretrain", "byola", *words, "--out", "hot").one_line_error()
    assert "not finite" in line
    assert "lower --lr (now 1e+30)" in line
    assert not (tmp_path / "hot" / "hot.safetensors").exists()


def test_a_folder_that_holds_a_run_is_not_written_over(trained, evar, sounds, tmp_path):
    import shutil

    words = ("--audio", sounds, *QUICK, "--seed", 1, "--out", "run")
    shutil.copytree(trained / "mix0.2-s1", tmp_path / "run")
    assert "holds a run already: give --resume" in evar("pretrain", "byola", *words).one_line_error()
    line = evar("pretrain", "byola", *words, "--resume", "--lr", "0.1").one_line_error()
    assert "of another run: lr was 0.0003, now 0.1" in line
    line = evar("pretrain", "byola", *words, "--resume", "--seed", "2").one_line_error()
    assert "of another run: seed was 1, now 2" in line
    line = evar("pretrain", "byola", *words, "--resume", "--preset", "v1-1024").one_line_error()
    assert "of another run: preset was 'v1-512', now 'v1-1024'" in line
    write_sounds(tmp_path / "other", 8)
    line = evar("pretrain", "byola", *words, "--resume", "--audio", "other").one_line_error()
    assert "of another run: corpus_digest was" in line
    (tmp_path / "run" / "checkpoint.pt").unlink()
    (tmp_path / "run" / "mix0.2-s1.safetensors").rename(tmp_path / "run" / "run.safetensors")
    assert "holds the weights of a run already" in evar("pretrain", "byola", *words).one_line_error()


def test_cosine_cannot_be_made_longer_and_constant_can(evar, sounds, tmp_path):
    words = ("--audio", sounds, *QUICK, "--out", "run", "--schedule", "cosine")
    assert evar("pretrain", "byola", *words).code == 0
    line = evar("pretrain", "byola", *words, "--resume", "--steps", 3).one_line_error()
    assert "of another run: steps was 2, now 3" in line
