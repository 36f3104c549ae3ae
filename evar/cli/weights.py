"""`evar weights list|fetch|add`: where encoders' weights are, and how to get those that are not here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evar.cli.options import Group, format_option, print_json, table
from evar.files import human_bytes

if TYPE_CHECKING:
    from evar.encoders.registry import Entry

STORE = "EVAR_PRETRAINED"  # as in evar.encoders.weights, which imports torch


@click.group(cls=Group)
def weights_command() -> None:
    """List, fetch or add the weights of encoders. Nothing is downloaded but by `fetch`.

    \b
    Example:
      evar weights list
      evar weights fetch cnn14
      evar weights add byola-v2 ~/Downloads/weights.pth
    """


@weights_command.command("list")
@format_option
def list_(output: str) -> None:
    """Show every encoder's weights: where they are, their size, digest and licence, and how to get them.

    \b
    Example:
      evar weights list --format json
    """
    from evar.encoders.catalog import cache_folder
    from evar.encoders.registry import list_encoders

    encoders = [_encoder(entry) for entry in list_encoders().values()]
    runs, models = _runs(), _models()
    if output == "json":
        return print_json({"cache": str(cache_folder()), "encoders": encoders, "runs": runs, "models": models})
    click.echo(table([_row(found) for found in encoders], ["encoder", *_HEADER], right={2}))
    if models:
        click.echo("\nModels fetched for hf: and tfhub:")
        click.echo(table([_row(found)[:3] for found in models], ["model", *_HEADER[:2]], right={2}))
    if runs:
        click.echo(f"\nRuns in {_store()} (give ENCODER@RUN):")
        rows = [[found["name"], found["encoder"] or "?", *_row(found)[2:5]] for found in runs]
        click.echo(table(rows, ["run", "encoder", *_HEADER[1:4]], right={2}))
    click.echo(f"\nThe cache is {cache_folder()} ($EVAR_CACHE). NAME@FILE takes any other file.")


@weights_command.command("fetch")
@click.argument("name")
def fetch(name: str) -> None:
    """Download the published weights of NAME (an encoder, hf:OWNER/MODEL, tfhub:HANDLE) and check their digest.

    An interrupted download continues where it stopped.

    \b
    Example:
      evar weights fetch cnn14
      evar weights fetch hf:facebook/hubert-base-ls960
    """
    from evar.cli.data import bar
    from evar.encoders import catalog
    from evar.encoders.registry import list_encoders

    entry = list_encoders().get(name)
    source = entry and catalog.source_of(entry)
    if source and source.kind:
        note = f" ({source.note})" if source.note else ""
        click.echo(f"{name}: {source.licence or 'no licence stated'}{note}", err=True)
    with bar("fetch", "B") as progress:
        path = catalog.fetch(name, progress)
    click.echo(f"{path}\nnow: evar run {name} TASK")


@weights_command.command("add")
@click.argument("name")
@click.argument("path", metavar="FILE|FOLDER")
@click.option("--force", is_flag=True, help="Add it though it is not what was published under this name.")
def add(name: str, path: str, force: bool) -> None:
    """Copy weights into the cache, so that `evar run NAME` finds them. They are loaded and checked first.

    \b
    Example:
      evar weights add byola-v2 ~/Downloads/weights.pth
    """
    from evar.encoders import catalog

    copy = catalog.add(name, path, force)
    click.echo(f"{copy}\nnow: evar run {name} TASK")


# --- the list --------------------------------------------------------------------------------------------------------

_HEADER = ("weights", "size", "sha256", "licence", "how to get them")


def _encoder(entry: Entry) -> dict[str, Any]:
    """What `list` says of one encoder. where: `none needed`, `bundled`, `here` or `not here`."""
    from evar.encoders import catalog

    found: dict[str, Any] = {"name": entry.name, "where": "none needed", "path": None, "bytes": None, "sha256": None}
    found |= {"licence": None, "note": None, "published": None, "get": None}
    if entry.weights == "none":
        return found
    source = catalog.source_of(entry)
    if source is not None:
        found |= {"licence": source.licence, "note": source.note, "published": entry.source}
    if entry.weights != "required":
        path: Path | None = Path(catalog.__file__).parent / "bundled" / f"{entry.name}.safetensors"
        found["where"] = "bundled"
        found["licence"] = _metadata(path).get("licence")
    else:
        path = catalog.fetched(entry)
        found["where"] = "here" if path else "not here"
        if source and source.kind:
            found["get"] = f"evar weights fetch {entry.name}"
        else:
            found["get"] = f"your own: {entry.name}@FILE"
    if path is not None and path.exists():
        return found | {"path": str(path), "bytes": catalog.size_of(path), "sha256": catalog.digest_of(path)}
    return found | ({"bytes": source.bytes, "sha256": source.sha256} if source else {})


def _runs() -> list[dict[str, Any]]:
    """The finished runs of `evar pretrain` in the store."""
    from evar.encoders.catalog import digest_of, size_of

    found = []
    for path in sorted(_store().glob("*/*.safetensors")):
        if path.stem == path.parent.name:
            said = _metadata(path)
            known = {"name": path.stem, "encoder": said.get("encoder"), "where": "here", "path": str(path)}
            known |= {"bytes": size_of(path), "sha256": digest_of(path), "licence": said.get("licence"), "get": None}
            found.append(known)
    return found


def _models() -> list[dict[str, Any]]:
    """The models of the two hubs that are in the cache, by the name of their folder."""
    from evar.encoders.catalog import FETCHERS, models, size_of

    found = []
    for kind in FETCHERS:
        for path in models(kind):
            known = {"name": f"{kind}:{path.name.replace('--', '/')}", "where": "here", "path": str(path)}
            found.append(known | {"bytes": size_of(path), "sha256": None, "licence": None, "get": None})
    return found


def _row(found: dict[str, Any]) -> list[str]:
    where = _short(found["path"]) if found["where"] == "here" else found["where"]
    get = found["get"] if found["where"] == "not here" else None
    size = human_bytes(found["bytes"]) if found["bytes"] else ""
    return [found["name"], where, size, (found["sha256"] or "")[:12], found["licence"] or "", get or ""]


def _short(path: str) -> str:
    home = str(Path.home())
    return f"~{path[len(home) :]}" if path.startswith(home + os.sep) else path


def _store() -> Path:
    return Path(os.environ.get(STORE) or "pretrained").expanduser()


def _metadata(path: Path) -> dict[str, Any]:
    """What our own weights files say of themselves, without torch; {} for others and damaged ones."""
    try:
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            head = json.loads(stream.read(length)) if 0 < length < 1 << 26 else {}
        found = json.loads(head["__metadata__"]["evar"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
