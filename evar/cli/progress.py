"""What a run looks like in a terminal: bars with rate and ETA on standard error, one line per finished cell."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from evar.embed import Progress
from evar.errors import printable
from evar.runner import Reporter

if TYPE_CHECKING:
    from evar.pretraining.trainer import Step


FIRST_GAP, LONGEST_GAP = 15.0, 600.0
"""Seconds between the first lines of a training where there is no terminal, and between the later ones."""


class Bars(Reporter):
    """Bars (where standard error is a terminal) and lines.

    verbosity: -1 quiet (warnings only), 0, 1 (also times and chosen settings).
    """

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity

    def say(self, text: str) -> None:
        if self.verbosity >= 0:
            _print(text)

    def detail(self, text: str) -> None:
        if self.verbosity >= 1:
            _print(text)

    def warn(self, text: str) -> None:
        _print(f"evar: warning: {text}")

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
            unit_scale=unit == "B",
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

    @contextlib.contextmanager
    def grid(self, jobs: int) -> Iterator[Callable[[int, list[str]], None]]:
        from tqdm import tqdm

        hidden = self.verbosity < 0 or not sys.stderr.isatty()
        with tqdm(
            total=jobs, desc="grid", unit="job", file=sys.stderr, leave=False, disable=hidden, dynamic_ncols=True
        ) as line:

            def show(done: int, working: list[str]) -> None:
                line.set_postfix_str(
                    "; ".join(working[:4]) + (f"; {len(working) - 4} more" if working[4:] else ""), refresh=False
                )
                line.update(done - line.n)
                line.refresh()

            yield show


def _print(text: str) -> None:
    """A line on standard error, above whatever bar is there."""
    text = printable(text)
    if "tqdm" not in sys.modules:
        print(text, file=sys.stderr)
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        print(text, file=sys.stderr)


class TrainingBar:
    """What a pre-training looks like: a bar with loss, samples/s and time left; lines where there is no terminal."""

    def __init__(self, hidden: bool = False) -> None:
        self.hidden = hidden
        self._bar: Any = None
        self._warned = False
        self._stage, self._gap, self._next = "", 0.0, 0.0

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str) -> None:
        """One line above the bar; warnings are shown even when quiet."""
        warning = text.startswith("warning: ")
        if self.hidden and not warning:
            return
        text = printable(f"evar: {text}" if warning else text)
        if self._bar is not None:
            self._bar.clear()
        print(text, file=sys.stderr, flush=True)

    def decoding(self, done: int, total: int) -> None:
        """Progress of the waveform cache."""
        if not self._show("decode", "clip", done, total) and self._is_time("decode"):
            self.say(f"decoded {done} of {total} clips")

    def step(self, step: Step) -> None:
        """Progress of the training."""
        if step.collapsed and not self._warned:
            self._warned = True
            self.say(
                f"warning: step {step.step}: the embeddings have collapsed to almost one vector: stop, and lower --lr"
                " or raise --tau"
            )
        shown = f"loss {step.loss:.4f}, {step.samples_per_s:.0f} samples/s"
        if not self._show("train", "step", step.step, step.steps, shown) and self._is_time(
            "train", step.step == step.steps
        ):
            left = (step.steps - step.step) * step.batch / max(step.samples_per_s, 1e-9)
            self.say(f"step {step.step}/{step.steps}: {shown}, {_clock(left)} to go")

    def _is_time(self, stage: str, last: bool = False) -> bool:
        """Whether a line is due where there is no bar: soon at first, then every ten minutes, and at the end."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._gap, self._next = stage, FIRST_GAP, now + FIRST_GAP
        if not last and now < self._next:
            return False
        self._next, self._gap = now + self._gap, min(LONGEST_GAP, 1.5 * self._gap)
        return True

    def _show(self, what: str, unit: str, done: int, total: int, after: str = "") -> bool:
        """Move the bar; False where standard error is no terminal."""
        if self.hidden or not sys.stderr.isatty():
            return False
        from tqdm import tqdm

        if self._bar is None or self._bar.desc.strip(": ") != what:
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(desc=what, unit=unit, total=total, file=sys.stderr, dynamic_ncols=True, leave=False)
            self._bar.initial = done if what == "train" and done > 50 else 0
        self._bar.total = total
        self._bar.set_postfix_str(after, refresh=False)
        self._bar.update(done - self._bar.n)
        return True


def _clock(seconds: float) -> str:
    """`95` -> `0:01:35`."""
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02}"
