"""A protocol: everything that decides a score once the embeddings are there, as one frozen, versioned object.

Rows of different protocols are never ranked together, so a protocol's name stands for its numbers: whoever changes a
number takes another name (a YAML file with `base:`) or raises the version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from evar.errors import EvarError, unknown
from evar.files import digest
from evar.yaml_files import read_yaml


@dataclass(frozen=True)
class Protocol:
    """How frozen embeddings are scored.

    probe: `logistic` (L2 logistic regression), `linear` (one layer, Adam), `mlp` (one hidden layer, Adam) or `knn`.
    seeds: one run per fold and seed; a deterministic probe uses them only to draw `train_fraction` or `shots`.
    norm: which log-mel statistics an encoder that needs them gets: `weights` (those in its weights file, else the
    training part) or `task` (always the task's training part).
    learning_rate_by_card: whether the published learning rate of the task card replaces `learning_rate`.
    validation: where a fold has none: `next fold` (k folds: (f mod k) + 1), `drawn` (`valid_fraction` of the training
    clips by seed, groups whole) or `drawn by clip` (the same at random over clips, until each class is in it). A fixed
    split uses its own valid part; where that is missing, `next fold` sets `valid_fraction` of the training clips aside by
    group. The deterministic probes fit the chosen setting once more on all training clips of which a part was set aside.
    """

    name: str
    version: int
    probe: str
    seeds: tuple[int, ...] = (0,)
    norm: str = "weights"
    validation: str = "next fold"
    valid_fraction: float = 0.1
    learning_rate_by_card: bool = False
    # logistic: scikit-learn's C, smallest first, because ties go to the smaller one
    strengths: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
    tolerance: float = 1e-4
    max_iterations: int = 500
    # linear, mlp
    learning_rate: float = 3e-4
    batch_size: int = 200
    max_epochs: int = 200
    patience: int = 20
    weight_decay: float = 1e-8
    ties: str = "first"  # which of several best epochs is kept; `latest` also starts patience again
    scaler: str = "fit"  # StandardScaler: of the clips fitted on, or of all `training` clips before a part is drawn off
    hidden: int = 512
    dropout: float = 0.0  # of the hidden layer
    # knn
    neighbours: tuple[int, ...] = (1, 3, 5, 10, 20, 50)

    @property
    def deterministic(self) -> bool:
        """True where the seed changes nothing but the draw of a training subset."""
        return self.probe in ("logistic", "knn")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of name, version and the settings that this probe uses; part of a cell's identity."""
        return settings_digest(asdict(self))


_ADAM = (
    "learning_rate",
    "learning_rate_by_card",
    "batch_size",
    "max_epochs",
    "patience",
    "weight_decay",
    "ties",
    "scaler",
)
_OF_PROBE = {
    "logistic": ("strengths", "tolerance", "max_iterations"),
    "linear": _ADAM,
    "mlp": (*_ADAM, "hidden", "dropout"),
    "knn": ("neighbours",),
}
"""The settings that each kind of probe has for itself; what no kind names is common to all."""


def uses(probe: str, setting: str) -> bool:
    """Whether a setting has an effect on a kind of probe: another's own has none, and is not in the fingerprint."""
    return setting in _OF_PROBE[probe] or not any(setting in own for own in _OF_PROBE.values())


def settings_digest(settings: Mapping[str, Any]) -> str:
    """`Protocol.fingerprint` of the fields of a protocol, as a mapping."""
    return digest({name: value for name, value in settings.items() if uses(settings["probe"], name)})


_RECIPE = {"seeds": (42, 43, 44), "validation": "drawn by clip", "ties": "latest", "scaler": "training"}
_SHIPPED = {
    protocol.name: protocol
    for protocol in (
        Protocol("fair", 2, "logistic"),
        Protocol("paper", 2, "linear", norm="task", learning_rate_by_card=True, **_RECIPE),
        Protocol("mlp", 2, "mlp", learning_rate=1e-3, dropout=0.5, **_RECIPE),
        Protocol("knn", 2, "knn"),
    )
}
_CHOICES = {
    "probe": tuple(_OF_PROBE),
    "norm": ("weights", "task"),
    "validation": ("next fold", "drawn", "drawn by clip"),
    "ties": ("first", "latest"),
    "scaler": ("fit", "training"),
}


def list_protocols() -> dict[str, Protocol]:
    """The shipped protocols by name; `fair` is the default."""
    return dict(_SHIPPED)


def get_protocol(name: str | Path | Protocol) -> Protocol:
    """The shipped protocol called `name`, or the one described in the YAML file `name`.

    A YAML file gives `base: fair` (or another shipped name) and the keys of `Protocol` that differ; its `name` is the
    file's stem unless given. Raises EvarError for an unknown name or key, or a value of the wrong kind.
    """
    if isinstance(name, Protocol):
        return name
    if Path(name).suffix in (".yaml", ".yml"):
        return _read(Path(name))
    if name not in _SHIPPED:
        raise unknown("protocol", str(name), _SHIPPED, "(a protocol of your own is a path that ends in .yaml)")
    return _SHIPPED[name]


def _read(path: Path) -> Protocol:
    given = read_yaml(path)
    if not isinstance(given, dict) or "base" not in given:
        raise EvarError(
            f"{path}: expected a mapping with 'base:' (one of {', '.join(_SHIPPED)}) and the keys that differ"
        )
    named = str(given.pop("base"))
    if named not in _SHIPPED:
        raise unknown("protocol", named, _SHIPPED, f"as 'base:' of {path}")
    base = _SHIPPED[named]
    kinds = {field.name: getattr(base, field.name) for field in fields(Protocol)}
    values = {"name": path.stem, "version": 1}
    for key, value in given.items():
        if key not in kinds:
            raise unknown(f"key in {path}:", str(key), kinds)
        values[key] = _checked(f"{path}: {key}", key, value, kinds[key])
    probe = values.get("probe", base.probe)
    for key in given:
        if not uses(probe, key):
            raise EvarError(
                f"{path}: {key} has no effect on the probe {probe!r}: its settings are {_settings_of(probe)}"
            )
    if values["name"] in _SHIPPED:
        raise EvarError(f"{path}: the name {values['name']!r} is taken by a shipped protocol: choose another 'name:'")
    own = replace(base, **values)
    # An edited file is another protocol: its rows never rank with those of before.
    return replace(own, name=f"{own.name}#{own.fingerprint()[:8]}")


def _settings_of(probe: str) -> str:
    common = [
        field.name for field in fields(Protocol) if uses(probe, field.name) and field.name not in _OF_PROBE[probe]
    ]
    return f"{', '.join(_OF_PROBE[probe])} (and for every probe {', '.join(common)})"


def _checked(where: str, key: str, value: Any, like: Any) -> Any:
    """`value` in the type of the base protocol's value, or EvarError."""
    if key in _CHOICES and value not in _CHOICES[key]:
        raise EvarError(f"{where}: expected one of {', '.join(_CHOICES[key])}, found {value!r}")
    if isinstance(like, tuple):
        items = value if isinstance(value, list) else [value]
        kept = tuple(sorted(_checked(where, "", item, like[0]) for item in items))
        if not kept:
            raise EvarError(f"{where}: expected at least one number, found an empty list")
        return kept
    if isinstance(like, (bool, str)):
        if not isinstance(value, type(like)):
            raise EvarError(f"{where}: expected {type(like).__name__}, found {value!r}")
        return value
    try:
        number = type(like)(value)  # YAML reads 1e-3 as text
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or (isinstance(like, int) and number != value):
        raise EvarError(f"{where}: expected a number ({type(like).__name__}), found {value!r}")
    if (not number > 0 and key not in ("weight_decay", "dropout")) or not 0 <= number < float("inf"):
        raise EvarError(f"{where}: expected a positive number, found {value!r}")
    if key in ("valid_fraction", "dropout") and number >= 1:
        raise EvarError(f"{where}: expected a fraction below 1, found {value!r}")
    return number
