"""From a name to an encoder: which encoders there are is read from literals, nothing is imported before it is used."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, unknown
from evar.extras import naming

if TYPE_CHECKING:
    import torch

    from evar.encoders.base import Encoder

ENTRY_POINTS = "evar.encoders"
OWN_SCHEMES = ("random", "py")
_LITERALS = re.compile(r"^(ENCODERS|SCHEMES) = (\{.*?^\})", re.MULTILINE | re.DOTALL)
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Entry:
    """One encoder that evar ships, as its file's `ENCODERS` literal declares it.

    dim is the size of the default embedding; extra names the pip extra that it needs; weights is `required`, `none`,
    `bundled` (a checkpoint of ours, and nothing else) or `optional` (ours unless others are given); options are what
    `load_encoder(name, **options)` takes, with their defaults. small: options that make a small network of the same
    code, for tests. source: where weights are published, as `evar.encoders.catalog` reads it. untrained: whether
    there is a `random:NAME`; a published program that comes with its weights has none.
    """

    name: str
    class_name: str
    module: str
    sample_rate: int
    dim: int
    extra: str | None
    trained_on: tuple[str, ...]
    title: str
    weights: str
    options: dict[str, Any]
    small: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] | None = None
    untrained: bool = True


@dataclass(frozen=True)
class Scheme:
    """A family of encoders named `SCHEME:REF`, as its file's `SCHEMES` literal declares it.

    Its class has `from_reference(reference, weights, random=False, **options)`; what options fit, it says itself.
    """

    name: str
    class_name: str
    module: str
    extra: str | None
    title: str


@dataclass(frozen=True)
class EncoderName:
    """A parsed encoder name. label: what the leaderboard shows; scheme: `random`, `py`, one of `list_schemes()`, or ``
    for a registered name."""

    label: str
    scheme: str
    name: str
    weights: str | None


def list_encoders() -> dict[str, Entry]:
    """All encoders that evar ships, by name, in alphabetical order. Imports none of them."""
    return dict(_shipped()[0])


def list_schemes() -> dict[str, Scheme]:
    """The schemes that lead to encoders of others (`hf:`, `hear:` ...), by name. Imports none of them."""
    return dict(_shipped()[1])


def parse(spec: str) -> EncoderName:
    """Parse `[label=]NAME[@WEIGHTS]` or `[label=]SCHEME:REF[@WEIGHTS]`; EvarError when a part is empty.

    WEIGHTS is all that follows the first `@`, so a path may hold `@` and `=`. Without a label, the leaderboard shows
    the name with the stem of the weights file (`byola-v2@runs/7.safetensors` -> `byola-v2@7`) or the seed.
    """
    before, equals, after = spec.strip().partition("=")
    label, rest = (before, after) if equals and _LABEL.fullmatch(before) else (None, spec.strip())
    reference, at, weights = rest.partition("@")
    scheme, colon, name = reference.partition(":")
    if not colon:
        scheme, name = "", reference
    elif scheme not in (known := (*OWN_SCHEMES, *_shipped()[1])):
        raise unknown("encoder scheme", f"{scheme}:", [f"{scheme}:" for scheme in known], f"in {spec!r}")
    if not name or (at and not weights):
        raise EvarError(f"bad encoder name {spec!r}: expected [label=]NAME[@WEIGHTS], such as byola-v2@FILE")
    if label is None:
        label = reference + (f"@{weights if scheme == 'random' else _stem(weights)}" if at else "")
    if not label.isprintable():
        raise EvarError(f"bad encoder name {spec!r}: its label holds a sign that cannot be printed")
    return EncoderName(label, scheme, name, weights or None)


def _stem(weights: str) -> str:
    """The name that a weights file gives to a label; runs and their folders may have dots in their names."""
    path = Path(weights)
    file, sign, part = path.name.rpartition("#")
    if Path(file).suffix.lower() in WEIGHTS_SUFFIXES:  # a part of a checkpoint, FILE#PART
        return f"{Path(file).stem}{sign}{part}"
    return path.stem if path.suffix.lower() in WEIGHTS_SUFFIXES else path.name


def load_encoder(
    spec: str | torch.nn.Module | type[torch.nn.Module],
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    **options: Any,
) -> Encoder:
    """Build an encoder, ready to encode on `device`.

    spec: a name as in `parse`, an `Encoder` or a subclass of it, or the same of a plain torch.nn.Module
    (`evar.encoders.plain`). weights: what would follow `@`.
    options: those of the registry entry, or the arguments of the author's class.
    Raises EvarError: unknown names and options, missing extras and weights, weights that do not fit.
    """
    from evar.products import with_fast_linears

    target = _checked_device(device)
    if isinstance(spec, str):
        parsed = _with_weights(parse(spec), weights)
        encoder = with_fast_linears((_random if parsed.scheme == "random" else _build)(parsed, options))
        encoder.label = parsed.label
    else:
        encoder = _from_object(spec, weights, options)
    return encoder.to(target).eval()


def bundled_file(name: str) -> Path:
    """The weights that come with evar for `name`; EvarError where an installation lacks them."""
    path = Path(__file__).parent / "bundled" / f"{name}.safetensors"
    if not path.is_file():
        raise EvarError(
            f"the bundled weights of {name} are not in this installation (expected {path}): install evar again,"
            " or give byola-v2@FILE"
        )
    return path


@functools.cache
def _shipped() -> tuple[dict[str, Entry], dict[str, Scheme]]:
    entries, schemes = {}, {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = f"evar.encoders.{path.stem}"
        for kind, literal in _LITERALS.findall(path.read_text(encoding="utf-8")):
            declared = ast.literal_eval(literal)
            for name in declared:
                keys = _whole(name, declared)
                class_name = keys.pop("class")
                if kind == "SCHEMES":
                    schemes[name] = Scheme(name, class_name, module, **keys)
                else:
                    entries[name] = Entry(name, class_name, module, trained_on=tuple(keys.pop("trained_on")), **keys)
    return dict(sorted(entries.items())), dict(sorted(schemes.items()))


def _whole(name: str, declared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """An entry's keys, with those that it takes over from the entry of the same file that it is `like`."""
    keys = dict(declared[name])
    like = keys.pop("like", None)
    return keys if like is None else {**_whole(like, declared), **keys}


