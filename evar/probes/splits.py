"""Fold plans: which clips a probe is fitted on, chosen on and scored on. Groups never straddle."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from evar.errors import EvarError
from evar.probes.protocol import Protocol

PARTS = ("train", "valid", "test")
DRAWS = 100  # of a validation part that is to hold each class
ALL_CHOSEN_ON = "too few training clips to set any aside: the setting is chosen on the training clips"


@dataclass(frozen=True)
class Fold:
    """Clip indices (int64, ascending) of one fold and seed. `fold` is 0 for a fixed split.

    fit: what the candidates are fitted on; valid: what the setting is chosen on; refit: what the chosen setting is
    fitted on once more, or None where the fitted candidate itself is scored; test: what is scored. scaled: what the
    StandardScaler is fitted on, or None where that is what the probe is fitted on.
    """

    fold: int
    seed: int
    fit: np.ndarray
    valid: np.ndarray
    refit: np.ndarray | None
    test: np.ndarray
    scaled: np.ndarray | None = None

    @property
    def train(self) -> np.ndarray:
        """The clips that the scored probe was fitted on."""
        return self.fit if self.refit is None else self.refit


@dataclass(frozen=True)
class Outcome:
    """What a probe gives for one fold and seed: the chosen setting (as in `C=0.1`), whether the fit converged, and scores.

    scores: float32 [len(fold.test), n_classes], probabilities (knn: shares of the vote).
    """

    setting: str
    converged: bool
    scores: np.ndarray


def plan_folds(
    protocol: Protocol,
    targets: np.ndarray,
    *,
    split: np.ndarray | None,
    fold: np.ndarray | None,
    group: np.ndarray,
    clip_ids: np.ndarray,
    seed: int,
    train_fraction: float | None = None,
    shots: int | None = None,
) -> tuple[list[Fold], list[str]]:
    """The folds of one seed, and warnings (METHODS.md, Protocols).

    targets: int64 [N] or multi-hot float32 [N, C]; exactly one of `split` ('train', 'valid', 'test') and `fold` (int).
    `train_fraction` (stratified) or `shots` (clips per class) are drawn by seed from the training clips of each fold
    before anything else; the validation part stays whole. Raises EvarError for empty parts.
    """
    if (split is None) == (fold is None):
        raise EvarError("a probe needs either a split (train/valid/test) or folds, not both and not neither")
    warnings: list[str] = []
    most = max(map(len, _carriers(targets)), default=0)
    if shots is not None and shots > most:
        raise EvarError(f"shots: no class has {shots} clips (the most are {most}): give fewer, or leave it out")

    def draw(indices: np.ndarray, number: int) -> np.ndarray:
        few = f"some classes have fewer than {shots} training clips: all of theirs are taken"
        if shots is not None and few not in warnings and min(map(len, _carriers(targets[indices])), default=0) < shots:
            warnings.append(few)
        return draw_training(indices, targets, seed, number, train_fraction, shots)

    random = np.random.RandomState(seed % 2**32)  # one for all folds: each draws another part

    def hold_out(number: int, train: np.ndarray, test: np.ndarray) -> Fold:
        if protocol.validation == "drawn by clip":
            fit, valid, warning = draw_validation(train, targets, protocol.valid_fraction, random)
        else:
            salt = f"{seed} " if protocol.validation == "drawn" else ""
            fit, valid, warning = set_aside(train, targets, group, clip_ids, protocol.valid_fraction, salt)
        if warning and warning not in warnings:
            warnings.append(warning)
        refit = train if protocol.deterministic and len(fit) < len(train) else None
        return Fold(number, seed, fit, valid, refit, test, train if protocol.scaler == "training" else None)

    if split is not None:
        strange = sorted(set(np.unique(split)) - set(PARTS))
        if strange:
            raise EvarError(f"unknown part of the split {strange[0]!r}: expected train, valid or test")
        train, valid, test = (np.flatnonzero(split == part) for part in PARTS)
        if not len(train) or not len(test):
            raise EvarError(f"the split has {len(train)} training and {len(test)} test clips: both are needed")
        train = draw(train, 0)
        return [Fold(0, seed, train, valid, None, test) if len(valid) else hold_out(0, train, test)], warnings

    numbers = [int(number) for number in np.unique(fold)]
    if len(numbers) < 2:
        raise EvarError(f"{len(numbers)} fold(s) with clips: at least two are needed")
    plans = []
    for position, number in enumerate(numbers):
        test, train = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        following = numbers[(position + 1) % len(numbers)]
        # of two folds the next one is the whole training part
        if protocol.validation != "next fold" or len(numbers) == 2:
            plans.append(hold_out(number, draw(train, number), test))
        else:
            fit = draw(train[fold[train] != following], number)
            valid = np.flatnonzero(fold == following)
            plans.append(Fold(number, seed, fit, valid, draw(train, number), test))
    return plans, warnings


def draw_validation(
    indices: np.ndarray, targets: np.ndarray, fraction: float, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Split `indices` into (fit, valid, warning): `fraction` of the clips at random, neither by group nor stratified.

    Drawn again, up to DRAWS times in all, until each class of `indices` is in `valid`; then the last draw stands. Size
    and draw are those of scikit-learn's train_test_split.
    """
    if len(indices) < 2:
        return indices, indices, ALL_CHOSEN_ON
    size = min(math.ceil(fraction * len(indices)), len(indices) - 1)
    hot = targets[indices] if targets.ndim == 2 else targets[indices][:, None] == np.unique(targets[indices])
    wanted = np.count_nonzero(hot.any(0))
    for _ in range(DRAWS):
        taken = random.permutation(len(indices))[:size]
        if np.count_nonzero(hot[taken].any(0)) == wanted:
            break
    valid = np.sort(indices[taken])
    return np.setdiff1d(indices, valid), valid, None


