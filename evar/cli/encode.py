"""`evar check` and `evar encode`: an encoder by itself, without tasks."""

from __future__ import annotations

from pathlib import Path

import click

from evar.cli.options import device_option, output_option, print_json, with_options
from evar.errors import EvarError, unknown

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au", ".opus")
FORMATS = (".npz", ".npy", ".parquet")


@click.command()
@click.argument("encoder")
@with_options(
    click.option("--weights", metavar="FILE", help="Checkpoint (same as NAME@FILE)."), device_option, output_option
)
@click.pass_context
def check_command(ctx: click.Context, encoder: str, weights: str | None, device: str, output: str) -> None:
    """Hold ENCODER to the contract: shapes, determinism, padding invariance, silence, NaN, memory, speed. Exits 1 on failure.

    \b
    Examples:
      evar check random:byola-v2
      evar check py:my_package.models:Mine
    """
    from evar.embed import resolve_device
    from evar.encoders.check import check_encoder
    from evar.encoders.registry import load_encoder

    device = resolve_device(device)
    results = check_encoder(load_encoder(encoder, weights=weights, device=device), device)
    if output == "json":
        print_json([{"name": result.name, "ok": result.ok, "detail": result.detail} for result in results])
    else:
        for result in results:
            click.echo(f"{'ok  ' if result.ok else 'FAIL'}  {result.name:<28} {result.detail}")
        failed = sum(not result.ok for result in results)
        click.echo(f"{encoder}: {len(results) - failed} of {len(results)} checks passed")
    ctx.exit(0 if all(result.ok for result in results) else 1)


@click.command()
@click.argument("encoder")
@click.argument("audio", nargs=-1, required=True)
@with_options(
    click.option("-o", "--output", "target", required=True, metavar="FILE", help="FILE.npz, FILE.npy or FILE.parquet."),
    click.option("--weights", metavar="FILE", help="Checkpoint (same as NAME@FILE)."),
    click.option(
        "--frames", is_flag=True, help="One vector per frame, with times, instead of one per file (npz only)."
    ),
    click.option("--layers", metavar="L|L+L", help="Instead of the encoder's default."),
    click.option("--pooling", metavar="NAME", help="Instead of the encoder's default."),
    click.option(
        "--norm", metavar="MEAN,STD", help="Log-mel statistics; default: those of the weights, else of AUDIO."
    ),
    click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be decoded."),
    device_option,
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
    device: str,
) -> None:
    """Write the embeddings of AUDIO (files, or folders of them, at any rate) to a file.

    npz: `embeddings` float32 [files, D] and `files`; with --frames for each file `frames_I` [T, D] and `times_I` [T] in ms.
    npy: the matrix alone. parquet: a column `file` and D columns `0`, `1`, ...

    \b
    Examples:
      evar encode logmel recordings/ -o recordings.npz
      evar encode random:byola-v2 a.wav b.flac -o ab.parquet
    """
    from evar.embed import resolve_device
    from evar.encoders.registry import load_encoder

    path = Path(target)
    if path.suffix not in FORMATS:
        raise unknown("output format", path.suffix or target, FORMATS)
    if frames and path.suffix != ".npz":
        raise EvarError(f"--frames needs an .npz file (ragged), found {path.name}")
    files = find_audio(audio)
    loaded = load_encoder(encoder, weights=weights, device=resolve_device(device))
    files, waves = read_audio(files, loaded.sample_rate, skip_bad)
    if loaded.needs_normalization:
        loaded = _with_statistics(loaded, norm, waves)
    layer = layers or loaded.default_layer
    if frames:
        made = [loaded.encode_frames(wave, layers=layer) for wave in waves]
        arrays = {"files": [str(file) for file in files]}
        for i, frames_of in enumerate(made):
            arrays[f"frames_{i}"] = frames_of.features[: frames_of.valid].cpu().numpy()
            arrays[f"times_{i}"] = frames_of.times_ms[: frames_of.valid].cpu().numpy()
    else:
        import numpy as np

        choice = (layer, pooling or loaded.default_pooling)
        rows = [
            loaded.encode_all(wave[None], None, [choice[0]], [choice[1]])[choice][0].cpu().numpy() for wave in waves
        ]
        for file, row in zip(files, rows, strict=True):
            if not np.isfinite(row).all():
                raise EvarError(f"{loaded.label} gives NaN or infinity for {file}: nothing is written")
        arrays = {"files": [str(file) for file in files], "embeddings": np.stack(rows)}
    write_arrays(path, arrays)
    shape = "" if frames else f", [{len(waves)}, {arrays['embeddings'].shape[1]}]"
    click.echo(f"{path}: {len(files)} files{shape}")


def find_audio(names: tuple[str, ...]) -> list[Path]:
    """Files as named and the audio files of folders, sorted; EvarError when one is missing or a folder has none."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO)
            if not inside:
                raise EvarError(f"no audio in {path}: expected files ending in {', '.join(AUDIO)}")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise EvarError(f"no such file: {path}")
    return files


def read_audio(files: list[Path], sample_rate: int, skip_bad: bool) -> tuple[list[Path], list]:
    """Decode all files at `sample_rate` (float32 [N] mono each); what fails is an error, or left out with a warning."""
    from evar.audio.decode import decode

    kept, waves = [], []
    for file in files:
        try:
            waves.append(decode(file, sample_rate))
            kept.append(file)
        except EvarError as error:
            if not skip_bad:
                raise
            click.echo(f"evar: warning: skipped: {error}", err=True)
    if not kept:
        raise EvarError("none of the files can be decoded")
    return kept, waves


def _with_statistics(encoder: object, norm: str | None, waves: list) -> object:
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
    pairs = ((wave[None], np.array([len(wave)])) for wave in waves)
    return encoder.with_normalization(encoder.measure_normalization(pairs))


def write_arrays(path: Path, arrays: dict) -> None:
    """Write atomically, in the format that the suffix names."""
    import numpy as np

    from evar.files import atomic_writer

    with atomic_writer(path) as stream:
        if path.suffix == ".npy":
            np.save(stream, arrays["embeddings"])
        elif path.suffix == ".npz":
            np.savez(stream, **{name: np.asarray(value) for name, value in arrays.items()})
        else:
            import pandas as pd

            matrix = arrays["embeddings"]
            frame = pd.DataFrame(matrix, columns=[str(i) for i in range(matrix.shape[1])])
            frame.insert(0, "file", arrays["files"])
            frame.to_parquet(stream, index=False)