def _build(parsed: EncoderName, options: dict[str, Any]) -> Encoder:
    if parsed.scheme in _shipped()[1]:
        return _referred(parsed, options)
    entry, cls = _find(parsed)
    if entry and entry.weights == "bundled" and parsed.weights is not None:
        raise EvarError(f"{parsed.name} takes no weights file: name its architecture, byola-v2@{parsed.weights}")
    if entry and entry.weights in ("bundled", "optional") and parsed.weights is None:
        encoder = _instance(entry, cls, parsed.name, str(bundled_file(parsed.name)), options)
        encoder.weights_kind = "bundled"
        return encoder
    weights = parsed.weights
    if entry and entry.weights == "required" and weights is None:
        from evar.encoders.catalog import fetched, how_to_get

        weights = fetched(entry)
        if weights is None:
            what = "FOLDER" if {"hf", "tfhub"} & set(entry.source or ()) else "FILE"
            raise EvarError(
                f"{parsed.name} needs weights: {how_to_get(entry)}give {parsed.name}@{what} (or --weights {what})"
                + (f", or random:{parsed.name} for the untrained baseline" if entry.untrained else "")
            )
    if entry and entry.weights == "none" and weights is not None:
        raise EvarError(f"{parsed.name} takes no weights: remove '@{weights}'")
    if entry and weights is not None:
        from evar.encoders.catalog import verify_known

        verify_known(entry, weights)
    encoder = _instance(entry, cls, parsed.name, None if weights is None else str(weights), options)
    encoder.weights_file = "" if weights is None else Path(weights).name
    return encoder


def _referred(parsed: EncoderName, options: dict[str, Any], random: bool = False) -> Encoder:
    """The encoder of `SCHEME:REF`; its class knows what REF is."""
    scheme = _shipped()[1][parsed.scheme]
    with naming(scheme.extra, scheme.name + ":"):
        cls = getattr(importlib.import_module(scheme.module), scheme.class_name)
        try:
            encoder = cls.from_reference(parsed.name, parsed.weights, random=random, **options)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise EvarError(f"{parsed.label}: {str(error).partition(' ')[2]}") from None
    if parsed.weights:
        encoder.weights_file = Path(parsed.weights).name
    return encoder


def _random(parsed: EncoderName, options: dict[str, Any]) -> Encoder:
    """The named architecture with its default initialisation under a seed, apart from the global random state."""
    import torch

    from evar.encoders.base import state_digest

    seed = parsed.weights or "0"
    if not (seed.isascii() and seed.isdigit() and int(seed) < 2**63):
        raise EvarError(f"random:NAME@SEED takes a whole number as its seed, found {seed!r}")
    inner = parse(parsed.name)
    if inner.scheme == "random":
        raise EvarError(f"bad encoder name 'random:{parsed.name}': random: stands once")
    referred = inner.scheme in _shipped()[1]
    entry, cls = (None, None) if referred else _find(inner)
    if entry and entry.weights == "bundled":
        raise EvarError(f"{parsed.name} is a checkpoint, not an architecture: give random:byola-v2")
    if entry and not entry.untrained:
        raise EvarError(f"{parsed.name} comes with its weights and has no untrained form: give {parsed.name}@FOLDER")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        encoder = _referred(inner, options, True) if referred else _instance(entry, cls, inner.name, None, options)
    if next(encoder.parameters(), None) is None:
        raise EvarError(f"{parsed.name} has no weights to make random: use {parsed.name} itself")
    encoder.weights_kind, encoder.weights_sha256 = "random", state_digest(encoder.state_dict())
    encoder.trained_on = ()
    return encoder


