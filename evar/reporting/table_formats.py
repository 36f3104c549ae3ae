"""A table as text, Markdown, LaTeX (booktabs), CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
import unicodedata
from dataclasses import dataclass
from decimal import Decimal

from evar.errors import unknown
from evar.reporting.table_notes import Words
from evar.reporting.tables import Line, Table, Variant, average, differences, published_values, rounded
from evar.results_files import no_formula

FORMATS = ("text", "markdown", "latex", "csv", "html")
_WIDTH = 160  # characters, before a table of text is continued below
CSV_COLUMNS = (
    "table", "model", "evar_name", "encoder", "layers", "pooling", "weights", "task", "metric", "protocol", "published",
    "published_std", "measured", "measured_std", "difference", "cell_id",
    "published_ci95", "remark",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the drawn table. kind: `published`, `measured` (under a published one), `difference` or `own`."""

    kind: str
    name: str
    cells: tuple[str, ...]


def format_table(table: Table, words: Words, form: str = "text") -> str:
    """The table with the words around it in one of FORMATS, ending in a line break; EvarError for another format.

    LaTeX is a `table*` environment for a document with `\\usepackage{booktabs,graphicx}`; its notes are comments. CSV has
    one line per model, encoder and task (CSV_COLUMNS, percent, not rounded) and no notes.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if form == "csv":
        return _csv(table)
    header, rows = _grid(table)
    return {"text": _text, "markdown": _markdown, "latex": _latex, "html": _html}[form](header, rows, words)


def _grid(table: Table) -> tuple[list[str], list[Row]]:
    covered = table.paper.average
    metrics = {table.metrics.get(task, "accuracy") for task in table.tasks}
    header = [
        f"{task} ({table.metrics[task]})" if table.metrics.get(task, "accuracy") != "accuracy" else task
        for task in table.tasks
    ]
    header += ["average"] if covered and len(metrics) == 1 else []
    rows: list[Row] = []
    for line in table.lines:
        if not line.figures:
            scores = line.variants[0].scores if line.variants else {}
            rows.append(
                Row("own", line.model, _cells(table, {task: (one.mean, one.std) for task, one in scores.items()}))
            )
            continue
        published = {
            task: (mean, None if line.figures[task].spread is None else Decimal(repr(line.figures[task].spread)))
            for task, mean in published_values(line).items()
        }
        rows.append(Row("published", line.model + _marks(line), _published_cells(table, line, published)))
        for variant in line.variants:
            told = f" {variant.name}" if len(line.variants) > 1 else ""
            scores = {task: (one.mean, one.std) for task, one in variant.scores.items()}
            rows.append(Row("measured", f"measured{told}", _cells(table, scores)))
            points = differences(line, variant, covered)
            cells = tuple(f"{points[key]:+}" if key in points else "" for key in (*table.tasks, "average"))
            rows.append(Row("difference", "difference", cells))
    return header, [Row(row.kind, row.name, row.cells[: len(header)]) for row in rows]


def _cells(table: Table, values: dict[str, tuple[Decimal, Decimal | None]]) -> tuple[str, ...]:
    cells = [_cell(*values[task]) if task in values else "" for task in table.tasks]
    mean = average({task: value for task, (value, _) in values.items()}, table.paper.average)
    return (*cells, "" if mean is None else f"{rounded(mean)}")


def _marks(line: Line) -> str:
    """What a reader must know of a published line before the numbers; the notes below the table say more."""
    marks = ["± 95 % interval"] if any(one.ci95 is not None for one in line.figures.values()) else []
    marks += ["see remarks"] if any(one.remark for one in line.figures.values()) else []
    return f" [{', '.join(marks)}]" if marks else ""


def _published_cells(table: Table, line: Line, values: dict[str, tuple[Decimal, Decimal | None]]) -> tuple[str, ...]:
    cells = list(_cells(table, values))
    for i, task in enumerate(table.tasks):
        cells[i] = table.paper.marks.get((line.model, task), cells[i])
    return tuple(cells)


def _cell(mean: Decimal, std: Decimal | None) -> str:
    return f"{rounded(mean)}" + ("" if std is None else f"±{rounded(std)}")


# --- text and Markdown -----------------------------------------------------------------------------------------------


def _text(header: list[str], rows: list[Row], words: Words) -> str:
    indent = {"measured": "  ", "difference": "  "}
    lines = [["", *header], *[[indent.get(row.kind, "") + _flat(row.name), *row.cells] for row in rows]]
    blocks = ["\n".join([_flat(words.title), *map(_flat, words.heading)])]
    own = next((i for i, row in enumerate(rows) if i and row.kind == "own" and rows[i - 1].kind != "own"), None)
    for block in _columns(lines):
        if own is not None:
            block.insert(own + 2, block[1])
        blocks.append("\n".join(block))
    blocks += ["\n".join([f"{name}:", *(f"  {_flat(note)}" for note in notes)]) for name, notes in words.notes]
    return "\n\n".join(blocks) + "\n"


def _columns(table: list[list[str]]) -> list[list[str]]:
    """Aligned blocks of at most _WIDTH characters; columns that do not fit follow in the next block, under the same names."""
    table = [list(line) for line in table]
    for i in range(1, len(table[0])):
        left = max((len(line[i].partition("±")[0]) for line in table[1:]), default=0)
        for line in table[1:]:  # decimal points under each other, with ± or without
            mean, mark, std = line[i].partition("±")
            line[i] = mean.rjust(left) + mark + std
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    blocks, start = [], 1
    while start < len(widths):
        stop, room = start + 1, _WIDTH - widths[0] - widths[start] - 2
        while stop < len(widths) and room >= widths[stop] + 2:
            room -= widths[stop] + 2
            stop += 1
        chosen = range(start, stop)
        block = ["  ".join(line[i].ljust(widths[i]) for i in (0, *chosen)).rstrip() for line in table]
        block.insert(1, "  ".join("-" * widths[i] for i in (0, *chosen)))
        blocks.append(block)
        start = stop
    return blocks


def _markdown(header: list[str], rows: list[Row], words: Words) -> str:
    lines = [["", *header], ["---", *["---:"] * len(header)]]
    for row in rows:
        name = _markdown_text(row.name)
        name = {"measured": f"&emsp;{name}", "difference": f"&emsp;*{name}*", "own": f"**{name}**"}.get(row.kind, name)
        lines.append([name, *(f"*{cell}*" if cell and row.kind == "difference" else cell for cell in row.cells)])
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    blocks = [
        f"## {_markdown_text(words.title)}",
        "\n".join(f"{_markdown_text(line)}  " for line in words.heading),
        drawn,
    ]
    for name, notes in words.notes:
        if notes[0].startswith("evar run"):
            blocks.append("\n".join([f"**{name}**", "", "```", *map(_flat, notes), "```"]))
        else:
            blocks.append("\n".join([f"**{name}**", "", *(f"- {_markdown_text(note)}" for note in notes)]))
    return "\n\n".join(blocks) + "\n"


def _markdown_text(text: str) -> str:
    text = html.escape(_flat(text), quote=False)
    for mark in "\\`*_{}[]#|~":
        text = text.replace(mark, f"\\{mark}")
    return text


def _flat(text: str) -> str:
    """One line of what can be printed: no line breaks, no escape sequences."""
    return "".join(mark if mark.isprintable() else " " for mark in " ".join(text.split()))


# --- LaTeX -----------------------------------------------------------------------------------------------------------

_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "'": "'", "`": r"\textasciigrave{}",
}  # fmt: skip
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"'}


def tex(text: str) -> str:
    """Text as LaTeX prints it with no package: specials escaped, accented letters composed, other signs as their code."""
    made = []
    for mark in unicodedata.normalize("NFD", _flat(text)):
        if mark in _ACCENTS and made and len(made[-1]) == 1 and made[-1].isalpha():
            made[-1] = f"\\{_ACCENTS[mark]}{{{made[-1]}}}"
        elif mark in _TEX:
            made.append(_TEX[mark])
        else:
            made.append(mark if mark.isascii() else f"(U+{ord(mark):04X})")
    return "".join(made).replace(r"\textquotedbl{}", "''").replace(r"\textasciigrave{}", "`")


def _latex(header: list[str], rows: list[Row], words: Words) -> str:
    lines = [
        "% \\usepackage{booktabs,graphicx}",
        "\\begin{table*}[t]",
        "\\centering",
        f"\\caption{{{tex(words.title)}. {' '.join(map(tex, words.heading))}}}",
        "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * len(header)}}}",
        "\\toprule",
        f" & {' & '.join(map(tex, header))} \\\\",
        "\\midrule",
    ]
    widths = _std_widths(rows)
    for i, row in enumerate(rows):
        if i and row.kind == "own" and rows[i - 1].kind != "own":
            lines.append("\\midrule")
        name = {"measured": f"\\quad {tex(row.name)}", "difference": f"\\quad \\emph{{{tex(row.name)}}}"}.get(
            row.kind, tex(row.name)
        )
        cells = [_tex_number(cell, width) for cell, width in zip(row.cells, widths, strict=True)]
        lines.append(f"{name} & {' & '.join(cells)} \\\\")
    lines += ["\\bottomrule", "\\end{tabular}}", "\\end{table*}"]
    for name, notes in words.notes:
        lines += [f"% {_flat(name)}:", *(f"%   {_flat(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def _tex_number(cell: str, std_width: int) -> str:
    """`83.2±0.6` with the deviation small, `-0.3` with a minus sign; decimal points of a column stand under each other."""
    mean, _, std = cell.partition("±")
    mean = f"${mean}$" if mean[:1] in ("+", "-") else mean
    room = f"\\phantom{{{'0' * (std_width - len(std))}}}" if std and len(std) < std_width else ""
    if std:
        return f"{mean}{{\\scriptsize\\,$\\pm$\\,{std}{room}}}"
    return f"{mean}{{\\scriptsize\\phantom{{\\,$\\pm$\\,{'0' * (std_width - 1)}.}}}}" if cell and std_width else mean


def _std_widths(rows: list[Row]) -> list[int]:
    """The most characters after the ± in each column, 0 where there is none."""
    return [
        max(len(cell.partition("±")[2]) for cell in column) for column in zip(*(row.cells for row in rows), strict=True)
    ]


# --- CSV and HTML ----------------------------------------------------------------------------------------------------


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for line in table.lines:
        for variant in line.variants or (None,):
            for row in _csv_rows(table, line, variant):
                writer.writerow({k: no_formula(v) if isinstance(v, str) else v for k, v in row.items()})
    return out.getvalue()


def _csv_rows(table: Table, line: Line, variant: Variant | None) -> list[dict[str, object]]:
    theirs = published_values(line)
    ours = {} if variant is None else {task: score.mean for task, score in variant.scores.items()}
    for values in (theirs, ours):
        mean = average(values, table.paper.average)
        if mean is not None:
            values["average"] = mean
    common = {"table": table.paper.source or table.paper.name, "model": line.model, "protocol": table.protocol}
    common["evar_name"] = line.first.evar_name if line.first else ""
    if variant is not None:
        common |= {
            "encoder": variant.label,
            "layers": variant.layers,
            "pooling": variant.pooling,
            "weights": variant.weights,
        }
    rows = []
    for task in (*table.tasks, "average"):
        if task not in theirs and task not in ours:
            continue
        row: dict[str, object] = {"task": task, "metric": table.metrics.get(task, "accuracy")}
        if task in theirs:
            row["published"] = _exact(theirs[task])
            figure = line.figures.get(task)
            if figure is not None:
                row["published_std"] = "" if figure.std is None else figure.std
                row["published_ci95"] = "" if figure.ci95 is None else figure.ci95
                row["remark"] = figure.remark
        if task in ours:
            row["measured"] = _exact(ours[task])
            score = variant.scores.get(task) if variant else None
            if score is not None:
                row |= {"measured_std": "" if score.std is None else _exact(score.std), "cell_id": score.cell_id}
        if task in theirs and task in ours:
            row["difference"] = _exact(ours[task] - theirs[task])
        rows.append(common | row)
    return rows


def _exact(value: Decimal) -> str:
    return f"{value.quantize(Decimal('1e-10')).normalize():f}"


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem;color:#1a1a1a;background:#fff}
h1{font-size:1.3rem;margin:0 0 .3rem}h2{font-size:1rem;margin:1.4rem 0 .3rem}p{margin:.2rem 0;max-width:60rem}
.wide{overflow-x:auto;margin:1rem 0}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .7rem;text-align:right;white-space:nowrap}th:first-child{text-align:left}
thead th{border-bottom:2px solid #1a1a1a;border-top:2px solid #1a1a1a}tbody{border-bottom:2px solid #1a1a1a}
tbody th{font-weight:normal}tr.measured th,tr.difference th{padding-left:2rem}
tr.measured,tr.own{background:#eef4fb}tr.own th{font-weight:bold}tr.difference{color:#444;font-style:italic}
small{color:#555;display:inline-block;text-align:left}pre{background:#f4f4f4;padding:.6rem;overflow-x:auto}
@media print{body{margin:0}tr{break-inside:avoid}}
"""


