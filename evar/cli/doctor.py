"""`evar doctor`: what this machine and installation can do, and what to mend."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import click

from evar.cli.options import data_option, format_option, print_json, with_options

PACKAGES = (
    "torch",
    "torchaudio",
    "transformers",
    "scikit-learn",
    "pandas",
    "numpy",
    "soundfile",
    "soxr",
    "panns-inference",
    "click",
)


@click.command()
@with_options(data_option, format_option)
@click.pass_context
def doctor_command(ctx: click.Context, data: tuple[str, ...], output: str) -> None:
    """Say what this machine and installation can do. Exits 1 when something needs mending.

    \b
    Example:
      evar doctor --data ~/datasets
    """
    facts, problems = examine(data)
    if output == "json":
        print_json({"facts": facts, "problems": problems})
    else:
        for name, value in facts.items():
            click.echo(f"{name:>12}  {value}")
        for problem in problems:
            click.echo(f"     to mend  {problem}")
        if not problems:
            click.echo("all is well: try 'evar run logmel,random:byola-v2 esc50 --mini'")
    ctx.exit(1 if problems else 0)


def examine(data: tuple[str, ...] = ()) -> tuple[dict[str, str], list[str]]:
    """(facts by name, what to mend): versions, device, threads, disk, audio formats, extras, datasets found."""
    import evar
    from evar.extras import EXTRAS, how_to_install, missing

    facts: dict[str, str] = {"evar": f"{evar.__version__} in {Path(evar.__file__).parent}"}
    problems: list[str] = []
    facts["python"] = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{package} is not installed: {how_to_install(only=package)}")
    facts["packages"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    try:
        import torch
        import torchaudio  # noqa: F401  (its compiled part fails with any other torch)

        cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device"
        facts["device"] = f"{cuda}; {torch.get_num_threads()} CPU threads of {os.cpu_count()} cores"
    except (ImportError, OSError) as error:
        pair = f"{versions.get('torch')} and {versions.get('torchaudio')}"
        reason = " ".join(str(error).split())[:160]
        mend = how_to_install(only="torchaudio")
        problems.append(f"torch and torchaudio ({pair}) do not load together ({reason}): {mend}, docs/versions.md")
    try:
        import soundfile

        formats = soundfile.available_formats()
        wanted = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in formats]
        facts["audio"] = f"libsndfile {soundfile.__libsndfile_version__}: {', '.join(wanted)}"
        if len(wanted) < 4:
            problems.append("this libsndfile lacks a format: pip install -U soundfile")
    except (ImportError, OSError) as error:
        problems.append(f"soundfile does not load: {error}")
    facts["disk"] = f"{shutil.disk_usage('.').free / 1e9:.0f} GB free here"
    absent = [extra for extra in EXTRAS if missing(extra)]
    facts["extras"] = ", ".join(f"{extra} {'absent' if extra in absent else 'installed'}" for extra in EXTRAS)
    for value in data:
        named = value.partition("=")[2]
        if not any(Path(folder).expanduser().is_dir() for folder in (value, named) if folder):
            problems.append(f"--data {value} is not a folder")
    facts["datasets"] = _datasets(data)
    return facts, problems


def _datasets(data: tuple[str, ...]) -> str:
    from evar.datasets import layouts, list_cards
    from evar.datasets.locate import locate
    from evar.errors import EvarError

    found = []
    for name, card in list_cards().items():
        try:
            layout = layouts.load(card)
            found.append(f"{name} ({locate(card, layout, layouts.options(card, layout), data)})")
        except EvarError:
            continue
    if not found:
        return "none found: give --data, set EVAR_DATA, or try --mini"
    return f"{', '.join(found)} ('evar data verify TASK' checks one)"
