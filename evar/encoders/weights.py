"""Weights files: our safetensors, and published PyTorch files read by key name without running them."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evar.encoders.prefixes import COUNTER, State, containers, find_part, usual
from evar.errors import EvarError, out_of_memory, unknown
from evar.files import atomic_write, canonical_json, sha256_file

FORMAT = 1
METADATA_KEYS = (
    "format",
    "encoder",
    "frontend",
    "normalization",
    "preset",
    "corpus",
    "corpus_digest",
    "seed",
    "evar_version",
    "licence",
    "trained_on",
)
PLAIN = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool})
PLAIN |= {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
STORE = "EVAR_PRETRAINED"
"""The environment variable that names the folder of pre-training runs; `pretrained` by default."""


@dataclass(frozen=True)
class Weights:
    """A weights file in memory. metadata: our `evar` mapping, or {} for a foreign file; sha256: of the file.

    parts: its containers of tensors, of which `state` is one, until `unwrapped` has found the one that is meant. part:
    what followed `#` in the file's name, the part of it to take.
    """

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, Any]
    sha256: str
    parts: Mapping[tuple[str, ...], State] = field(default_factory=dict)
    part: str = ""


def read_weights(path: str | Path) -> Weights:
    """Read a safetensors file or a PyTorch checkpoint (`weights_only`: nothing in the file is run).

    path: a file, the folder of a pre-training run, or the name of a run in the store (`find_weights`); `FILE#PART`
    names the prefix or container of a checkpoint that holds more than one encoder (`unwrapped`).
    Raises EvarError, one line each: missing, a folder of something else, empty, truncated, no weights file, a pickle
    that runs code, tensors that hold NaN, metadata of a newer format.
    """
    path, part = split_part(path)
    path = find_weights(path)
    expected = "expected a .safetensors or .pth file of weights"
    try:
        with open(path, "rb") as stream:
            head = stream.read(9)
        sha256 = sha256_file(path)
    except OSError as error:
        raise EvarError(f"cannot read the weights file {path}: {error.strerror}") from error
    if not head:
        raise EvarError(f"weights file {path} is empty (0 bytes): {expected}; copy or download it again")
    if head[8:9] == b"{":
        state, metadata = _read_safetensors(path)
        parts = {(): state}
    elif head[:2] == b"PK" or head[:1] == b"\x80":
        parts, metadata = _read_checkpoint(path), {}
        state = parts[usual(parts)]
    else:
        raise EvarError(f"{path} is no weights file (it starts with {head[:8]!r}): {expected}")
    _check_tensors(state, path)
    return Weights(path, state, metadata, sha256, parts, part)


def split_part(reference: str | Path) -> tuple[str | Path, str]:
    """`FILE#PART` as (FILE, PART), where there is no file of the whole name; else (reference, '')."""
    file, sign, part = str(reference).rpartition("#")
    if sign and file and not Path(reference).expanduser().exists() and Path(file).expanduser().is_file():
        return file, part
    return reference, ""


def unwrapped(weights: Weights, module: nn.Module, label: str) -> Weights:
    """The same weights, their `state` by the names of `module`, from under a container or prefix where that is needed.

    What was taken from where is told in a warning. Where no part of the file fits, the weights are as they were, or the
    nearest part, for a message. Raises EvarError where several parts fit that differ, and none was chosen.
    """
    if not weights.parts:
        return weights
    found = find_part(weights.parts, module.state_dict(), weights.part, str(weights.path), label)
    if found is None:
        return replace(weights, parts={})
    _check_tensors(found.state, weights.path)
    if found.told:
        warnings.warn(f"{weights.path}: {found.told}")
    return replace(weights, state=found.state, parts={})


def find_weights(reference: str | Path) -> Path:
    """The file meant by what follows `@`: a file, else the final weights of a run: by its folder, or by its name.

    `FOLDER` is FOLDER/NAME.safetensors, NAME being the folder's own name, or the only .safetensors file in it. A bare
    `NAME` is a run in the store: $EVAR_PRETRAINED, else `pretrained`. Raises EvarError where there is none.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return _final_weights(path)
    if path.exists():
        return path
    store = Path(os.environ.get(STORE) or "pretrained").expanduser()
    if path.name != str(reference):
        raise EvarError(f"weights file {path} does not exist: check the path after '@' or --weights")
    if (store / path).is_dir():
        return _final_weights(store / path)
    runs = sorted(folder.parent.name for folder in store.glob("*/*.safetensors") if folder.stem == folder.parent.name)
    held = f"holds {', '.join(dict.fromkeys(runs))}" if runs else "holds no runs"
    raise EvarError(f"weights file {path} does not exist, and is no run in the store: {store} {held}")


def _final_weights(folder: Path) -> Path:
    final = folder / f"{folder.resolve().name}.safetensors"
    if final.is_file():
        return final
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1 and not found[0].stem.startswith("step-"):
        return found[0]
    names = ", ".join(file.name for file in found[:5]) or "no .safetensors file"
    raise EvarError(
        f"{folder} is a folder: expected a .safetensors or .pth file of weights, or a run with {final.name};"
        f" it holds {names}"
    )


