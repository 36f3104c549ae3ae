"""Where models of the transformers hub are on this machine, and how one gets here. Imports neither torch nor
transformers.

huggingface_hub's own `snapshot_download` writes to the home folder even when it is told another one, and hands out
what an interrupted download left when the network is gone: so files are fetched one by one, into evar's cache alone.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from evar.download import is_offline
from evar.errors import EvarError
from evar.files import make_folder, writing

WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order of preference; an index names the shards of a model in several files."""
OTHER_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def find_folder(reference: str | Path, label: str) -> Path:
    """The folder of a model's files: a path, else a hub name in evar's cache, else in the hub's own local cache.

    Nothing is downloaded. Raises EvarError that says how to get a model that is not here.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    name = str(reference)
    if path.exists():
        raise EvarError(f"{label}: {path} is a file: give the folder that holds it, with its config.json")
    if not NAME.fullmatch(name):
        raise EvarError(f"{label}: no folder {path}: expected one with config.json and model.safetensors")
    from evar.encoders.catalog import hub_folder

    for folder in (hub_folder("hf", name), _snapshot(name)):
        if folder is not None and (folder / "config.json").is_file():
            return folder
    offline = " where there is a network, and copy the folder here (EVAR_OFFLINE is set)" if is_offline() else ""
    raise EvarError(
        f"{label}: {name!r} is no folder here, and no model of that name is on this machine:"
        f" evar weights fetch hf:{name}{offline}"
    )


def fetch_model(name: str, folder: Path | None = None) -> Path:
    """Download the model `name` of the hub into `folder` (default: its place in evar's cache), and return it.

    Only what loading needs: config.json, the feature extractor's settings, and the weights (safetensors where the
    model has them), all of one revision. An interrupted download continues. A token in the environment is used.
    Raises EvarError offline, for an unknown or closed model, and when the network fails.
    """
    from evar.encoders.catalog import hub_folder

    folder = hub_folder("hf", name) if folder is None else Path(folder)
    if not NAME.fullmatch(name):
        raise EvarError(f"hf:{name} is no name of a model on the hub: expected OWNER/NAME")
    if is_offline():
        raise EvarError(f"cannot fetch hf:{name}: EVAR_OFFLINE is set; copy its files to {folder}")
    if (folder / "config.json").is_file():
        return folder
    from huggingface_hub import constants

    make_folder(folder.parent)
    direct = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True  # its chunk cache and logs would go to the home folder
    try:
        part = _download(name, folder)
    except EvarError:
        raise
    except Exception as error:  # the hub's client raises a dozen kinds, of several libraries
        reason = " ".join(str(error).split())[:300]
        raise EvarError(f"cannot fetch hf:{name}: {type(error).__name__}: {reason}") from error
    finally:
        constants.HF_HUB_DISABLE_XET = direct
    with writing(folder):
        shutil.rmtree(part / ".cache", ignore_errors=True)
        os.replace(part, folder)
    return folder


def _download(name: str, folder: Path) -> Path:
    """The unfinished neighbour of `folder` that holds all files of the model's present revision."""
    from huggingface_hub import HfApi, constants, hf_hub_download

    api = HfApi(endpoint=constants.ENDPOINT)
    info = api.model_info(name, files_metadata=True)
    sizes = {file.rfilename: file.size for file in info.siblings or []}
    weights = next((file for file in WEIGHTS_FILES if file in sizes), None)
    if "config.json" not in sizes or weights is None:
        raise EvarError(f"hf:{name} holds no transformers model: expected config.json and {WEIGHTS_FILES[0]}")
    shards = []
    if weights.endswith(".index.json"):
        stem, suffix = weights.removesuffix(".index.json").rsplit(".", 1)
        shards = [file for file in sorted(sizes) if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", file)]
    part = folder.with_name(f"{folder.name}-{info.sha[:12]}.part")  # a newer revision does not continue an older one
    for file in [*(file for file in OTHER_FILES if file in sizes), weights, *shards]:
        found = Path(
            hf_hub_download(
                name, file, revision=info.sha, local_dir=part, cache_dir=part / ".cache", endpoint=constants.ENDPOINT
            )
        )
        if sizes[file] is not None and found.stat().st_size != sizes[file]:
            size = found.stat().st_size
            found.unlink()
            raise EvarError(f"hf:{name}: {file} has {size} bytes, expected {sizes[file]}: fetch it again")
    return part


def _snapshot(name: str) -> Path | None:
    """The folder of the model's main revision in the hub client's own local cache."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except Exception:  # a name that the hub does not allow
        return None
    return Path(found).parent if isinstance(found, str) else None
