"""Models of the transformers library: found on this machine, read safely, refused when a number would be wrong.

transformers itself only warns when a checkpoint lacks a layer, and leaves that layer random; and it downloads, unless
told not to, whatever name it is given. Here a missing layer is an error and loading never touches the network:
`evar weights fetch hf:NAME` is what downloads (`fetch_model`).

Files are read by `evar.encoders.weights` (safetensors, or `weights_only` pickles) and handed to transformers by its
own loading, which knows the key names of older versions: a raw state dict does not fit across versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evar.encoders.fingerprint import foreign_source
from evar.encoders.hub import WEIGHTS_FILES, fetch_model, find_folder
from evar.encoders.inputs import checked_rate
from evar.encoders.prefixes import bare
from evar.encoders.weights import read_weights
from evar.errors import EvarError, unknown

UNUSED = re.compile(r"(^|\.)(masked_spec_embed|position_ids)$")
"""Tensors that checkpoints leave out, and that no embedding depends on: the mask of pre-training, counters."""
__all__ = [
    "LoadedModel",
    "build",
    "changed",
    "class_of",
    "config_facts",
    "extractor_facts",
    "feature_extractor",
    "fetch_model",
    "find_folder",
    "load_model",
    "preprocessing",
    "quiet",
    "read_config",
    "required_preprocessing",
    "silent",
]

VOLATILE = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "auto_map", "id2label",
            "label2id", "problem_type", "use_cache", "gradient_checkpointing")  # fmt: skip
"""Keys of a configuration that no embedding depends on."""
CODE = (
    "comes with code of its own, which evar does not run unless asked: read the code, then set EVAR_TRUST_REMOTE_CODE=1"
)


@dataclass(frozen=True)
class LoadedModel:
    """A transformers model in evaluation mode and float32, on the CPU, with its configuration.

    sha256: of the weights file (of the shards' digests in order, where there are several), empty for random weights.
    folder: where its files are; None where the class's default configuration was used.
    """

    model: Any
    config: Any
    sha256: str
    folder: Path | None


def load_model(
    model_class: Any,
    reference: str | Path | None,
    *,
    config: Mapping[str, Any] | None = None,
    random: bool = False,
    trust_remote_code: bool = False,
    label: str,
) -> LoadedModel:
    """A model from the files of `reference`, or its architecture with random weights.

    model_class: a transformers model class (ASTModel), or None for the base model of the configuration's type.
    reference: a folder, or a name on the hub whose files are on this machine (`find_folder`). With random=True only
    its config.json is read, and None is the class's default configuration; the initialisation is transformers' own,
    under torch's global random state. config: values that replace those of the configuration.
    Raises EvarError, one line each: no such folder or model, no config.json, another model's checkpoint, weights that
    are missing, damaged, of another shape, or that would run code.
    """
    folder = None if reference is None else find_folder(reference, label)
    with quiet(label):
        if folder is None:
            if model_class is None or not random:
                raise EvarError(f"{label}: give a folder or the name of a model")
            found = model_class.config_class()
        else:
            found = read_config(folder, label, trust_remote_code)
        if model_class is None:
            model_class = class_of(found, folder, label, trust_remote_code)
        elif not isinstance(found, model_class.config_class):
            raise EvarError(
                f"{label}: {folder} is the checkpoint of another model: its config.json says {found.model_type!r},"
                f" expected {model_class.config_class.model_type!r}; for any other model give hf:{reference}"
            )
    weights = None if random else folder
    return build(model_class, changed(found, config, label), weights, label, folder, "", trust_remote_code)


def build(
    model_class: Any,
    config: Any,
    weights: Path | None,
    label: str,
    folder: Path | None = None,
    part: str = "",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """The model of `config` with the weights of the folder `weights`, or random where that is None.

    part: the beginning of the names of the tensors that matter (`encoder.`), where others may be missing.
    Raises EvarError when a tensor is missing or has another shape, naming it.
    """
    state, sha256 = ({}, "") if weights is None else read_state(weights, label)
    config._attn_implementation = None  # config.json can name one on the hub, whose code would be fetched and run
    with quiet(label):
        if weights is None:
            model = model_class(config).float().eval()
        else:
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                ignore_mismatched_sizes=True,  # reported below, in one line
                output_loading_info=True,
            )
            _check_complete(model, report, state, part, weights, label)
    # A path is no property of the embeddings: two copies of one checkpoint have one fingerprint.
    model.name_or_path = model.config.name_or_path = ""
    return LoadedModel(model.requires_grad_(False), model.config, sha256, weights or folder)


# ---- what their files say ------------------------------------------------------------------------------------------


def read_json(path: Path, label: str) -> dict[str, Any]:
    """A JSON mapping; EvarError when the file is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvarError(f"{label}: cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EvarError(f"{label}: {path} is no JSON ({error}): copy or download it again") from error
    if not isinstance(content, dict):
        raise EvarError(f"{label}: {path} holds a {type(content).__name__}: expected a JSON mapping")
    return content


def read_config(folder: Path, label: str, trust_remote_code: bool = False) -> Any:
    """The configuration of the model in `folder`; EvarError when there is none, or none that transformers knows."""
    path = folder / "config.json"
    if not path.is_file():
        held = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
        raise EvarError(f"{label}: {folder} is no transformers model: no config.json, it holds {held}")
    content = read_json(path, label)
    if not isinstance(content.get("model_type"), str):
        raise EvarError(f"{label}: {path} names no model_type: it is no transformers model's config.json")
    from transformers import CONFIG_MAPPING, AutoConfig

    if content["model_type"] not in CONFIG_MAPPING and not trust_remote_code:
        if "auto_map" in content:
            raise EvarError(f"{label}: {folder} {CODE}")
        raise unknown("model_type", content["model_type"], CONFIG_MAPPING, f"in {path}")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise EvarError(f"{label}: {path} is no valid configuration: {reason_of(error)}") from error


def changed(config: Any, values: Mapping[str, Any] | None, label: str) -> Any:
    """`config` with some values replaced; EvarError for keys that it has not and values that it refuses."""
    if not values:
        return config
    if not isinstance(values, Mapping):
        raise EvarError(f"{label}: config is a mapping of keys to values, found {values!r}")
    whole = config.to_dict()
    for key, value in values.items():
        if key not in whole:
            raise unknown(f"configuration key of {config.model_type}", key, whole, f"({label})")
        whole[key] = {**whole[key], **value} if isinstance(whole[key], dict) and isinstance(value, Mapping) else value
    try:
        return type(config).from_dict(whole)
    except Exception as error:
        raise EvarError(f"{label}: the configuration does not hold together: {reason_of(error)}") from error


def class_of(config: Any, folder: Path | None, label: str, trust_remote_code: bool = False) -> Any:
    """The base model's class of a configuration: transformers' own, or with trust_remote_code the folder's."""
    from transformers import MODEL_MAPPING

    if type(config) in MODEL_MAPPING:
        found = MODEL_MAPPING[type(config)]
        return found[0] if isinstance(found, (list, tuple)) else found
    if trust_remote_code and folder is not None and "AutoModel" in getattr(config, "auto_map", {}):
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        return get_class_from_dynamic_module(config.auto_map["AutoModel"], folder, local_files_only=True)
    raise EvarError(f"{label}: transformers has no base model for {config.model_type!r}: it gives no hidden states")


def preprocessing(folder: Path | None, label: str) -> dict[str, Any]:
    """The settings of the model's feature extractor (sampling_rate, do_normalize ...), {} where the folder has none.

    Raises EvarError for files that are no JSON mapping, and for a sampling_rate that is none.
    """
    if folder is None:
        return {}
    if (path := folder / "preprocessor_config.json").is_file():
        settings = read_json(path, label)
    elif (path := folder / "processor_config.json").is_file():
        nested = read_json(path, label).get("feature_extractor")
        settings = nested if isinstance(nested, dict) else {}
    else:
        return {}
    if "sampling_rate" in settings:
        checked_rate(settings["sampling_rate"], f"{label}: {path}: sampling_rate")
    return settings


def required_preprocessing(folder: Path, label: str) -> dict[str, Any]:
    """`preprocessing`, with an EvarError where the folder has none."""
    settings = preprocessing(folder, label)
    if not settings:
        raise EvarError(
            f"{label}: {folder} has no preprocessor_config.json, which says the sample rate and how audio enters the"
            " model: copy it from where the model came"
        )
    return settings


def feature_extractor(folder: Path, label: str, trust_remote_code: bool) -> Any:
    """The model's own feature extractor, from its preprocessor_config.json.

    Raises EvarError where there is none, and where it is code in the folder that is not trusted.
    """
    from transformers import AutoFeatureExtractor

    required_preprocessing(folder, label)
    with quiet(label):
        return AutoFeatureExtractor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=bool(trust_remote_code)
        )


def extractor_facts(extractor: Any) -> dict[str, Any]:
    """The plain settings of a feature extractor, and digests of its code where that is not transformers' own."""
    plain = (bool, int, float, str, type(None))
    facts = {key: value for key, value in extractor.to_dict().items() if isinstance(value, plain)}
    own = not type(extractor).__module__.startswith("transformers.")
    return facts | ({"code": foreign_source(type(extractor))} if own else {})


def config_facts(config: Any) -> dict[str, Any]:
    """What embeddings depend on in a configuration, as JSON: the values that are not transformers' defaults."""
    found = {"model_type": config.model_type}
    for key, value in json.loads(json.dumps(config.to_diff_dict(), default=str)).items():
        if key not in VOLATILE:
            found[key] = value
    return found


def read_state(folder: Path, label: str) -> tuple[dict[str, Tensor], str]:
    """All tensors of the model in `folder` by their name in the file, and the SHA-256 of its weights.

    Raises EvarError: no weights, a shard that is missing, damaged files, a pickle that could run code, NaN.
    """
    name = next((name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if name is None:
        held = ", ".join(sorted(file.name for file in folder.iterdir())[:5])
        raise EvarError(
            f"{label}: {folder} holds no weights: expected {WEIGHTS_FILES[0]} or {WEIGHTS_FILES[2]}, found {held}"
        )
    if not name.endswith(".index.json"):
        found = read_weights(folder / name)
        state, prefix = bare(found.state)
        if prefix:
            warnings.warn(f"{found.path}: read {len(state)} tensors under the prefix {prefix!r}")
        return state, found.sha256
    shards = read_json(folder / name, label).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise EvarError(f"{label}: {folder / name} names no shards: copy or download it again")
    state: dict[str, Tensor] = {}
    sha256 = hashlib.sha256()
    for shard in sorted(set(map(str, shards.values()))):
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise EvarError(f"{label}: {folder} lacks {shard}, a part of its weights: copy or download it again")
        found = read_weights(folder / shard)
        state.update(found.state)
        sha256.update(found.sha256.encode())
    return state, sha256.hexdigest()


# ---- whole or refused, quietly --------------------------------------------------------------------------------------


def _check_complete(
    model: Any, report: Mapping[str, Any], state: Mapping[str, Any], part: str, folder: Path, label: str
) -> None:
    """Every tensor of the model came from the file: transformers would leave it random."""
    other = f"{label}: {folder} is the checkpoint of another model"
    if mismatched := sorted(report["mismatched_keys"]):
        key, found, wanted = mismatched[0]
        raise EvarError(f"{other}: {key} should be {list(wanted)}, is {list(found)}: do config.json and weights agree?")
    missing = sorted(key for key in report["missing_keys"] if key.startswith(part) and not UNUSED.search(key))
    if missing or report["error_msgs"]:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        held = ", ".join(sorted(state)[:3])
        raise EvarError(
            f"{other}: it lacks {len(missing)} of {len(model.state_dict())} tensors ({names}); it holds {held} ..."
        )


@contextlib.contextmanager
def quiet(label: str) -> Iterator[None]:
    """`silent`, and what transformers raises becomes one line: for building models.

    transformers would ask on stdin whether to run code that comes with a model, and take `y` from any pipe: in here it
    raises instead.
    """
    from transformers import dynamic_module_utils

    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        with silent():
            yield
    except (EvarError, MemoryError):
        raise
    except Exception as error:
        if "trust_remote_code=True" in str(error):
            raise EvarError(f"{label} {CODE}") from error
        if os.environ.get("EVAR_TRACEBACK"):
            raise
        raise EvarError(f"{label} cannot be built: {reason_of(error)} (EVAR_TRACEBACK=1 shows where)") from error
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """No progress bars, reports and warnings of transformers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
