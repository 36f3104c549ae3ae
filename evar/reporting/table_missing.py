"""The cells that a table lacks, and the command that fills each."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evar.reporting.rows import REASONS
from evar.reporting.tables import Line, Table, Variant

NO_ENCODER = "no such encoder in this evar"
NO_CARD = "no task card"


@dataclass(frozen=True)
class Missing:
    """Cells of one line that are not measured.

    encoder: what `evar run` takes, "" where no command can be given; why says why not, or what is needed first.
    """

    model: str
    tasks: tuple[str, ...]
    encoder: str = ""
    layers: str = ""
    pooling: str = ""
    why: str = ""

    def command(self, options: Sequence[str] = ()) -> str:
        """The `evar run` command that fills these cells; options: what to add (`--probe`, `--data`, ...)."""
        words = ["evar", "run", self.encoder, ",".join(self.tasks), *options]
        words += ["--layers", self.layers] if self.layers else []
        words += ["--pooling", self.pooling] if self.pooling else []
        return shlex.join(words)


def missing(table: Table, known: Mapping[str, str], tasks: Collection[str]) -> list[Missing]:
    """What is missing, line by line.

    known: encoder name -> whether it needs weights (`required`, ...); tasks: those with a card.
    """
    return [gap for line in table.lines for gap in _of_line(line, table, known, tasks)]


def _of_line(line: Line, table: Table, known: Mapping[str, str], tasks: Collection[str]) -> Iterator[Missing]:
    wanted = [task for task in table.tasks if task in line.figures or not line.figures]
    runnable = [task for task in wanted if task in tasks]
    no_card = tuple(task for task in wanted if task not in tasks)
    for variant in line.variants or (None,):
        name = variant.name if variant else line.model
        encoder, why = _encoder(line, variant, known)
        lacking = tuple(task for task in runnable if variant is None or task not in variant.scores)
        seen = tuple(task for task in lacking if task in _contaminated(table, line, variant, encoder))
        lacking = tuple(task for task in lacking if task not in seen)
        if lacking:
            chosen = (variant.layers, variant.pooling) if variant and encoder else ("", "")
            yield Missing(name, lacking, encoder, *chosen, why=why)
        if seen:
            yield Missing(name, seen, why=f"{REASONS['contaminated']} ({', '.join(seen)})")
        if no_card and (line.first is None or line.first.evar_name in known):
            yield Missing(name, no_card, why=NO_CARD)


def _contaminated(table: Table, line: Line, variant: Variant | None, encoder: str) -> set[str]:
    """The tasks on which this encoder was measured and does not count, however often it is measured."""
    reference, _, weights = encoder.partition("@")
    label = variant.label if variant else line.wanted.label if line.wanted else f"{reference}@{Path(weights).stem}"
    rows = table.left_out[table.left_out["reason"] == REASONS["contaminated"]]
    return set(rows.loc[rows["encoder"].isin([label, encoder]), "task"])


def _encoder(line: Line, variant: Variant | None, known: Mapping[str, str]) -> tuple[str, str]:
    """(what `evar run` takes, why it cannot be given or what it needs)."""
    if line.wanted is not None:
        return line.wanted.word, ""
    if variant is not None:
        return _of_variant(variant, known)
    figure = line.first
    if figure is None or figure.evar_name not in known:
        return "", NO_ENCODER
    if figure.weights_file:
        return f"{figure.evar_name}@{figure.weights_file}", ""
    if known[figure.evar_name] == "required":
        return f"{figure.evar_name}@FILE", "FILE: weights of your own, no published file is known"
    return figure.evar_name, ""


def _of_variant(variant: Variant, known: Mapping[str, str]) -> tuple[str, str]:
    """How to name again what was measured: a label of the user's own does not say which encoder it stands for."""
    scheme, _, name = variant.label.partition("@")[0].rpartition(":")
    if not variant.weights:
        plain = name in known if scheme in ("", "random") else scheme.startswith("py:")
        if plain:
            return variant.label, ""
    elif variant.label == f"{name}@{Path(variant.weights).stem}" and name in known:
        return f"{name}@{variant.weights}", ""
    return "", f"name it with --encoders {variant.label}=NAME[@FILE] to see the command"
