"""Anybody's dataset: csv tables with a row per clip or segment, the columns named by the card (docs/own-dataset.md)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.audio.listing import AUDIO_EXTENSIONS
from evar.datasets import own_values
from evar.datasets.own_table import LINE, PATH, SOURCE, no_column, read_rows
from evar.datasets.recognise import holds_listed_files
from evar.datasets.tables import columns_of, first_names, without_extension
from evar.errors import EvarError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from evar.datasets.card import Card

OPTIONS = {
    "file": "clips.csv",  # in the dataset's folder or beside the card; {train: a.csv, test: b.csv}: one for each part
    "path": "path",  # column of the audio file
    "label": "label",  # column of the label, or of all labels where `separator` splits them
    "part": "",  # column of split or fold; empty: `split` or `fold`, as the card's split is
    "group": "",  # column of the group; empty: `group`, or a column called as the card's group
    "start": "",  # columns of a segment's begin and end in seconds; empty: `start` and `stop` or `end`, where files
    "stop": "",  # come more than once
    "separator": "",  # between the labels of a multi-label clip; empty: ","
    "folder": "",  # audio folder that the paths are relative to
    "extension": "",  # added to paths that do not end with it, such as ".wav"
    "delimiter": "",  # between the columns; empty: a comma, or what the header shows
    "columns": [],  # the names of the columns of a csv without a header
    "parts": {},  # other words for train, valid and test, or for folds: {"dev": "train", "session1": "1"}
    "join": "",  # a second csv with more columns of the same files, such as their folds
    "key": "",  # its column of the audio file; empty: as `path`
    "where": {},  # rows to keep, by column: {verified: "1", fold: "!0"}
    "pattern": "",  # a regular expression on file names; its named groups are columns
}
TYPES = {"file": (str, dict)}
SPELLINGS = {"end": "stop"}
_TIMES = (("start", "stop"), ("start", "end"))  # columns that are taken where files come more than once
_LIKE_LENGTHS = r"(?:(?:segment|clip|event)[ _]?)?(?:dur|duration|len|length)(?:[ _]?(?:s|sec|secs|seconds))?"
_LIKE_TIMES = ("start", "stop", "end", "onset", "offset", "begin", "start_time", "end_time", "tmin", "tmax")


def markers(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The tables by which the dataset's folder is recognised."""
    file = options["file"]
    return tuple(map(str, file.values())) if isinstance(file, dict) else (file,)


def idle(card: Card) -> str | None:
    """Which option of the card cannot have an effect, and why."""
    given = card.options
    pairs = {
        "file": (card.split_file is not None, "the card's `split_file` is read in its place"),
        "separator": (
            not card.multilabel,
            "it stands between labels, and the card has one label per clip",
        ),
        "key": (not given.get("join"), "it names a column of a second table, which `join: NAME` brings"),
        "part": (isinstance(given.get("file"), dict), "`file` gives one list for each part"),
    }
    lone = {"separator": "remove it, or say `multilabel: true`", "key": "remove it, or say `join`"}
    return next(
        (
            f"{key!r} has no effect: {why}; {lone.get(key, 'remove one of the two')}"
            for key, (is_idle, why) in pairs.items()
            if key in given and is_idle
        ),
        None,
    )


def read(root: Path, card: Card) -> DataFrame:
    """One row per row of the tables. Raises EvarError: a missing file or column, an empty value, an unsafe path, a word
    that is no part, no fold or no time, segments of one file on both sides of the split."""
    options = card.options
    _check(card)
    part = options["part"] or ("fold" if card.split == "folds" else "split")
    named = [options[key] for key in ("group", "start", "stop") if options[key]]
    rows = read_rows(root, card, part, [options["path"], options["label"], part, *named])
    where = _where(rows)
    for name, option in ((options["label"], "label"), (part, "part")):
        if name not in rows:
            raise no_column(rows, where, name, option, card)
        if option == "part" or not card.multilabel:
            _require(rows, name)
    group, times = _group_column(rows, where, card), _times(rows, where, card)
    if group is not None:
        _require(rows, group)
    clips = rows[[]].assign(clip_id=rows[PATH].map(without_extension), path=rows[PATH])
    if card.split == "folds":
        clips["fold"] = own_values.folds(rows[part], card.folds, options["parts"], where)
    else:
        clips["split"] = own_values.parts(rows[part], options["parts"], where)
    if group is not None:
        forms = own_values.one_form(rows[group], "groups", where) if group != PATH else {}
        clips["group"] = rows[group].map(lambda name: forms.get(name, name))
    clips = _with_labels(clips, rows[options["label"]], where, card)
    if times is not None:
        clips = _with_segments(clips, rows, times, where, card)
    return _merged(clips, where) if card.multilabel else clips