def write_weights(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write our format, atomically: safetensors whose metadata `evar` is the JSON of `metadata` (METADATA_KEYS).

    `format` is filled in; `encoder` is required; `normalization` is {"mean", "std"}, or None where none is needed.
    """
    from safetensors.torch import save

    _check_keys(metadata, str(path))
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in sorted(state.items())}
    text = canonical_json({**metadata, "format": FORMAT})
    atomic_write(path, save(tensors, metadata={"evar": text}))


def array_types(*dtypes: str) -> list[Any]:
    """What `torch.serialization.safe_globals` needs for plain NumPy arrays of these dtypes ("f4", "i8") in a pickle.

    Arrays of numbers are data, no code. They are named otherwise by NumPy 1 than by NumPy 2.
    """
    rebuild = np.empty(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    kinds = [type(np.dtype(dtype)) for dtype in dtypes]
    return [np.ndarray, np.dtype, *kinds, *((rebuild, f"{module}._reconstruct") for module in modules)]


def load_by_name(module: nn.Module, weights: Weights, label: str, hint: str = "") -> None:
    """Copy the tensors that `module` names out of `weights` (other keys are left alone: heads, projectors).

    They may lie under a container or a prefix (`unwrapped`), and be of any floating type.
    Raises EvarError naming the first key that is missing or has another shape, and `hint`.
    """
    weights = unwrapped(weights, module, label)
    hint = f"; {hint}" if hint else ""
    wanted = module.state_dict()
    chosen = {}
    for key, target in wanted.items():
        found = weights.state.get(key)
        if key.endswith(COUNTER) and (found is None or found.shape != target.shape or not _is_count(found)):
            chosen[key] = target
        elif found is None:
            raise EvarError(
                f"{weights.path} does not fit {label}: no tensor {key} {list(target.shape)}"
                f" among {_some(weights.state)}{hint}"
            )
        elif found.shape != target.shape:
            raise EvarError(
                f"{weights.path} does not fit {label}: {key} should be {list(target.shape)},"
                f" is {list(found.shape)}{hint}"
            )
        elif found.is_floating_point() != target.is_floating_point() and not key.endswith(COUNTER):
            raise EvarError(f"{weights.path} does not fit {label}: {key} should be {target.dtype}, is {found.dtype}")
        else:
            chosen[key] = found
    module.load_state_dict(chosen)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            text = (stream.metadata() or {}).get("evar")
            state = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise EvarError(f"{path} is a damaged safetensors file ({error}): copy or download it again") from error
    if text is None:
        return state, {}
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("format"), int):
        raise EvarError(f"{path}: its evar metadata is no JSON mapping with a format: write it with evar again")
    if metadata["format"] != FORMAT:
        raise EvarError(f"{path} has weights format {metadata['format']}, this evar reads {FORMAT}: upgrade evar")
    _check_keys(metadata, str(path))
    return state, metadata


def refuse_bomb(path: Path) -> None:
    """EvarError for a zip whose entries are larger than the file: PyTorch and NumPy store weights as they are."""
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise EvarError(f"{path} is compressed: expected a file as torch.save writes it")


def _read_checkpoint(path: Path) -> dict[tuple[str, ...], State]:
    try:
        if zipfile.is_zipfile(path):
            refuse_bomb(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols: what counts is whether it loads
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (EvarError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise EvarError(
                f"{path} holds more than tensors (a pickle that could run code) and was not loaded: ask for a plain"
                " state dict, or save one yourself with torch.save(model.state_dict(), FILE)"
            ) from error
        raise EvarError(f"{path} is a damaged PyTorch file: copy or download it again") from error
    except Exception as error:  # a broken pickle raises anything at all
        if out_of_memory(error):
            raise
        raise EvarError(f"{path} is a damaged PyTorch file: copy or download it again") from error
    if not isinstance(content, Mapping):
        raise EvarError(f"{path} holds a {type(content).__name__}: expected a state dict (names -> tensors)")
    parts = containers(content)
    if not parts:
        raise EvarError(f"{path} holds no tensors by name: expected a state dict (names -> tensors)")
    return parts


def _is_count(tensor: Tensor) -> bool:
    """Whether a counter still counts: halving a whole model makes its counts half-precision, and infinite from 65520 on."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _check_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in state.items():
        _check_plain(key, tensor, path)
        if key.endswith(COUNTER):
            continue
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise EvarError(f"{path}: the tensor {key} holds NaN or infinity: these weights are damaged")


def _check_plain(key: str, tensor: Tensor, path: Path) -> None:
    """EvarError unless a tensor is as large as what is stored of it: a view can claim terabytes of one number."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
    if not dense or tensor.dtype not in PLAIN:
        raise EvarError(f"{path}: the tensor {key} is of a kind ({tensor.dtype}) that holds no plain numbers")
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise EvarError(
            f"{path}: the tensor {key} claims {list(tensor.shape)} and holds less: these weights are damaged"
        )


def _check_keys(metadata: Mapping[str, Any], where: str) -> None:
    for key in metadata:
        if key not in METADATA_KEYS:
            raise unknown("metadata key", key, METADATA_KEYS, f"in {where}")
    if not isinstance(metadata.get("encoder"), str):
        raise EvarError(f"{where}: the weights' metadata names no encoder")


def _some(state: Mapping[str, Tensor]) -> str:
    names = sorted(state)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
