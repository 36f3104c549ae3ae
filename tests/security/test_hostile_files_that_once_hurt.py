"""Every input that broke a reader once, by what it did. Those that ended the process run in one of their own."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evar.errors import EvarError

CARD = "name: mine\nseconds: 1\nsplit: parts\nlayout: csv_columns\n"
DEEP = "[" * 100_000


def read_card(folder: Path, text: str) -> object:
    from evar.datasets.card import find_card

    (folder / "mine.yaml").write_text(text)
    return find_card("mine", folder)


# --- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [DEEP, "[" * 2_000, "{a: " * 100_000, "\n  " + "- " * 100_000, DEEP + "]" * len(DEEP)])
def test_deep_yaml_ended_the_process(deep, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"a: {deep}")
    code = "import sys; from evar.datasets.card import find_card; find_card('mine', sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "nested deeper than" in done.stderr


def test_billion_laughs_were_unfolded_in_the_message(tmp_path):
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}x]" for n in range(1, 9)]
    with pytest.raises(EvarError, match="anchors and aliases"):
        read_card(tmp_path, "\n".join([CARD, *laughs, "title: *a8"]))


@pytest.mark.parametrize("tag", ["!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "!!python/name:os.system"])
def test_yaml_tags_raised_key_and_index_errors(tag, tmp_path):
    with pytest.raises(EvarError, match=r"the tag .* is not read here"):
        read_card(tmp_path, f"{CARD}title: {tag}\n")


@pytest.mark.parametrize("key", ["? [a, b]\n: 1\n", "{[a]: 1}", "{{a: 1}: 2}"])
def test_yaml_keys_that_are_lists(key, tmp_path):
    with pytest.raises(EvarError, match="not valid YAML"):
        read_card(tmp_path, key)


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "1:" * 30_000 + "1", "1:" * 30_000 + "1.5"])
def test_giant_yaml_numbers(number, tmp_path):
    with pytest.raises(EvarError, match=r"no field can hold|not valid YAML"):
        read_card(tmp_path, f"{CARD}version: {number}\n")


@pytest.mark.parametrize("text", ["!!bool x", DEEP, "2001-99-99", "a: &a [*a]"])
def test_grids_and_protocols_are_read_as_cards_are(text, tmp_path):
    from evar.cli.run import read_grid
    from evar.probes.protocol import get_protocol

    (tmp_path / "x.yaml").write_text(f"a: {text}")
    for reader in (read_grid, get_protocol):
        with pytest.raises(EvarError, match="not valid YAML"):
            reader(tmp_path / "x.yaml")


def test_a_protocol_that_is_its_own_base(tmp_path, monkeypatch):
    from evar.probes.protocol import get_protocol

    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("base: own.yaml\n")
    with pytest.raises(EvarError, match=r"unknown protocol 'own\.yaml'"):
        get_protocol("own.yaml")


def test_a_protocol_of_endless_epochs(tmp_path):
    from evar.probes.protocol import get_protocol

    (tmp_path / "own.yaml").write_text("base: paper\nmax_epochs: .inf\n")
    with pytest.raises(EvarError, match="expected a number"):
        get_protocol(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    "line", ["split_file: ../x", "split_file: /etc/passwd", "folders: [../..]", f"lists: {{../x: {'0' * 64}}}",
     "fetch: [{url: 'https://a', into: ../x}]"],
)  # fmt: skip
def test_paths_of_a_card_stay_below_its_folder(line, tmp_path):
    with pytest.raises(EvarError, match="a relative path without"):
        read_card(tmp_path, CARD + line)


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """A complete set of embeddings: its folder, and the content of its meta.json."""
    from evar.store import Store

    with Store(tmp_path / "s").writer({"encoder_fingerprint": "e"}, [("out", "mean", 2)], 2, "e", "t") as writer:
        writer.write(np.arange(2), {("out", "mean"): np.ones((2, 2), np.float32)})
        writer.finish()
    (meta,) = (tmp_path / "s").glob("*/*/*-*/meta.json")
    return meta, json.loads(meta.read_text())


@pytest.mark.parametrize(
    "change",
    [DEEP, {"n_clips": 1e999}, {"n_clips": -1}, {"n_clips": 2**70}, {"settings": {"a": float("nan")}}, {"matrices": [
        {"layer": "out", "pooling": "mean", "dim": 0}]}, {"created": "2020-01-01T00:00:00"}],
    ids=["deep", "infinite", "negative", "giant", "nan", "no columns", "a time of no zone"],
)  # fmt: skip
def test_meta_of_embeddings_with_odd_numbers(change, stored, tmp_path):
    from evar.store import Store

    meta, content = stored
    meta.write_text(change if isinstance(change, str) else json.dumps(content | change))
    store = Store(tmp_path / "s")
    (row,) = store.list_sets()
    assert row["problem"] or not row["complete"]
    assert store.verify()
    store.prune(older_days=1.0, dry_run=True)


def test_deep_json_in_small_files(tmp_path, monkeypatch):
    from evar.cli.weights import _metadata
    from evar.datasets.mini import _stated
    from evar.encoders.catalog import _record, _record_path
    from evar.encoders.huggingface import read_json

    monkeypatch.setenv("EVAR_CACHE", str(tmp_path))
    for path in (tmp_path / "EVAR_SYNTHETIC.json", _record_path("x")):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(DEEP)
    assert _stated(tmp_path) is None
    assert _record("x") == {}
    (tmp_path / "w").write_bytes(len(DEEP).to_bytes(8, "little") + DEEP.encode())
    assert _metadata(tmp_path / "w") == {}
    with pytest.raises(EvarError, match="is no JSON"):
        read_json(tmp_path / "EVAR_SYNTHETIC.json", "hf:x")


def test_counts_of_a_stand_in_beyond_all_numbers(tmp_path):
    from evar.datasets.card import find_card
    from evar.datasets.task import synthetic_counts

    (tmp_path / "EVAR_SYNTHETIC.json").write_text('{"card": "esc50", "counts": {"clips": 1e999}}')
    with pytest.raises(EvarError, match="expected JSON"):
        synthetic_counts(tmp_path, find_card("esc50"))


def test_a_model_type_that_is_a_list(tmp_path):
    from evar.encoders.huggingface import read_config

    (tmp_path / "config.json").write_text('{"model_type": []}')
    with pytest.raises(EvarError, match="names no model_type"):
        read_config(tmp_path, "hf:x")


# --- CSV -------------------------------------------------------------------------------------------------------------


def test_a_column_that_stands_in_a_list_twice(tmp_path):
    from evar.datasets.tables import read_csv

    (tmp_path / "x.csv").write_text("path,path,label\na,b,c\n")
    with pytest.raises(EvarError, match="path stands there twice"):
        read_csv(tmp_path / "x.csv", ["path", "label"])


@pytest.mark.parametrize("header", ["a\rb\n", "x" * 200_000 + "\n"])
def test_headers_of_results_that_are_no_csv(header, tmp_path):
    from evar.results import Results

    (tmp_path / "runs.csv").write_bytes(header.encode())
    with pytest.raises(EvarError, match="line 1: not CSV"):
        Results(tmp_path).leaderboard()


def write_rows(folder: Path, **changed: str) -> None:
    """The two rows of one cell in a runs.csv."""
    from targets_text import cells

    from evar.results_files import RUN_COLUMNS, csv_bytes

    common, folds = cells(1)
    rows = [common[0] | run | {"schema": 2, "run_macro_f1": 0.4} | changed for run in folds[0]]
    (folder / "runs.csv").write_bytes(csv_bytes([RUN_COLUMNS, *[[str(r[c]) for c in RUN_COLUMNS] for r in rows]]))


@pytest.mark.parametrize("number", ["9" * 30, "1e300", "9" * 5000])
def test_whole_numbers_beyond_64_bits_in_results(number, tmp_path):
    from evar.results import Results

    write_rows(tmp_path, task_version=number)
    with pytest.raises(EvarError, match="expected a whole number"):
        Results(tmp_path).runs()


def test_rows_that_do_not_say_how_many_clips_were_skipped(tmp_path):
    from evar.leaderboard import format_leaderboard
    from evar.results import Results

    write_rows(tmp_path, skipped="")
    assert "encoder0" in format_leaderboard(Results(tmp_path).leaderboard())


def test_a_leaderboard_that_is_no_table_of_numbers_is_made_anew(tmp_path):
    from targets_text import record

    from evar.results import Results

    record(tmp_path)
    path, stamp = tmp_path / "leaderboard.csv", (tmp_path / "runs.csv").stat().st_mtime_ns
    good = Results(tmp_path).leaderboard()
    for text, odd in ((b",0.5,", b",abc,"), (b"0" * 15, b"../../../../pas")):
        path.write_bytes(path.read_bytes().replace(text, odd, 1))
        os.utime(path, ns=(stamp, stamp))
        assert Results(tmp_path).leaderboard().equals(good)


def test_steps_of_a_training_log_that_are_no_numbers(tmp_path):
    from evar.cli.probe_curve import COLUMNS, Curve
    from evar.pretraining import log

    for step in ("9" * 5000, "²", "x" * 200_000):
        (tmp_path / "log.csv").write_text(f"{','.join(log.COLUMNS)}\n{step}{',1' * (len(log.COLUMNS) - 1)}\n")
        (tmp_path / "probe.csv").write_text(f"{','.join(COLUMNS)}\n{step},e,t,valid,fair,0.5\n1,e,t,valid,fair,x\n")
        curve = object.__new__(Curve)
        curve.folder, curve.points = tmp_path, []
        assert log._kept(tmp_path / "log.csv", 5) == []
        assert curve._points() == []


@pytest.mark.parametrize("name", ["a" * 5000, "\0"])
def test_names_in_a_manifest_that_no_file_can_have(name, tmp_path):
    from evar.audio.decode import decode
    from evar.pretraining.corpus import _from_manifest

    (tmp_path / "m.csv").write_text(f"file\n{name}\n")
    with pytest.raises(EvarError, match="are missing"):
        _from_manifest(tmp_path / "m.csv", [])
    with pytest.raises(EvarError, match="cannot be read"):
        decode(tmp_path / name, 8000)


# --- archives and weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_of_thousands_of_folders_in_folders_stayed_for_ever(kind, tmp_path):
    from evar.datasets.unpack import unpack

    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a/" * 3000 + "x", b"")
    else:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a/" * 3000 + "x"))
    (tmp_path / "x").write_bytes(stream.getvalue())
    with pytest.raises(EvarError, match="too deep"):
        unpack(tmp_path / "x", tmp_path / "out", kind)
    assert os.listdir(tmp_path) == ["x"]


def test_tensors_that_claim_terabytes_or_are_no_numbers(tmp_path):
    import torch

    from evar.encoders.weights import read_weights

    kinds = {
        "claims": torch.ones(1).expand(10**12),
        "no plain numbers": torch.ones(2, 2).to_sparse(),
        "(torch.float8_e4m3fn)": torch.ones(2, dtype=torch.float8_e4m3fn),
        "(torch.complex64)": torch.ones(2, dtype=torch.complex64),
    }
    for says, tensor in kinds.items():
        torch.save({"a": tensor}, tmp_path / "w.pth")
        with pytest.raises(EvarError) as error:
            read_weights(tmp_path / "w.pth")
        assert says in str(error.value)


def test_a_compressed_checkpoint_is_no_bomb(tmp_path):
    import torch
    from hostile_inputs import _deflated

    from evar.encoders.weights import read_weights
    from evar.pretraining.checkpoint import FILE, load_checkpoint

    for path, reader in ((tmp_path / "w.pth", read_weights), (tmp_path / FILE, lambda p: load_checkpoint(p.parent))):
        path.write_bytes(_deflated({"a": torch.zeros(2**20)}))
        with pytest.raises(EvarError, match=r"is compressed|damaged"):
            reader(path)


def test_a_pca_file_that_claims_terabytes(tmp_path):
    from hostile_inputs import npz

    from evar.encoders.vggish import read_pca

    for content in npz():
        (tmp_path / "p.npz").write_bytes(content)
        with pytest.raises(EvarError, match="PCA file"):
            read_pca(tmp_path / "p.npz")


def test_a_pickle_of_a_pca_file_that_refers_to_nothing(tmp_path):
    import pickle

    from evar.encoders.vggish import read_pca

    (tmp_path / "p.pth").write_bytes(pickle.PROTO + b"\x02" + pickle.BINGET + b"\x07" + pickle.STOP)  # no memo 7
    with pytest.raises(EvarError, match="PCA file"):
        read_pca(tmp_path / "p.pth")


# --- words and links -------------------------------------------------------------------------------------------------


def test_a_row_of_others_does_nothing_to_a_terminal(tmp_path, capsys):
    from evar.cli import main

    write_rows(tmp_path, encoder="x\x07\x9b\u202e", precision="\x1b[2J")
    with pytest.raises(SystemExit):
        main(["leaderboard", "--results", str(tmp_path)])
    out = capsys.readouterr().out
    assert "x\\u0007\\u009b\\u202e" in out
    assert "\x1b" not in out


def test_what_links_in_a_store_lead_to_is_not_cleared(stored, tmp_path):
    from evar.store import Store

    store, outside = Store(tmp_path / "s"), tmp_path / "outside"
    (one,) = (Path(row["path"]) for row in store.list_sets())
    (outside / "t" / one.name).mkdir(parents=True)
    (tmp_path / "s" / "linked").symlink_to(outside)
    (tmp_path / "s" / ".trash").symlink_to(outside)
    with pytest.raises(EvarError, match="is a link"):
        store.prune(older_days=0.0)
    (tmp_path / "s" / ".trash").unlink()
    assert store.prune(older_days=0.0) > 0
    assert not one.exists()
    assert (outside / "t" / one.name).is_dir()
