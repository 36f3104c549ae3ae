"""What people call the parts of a split, and what evar calls them: train, valid, test."""

from __future__ import annotations

PARTS = ("train", "valid", "test")
_WORDS = {
    "train": ("training", "tr"),
    "valid": ("val", "validation", "validate", "dev", "development", "va"),
    "test": ("testing", "eval", "evaluation", "te"),
}
SYNONYMS: dict[str, str] = {word: part for part, words in _WORDS.items() for word in (part, *words)}
"""Lower-case word -> part. `dev` is the validation part of most sets; where it is not, the card's `parts` says so."""


def part_of(word: str) -> str | None:
    """`train`, `valid` or `test` for a word that means it, whatever its case and the spaces around it; else None.

    >>> part_of(" Val ")
    'valid'
    """
    return SYNONYMS.get(word.strip().lower())
