"""What one call of `evar table` asks for: its words resolved to a table, encoders and tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError, unknown

if TYPE_CHECKING:
    from evar.probes.protocol import Protocol
    from evar.reporting.published import Figure, PaperTable
    from evar.reporting.table_missing import Missing
    from evar.reporting.tables import Table, Wanted


class Plan:
    """One call of `evar table`: its words resolved once; `table()` reads the results anew."""

    def __init__(
        self,
        name: str,
        encoders: str | None,
        tasks: str | None,
        protocol: str | None,
        published: str | None,
        settings: Mapping[str, Any],
    ) -> None:
        from evar.datasets import list_cards
        from evar.probes import get_protocol
        from evar.reporting.published import figures

        self.settings = settings
        self.figures = figures(published)
        self.paper = _paper(name, tasks, self.figures, settings["tasks_dir"])
        compared = any(one.table == self.paper.source and one.task in self.paper.tasks for one in self.figures)
        self.probe = protocol or ("paper" if compared else "fair")
        self.protocol: Protocol = get_protocol(self.probe)
        self.known = _known_encoders()
        self.cards = set(list_cards(settings["tasks_dir"]))
        self.words_given = (
            []
            if encoders is None
            else [_wanted(word) for word in _words(encoders, {one.model for one in self.figures})]
        )
        self.checked = False

    def table(self) -> tuple[Table, list[Missing]]:
        from evar.reporting.rows import measured
        from evar.reporting.table_missing import missing
        from evar.reporting.tables import build
        from evar.results import Results

        tasks = () if self.paper.protocol else self.paper.tasks  # figures of another protocol stand alone
        found = measured(Results(self.settings["results"]), protocol=self.protocol, tasks=tasks)
        if not self.checked:
            labels = {*found.rows["encoder"], *found.left_out["encoder"]}
            self._check_words(labels)
            self.checked = True
        table = build(self.paper, self.figures, found, self.protocol, self.words_given)
        return table, [] if self.paper.protocol else missing(table, self.known, self.cards)

    def words(self, table: Table, gaps: list[Missing]) -> Any:
        from evar.reporting.table_notes import words

        return words(table, gaps, self.settings["results"], self.options())

    def options(self) -> list[str]:
        """What every listed command is given besides encoder and tasks."""
        made = [] if self.probe == "fair" else ["--probe", self.probe]
        for folder in self.settings["data"]:
            made += ["--data", folder]
        for name, default in (("tasks_dir", None), ("results", "results"), ("embeddings", "embeddings")):
            if self.settings[name] != default:
                made += [f"--{name.replace('_', '-')}", str(self.settings[name])]
        return made if self.settings["device"] == "auto" else [*made, "--device", self.settings["device"]]

    def _check_words(self, labels: set[str]) -> None:
        """EvarError for a word of --encoders that names nothing published, measured or known."""
        from evar.reporting.tables import names_anything

        mine = [one for one in self.figures if one.table == self.paper.source]
        for one in self.words_given:
            if names_anything(one, mine, labels):
                continue
            if any(mark in one.word for mark in "*?["):
                raise EvarError(
                    f"--encoders {one.word} matches no published model of this table and no measured encoder"
                )
            if one.name and one.name not in self.known:
                models = {figure.model for figure in mine} | {figure.evar_name for figure in mine if figure.evar_name}
                raise unknown("encoder", one.word, {*self.known, *models, *labels}, "('evar encoders' lists them)")


def _paper(name: str, tasks: str | None, figures: list[Figure], tasks_dir: str | None) -> PaperTable:
    """The table that NAME means: a paper's, one of the user's own figures, or a suite of tasks."""
    from dataclasses import replace

    from evar.datasets import list_cards, list_suites
    from evar.reporting.published import PaperTable, extended, own_tables, paper_tables

    tables = {**own_tables(figures), **paper_tables()}
    suites, cards = list_suites(tasks_dir), list_cards(tasks_dir)
    if name in tables:
        paper = extended(tables[name], figures)
    else:
        try:
            columns = _task_names(name, tasks_dir)
        except EvarError as error:
            if "--tasks-dir" in str(error):
                raise
            columns = (name,)
        for column in columns:
            if column not in cards:
                raise unknown("table, suite or task", column, {*tables, *suites, *cards}, "('evar tasks' lists suites)")
        nine = paper_tables()["byola-v2"]
        paper = PaperTable(
            name, nine.source, f"{name}, {len(columns)} tasks", "", columns, columns if len(columns) > 1 else ()
        )
        if set(columns) & set(nine.tasks):
            paper = replace(paper, citation=nine.citation)
    if tasks is None:
        return paper
    known = {figure.task for figure in figures if figure.table == paper.source} | set(paper.tasks)
    wanted = _task_names(tasks, tasks_dir)
    for task in wanted:
        if task not in known and task not in cards:
            raise unknown("task", task, {*known, *cards}, f"(for --tasks of {name})")
    whole = paper.average if set(paper.average) <= set(wanted) else ()
    return replace(paper, tasks=wanted, average=whole)


def _task_names(words: str, tasks_dir: str | None) -> tuple[str, ...]:
    from evar.cells import expand_tasks

    names = tuple(map(str, expand_tasks(words, tasks_dir)))
    for name in names:
        if name.endswith((".yaml", ".yml")):
            where = Path(name).parent
            raise EvarError(
                f"{name}: a table takes task names, not files: give {Path(name).stem} and --tasks-dir {where}"
            )
    return names


def _words(encoders: str, models: Collection[str]) -> list[str]:
    from evar.words import is_path_after, split_words

    found = split_words(encoders, lambda text: text in models or is_path_after("@")(text))
    found = list(dict.fromkeys(found))
    if not found:
        raise EvarError("--encoders: no name given")
    return found


def _wanted(word: str) -> Wanted:
    from evar.encoders.registry import parse
    from evar.reporting.tables import Wanted

    try:
        parsed = parse(word)
    except EvarError:  # a published model may be called anything
        return Wanted(word, word)
    name = "" if parsed.scheme else parsed.name
    return Wanted(word, parsed.label, name, Path(parsed.weights).name if parsed.weights and name else "")


def _known_encoders() -> dict[str, str]:
    """Registered encoders and those of entry points -> whether they need weights."""
    from importlib.metadata import entry_points

    from evar.encoders.registry import ENTRY_POINTS, list_encoders

    own = {point.name: "optional" for point in entry_points(group=ENTRY_POINTS)}
    return own | {name: entry.weights for name, entry in list_encoders().items()}
