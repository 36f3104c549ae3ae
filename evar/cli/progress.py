"""What a run looks like in a terminal: bars with rate and ETA on standard error, one line per finished cell."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from evar.embed import Progress
from evar.runner import Reporter


class Bars(Reporter):
    """Bars (where standard error is a terminal) and lines.

    verbosity: -1 quiet (warnings only), 0, 1 (also times and chosen settings).
    """

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity

    def say(self, text: str) -> None:
        if self.verbosity >= 0:
            print(text, file=sys.stderr)

    def detail(self, text: str) -> None:
        if self.verbosity >= 1:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        print(f"evar: warning: {text}", file=sys.stderr)

    @contextlib.contextmanager
    def bar(self, stage: str, what: str, unit: str) -> Iterator[Progress | None]:
        if self.verbosity < 0:
            yield None
            return
        from tqdm import tqdm

        # Off a terminal (a log file, a batch job) tqdm's default would write thousands of lines.
        quiet = not sys.stderr.isatty()
        with tqdm(
            desc=f"{stage:>6} {what}",
            unit=unit,
            file=sys.stderr,
            leave=False,
            disable=quiet,
            dynamic_ncols=True,
            delay=0.3,
        ) as line:

            def progress(done: int, total: int) -> None:
                if line.total is None:
                    line.initial = done if stage == "encode" else 0
                line.total = total
                line.update(done - line.n)

            yield progress
