"""Where in a checkpoint an encoder's tensors are: under which containers, and behind which prefix of their names.

Trainers wrap what they train: `module.` (DataParallel, DDP), `_orig_mod.` (torch.compile), `learner.encoder.` (Lightning),
and put it beside other things: `{"model_state_dict": ..., "epoch": 3}`. What is there once is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evar.errors import EvarError

WRAPPERS = ("state_dict", "model")
"""Containers under which published checkpoints keep their state dict beside other things."""
INSERTED = frozenset({"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Components that wrappers put into the names of tensors, at the beginning or in the middle."""
COUNTER = "num_batches_tracked"
"""Counts that batch normalisation keeps in training; no embedding depends on them, and many files lack them."""
DEEPEST = 5  # containers within each other
State = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """An encoder's tensors, by the encoder's own names. name: as `FILE#NAME` chooses it. told: what to say, or ''.

    as_it_is: the container that holds the tensors without any prefix, None where they have one.
    """

    name: str
    state: State
    told: str = ""
    as_it_is: tuple[str, ...] | None = None


def containers(content: Any) -> dict[tuple[str, ...], State]:
    """The mappings of a checkpoint that hold tensors themselves, by the keys on the way to them; the outermost first."""
    found: dict[tuple[str, ...], State] = {}
    seen, level = set[int](), [((), content)]
    for _ in range(DEEPEST):
        inside: list[tuple[tuple[str, ...], Any]] = []
        for path, mapping in level:
            if not isinstance(mapping, Mapping) or id(mapping) in seen:
                continue
            seen.add(id(mapping))
            if state := {str(key): value for key, value in mapping.items() if isinstance(value, Tensor)}:
                found[path] = state
            inside += [((*path, str(key)), value) for key, value in mapping.items() if isinstance(value, Mapping)]
        level = inside
    return found


def usual(parts: Mapping[tuple[str, ...], State]) -> tuple[str, ...]:
    """The container of the weights where nobody asks for names: behind `WRAPPERS`, else the fullest."""
    path: tuple[str, ...] = ()
    for wrapper in WRAPPERS:
        if any(other[: len(path) + 1] == (*path, wrapper) for other in parts):
            path = (*path, wrapper)
    return path if path in parts else max(parts, key=lambda other: len(parts[other]))


def find_part(
    parts: Mapping[tuple[str, ...], State], wanted: Mapping[str, Tensor], chosen: str, file: str, label: str
) -> Part | None:
    """The one part that has a tensor of each name and shape of `wanted`, or the nearest to it; None where none is near.

    chosen: the name of a part, '' to take what is unambiguous: the names as they are, at the top of the file or else
    where they are once. Raises EvarError where several parts fit that differ, and for a `chosen` that is none.
    """
    names = [name for name in wanted if not name.endswith(COUNTER)]
    if not names:
        return None
    found = [part for path, state in parts.items() for part in _prefixed(path, state, names, path == usual(parts))]
    whole = [part for part in found if all(name in part.state for name in names)]
    fitting = [part for part in whole if all(part.state[name].shape == wanted[name].shape for name in names)]
    if chosen:
        bare = chosen.strip(".")
        named = [part for part in found if part.name == bare] or [
            part for part in found if part.name.endswith(f".{bare}") or part.name.startswith(f"{bare}.")
        ]
        if len(named) != 1:
            raise EvarError(f"{file} holds no {label} under {chosen!r}: it is there under {_list(fitting or found)}")
        return named[0]
    plain = {part.as_it_is for part in fitting if part.as_it_is is not None}
    if () in plain:
        fitting = [part for part in fitting if part.as_it_is == ()]
    elif plain:  # beside names as they are, prefixed ones of the same container are something else (a momentum copy)
        insides = tuple(".".join(path) + "." for path in plain)
        fitting = [part for part in fitting if part.as_it_is is not None or not part.name.startswith(insides)]
    fitting = _distinct(fitting, names)
    if len(fitting) > 1:
        one = fitting[0].name
        raise EvarError(
            f"{file} holds {label} {len(fitting)} times, under {_list(fitting)}: say which by its name,"
            f" {label}@{file}#{one}"
        )
    if fitting:
        return fitting[0]
    nearest = max(whole or found, key=lambda part: sum(name in part.state for name in names), default=None)
    if nearest is None or 2 * sum(name in nearest.state for name in names) <= len(names):
        return None
    return nearest