def _check(card: Card) -> None:
    """EvarError for options that are of the right type and yet cannot be."""
    options, where = card.options, f"{card.path or card.name}: 'options'"
    if len(options["delimiter"]) > 1 or options["delimiter"] in ('"', "\n", "\r", " "):
        raise EvarError(
            f'{where}: \'delimiter\': expected one sign, such as ";" or "\\t", found {options["delimiter"]!r}'
        )
    if "." + options["extension"].lower() in AUDIO_EXTENSIONS:
        raise EvarError(
            f"{where}: 'extension': expected it with its dot, \".{options['extension']}\", found {options['extension']!r}"
        )
    if isinstance(options["file"], dict) and not options["file"]:
        raise EvarError(f"{where}: 'file': expected a list for each part, such as {{train: train.csv, test: test.csv}}")


def holds(root: Path, card: Card) -> bool:
    """Whether files of the list are in `root`: for lists that lie beside the card."""
    return holds_listed_files(read, root, card)


def _where(rows: DataFrame) -> str:
    sources = rows[SOURCE].unique()
    return str(sources[0]) + (f" (and {len(sources) - 1} more)" if len(sources) > 1 else "")


def _require(rows: DataFrame, name: str) -> None:
    empty = rows[rows[name] == ""]
    if len(empty):
        raise own_values.empty_value(f"{empty[SOURCE].iloc[0]}: row {empty[LINE].iloc[0]}", name, len(empty))


def _group_column(rows: DataFrame, where: str, card: Card) -> str | None:
    """The column of the group: the option's, else `group`, else one that is called as the card's group."""
    if card.options["group"]:
        if card.options["group"] not in rows:
            raise no_column(rows, where, card.options["group"], "group", card)
        return card.options["group"]
    if "group" in rows or not card.group:
        return "group" if "group" in rows else None
    plain = card.group.lower().replace(" ", "_").replace("-", "_")
    alike = [name for name in rows.columns if name.lower().replace(" ", "_").replace("-", "_") == plain]
    if len(alike) == 1:
        return alike[0]
    if plain in ("file", "recording", "path"):
        return PATH
    raise EvarError(
        f"{where}: the card says `group: {card.group}`, and no column holds it; found {columns_of(rows)}; name it by "
        f"`options: {{group: COLUMN}}` in {card.path or card.name}, or take it from the file names with `pattern`"
    )


# --- labels ----------------------------------------------------------------------------------------------------------


def _with_labels(clips: DataFrame, cells: Series, where: str, card: Card) -> DataFrame:
    stated = card.options["separator"]
    separator = (stated or ",") if card.multilabel else ""
    listed = cells.str.fullmatch(r"[\[({].*[\])}]")
    if card.multilabel and listed.any() and listed[cells != ""].all():
        raise EvarError(
            f"{where}: labels are written as lists of a program, such as {cells[listed].iloc[0][:60]!r}; write plain labels "
            'with a sign between them, and say which: `options: {separator: ";"}`'
        )
    forgotten = own_values.forgotten_separator(cells, separator, bool(stated))
    if forgotten is not None:
        _say_separator(*forgotten, next(cell for cell in cells if forgotten[0] in cell), separator, where)
    known = card.classes if isinstance(card.classes, tuple) else ()
    split = [[label.strip() for label in text.split(separator)] if separator else [text] for text in cells]
    forms = own_values.one_form((label for labels in split for label in labels), "labels", where, known)
    named = [tuple(dict.fromkeys(forms.get(label, label) for label in labels if label)) for labels in split]
    return clips.assign(labels=named) if card.multilabel else clips.assign(label=[labels[0] for labels in named])


