"""`evar check` and `evar encode`: an encoder by itself, without tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from evar.cli.options import (
    compile_option,
    device_option,
    format_option,
    precision_option,
    print_json,
    with_options,
)
from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    import numpy as np

    from evar.encoders.base import Encoder, Frames

AHEAD = 4
"""Files decoded ahead of the encoder."""
GROUP_SAMPLES = 1 << 22
"""Samples of audio held at a time (a longer file is held alone): files are sorted by length within these."""


@click.command()
@click.argument("encoder")
@with_options(
    click.option("--weights", metavar="FILE", help="Checkpoint (same as NAME@FILE)."),
    click.option("--only", metavar="CHECK,CHECK", help="Only these checks, such as 'padding invariance'."),
    device_option,
    format_option,
)
@click.pass_context
def check_command(
    ctx: click.Context, encoder: str, weights: str | None, only: str | None, device: str, output: str
) -> None:
    """Hold ENCODER to the contract: shapes, determinism, padding invariance, silence, NaN, memory, speed. Exits 1 on failure.

    \b
    Examples:
      evar check random:byola-v2
      evar check py:my_package.models:Mine --only "padding invariance,frames agree"
    """
    from evar.compute import resolve_device
    from evar.encoders.check import CheckResult, check_encoder
    from evar.encoders.registry import load_encoder

    def show(result: CheckResult) -> None:
        click.echo(f"{'ok  ' if result.ok else 'FAIL'}  {result.name:<20} {result.detail}")

    device = resolve_device(device)
    names = None if only is None else [name for name in only.split(",") if name.strip()]
    loaded = load_encoder(encoder, weights=weights, device=device)
    results = check_encoder(loaded, device, names, show if output == "text" else None)
    if output == "json":
        print_json([{"name": result.name, "ok": result.ok, "detail": result.detail} for result in results])
    else:
        failed = sum(not result.ok for result in results)
        click.echo(f"{encoder}: {len(results) - failed} of {len(results)} checks passed")
    ctx.exit(0 if all(result.ok for result in results) else 1)


@click.command()
@click.argument("encoder")
@click.argument("audio", nargs=-1, required=True)
@with_options(
    click.option("-o", "--output", "target", required=True, metavar="FILE", help="FILE.npz, FILE.npy or FILE.parquet."),
    click.option("--weights", metavar="FILE", help="Checkpoint (same as NAME@FILE)."),
    click.option("--frames", is_flag=True, help="One vector per frame, with times, instead of one per file."),
    click.option(
        "--layers", metavar="L,L+L|all", help="Layers, or fusions of them (3+6), all from one pass over the audio."
    ),
    click.option("--pooling", metavar="NAMES", help="mean, max, std, mean+max, mean_std, cls; default: the encoder's."),
    click.option(
        "--norm", metavar="MEAN,STD", help="Log-mel statistics; default: those of the weights, else of AUDIO."
    ),
    click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be decoded."),
    click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Files encoded together."),
    device_option,
    precision_option,
    compile_option,
)
def encode_command(
    encoder: str,
    audio: tuple[str, ...],
    target: str,
    weights: str | None,
    frames: bool,
    layers: str | None,
    pooling: str | None,
    norm: str | None,
    skip_bad: bool,
    batch: int | None,
    device: str,
    precision: str,
    compile: bool,
) -> None:
    """Write the embeddings of AUDIO (files, or folders of them, at any rate) to a file.

    npz: `files` and `embeddings` float32 [files, D]. parquet: a column `file` and D columns `0`, `1`, ... npy: the matrix alone.
    With several layers or poolings: npz arrays named `LAYER/POOLING`, parquet columns `LAYER/POOLING/0`, ...

    With --frames, of one layer or fusion. npz: for file I `frames_I` [T, D] and `times_I` [T] in ms. parquet: a row per
    frame, `file`, `frame`, `time_ms`, `0`, ... npy: one matrix [all frames, D], and FILE.times.csv with the file, frame and
    time of each of its rows.

    npz and parquet say under `evar` how they were made. A file appears when it is complete.

    \b
    Examples:
      evar encode logmel recordings/ -o recordings.npz
      evar encode random:byola-v2 a.wav b.flac -o ab.parquet --frames
      evar encode cnn14@Cnn14.pth recordings/ -o layers.npz --layers all,3+6 --pooling mean,max
    """
    from evar.cells import PRECISIONS
    from evar.cli.encode_files import check_target, frames_writer, write_vectors
    from evar.cli.progress import Bars
    from evar.compute import Computing, resolve_device
    from evar.encoders.registry import load_encoder
    from evar.files import check_writable

    path = Path(target)
    check_target(path, 1)
    check_writable(path.parent)
    files = find_audio(audio)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    computing = Computing((resolve_device(device),), precision, compile)
    loaded = load_encoder(encoder, weights=weights, device=computing.devices[0])
    computing.check(loaded)
    pairs = _one_layer(loaded, layers, pooling) if frames else loaded.choices(layers, pooling)
    check_target(path, len(pairs))
    reading = Reading(files, loaded.sample_rate, skip_bad)
    bars = Bars()
    if loaded.needs_normalization:
        loaded = _with_statistics(loaded, norm, reading, bars)
    about = _about(loaded, [(pairs[0][0], "frames")] if frames else pairs, computing.arithmetic)
    loaded = computing.ready(loaded)
    with bars.bar("encode", loaded.label, "file") as progress:
        if frames:
            layer, n_frames = pairs[0][0], 0
            dim = sum(loaded.layers[part] for part in layer.split("+"))
            with frames_writer(path, dim, about) as add:
                for file, features, times_ms in _frames(loaded, layer, reading, batch, progress):
                    add(file, features, times_ms)
                    n_frames += len(features)
            shape = f"{n_frames} frames of {dim}"
        else:
            kept, matrices = _vectors(loaded, pairs, reading, batch, progress)
            write_vectors(path, kept, matrices, about)
            first = next(iter(matrices.values()))
            shape = f"{list(first.shape)}" if len(matrices) == 1 else f"{len(matrices)} matrices"
    click.echo(f"{path}: {len(reading.files)} files, {shape}")


def find_audio(names: tuple[str, ...]) -> list[Path]:
    """Files as named and the audio files of folders, sorted; EvarError when one is missing or a folder has none.

    What is left out of a folder is said in a warning.
    """
    import warnings

    from evar.audio.listing import audio_below
    from evar.audio.pointers import missing_link

    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            listing = audio_below(path)
            files += [path / file for file in listing.files]
            if said := listing.said():
                warnings.warn(f"{path}: {said}")
        elif path.exists():
            files.append(path)
        elif broken := missing_link(path):
            raise EvarError(f"{path} is {broken}")
        else:
            raise EvarError(f"no such file: {path}")
    return files


class Reading:
    """Files to be decoded at `sample_rate`, any number of times; what cannot be is an error, or left out and warned of.

    files: those that are left. Headers are read at once, so that most of what is wrong shows before any work.
    """

    def __init__(self, files: Sequence[Path], sample_rate: int, skip_bad: bool) -> None:
        from evar.audio.decode import samples_after_decoding

        self.files, self.sample_rate, self.skip_bad = list(files), sample_rate, skip_bad
        for file in files:
            if samples_after_decoding(file, sample_rate) == 0:
                self._checked(file, self._decode(file))
        self._check_any()

    def __iter__(self) -> Iterator[tuple[Path, np.ndarray]]:
        """Each file and its waveform, float32 [N] mono; a thread reads ahead."""
        from concurrent.futures import ThreadPoolExecutor

        ahead: deque = deque()
        with ThreadPoolExecutor(1) as thread:
            for file in [*self.files, *[None] * AHEAD]:
                if file is not None:
                    ahead.append((file, thread.submit(self._decode, file)))
                if ahead and (file is None or len(ahead) > AHEAD):
                    first, future = ahead.popleft()
                    if (wave := self._checked(first, future.result())) is not None:
                        yield first, wave
        self._check_any()

    def _decode(self, file: Path) -> np.ndarray | EvarError:
        from evar.audio.decode import decode

        try:
            return decode(file, self.sample_rate)
        except EvarError as error:
            return error

    def _checked(self, file: Path, found: np.ndarray | EvarError) -> np.ndarray | None:
        if not isinstance(found, EvarError):
            return found
        if not self.skip_bad:
            raise found
        click.echo(f"evar: warning: skipped: {found}", err=True)
        self.files = [other for other in self.files if other != file]
        return None

    def _check_any(self) -> None:
        if not self.files:
            raise EvarError("none of the files can be decoded")


def _one_layer(encoder: Encoder, layers: str | None, pooling: str | None) -> list[tuple[str, str]]:
    """The one pair whose layer has the frames that are asked for."""
    if pooling is not None:
        raise EvarError(f"--frames are not pooled: leave out --pooling {pooling}")
    pairs = encoder.choices(layers)
    if len(pairs) > 1:
        raise EvarError(f"--frames takes one layer, or a fusion such as {pairs[0][0]}+{pairs[1][0]}: found {layers}")
    if of_clip := [part for part in pairs[0][0].split("+") if part not in encoder.hop_ms]:
        raise EvarError(f"{encoder.label}: layer {of_clip[0]!r} is one vector per clip and has no frames")
    return pairs


def _vectors(
    encoder: Encoder, pairs: list[tuple[str, str]], reading: Reading, batch: int | None, progress: Callable | None
) -> tuple[list[Path], dict[str, np.ndarray]]:
    """The files, and {`LAYER/POOLING`: float32 [files, D]} from one pass over them."""
    import numpy as np

    def encode(wav: np.ndarray, lengths: np.ndarray) -> list[dict]:
        made = {pair: rows.cpu().numpy() for pair, rows in encoder.encode_pairs(wav, lengths, pairs).items()}
        return [{pair: rows[i] for pair, rows in made.items()} for i in range(len(wav))]

    kept, rows = [], []
    for file, row in encoded(encoder, reading, encode, batch, progress):
        _check_finite(encoder, file, *row.values())
        kept.append(file)
        rows.append(row)
    return kept, {"/".join(pair): np.stack([row[pair] for row in rows]) for pair in pairs}


def _frames(
    encoder: Encoder, layer: str, reading: Reading, batch: int | None, progress: Callable | None
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Each file with its frames, float32 [T, D], and their times in ms, float32 [T]."""

    def encode(wav: np.ndarray, lengths: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        made: Frames = encoder.encode_frames(wav, lengths, layer)
        features, times_ms = made.features.cpu().numpy(), made.times_ms.cpu().numpy()
        return [(features[i, :valid].copy(), times_ms[:valid]) for i, valid in enumerate(made.valid.tolist())]

    for file, (features, times_ms) in encoded(encoder, reading, encode, batch, progress):
        _check_finite(encoder, file, features)
        yield file, features, times_ms


def encoded(
    encoder: Encoder, reading: Reading, encode: Callable, batch: int | None, progress: Callable | None
) -> Iterator[tuple[Path, Any]]:
    """Each file with what `encode(wav [B, N], lengths [B])` gives for it, in the order of the files."""
    import numpy as np

    from evar.audio.batches import length_batches
    from evar.embed import keep_freed_memory, naming, preferred_batch

    keep_freed_memory()
    batch, done = batch or preferred_batch(encoder), 0
    if progress:
        progress(0, len(reading.files))
    for group in _groups(reading, 4 * batch):
        lengths = np.array([len(wave) for _, wave in group])
        results: dict[int, Any] = {}
        for part in length_batches(lengths, batch, budget=GROUP_SAMPLES, equal=encoder.equal_lengths_only):
            wav = np.zeros((len(part), lengths[part].max()), np.float32)
            for row, i in enumerate(part):
                wav[row, : lengths[i]] = group[i][1]
            first = str(group[part[0]][0])
            names = SimpleNamespace(ids={i: str(group[i][0]) for i in part})
            with naming(encoder, names, part, wav.shape[1] / encoder.sample_rate):
                try:
                    made = encode(wav, lengths[part])
                except EvarError as error:
                    where = first if len(part) == 1 else f"in a batch of {len(part)} files (the first is {first})"
                    raise EvarError(f"{where}: {error}") from error
            results |= dict(zip(part.tolist(), made, strict=True))
            done += len(part)
            if progress:
                progress(done, len(reading.files))
        for i, (file, _) in enumerate(group):
            yield file, results.pop(i)
        group.clear()  # before the next one is read


def _groups(reading: Iterable[tuple[Path, np.ndarray]], most: int) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Files that follow each other: at most `most`, and no more than GROUP_SAMPLES unless a file is longer alone."""
    group: list[tuple[Path, np.ndarray]] = []
    for file, wave in reading:
        if group and (len(group) == most or sum(len(one) for _, one in group) + len(wave) > GROUP_SAMPLES):
            yield group
            group = []
        group.append((file, wave))
    if group:
        yield group


def _check_finite(encoder: Encoder, file: Path, *vectors: np.ndarray) -> None:
    import numpy as np

    if not all(np.isfinite(one).all() for one in vectors):
        raise EvarError(f"{encoder.label} gives NaN or infinity for {file}: nothing is written")


def _with_statistics(encoder: Encoder, norm: str | None, reading: Reading, bars: Any) -> Encoder:
    if norm:
        try:
            mean, std = map(float, norm.split(","))
        except ValueError:
            raise EvarError(f"--norm: expected MEAN,STD such as -7.1,4.2, found {norm!r}") from None
        return encoder.with_normalization({"mean": mean, "std": std})
    if encoder.normalization is not None:
        return encoder
    import numpy as np

    click.echo("evar: note: log-mel statistics measured on these files (--norm MEAN,STD gives others)", err=True)
    with bars.bar("norm", encoder.label, "file") as progress:

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for done, (_, wave) in enumerate(reading, start=1):
                yield wave[None], np.array([len(wave)])
                if progress:
                    progress(done, len(reading.files))

        return encoder.with_normalization(encoder.measure_normalization(pairs()))


def _about(encoder: Encoder, pairs: list[tuple[str, str]], precision: str) -> dict[str, Any]:
    """How embeddings were made, for the file that holds them."""
    import evar

    return {
        "encoder": encoder.label,
        "encoder_fingerprint": encoder.fingerprint(),
        "layers": ["/".join(pair) for pair in pairs],
        "normalization": dict(encoder.normalization) if encoder.normalization else None,
        "sample_rate": encoder.sample_rate,
        "precision": precision,
        "evar_version": evar.__version__,
    }