def set_aside(
    indices: np.ndarray,
    targets: np.ndarray,
    group: np.ndarray,
    clip_ids: np.ndarray,
    fraction: float,
    salt: str = "",
) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Split `indices` into (fit, valid, warning): `fraction` of the clips by group, in sha1 order of `salt` + group name.

    A group whose absence would leave a class without a training clip stays, and so does one that would more than double
    the part. Where no group can go (one group, or groups that are the classes), single clips go, with a warning; where no
    clip can go either, the setting is chosen on the training clips themselves, with a warning.
    """
    wanted = max(1, round(fraction * len(indices)))
    for names, warning in (
        (group, None),
        (
            clip_ids,
            "no group can be set aside for validation: single clips are, so groups straddle training and validation",
        ),
    ):
        taken = _take(indices, targets, np.asarray(names)[indices], wanted, salt)
        if len(taken):
            return np.setdiff1d(indices, taken), taken, warning
    return indices, indices, ALL_CHOSEN_ON


def _take(indices: np.ndarray, targets: np.ndarray, names: np.ndarray, wanted: int, salt: str) -> np.ndarray:
    unique, member = np.unique(names.astype(str), return_inverse=True)
    if len(unique) < 2:
        return indices[:0]
    members = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    multi_hot = targets.ndim == 2
    left = targets[indices].sum(0) if multi_hot else np.bincount(targets[indices])
    taken: list[np.ndarray] = []
    count = 0
    for position in sorted(range(len(unique)), key=lambda i: hashlib.sha1(f"{salt}{unique[i]}".encode()).digest()):
        clips = indices[members[position]]
        if count + len(clips) > 2 * wanted:
            continue
        if multi_hot:
            gone = targets[clips].sum(0)
        else:
            gone = np.bincount(targets[clips], minlength=len(left))
        if np.any((left - gone <= 0) & (gone > 0)):
            continue
        left = left - gone
        taken.append(clips)
        count += len(clips)
        if count >= wanted:
            break
    return np.sort(np.concatenate(taken)) if taken else indices[:0]


def draw_training(
    indices: np.ndarray,
    targets: np.ndarray,
    seed: int,
    fold: int,
    train_fraction: float | None,
    shots: int | None,
) -> np.ndarray:
    """A seeded subset of the training clips: `shots` clips of each class, or a stratified `train_fraction` (at least one each).

    Multi-label: the first clips of a seeded order that carry the class, joined over classes.
    """
    if train_fraction is None and shots is None:
        return indices
    if train_fraction is not None and shots is not None:
        raise EvarError("train_fraction and shots cannot be given together: choose one")
    if shots is not None and shots < 1:
        raise EvarError(f"shots: expected at least 1, found {shots}")
    if train_fraction is not None and not 0 < train_fraction <= 1:
        raise EvarError(f"train_fraction: expected a number above 0 and at most 1, found {train_fraction}")
    order = np.random.default_rng([seed, fold]).permutation(indices)
    parts = [order[mine] for mine in _carriers(targets[order])]
    kept = [part[: shots if shots is not None else max(1, round(train_fraction * len(part)))] for part in parts]
    return np.unique(np.concatenate(kept))


def _carriers(targets: np.ndarray) -> Iterable[np.ndarray]:
    if targets.ndim == 2:
        return (np.flatnonzero(targets[:, label]) for label in np.flatnonzero(targets.any(0)))
    return (np.flatnonzero(targets == label) for label in np.unique(targets))