def _say_separator(sign: str, is_sure: bool, example: str, used: str, where: str) -> None:
    """Error or warning: label cells are not split at `sign`, and seem to hold several labels."""
    option = f'`options: {{separator: "{sign}"}}`'
    if not used:
        warnings.warn(
            f"{where}: labels such as {example[:60]!r} look like several in one cell and are taken as one; if they are "
            f"several, say `multilabel: true`, `metric: mAP` and {option}"
        )
    elif not is_sure:
        warnings.warn(
            f"{where}: labels hold {sign!r}, such as {example[:60]!r}, and are split by {used!r} only; if {sign!r} stands "
            f'between labels, say {option}, where there is but one sign; else `separator: "{used}"` says that all is well'
        )
    else:
        one = ', or `separator: ","` where that is meant to be one label' if sign != "," else ""
        raise EvarError(
            f"{where}: no label is split by {used!r}, and many hold {sign!r}, such as {example[:60]!r}; say {option}{one}"
        )


def _merged(clips: DataFrame, where: str) -> DataFrame:
    """A multi-label clip may have a row for each of its labels: rows that agree in all else become one."""
    if not clips["clip_id"].duplicated().any():
        return clips
    others = [name for name in clips.columns if name not in ("labels", "start", "stop")]
    merged = clips.groupby(others, sort=False, as_index=False).agg(
        {"labels": lambda rows: tuple(dict.fromkeys(label for labels in rows for label in labels))}
        | {name: "first" for name in ("start", "stop") if name in clips}
    )
    if len(merged) < len(clips):
        warnings.warn(f"{where}: {len(clips)} rows are {len(merged)} clips: the labels of one clip are put together")
    return merged


# --- segments --------------------------------------------------------------------------------------------------------


def _times(rows: DataFrame, where: str, card: Card) -> tuple[str | None, str | None] | None:
    """The columns of begin and end; None where clips are whole files."""
    options = card.options
    start, stop = options["start"] or None, options["stop"] or None
    for name, option in ((start, "start"), (stop, "stop")):
        if name is not None and name not in rows:
            raise no_column(rows, where, name, option, card)
    lengths = [name for name in rows.columns if re.fullmatch(_LIKE_LENGTHS, name, re.IGNORECASE)]
    if stop in lengths and start is not None:
        warnings.warn(f"{where}: {stop} is read as the time in the file at which a segment ends{_length_hint([stop])}")
    if start is not None and stop is None and lengths:
        warnings.warn(f"{where}: without `stop`, segments go to the end of the file{_length_hint(lengths)}")
    if start is not None or stop is not None:
        return start, stop
    like = [name for name in rows.columns if name.lower().replace(" ", "_") in _LIKE_TIMES]
    hint = "for segments of longer files name the columns of their times in seconds: `options: {start: COLUMN, stop: COLUMN}`"
    if like:
        hint += f" (such as {', '.join(like)}?){_length_hint(lengths)}"
    files = rows[PATH]
    if not files.duplicated().any():
        if pair := next(
            (pair for pair in _TIMES if all(name in rows and (rows[name] != "").any() for name in pair)), None
        ):
            warnings.warn(
                f"{where}: each file comes once, so that the columns `{pair[0]}` and `{pair[1]}` are not used and clips are "
                f"whole files; where they are seconds of segments, say `options: {{start: {pair[0]}, stop: {pair[1]}}}`"
            )
        elif len(like) > 1 or (like and lengths):
            warnings.warn(f"{where}: each file comes once and clips are whole files; {hint}")
        return None
    for pair in _TIMES:
        if all(name in rows for name in pair):
            warnings.warn(
                f"{where}: files come more than once, so that `{pair[0]}` and `{pair[1]}` are taken as seconds of segments "
                f"(`options: {{start: {pair[0]}, stop: {pair[1]}}}` in the card says so)"
            )
            return pair
    if card.multilabel:  # one row for each label
        if len(like) > 1 or (like and lengths):
            warnings.warn(f"{where}: files come more than once and clips are whole files; {hint}")
        return None
    twice = files[files.duplicated()].unique()
    labels = own_values.two_labels(files, rows[options["label"]]) or f": {first_names(twice)}; keep one row of each"
    said = f"{len(twice)} clips occur twice"
    raise EvarError(
        f"{where}: {said}; {hint}; otherwise{labels.removeprefix(':')}"
        if like
        else f"{where}: {said}{labels}, or {hint}"
    )


