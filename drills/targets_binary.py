"""Targets that are binary: audio, archives, weights, stored embeddings, waveform caches, predictions."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import hostile_inputs as hostile
import numpy as np
from fuzz_targets import Target, of, target
from targets_text import record

from evar.errors import EvarError

# --- audio -----------------------------------------------------------------------------------------------------------


def _audio(folder: Path, form: str, subtypes: list[str]) -> Target:
    import soundfile

    from evar.audio.decode import decode, decode_int16, samples_after_decoding
    from evar.datasets.findings import look_at

    files = {}
    for subtype in subtypes:
        for channels in (1, 2):
            stream = io.BytesIO()
            sound = 0.5 * np.sin(np.arange(1200 * channels) * 0.05).reshape(-1, channels)
            soundfile.write(stream, sound, 16000, format=form, subtype=subtype)
            files[f"{subtype.lower()}{channels}.{form.lower()}"] = stream.getvalue()
    paths = [folder / name for name in files]

    def read() -> None:
        for path in paths:
            if path.read_bytes() != files[path.name]:
                samples_after_decoding(path, 8000)
                look_at(path, audio=True)
                found = decode(path, 8000, seconds=2.0)
                assert (found.dtype, found.ndim) == (np.float32, 1)
                assert 0 < len(found) <= 16000
                assert np.isfinite(found).all()
                decode_int16(path, 16000)

    return of(folder, files, read, [hostile.wav(**odd) for odd in hostile.ODD_WAVS] if form == "WAV" else [])


@target
def audio_wav(folder: Path) -> Target:
    return _audio(folder, "WAV", ["PCM_16", "PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM"])


@target
def audio_flac(folder: Path) -> Target:
    return _audio(folder, "FLAC", ["PCM_16", "PCM_24"])


@target
def audio_ogg(folder: Path) -> Target:
    return _audio(folder, "OGG", ["VORBIS", "OPUS"])


@target
def audio_mp3(folder: Path) -> Target:
    return _audio(folder, "MP3", ["MPEG_LAYER_III"])


@target
def audio_others(folder: Path) -> Target:
    made = [_audio(folder, form, ["PCM_16"]) for form in ("AIFF", "AU", "CAF", "W64", "RF64")]
    return Target(folder, {k: v for t in made for k, v in t.files.items()}, lambda: [t.read() for t in made])


# --- archives --------------------------------------------------------------------------------------------------------


def _archive(folder: Path, kind: str, files: list[bytes], attacks: list[bytes]) -> Target:
    from evar.datasets.unpack import unpack

    inside, watched = folder / "in", folder / "watched"
    names = {f"in/a{n}.{kind}": content for n, content in enumerate(files)}
    watched.mkdir(parents=True)
    (watched / "mine").write_bytes(b"mine")

    def listing() -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "watched/out" not in str(path)}

    def read() -> None:
        before = listing()
        for path in sorted(inside.iterdir()):
            if path.read_bytes() != names[f"in/{path.name}"]:
                try:
                    unpack(path, watched / "out", kind)
                    odd = [p for p in (watched / "out").rglob("*") if p.is_symlink() or not (p.is_file() or p.is_dir())]
                    assert not odd, f"unpacked {odd}"
                finally:
                    shutil.rmtree(watched / "out", ignore_errors=True)
                    assert listing() == before, "a file outside the folder"
                    assert (watched / "mine").read_bytes() == b"mine", "a file outside was changed"

    return of(folder, names, read, attacks)


@target
def archive_zip(folder: Path) -> Target:
    made = []
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", how) as archive:
            archive.writestr("a/b.txt", b"hello " * 20)
            archive.writestr("a/c/", b"")
        made.append(stream.getvalue())
    return _archive(folder, "zip", made, hostile.zips())


def _tars(mode: str) -> list[bytes]:
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode, format=form) as archive:
            for name in ("a/b.txt", "a/" + "l" * 99, "a/ü.txt"):
                info = tarfile.TarInfo(name)
                info.size = 6
                archive.addfile(info, io.BytesIO(b"hello\n"))
        made.append(stream.getvalue())
    return made


@target
def archive_tar(folder: Path) -> Target:
    return _archive(folder, "tar", _tars("w"), hostile.tars("w"))


@target
def archive_tar_gz(folder: Path) -> Target:
    return _archive(folder, "tar.gz", _tars("w:gz"), hostile.tars("w:gz"))


# --- weights ---------------------------------------------------------------------------------------------------------


@target
def weights(folder: Path) -> Target:
    import torch
    from safetensors.torch import save

    from evar.cli.weights import _metadata
    from evar.encoders.registry import load_encoder
    from evar.encoders.weights import read_weights

    state = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3), "h": torch.ones(2, dtype=torch.bfloat16)}
    about = {"format": 1, "encoder": "byola-v2", "normalization": {"mean": -7.0, "std": 4.0}, "frontend": {}}
    files = {"ours.safetensors": save(state, metadata={"evar": json.dumps(about)}), "plain.safetensors": save(state)}
    for name, form in (("new.pth", True), ("old.pth", False)):
        stream = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 3}, stream, _use_new_zipfile_serialization=form)
        files[name] = stream.getvalue()

    def read() -> None:
        for name, content in files.items():
            if (folder / name).read_bytes() != content:
                _metadata(folder / name)
                read_weights(folder / name)
                load_encoder(f"byola-v2@{folder / name}")

    return of(folder, files, read, hostile.checkpoints())


@target
def training_checkpoint(folder: Path) -> Target:
    import torch

    from evar.pretraining.checkpoint import FILE, KEYS, load_checkpoint

    stream = io.BytesIO()
    torch.save({**dict.fromkeys(KEYS, 1), "format": 1, "method": {"w": torch.ones(3)}}, stream)
    return of(folder, {FILE: stream.getvalue()}, lambda: load_checkpoint(folder), hostile.checkpoints())


@target
def vggish_pca(folder: Path) -> Target:
    import torch

    from evar.encoders.vggish import read_pca

    arrays = {"pca_eigen_vectors": np.eye(128, dtype=np.float32), "pca_means": np.zeros((128, 1), np.float32)}
    files = {}
    for name, save in (("p.npz", np.savez_compressed), ("q.npz", np.savez)):
        stream = io.BytesIO()
        save(stream, **arrays)
        files[name] = stream.getvalue()
    stream = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, stream)
    files["p.pth"] = stream.getvalue()

    def read() -> None:
        for name, content in files.items():
            if (folder / name).read_bytes() != content:
                read_pca(folder / name)

    return of(folder, files, read, [*hostile.npz(), *hostile.checkpoints()])


@target
def hf_folder(folder: Path) -> Target:
    """The JSON files of a transformers folder: configuration, feature extractor, list of shards."""
    import torch
    from safetensors.torch import save

    from evar.encoders.huggingface import feature_extractor, read_config, read_state

    config = {"model_type": "wav2vec2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    files = {
        "config.json": config | {"intermediate_size": 8, "conv_dim": [8], "conv_stride": [5], "conv_kernel": [10]},
        "preprocessor_config.json": {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000},
        "model.safetensors.index.json": {"weight_map": {"a": "model-1.safetensors"}},
    }

    def read() -> None:
        errors = []
        for reader in (
            lambda: read_config(folder, "hf:x"),
            lambda: feature_extractor(folder, "hf:x", False),
            lambda: read_state(folder, "hf:x"),
        ):
            try:
                reader()
            except EvarError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    made = {name: json.dumps(content).encode() for name, content in files.items()}
    folder.mkdir(parents=True)
    (folder / "model-1.safetensors").write_bytes(save({"a": torch.ones(2)}))
    return of(folder, made, read, hostile.JSON)


# --- evar's own folders ----------------------------------------------------------------------------------------------

SETTINGS = {"encoder_fingerprint": "e1", "clips_fingerprint": "c1", "duration": "card", "precision": "fp32"}
MATRICES = [("block2", "mean", 3), ("out", "mean+max", 2)]


def _store(folder: Path, finish: bool) -> Target:
    from evar.store import Store

    root = folder / "store"

    def fill() -> None:
        with Store(root).writer(SETTINGS, MATRICES, 6, "e", "t") as writer:
            for start in (0, 2, 4):
                part = np.arange(start, start + 2)
                writer.write(part, {(a, b): np.full((2, dim), start + 1, np.float32) for a, b, dim in MATRICES})
                if not finish and start == 2:
                    return
            writer.finish()

    fill()
    (sets,) = root.glob("*/*/*-*")
    good = {path.name: path.read_bytes() for path in sets.iterdir()}
    files = {f"store/{(sets / name).relative_to(root).as_posix()}": content for name, content in good.items()}
    meta = json.loads(good["meta.json"])
    attacks = [*hostile.JSON, *hostile.metas(meta)]

    def read() -> None:
        try:
            store = Store(root)
            store.list_sets()
            store.verify()
            store.prune(older_days=1.0, dry_run=True)
            if finish:
                found = store.find(SETTINGS, [("out", "mean+max")])
                if found is not None:
                    assert found.rows("out", "mean+max").shape == (6, 2)
            else:
                with store.writer(SETTINGS, MATRICES, 6, "e", "t") as writer:
                    for row in set(range(6)) - set(writer.pending.tolist()):
                        data = np.fromfile(sets / "0.f32", np.float32).reshape(-1, 3)
                        assert (data[row] == row // 2 * 2 + 1).all(), f"row {row} is trusted and wrong"
        finally:
            shutil.rmtree(sets)
            sets.mkdir()
            for name, content in good.items():
                (sets / name).write_bytes(content)

    return of(folder, files, read, attacks)


@target
def embeddings_complete(folder: Path) -> Target:
    return _store(folder, finish=True)


@target
def embeddings_interrupted(folder: Path) -> Target:
    return _store(folder, finish=False)


@target
def waveform_cache(folder: Path) -> Target:
    import soundfile

    from evar.audio.cache import open_waveforms

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{n}.wav" for n in range(3)]
    for n, file in enumerate(files):
        soundfile.write(file, np.full(200, (n + 1) / 8), 8000, subtype="PCM_16")

    def opened() -> object:
        return open_waveforms(list("abc"), files, [0.0] * 3, [None] * 3, 8000, None, folder / "cache", workers=1)

    opened()
    (cache,) = (path for path in (folder / "cache").iterdir() if path.is_dir())
    good = {path.name: path.read_bytes() for path in cache.iterdir() if path.name != "lock"}

    def read() -> None:
        try:
            waves = opened()
            found, lengths = waves.batch(np.arange(3))
            assert lengths.tolist() == [200] * 3
            if (cache / "clips.i16").read_bytes() == good["clips.i16"]:  # its content is held by no checksum
                assert np.allclose(found[:, 0], [1 / 8, 2 / 8, 3 / 8], atol=1e-4), "wrong clip"
        finally:
            for name, content in good.items():
                (cache / name).write_bytes(content)

    names = {f"cache/{cache.name}/{name}": content for name, content in good.items()}
    return of(folder, names, read, hostile.JSON)


@target
def predictions(folder: Path) -> Target:
    from evar.reporting import export
    from evar.reporting.pairs import load_outcomes
    from evar.results import Results

    record(folder)
    path = folder / "predictions" / f"{0:016x}.parquet"

    def read() -> None:
        results = Results(folder)
        results.predictions(f"{0:016x}")
        export.write_table(export.table(results, "predictions"), folder / "out.csv")
        load_outcomes(results, results.leaderboard().iloc[0].to_dict(), "evar run")

    return of(folder, {path.relative_to(folder).as_posix(): path.read_bytes()}, read)