def _html(header: list[str], rows: list[Row], words: Words) -> str:
    escaped = [html.escape(_flat(name)) for name in header]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", *escaped))
    widths = _std_widths(rows)
    body = "\n".join(
        f'<tr class="{row.kind}"><th scope="row">{html.escape(_flat(row.name))}</th>'
        + "".join(f"<td>{_html_number(cell, width)}</td>" for cell, width in zip(row.cells, widths, strict=True))
        + "</tr>"
        for row in rows
    )
    notes = []
    for name, lines in words.notes:
        notes.append(f"<h2>{html.escape(name)}</h2>")
        shown = [html.escape(_flat(line)) for line in lines]
        if lines[0].startswith("evar run"):
            notes.append(f"<pre>{chr(10).join(shown)}</pre>")
        else:
            notes.append("<ul>" + "".join(f"<li>{line}</li>" for line in shown) + "</ul>")
    title = html.escape(_flat(words.title))
    heading = "".join(f"<p>{html.escape(_flat(line))}</p>" for line in words.heading)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n<style>{_STYLE}</style></head>'
        f'\n<body><h1>{title}</h1>\n{heading}\n<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n'
        f"</tbody></table></div>\n{chr(10).join(notes)}\n</body></html>\n"
    )


def _html_number(cell: str, std_width: int) -> str:
    mean, _, std = cell.partition("±")
    mean = mean.replace("-", "\u2212")
    return (
        f'{mean}<small style="width:{std_width + 1}ch">{"±" if std else ""}{std}</small>'
        if std_width and cell
        else mean
    )