def _length_hint(lengths: list[str]) -> str:
    """What to do with columns of a segment's length, which evar does not read."""
    if not lengths:
        return ""
    return (
        f"; if {lengths[0]} is a segment's length, compute a column stop = start + {lengths[0]} and name that: "
        "`options: {start: start, stop: stop}`"
    )


def _with_segments(
    clips: DataFrame, rows: DataFrame, times: tuple[str | None, str | None], where: str, card: Card
) -> DataFrame:
    """With start and stop, ids of their own, and the file as the group where there is no other."""
    import numpy as np

    def column(name: str | None, empty: float) -> Series | float:
        if name is None:
            return empty
        values = own_values.seconds(rows[name].set_axis(rows[LINE]), empty, name, where)
        return values.set_axis(clips.index)

    file = clips["clip_id"]
    clips = clips.assign(start=column(times[0], 0.0), stop=column(times[1], np.nan))
    wrong = clips.index[clips["stop"] <= clips["start"]]
    if len(wrong):
        row = clips.loc[wrong[0]]
        raise EvarError(
            f"{where}: row {rows[LINE][wrong[0]]}: the segment from {row['start']:g} to {row['stop']:g} s of {row['path']} "
            "is empty; expected start < stop, in seconds"
        )
    clips["clip_id"] = [_segment_id(*row) for row in zip(file, clips["start"], clips["stop"], strict=True)]
    if "group" not in clips:
        clips["group"] = file
    part = "fold" if card.split == "folds" else "split"
    parts = clips[part].groupby(file).nunique()
    across = parts.index[parts > 1]
    if len(across) and not (card.group and not card.groups_disjoint):
        raise EvarError(
            f"{where}: {len(across)} files have segments in more than one {part}: {first_names(across)}; a score would be "
            f"too good: put all segments of a file into one {part} (meant so: `group: recording` and `groups_disjoint: false`)"
        )
    return clips


def _segment_id(file: str, start: float, stop: float) -> str:
    """`audio/x#0.5-2`; a whole file keeps its name."""
    if start == 0 and stop != stop:
        return file
    first, last = (repr(float(time)).removesuffix(".0") for time in (start, stop))
    return f"{file}#{first}-{'' if last == 'nan' else last}"


# --- mini ------------------------------------------------------------------------------------------------------------


def write_mini(root: Path, card: Card) -> None:
    """Four clips per class and part (or fold) of one second, in the columns and tables that the card names."""
    from evar.datasets import synth
    from evar.datasets.own_mini import write_tables

    given = {SPELLINGS.get(key, key): value for key, value in card.options.items()}
    options = {key: given.get(key, default) for key, default in OPTIONS.items()}
    n_classes = min(card.n_classes or 6, 6)
    names = (
        list(card.classes)[:n_classes] if isinstance(card.classes, tuple) else [f"class{i}" for i in range(n_classes)]
    )
    folds = [str(k) for k in range(1, (card.folds or 0) + 1)]
    parts = folds or ["train", "train", "train", "valid", "test"]
    rows = []
    for index, label in enumerate(names):
        for number in range(4 * len(parts)):
            part = parts[number // 4]
            name = f"{label}_{number:03d}"
            file = Path(options["folder"]) / f"{name}{options['extension'] or '.wav'}"
            synth.write_wav(root / file, synth.clip(index, number, 1.0), 16000)
            rows.append((name if options["extension"] else f"{name}.wav", label, part, f"{part}-{number % 4}"))
    write_tables(root, card, options, rows)
