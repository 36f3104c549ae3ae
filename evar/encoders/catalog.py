"""Weights that others published: where there are some, what was fetched or added, and whether a file is what it says.

An encoder's `ENCODERS` literal says under `source` where its weights are published (`Source`). In the cache they lie in

    weights/NAME/FILE           what `evar weights fetch NAME` or `add NAME` brought, with weights/NAME.json beside it
    weights/hf/OWNER--MODEL/    a model of the transformers hub, which several encoders and `hf:` may share
    weights/tfhub/OWNER--MODEL/ a model of TensorFlow Hub

Nothing here imports torch before weights are loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from evar import files
from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    from evar.download import Progress
    from evar.encoders.registry import Entry

FETCHERS = {"hf": "evar.encoders.huggingface", "tfhub": "evar.encoders.tfhub"}
"""Kind of a hub -> the module whose `fetch_model(name, folder)` downloads a model of it."""
UNFINISHED = (".part", ".part.json", ".bad")


def cache_folder() -> Path:
    """evar's own cache: $EVAR_CACHE, else $XDG_CACHE_HOME/evar, else ~/.cache/evar. It need not exist."""
    own = os.environ.get("EVAR_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "evar"


def hub_folder(kind: str, name: str) -> Path:
    """Where a model of a hub lies in the cache. kind: `hf` or `tfhub`; name: OWNER/MODEL, or a handle of TF Hub."""
    name = re.sub(r"^https?://[^/]+/", "", name).strip("/")
    return cache_folder() / "weights" / kind / re.sub(r"[^\w.-]", "_", name.replace("/", "--")).lstrip(".")


@dataclass(frozen=True)
class Source:
    """Where weights are published. At most one of url (a file), hf (OWNER/MODEL) and tfhub (a handle); none: nowhere.

    file: the name of the weights file (of a hub's model: in its folder); bytes: its size; sha256: its digest, or the
    first digits alone; md5: where no other is published; licence: of the weights; note: what a user should know.
    """

    url: str | None = None
    hf: str | None = None
    tfhub: str | None = None
    file: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    licence: str | None = None
    note: str | None = None

    @property
    def kind(self) -> str | None:
        """`url`, `hf` or `tfhub`; None where there is nothing to fetch."""
        return next((kind for kind in ("url", *FETCHERS) if getattr(self, kind)), None)


def source_of(entry: Entry) -> Source | None:
    """The checked `source` of a registry entry, None where it has none; EvarError for keys that do not fit."""
    if entry.source is None:
        return None
    given = dict(entry.source)
    if "sha256_prefix" in given:
        given.setdefault("sha256", given.pop("sha256_prefix"))
    known = [field.name for field in fields(Source)]
    for key in given:
        if key not in known:
            raise unknown("key", key, known, f"in the source of {entry.name}")
    source = Source(**given)
    if sum(getattr(source, kind) is not None for kind in ("url", *FETCHERS)) > 1:
        raise EvarError(f"the source of {entry.name} names more than one of url, {', '.join(FETCHERS)}")
    for digest, most in ((source.sha256, 64), (source.md5, 32)):
        if digest is not None and not re.fullmatch(rf"[0-9a-f]{{8,{most}}}", digest):
            raise EvarError(f"the source of {entry.name}: {digest!r} is no digest")
    if source.url and not source.file:
        source = replace(source, file=unquote(re.sub(r"[?#].*", "", source.url).rpartition("/")[2]))
    return source


def fetched(entry: Entry) -> Path | None:
    """The file or folder of the weights of `entry` that `evar weights fetch` or `add` brought; None without."""
    if entry.weights != "required":
        return None
    held = _held(entry.name)
    if held is not None:
        return held
    source = source_of(entry)
    if source is None:
        return None
    if source.kind in FETCHERS:
        folder = hub_folder(source.kind, getattr(source, source.kind))
        return folder if _is_model(folder) else None
    from evar.encoders.registry import list_encoders

    for other in list_encoders().values():  # vggish and vggish-relu are one file
        theirs = source_of(other)
        if source.url and theirs and theirs.url == source.url and other.name != entry.name:
            path = _folder(other.name) / source.file
            if path.is_file():
                return path
    return None


def how_to_get(entry: Entry) -> str:
    """Half a sentence that says how to get the published weights, ending in `, or `; empty where none are known."""
    source = source_of(entry)
    if source is None or source.kind is None:
        return ""
    told = ", ".join(filter(None, (source.bytes and files.human_bytes(source.bytes), source.licence)))
    command = f"'evar weights fetch {entry.name}' gets them" + (f" ({told})" if told else "")
    if _offline():
        what = source.file if source.kind == "url" else f"the folder of {getattr(source, source.kind)}"
        command = (
            f"EVAR_OFFLINE is set, so bring {what} and type 'evar weights add {entry.name} PATH'; online, {command}"
        )
    return f"{command}, or "


def verify_known(entry: Entry, path: str | Path, sha256: str | None = None) -> None:
    """EvarError where `path` bears the name of the published weights of `entry` but has other content.

    A file of another name is not looked at, nor is a hub folder other than the cache's own: those may be anyone's
    weights. sha256: of the file, where it is known already.
    """
    source, path = source_of(entry), Path(path).expanduser()
    if source is None or source.file is None or (source.sha256 or source.md5) is None:
        return
    if source.kind in FETCHERS and path != hub_folder(source.kind, getattr(source, source.kind)):
        return
    if path.is_dir():
        path = path / source.file
    if path.name != source.file or not path.is_file():
        return
    found = _unlike(path, source, sha256)
    if found:
        raise EvarError(
            f"{path} is named as the published weights of {entry.name}, but is damaged or another file: expected"
            f" {found}; 'evar weights fetch {entry.name}' gets them, or rename the file to use it as it is"
        )


def fetch(spec: str, progress: Progress | None = None) -> Path:
    """Bring the published weights of `spec` into the cache; returns the file or folder, at once where it is here.

    spec: a registered encoder, `hf:OWNER/MODEL` or `tfhub:HANDLE`. `progress(done, total)` counts bytes.
    Raises EvarError: nothing published, EVAR_OFFLINE, and what `evar.download.download` and the hubs raise.
    """
    kind, colon, name = spec.partition(":")
    if colon:
        if kind not in FETCHERS or not name:
            raise EvarError(f"cannot fetch {spec!r}: expected the name of an encoder, hf:OWNER/MODEL or tfhub:HANDLE")
        return _fetch_model(kind, name)
    entry = _entry(spec)
    source = source_of(entry)
    if source is None or source.kind is None:
        note = f" ({source.note})" if source and source.note else ""
        raise EvarError(
            f"no weights of {spec} are published where evar may fetch them{note}: bring your own file,"
            f" {spec}@FILE, or once and for all 'evar weights add {spec} FILE'"
        )
    if source.kind in FETCHERS:
        folder = _fetch_model(source.kind, getattr(source, source.kind))
        from evar.encoders.hub import WEIGHTS_FILES

        try:
            order = WEIGHTS_FILES if source.kind == "hf" else (source.file or "",)
            read = next((name for name in order if (folder / name).is_file()), "none of that name")  # as when it loads
            if source.file not in (None, read):
                raise EvarError(f"the weights of {spec} were published as {source.file}, found {read} in {folder}")
            verify_known(entry, folder)
        except EvarError as error:
            bad = folder.with_name(folder.name + ".bad")
            with files.writing(bad):
                shutil.rmtree(bad, ignore_errors=True)
                os.replace(folder, bad)
            raise EvarError(f"{error}; what came is kept as {bad}") from None
        _forget(entry.name)
        return folder
    return _fetch_file(entry, source, progress)


def add(name: str, path: str | Path, force: bool = False) -> Path:
    """Copy weights that are on this machine into the cache, so that `name` needs no `@FILE`; returns the copy.

    path: what may follow `NAME@`: a file, a model's folder, a run. It is loaded first, on the CPU, and its digest is
    held to the published one; `force` takes weights other than those published, under a name of their own.
    Raises EvarError: weights that do not load as `name`, another digest, an encoder that takes no weights.
    """
    from evar.encoders.registry import load_encoder
    from evar.encoders.weights import find_weights

    entry, path = _entry(name), Path(path).expanduser()
    if not _is_model(path):
        path = find_weights(path)
    source = source_of(entry)
    verify_known(entry, path)
    published = source is not None and (source.sha256 or source.md5) is not None
    if published:
        file = path / (source.file or "") if path.is_dir() else path
        unlike = (
            _unlike(file, replace(source, bytes=None)) if file.is_file() else f"{source.file} in it, which is not there"
        )
        if unlike and not force:
            raise EvarError(
                f"{path} is not what was published as {name}: expected {unlike}; give {name}@{path} to use it, or"
                " --force to add it all the same"
            )
        published = not unlike
    encoder = load_encoder(name, weights=path)
    target = _folder(name) / (path.resolve().name if path.is_dir() else path.name)
    if published and source.kind in FETCHERS:
        target = hub_folder(source.kind, getattr(source, source.kind))
    elif published:
        target = target.with_name(source.file)
    with _locked(name):
        if path.resolve() != target.resolve():
            files.require_space(target.parent, size_of(path), path.name)
            _copy(path, target)
        if target.parent == _folder(name):
            _remember(name, target, str(path), encoder.weights_sha256, published)
        else:
            _forget(name)
    return target


def models(kind: str) -> list[Path]:
    """The folders of a hub's models (`hf`, `tfhub`) in the cache."""
    folder = cache_folder() / "weights" / kind
    return sorted(path for path in folder.glob("*") if _is_model(path) and not path.name.endswith(UNFINISHED))


def digest_of(path: Path) -> str | None:
    """SHA-256 of a weights file, or as `add` noted it; None for a folder that it did not."""
    noted = _record(path.parent.name) if path.parent.parent == cache_folder() / "weights" else {}
    if noted.get("file") == path.name and noted.get("stamp") == _stamp(path):
        return noted.get("sha256")
    return files.sha256_file(path) if path.is_file() else None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


# --- details ---------------------------------------------------------------------------------------------------------


def _entry(name: str) -> Entry:
    from evar.encoders.registry import list_encoders

    known = list_encoders()
    if name not in known:
        raise unknown("encoder", name, known, "see: evar weights list")
    entry = known[name]
    if entry.weights != "required":
        told = {"none": "it has no weights", "bundled": "they come with evar"}
        raise EvarError(f"{name} needs no weights from elsewhere: {told.get(entry.weights, f'use {name}@FILE')}")
    return entry


def _offline() -> bool:
    return os.environ.get("EVAR_OFFLINE", "") not in ("", "0")


def _folder(name: str) -> Path:
    return cache_folder() / "weights" / name


def _record_path(name: str) -> Path:
    return _folder(name).with_name(f"{name}.json")


def _record(name: str) -> dict[str, Any]:
    try:
        found = json.loads(_record_path(name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _held(name: str) -> Path | None:
    """What lies in the encoder's own folder: what its record names, else the one thing in it, put there by hand."""
    folder = _folder(name)
    noted = _record(name).get("file")
    if isinstance(noted, str) and noted and (folder / noted).exists():
        return folder / noted
    with contextlib.suppress(OSError):
        found = [path for path in folder.iterdir() if path.name[0] != "." and not path.name.endswith(UNFINISHED)]
        return found[0] if len(found) == 1 else None
    return None


def _is_model(folder: Path) -> bool:
    """Whether it is the folder of a model, not of a run: those of the two hubs have one of these files."""
    return (folder / "config.json").is_file() or any(folder.glob("saved_model.pb*"))


def _unlike(path: Path, source: Source, sha256: str | None = None) -> str | None:
    """`WHAT, found WHAT` where the file is not the published one, else None."""
    from evar.download import difference

    if source.sha256 and sha256:
        same = sha256.startswith(source.sha256)
        return None if same else f"sha256 {source.sha256}, found {sha256}"
    return difference(path, replace(source, md5=None if source.sha256 else source.md5))


def _fetch_file(entry: Entry, source: Source, progress: Progress | None) -> Path:
    from evar.download import download

    held = fetched(entry)
    if held is not None and held.name == source.file and _unlike(held, source) is None:
        return held
    path = _folder(entry.name) / source.file
    with _locked(entry.name):
        download(source, path, progress)
        _remember(entry.name, path, source.url, files.sha256_file(path), True)
    return path


def _fetch_model(kind: str, name: str) -> Path:
    folder = hub_folder(kind, name)
    if _is_model(folder):
        return folder
    if _offline():
        raise EvarError(
            f"EVAR_OFFLINE is set, so {kind}:{name} is not fetched: unset it, or put its files into {folder}"
        )
    return Path(importlib.import_module(FETCHERS[kind]).fetch_model(name, folder))


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    with files.lock(cache_folder() / "weights" / f".{name}.lock", timeout=0):
        yield


def _copy(path: Path, target: Path) -> None:
    """Copy a file, or a folder without its hidden files, so that `target` is there whole or not at all."""
    if path.is_file():
        with open(path, "rb") as stream, files.atomic_writer(target) as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
        return
    temporary = files.make_folder(target.parent) / f".{target.name}.{os.getpid()}.tmp"
    with files.writing(target):
        try:
            shutil.copytree(path, temporary, ignore=shutil.ignore_patterns(".*"))  # follows the links of a hub's cache
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
        except shutil.Error as error:
            raise EvarError(f"cannot copy {path} to {target}: {error.args[0][0][-1]}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _remember(name: str, path: Path, origin: str, sha256: str, published: bool) -> None:
    """Note what the encoder's weights are now, and remove those that it had before."""
    noted = {"file": path.name, "stamp": _stamp(path), "sha256": sha256, "from": origin, "published": published}
    files.atomic_write(_record_path(name), json.dumps(noted, indent=2) + "\n")
    for other in path.parent.iterdir():
        if other != path and not other.name.endswith(UNFINISHED):
            shutil.rmtree(other) if other.is_dir() and not other.is_symlink() else other.unlink()


def _forget(name: str) -> None:
    """Remove weights of an encoder's own, now that the published ones are here."""
    with contextlib.suppress(FileNotFoundError), files.writing(_folder(name)):
        _record_path(name).unlink()
        shutil.rmtree(_folder(name))


def _stamp(path: Path) -> list[int]:
    """Size and time of change: another stamp, another content."""
    return [size_of(path), path.stat().st_mtime_ns]
