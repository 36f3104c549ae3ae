"""`evar data leaks`: does a pre-training corpus hold parts of the clips that a task scores?"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evar.cli.options import data_option, table, tasks_dir_option, with_options
from evar.errors import EvarError

if TYPE_CHECKING:
    from collections.abc import Callable

    from evar.audio.copies import Copy, Finder
    from evar.datasets.task import Task

COLUMNS = ("file", "start", "stop", "task", "clip", "split", "clip_start", "clip_stop", "score", "evidence")
NAMED = 20  # unreadable files that the text report names; JSON names all


@dataclass(frozen=True)
class Leak:
    """A passage of a corpus file (start to stop, seconds) that is a passage of a scored clip."""

    file: str
    start: float
    stop: float
    task: str
    clip: str
    split: str
    clip_start: float
    clip_stop: float
    score: float
    evidence: float


@dataclass
class Report:
    """What was searched, what was found, and what could not be read.

    clips: task -> number of clips. closest: task -> the passage that came nearest to being a leak and is none. left_out: a
    line for each corpus folder in which something is no audio that can be searched.
    """

    corpus: list[str]
    files: int = 0
    hours: float = 0.0
    clips: dict[str, int] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)
    closest: dict[str, Leak] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def counts(self) -> list[str]:
        """One line per task: what was held against what, and how many leaks there are."""
        return [
            f"{self.files} corpus files ({self.hours:.2f} h) against {n} clips of {task}: "
            f"{sum(leak.task == task for leak in self.leaks)} leaks"
            for task, n in self.clips.items()
        ]


@click.command()
@click.argument("corpus", nargs=-1, required=True)
@click.argument("task")
@with_options(
    data_option,
    tasks_dir_option,
    click.option("--partial", is_flag=True, help="Accept a task folder that lacks official clips."),
    click.option(
        "--format", "form", type=click.Choice(["text", "csv", "json"]), default="text", show_default=True, help="Form."
    ),
    click.option("--write", metavar="FILE", help="Put the report into FILE and print the count lines only."),
)
@click.pass_context
def leaks_command(
    ctx: click.Context,
    corpus: tuple[str, ...],
    task: str,
    data: tuple[str, ...],
    tasks_dir: str | None,
    partial: bool,
    form: str,
    write: str | None,
) -> None:
    """Find passages of TASK's clips in CORPUS: whatever their rate, level, codec or position.

    CORPUS is a folder tree of audio or a CSV manifest with a column `file` (paths relative to the manifest); several
    may be given. TASK is a name, a comma list, a suite, a glob or a card file, as in `evar run`. All its clips are
    searched for, those it trains on too: each leak says in which split or fold its clip is.

    Exits 0 when nothing was found, 1 when there are leaks, 2 for bad input. Corpus files that cannot be read are
    counted and named. What is found and what is not: docs/leaks.md.

    \b
    Examples:
      evar data leaks corpus/manifest.csv esc50 --data ~/datasets
      evar data leaks ~/audio more/ esc50,gtzan --data ~/datasets --format csv --write leaks.csv
    """
    from evar.cli.data import bar
    from evar.files import atomic_write

    files, left_out = _corpus(corpus)
    tasks = _load_tasks(task, data, tasks_dir, partial)
    finder, owners = _index(tasks, bar)
    report = _search(list(corpus), files, tasks, finder, owners, bar)
    report.left_out = left_out
    text = {"text": _as_text, "csv": _as_csv, "json": _as_json}[form](report)
    if write:
        atomic_write(write, text + "\n")
        text = "\n".join([*report.counts(), write])
    click.echo(text)
    if unsearched := _unsearched(report) if write or form == "csv" else []:
        click.echo("\n".join(unsearched), err=True)
    ctx.exit(1 if report.leaks else 0)


def corpus_files(sources: tuple[str, ...]) -> dict[str, Path]:
    """The audio files of folders and manifests: name for the report -> path, each file once.

    Raises EvarError: nothing there, no audio in a folder, a manifest without the column `file` or with nothing in it.
    """
    return _corpus(sources)[0]


def _corpus(sources: tuple[str, ...]) -> tuple[dict[str, Path], list[str]]:
    """`corpus_files`, and a line for each folder in which something was left out."""
    from evar.audio.listing import audio_below

    files: dict[str, Path] = {}
    seen: set[str] = set()
    left_out = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            listing = audio_below(path)
            found = [(name, path / name) for name in listing.files]
            left_out += [f"{path}: {said}"] if (said := listing.said()) else []
        elif path.suffix.lower() == ".csv":
            found = _manifest_files(path)
        elif path.exists():
            raise EvarError(f"{path}: expected a folder of audio or a CSV manifest with a column 'file'")
        else:
            raise EvarError(f"{path} does not exist: expected a folder of audio or a CSV manifest")
        for name, file in found:
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                files[name if len(sources) == 1 else f"{source.rstrip('/')}: {name}"] = file
    return files, left_out


def _manifest_files(path: Path) -> list[tuple[str, Path]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, names = reader.fieldnames or [], [row.get("file") for row in reader]
    except OSError as error:
        raise EvarError(f"cannot read the manifest {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvarError(f"the manifest {path} is not a CSV file in UTF-8: {error}") from None
    if "file" not in columns:
        raise EvarError(f"the manifest {path} has no column 'file'; found: {', '.join(map(str, columns)) or 'none'}")
    if not names:
        raise EvarError(f"the manifest {path} names no files: expected one row per file")
    for row, name in enumerate(names, start=1):
        if not name:
            raise EvarError(f"the manifest {path}: row {row} has no value in the column 'file'")
    return [(name, path.parent / name) for name in names]


def _load_tasks(names: str, data: tuple[str, ...], tasks_dir: str | None, partial: bool) -> list[Task]:
    from evar.cells import expand_tasks
    from evar.datasets import load_task

    return [load_task(n, data=data, tasks_dir=tasks_dir, partial=partial) for n in expand_tasks(names, tasks_dir)]


def _index(tasks: list[Task], bar: Callable) -> tuple[Finder, list[list[tuple[int, int]]]]:
    """The clips of all tasks in one Finder; for each of its clips, whose it is: (task, row). Shared clips are one."""
    from evar.audio.copies import Finder
    from evar.audio.decode import Tape, decode
    from evar.audio.landmarks import RATE

    parts: list[tuple[Path, float, float]] = []
    owners: list[list[tuple[int, int]]] = []
    numbers: dict[tuple[str, float, str], int] = {}
    for t, task in enumerate(tasks):
        for row, (path, start, stop) in enumerate(
            zip(task.files(), task.clips["start"], task.clips["stop"], strict=True)
        ):
            number = numbers.setdefault((os.path.realpath(path), start, str(stop)), len(parts))
            if number == len(parts):
                parts.append((path, start, stop))
                owners.append([])
            owners[number].append((t, row))

    def read(i: int, tape: Tape | None = None):  # noqa: ANN202
        path, start, stop = parts[i]
        return decode(path, RATE, start, stop, tape=tape)

    finder = Finder(read)
    with bar("index", "clip") as progress, Tape(hold=True) as tape:
        for i in range(len(parts)):
            finder.add(read(i, tape))
            progress(i + 1, len(parts))
    return finder, owners


def _search(
    corpus: list[str], files: dict[str, Path], tasks: list[Task], finder: Finder, owners: list, bar: Callable
) -> Report:
    report = Report(
        corpus, clips={t.name: len(t.clips) for t in tasks}, fingerprints={t.name: t.fingerprint for t in tasks}
    )
    seconds, nearest = 0.0, {}
    with bar("search", "file") as progress:
        for done, (name, path) in enumerate(files.items(), start=1):
            try:
                copies, length = finder.search_file(path, doubtful=True)
            except EvarError as error:
                report.unreadable[name] = str(error)
            else:
                report.files += 1
                seconds += length
                for copy, (t, row) in ((one, owner) for one in copies for owner in owners[one.clip]):
                    leak = _leak(name, copy, tasks[t], row)
                    if copy.proven:
                        report.leaks.append(leak)
                    elif copy.closeness > nearest.get(leak.task, 0.0):
                        nearest[leak.task], report.closest[leak.task] = copy.closeness, leak
            progress(done, len(files))
    report.hours = seconds / 3600
    if not report.files:
        first = next(iter(report.unreadable.values()))
        raise EvarError(f"none of the {len(files)} corpus files can be read; the first: {first}")
    return report


def _leak(file: str, copy: Copy, task: Task, row: int) -> Leak:
    clip = task.clips.iloc[row]
    split = f"fold {clip['fold']}" if "fold" in clip else str(clip["split"])
    times = {name: round(getattr(copy, name), 2) for name in ("start", "stop", "clip_start", "clip_stop")}
    return Leak(
        file, task=task.name, clip=str(clip["clip_id"]), split=split, score=round(copy.score, 3),
        evidence=round(copy.evidence, 1), **times,
    )  # fmt: skip


# --- forms -----------------------------------------------------------------------------------------------------------


def _as_text(report: Report) -> str:
    lines = []
    if report.leaks:
        rows = [
            [k.file, f"{k.start:.2f}-{k.stop:.2f}", k.task, k.clip, k.split, f"{k.clip_start:.2f}-{k.clip_stop:.2f}",
             f"{k.score:.3f}", f"{k.evidence:.0f}"]
            for k in report.leaks
        ]  # fmt: skip
        header = ["corpus file", "seconds", "task", "clip", "split", "seconds of clip", "score", "evidence"]
        lines += [table(rows, header, right={1, 5, 6, 7}), ""]
    return "\n".join([*lines, *report.counts(), *_closest(report), *_unsearched(report)])


def _closest(report: Report) -> list[str]:
    from evar.audio.copies import EVIDENCE, LONG, SHORT

    if not report.closest:
        return []
    asked = f"evidence {EVIDENCE:g} and a score of {SHORT[1]} up to {SHORT[0]} s, {LONG[1]} from {LONG[0]:g} s on"
    lines = [f"nearest to a leak, and none (a leak has {asked}):"]
    for task, k in ((task, report.closest[task]) for task in report.clips if task in report.closest):
        lines.append(
            f"  {task}: {k.file} {k.start:.2f}-{k.stop:.2f} s, clip {k.clip} ({k.split}), "
            f"score {k.score:.3f}, evidence {k.evidence:.1f}"
        )
    return lines


def _unsearched(report: Report) -> list[str]:
    if not report.unreadable:
        return list(report.left_out)
    lines = [*report.left_out, f"{len(report.unreadable)} corpus files could not be read and were not searched:"]
    lines += [f"  {name}: {reason}" for name, reason in list(report.unreadable.items())[:NAMED]]
    if len(report.unreadable) > NAMED:
        lines.append(f"  and {len(report.unreadable) - NAMED} more (--format json names all)")
    return lines


def _as_csv(report: Report) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(leak) for leak in report.leaks)
    return stream.getvalue().rstrip("\n")


def _as_json(report: Report) -> str:
    import evar
    from evar.audio import copies

    thresholds = {"short": copies.SHORT, "long": copies.LONG, "evidence": copies.EVIDENCE}
    return json.dumps(
        {"evar_version": evar.__version__, "thresholds": thresholds} | asdict(report), indent=2, ensure_ascii=False
    )
