"""The words by which people call train, valid, test and folds: which are plain, and which could mean two things."""

from __future__ import annotations

import re
from collections.abc import Iterable


class ReadAs(UserWarning):
    """A folder or word was read as a part of another name: worth saying, and nothing wrong."""


PARTS = ("train", "valid", "test")
_PLAIN = {
    "train": ("train", "training", "trn", "traindata", "trainset", "trainingset"),
    "valid": ("valid", "val", "validation", "validate", "validating", "validset", "valset", "validationset"),
    "test": ("test", "testing", "tst", "testdata", "testset", "testingset"),
}
_UNCLEAR = {  # word -> what it most often means
    **{"tr": "train", "va": "valid", "te": "test"},
    **dict.fromkeys(("dev", "devel", "development", "devset", "cv", "tune"), "valid"),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "evalset", "heldout", "holdout"), "test"),
}
_PART = {word: part for part, words in _PLAIN.items() for word in words}
_FOLD = re.compile(r"(?:fold|split|cv|partition|k)?[ _.-]*([0-9]{1,6})", re.IGNORECASE)


def plain_part(word: str) -> str | None:
    """train, valid or test where a word can only mean that (`Training`, `VAL`, `test_set`), else None."""
    return _PART.get(_bare(word))


def part_of(word: str) -> str | None:
    """`plain_part`, or what `dev`, `eval` and the like most often mean (where they do not, the card's `parts` says so).

    >>> part_of(" Val "), part_of("dev"), part_of("birds")
    ('valid', 'valid', None)
    """
    return plain_part(word) or _UNCLEAR.get(_bare(word))


def fold_number(word: str) -> int | None:
    """3 for `fold3`, `Fold_03`, `fold-3`, `split3` and `3`; None for what names no fold."""
    match = _FOLD.fullmatch(word.strip())
    return int(match[1]) if match else None


def looks_like_fold(word: str) -> bool:
    """Whether a word can mean nothing but a fold: `fold3`, `cv_1`; not `3`, which may be a class (a digit)."""
    return fold_number(word) is not None and not word.strip().isdigit()


def numbered(words: Iterable[str], folds: int) -> dict[str, int] | None:
    """The fold (from 1) of each word, where the words are among folds 1 to `folds`, or all of 0 to `folds` - 1; else None."""
    numbers = {word: fold_number(word) for word in words}
    found = set(numbers.values())
    if None in found:
        return None
    if found <= set(range(1, folds + 1)):
        return numbers
    return {word: number + 1 for word, number in numbers.items()} if found == set(range(folds)) else None


def _bare(word: str) -> str:
    return re.sub(r"[ _.-]+", "", word.strip()).lower()