def bare(state: State) -> tuple[State, str]:
    """A state dict without the wrappers' components that begin every name, and what these were (`module.`, or '')."""
    prefix = ""
    while state and len(heads := {key.partition(".")[0] for key in state}) == 1 and heads <= INSERTED:
        prefix += (head := f"{heads.pop()}.")
        state = {key.removeprefix(head): tensor for key, tensor in state.items()}
    return state, prefix


def _prefixed(path: tuple[str, ...], state: State, names: list[str], usual: bool) -> list[Part]:
    """The parts of one container, by the prefixes behind which one of a few of `names` is found; none comes first."""
    plain = set(names)
    inserted = INSERTED - {component for name in names for component in name.split(".")}
    shorter: dict[str, str] = {}
    for key in state:
        shorter.setdefault(".".join(part for part in key.split(".") if part not in inserted), key)
    if len(shorter) < len(state):  # the wrapper tells tensors apart
        inserted, shorter = frozenset(), {key: key for key in state}
    prefixes: dict[str, None] = {"": None} if plain & state.keys() else {}
    for probe in {names[0], names[len(names) // 2], names[-1]}:
        for key in shorter:
            if key == probe or key.endswith(f".{probe}"):
                prefixes[key.removesuffix(probe)] = None
    parts = []
    for prefix in sorted(prefixes, key=lambda prefix: (prefix.count("."), prefix)):
        first = next((name for name in names if prefix + name in shorter), None)
        if first is None:
            continue
        own = {key.removeprefix(prefix): state[raw] for key, raw in shorter.items() if key.startswith(prefix)}
        raw = shorter[prefix + first]
        middle = "".join(f"{part}." for part in raw.split(".") if part in inserted)
        shown = raw.removesuffix(first) if raw.endswith(first) else prefix + middle
        where = ".".join(path)
        told = [f"under the prefix {shown!r}"] if shown else []
        if where and not (usual and path[-1] in WRAPPERS):
            told.append(f"in {where!r}")
        n_read = sum(name in own for name in names)
        parts.append(
            Part(
                ".".join(filter(None, (where, shown.strip(".")))),
                own if prefix else {**own, **state},
                _mixed(shorter, prefix, names) or (f"read {n_read} tensors {' '.join(told)}" if told else ""),
                path if not shown else None,
            )
        )
    return parts


def _mixed(raw: Mapping[str, str], prefix: str, names: list[str]) -> str:
    """What to say where a wrapper's component begins some of the names and not the others, else ''."""
    pairs = [(raw[prefix + name], name) for name in names if prefix + name in raw]
    heads = Counter(key.removesuffix(name) for key, name in pairs if key.endswith(name))
    if len(heads) < 2:
        return ""
    counts = [(repr(head.removeprefix(prefix)), n) for head, n in sorted(heads.items(), reverse=True)]
    said = " and ".join(f"{n} under {head}" if head != "''" else f"{n} without" for head, n in counts)
    return f"read tensors of mixed names{f' behind {prefix!r}' if prefix else ''}: {said}"


def _distinct(parts: list[Part], names: list[str]) -> list[Part]:
    """Parts without those whose tensors are an earlier one's, as where a network is an attribute of two objects."""
    kept: list[Part] = []
    for part in parts:
        if not any(all(torch.equal(part.state[name], other.state[name]) for name in names) for other in kept):
            kept.append(part)
    return kept


def _list(parts: Iterable[Part]) -> str:
    names = [repr(part.name) if part.name else "no prefix" for part in parts]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return shown or "no prefix at all"
