"""Who is taken for whom: confusion counts from stored predictions, for matrices and per-class differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evar.errors import EvarError
from evar.reporting.report_rows import natural

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MOST_ENTRIES = 600_000  # of all matrices of a page: about 3 MB
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, eq=False)
class Confusion:
    """counts int64 [C, C]: row is the true class, column the predicted one; summed over folds and seeds."""

    classes: tuple[str, ...]
    counts: np.ndarray

    @property
    def n(self) -> np.ndarray:
        """int64 [C]: predictions made per true class."""
        return self.counts.sum(axis=1)

    def recall(self) -> np.ndarray:
        """float64 [C]: share of each class's clips that were recognised; NaN for a class that was never tested."""
        import numpy as np

        n = self.n
        return np.where(n > 0, np.diag(self.counts) / np.maximum(n, 1), np.nan)

    def aligned(self, classes: tuple[str, ...]) -> Confusion:
        """The same counts over another class list that holds all of these classes."""
        import numpy as np

        at = np.array([classes.index(name) for name in self.classes], dtype=np.int64)
        counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
        if len(at):
            counts[np.ix_(at, at)] = self.counts
        return Confusion(tuple(classes), counts)


def confusion(predictions: pd.DataFrame, where: str = "predictions") -> Confusion | None:
    """Count the predictions of one cell (columns `target`, `predicted`); None for a multi-label task.

    EvarError, beginning with `where`, when the columns are not there.
    """
    import numpy as np
    import pandas as pd

    if "targets" in predictions:
        return None
    if not {"target", "predicted"} <= set(predictions):
        raise EvarError(f"{where}: no columns target and predicted: remove the file and run the cell again")
    both = pd.concat([predictions["target"], predictions["predicted"]], ignore_index=True).astype(str)
    codes, names = pd.factorize(both)
    classes = natural(names)
    place = {name: i for i, name in enumerate(classes)}
    codes = np.array([place[name] for name in names], dtype=np.int64)[codes] if len(names) else codes
    n, c = len(predictions), len(classes)
    counts = np.bincount(codes[:n] * c + codes[n:], minlength=c * c).reshape(c, c)
    return Confusion(tuple(classes), counts.astype(np.int64))


def together(found: Mapping[int, Confusion]) -> tuple[tuple[str, ...], dict[int, Confusion]]:
    """Several cells of one task over one class list: (classes, the cells aligned)."""
    classes = tuple(natural(name for one in found.values() for name in one.classes))
    return classes, {key: one.aligned(classes) for key, one in found.items()}


def pack(one: Confusion, most: int) -> str:
    """Counts as short text: base-36 gaps between non-zero places of [C, C + 1], with `:count` where it is not 1.

    Column C takes what was left out to stay within `most` entries: the smallest off-diagonal counts.
    """
    import numpy as np

    c = len(one.classes)
    table = np.concatenate([one.counts, np.zeros((c, 1), np.int64)], axis=1)
    places = np.flatnonzero(table)
    if len(places) > most:
        rows, columns = np.divmod(places, c + 1)
        order = np.lexsort((places, -table.ravel()[places], rows != columns))  # the diagonal first, then the largest
        for place in places[order[most:]]:
            table[place // (c + 1), c] += table.flat[place]
            table.flat[place] = 0
        places = np.flatnonzero(table)
    gaps = np.diff(places, prepend=0)
    counts = table.ravel()[places]
    return ",".join(
        _base36(int(gap)) + (f":{_base36(int(count))}" if count != 1 else "")
        for gap, count in zip(gaps, counts, strict=True)
    )


def _base36(n: int) -> str:
    text = ""
    while True:
        n, digit = divmod(n, 36)
        text = _DIGITS[digit] + text
        if not n:
            return text