def _find(parsed: EncoderName) -> tuple[Entry | None, type[Encoder]]:
    """The registry entry (None for authors' own classes) and the class of a name."""
    if parsed.scheme == "py":
        return None, _own_class(parsed.name)
    entry = _shipped()[0].get(parsed.name)
    if entry is None:
        return None, _entry_point(parsed.name)
    with naming(entry.extra, entry.name):
        return entry, getattr(importlib.import_module(entry.module), entry.class_name)


def _instance(
    entry: Entry | None, cls: type[Encoder], name: str, weights: str | None, options: dict[str, Any]
) -> Encoder:
    if entry:
        for option in options:
            if option not in entry.options:
                raise unknown(f"option of {name}", option, entry.options, "" if entry.options else "(it takes none)")
        with naming(entry.extra, entry.name):
            return cls.from_weights(weights, **{**entry.options, **options})
    from evar.encoders.base import Encoder

    try:
        inspect.signature(cls).bind(**options)
    except TypeError as error:
        raise EvarError(f"{name}: {cls.__name__} {error}") from None
    try:
        encoder = cls.from_weights(weights, **options)
    except EvarError:
        raise
    except Exception as error:
        if os.environ.get("EVAR_TRACEBACK"):
            raise
        raise EvarError(
            f"{name} cannot be built: {type(error).__name__}: {error} (EVAR_TRACEBACK=1 shows where)"
        ) from error
    if not isinstance(encoder, Encoder):
        raise EvarError(f"{name}: {cls.__name__}.from_weights gave {type(encoder).__name__}, expected the encoder")
    return _checked_own(encoder)


def _own_class(reference: str) -> type[Encoder]:
    """The class of `pkg.module:Class`, looked up on sys.path and in the working directory.

    A plain torch.nn.Module, or a function that builds one, gets a class around it (`evar.encoders.plain`).
    """
    from evar.encoders.foreign import import_own

    module_name, colon, class_name = reference.partition(":")
    if not colon or not module_name or not class_name:
        raise EvarError(f"bad encoder name 'py:{reference}': expected py:pkg.module:Class")
    module = import_own(module_name, f"py:{reference}")
    found = getattr(module, class_name, None)
    if found is None:
        names = [name for name, value in vars(module).items() if isinstance(value, type) or inspect.isfunction(value)]
        raise unknown(f"class in {module_name}", class_name, names)
    return _checked_class(found, f"py:{reference}")


def _entry_point(name: str) -> type[Encoder]:
    from importlib.metadata import entry_points

    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in points:
        raise unknown("encoder", name, [*_shipped()[0], *points], "('evar encoders' lists them)")
    try:
        found = points[name].load()
    except Exception as error:
        raise EvarError(
            f"cannot load the encoder {name!r} ({points[name].value}): {type(error).__name__}: {error}"
        ) from error
    return _checked_class(found, name)


def _from_object(spec: Any, weights: str | Path | None, options: dict[str, Any]) -> Encoder:
    import torch

    from evar.encoders.base import Encoder
    from evar.encoders.plain import as_encoder

    if isinstance(spec, torch.nn.Module) and not isinstance(spec, Encoder):
        spec = as_encoder(spec)
    if isinstance(spec, Encoder):
        if weights is not None or options:
            raise EvarError(f"{spec.label} is built already: give weights and options to its class")
        return _checked_own(spec)
    cls = _checked_class(spec, repr(spec))
    return _instance(None, cls, cls.__name__, None if weights is None else str(weights), options)


def _checked_class(found: Any, name: str) -> type[Encoder]:
    from evar.encoders.base import Encoder

    if isinstance(found, type) and issubclass(found, Encoder):
        return found
    from evar.encoders.plain import encoder_class

    return encoder_class(found, name)


def _checked_own(encoder: Encoder) -> Encoder:
    """An author's own encoder: declared in full; its network counts as trained unless it says otherwise."""
    from evar.encoders.base import state_digest

    for attribute in ("name", "version", "sample_rate", "layers", "default_layers", "default_pooling"):
        if not hasattr(encoder, attribute):
            raise EvarError(f"{type(encoder).__name__} declares no {attribute}: see evar.encoders.base.Encoder")
    if encoder.weights_kind == "none" and next(encoder.parameters(), None) is not None:
        encoder.weights_kind, encoder.weights_sha256 = "trained", state_digest(encoder.state_dict())
    return encoder


def _with_weights(parsed: EncoderName, weights: str | Path | None) -> EncoderName:
    if weights is None:
        return parsed
    if parsed.weights is not None and parsed.weights != str(weights):
        raise EvarError(f"{parsed.label}: two weights, {parsed.weights} and {weights}: give one")
    reference = f"{parsed.scheme}:{parsed.name}" if parsed.scheme else parsed.name
    named = parse(f"{reference}@{weights}")
    return named if parsed.label == reference else replace(named, label=parsed.label)


def _checked_device(device: str | torch.device) -> torch.device:
    import torch

    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise EvarError(f"cannot use the device {str(device)!r}: {reason}; give cpu, cuda or cuda:0") from None
    return target
