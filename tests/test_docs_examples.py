"""Fear: the documentation shows a command that does not work any more.

Every fenced `sh` and `python` block of a page under docs/ is run, page by page, in an empty folder. Comments before a
block, which readers do not see, say otherwise: `not run: WHY` (its commands are still held against click), `file: NAME`
(the block is a file), `output` (of the block before), `measured: ...` (of a committed leaderboard), `entry points`,
`setup` (code to run first). Every `evar ...` line anywhere, --help included, is parsed by click without being run.
"""

from __future__ import annotations

import functools
import importlib
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from evar.cli.app import app
from evar.datasets import find_card, list_cards, list_suites
from evar.encoders.check import check_encoder
from evar.encoders.registry import list_encoders, list_schemes
from evar.encoders.registry import parse as parse_encoder
from evar.probes import get_protocol

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
OTHERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/pack/README.md")]
FOREIGN = {"--nproc-per-node", "--strict"}  # options of other programs that prose mentions
GIVEN = {"--help", "--version"}  # by click itself


@dataclass(frozen=True)
class Block:
    """A fenced block, the comment before it, and the number of its first line. `language` is `setup` for such a comment."""

    page: str
    line: int
    language: str
    text: str
    note: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks and setup comments of a page, in order."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    name, note, i = page.relative_to(ROOT).as_posix(), "", 0
    while i < len(lines):
        fence = re.fullmatch(r"```(\w*)", lines[i])
        if fence or lines[i] == "<!-- setup":
            end = lines.index("```" if fence else "-->", i + 1)
            found.append(Block(name, i + 2, fence[1] if fence else "setup", "\n".join(lines[i + 1 : end]) + "\n", note))
            i, note = end, ""
        elif comment := re.fullmatch(r"<!-- (.+) -->", lines[i]):
            note = comment[1]
        elif lines[i].strip():
            note = ""
        i += 1
    return found


def evar_commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, words after `evar`) of each line of code that calls evar: fenced, indented, or in a help text."""
    joined = re.sub(r"\\\n\s*", lambda gap: " " * len(gap[0]), text)  # continued lines; the count of lines shrinks
    for number, line in enumerate(joined.splitlines(), start=1):
        line = re.sub(r"^(\s*)([A-Z_]+=\S+ )*", "", line)
        called = re.match(r"(?:torchrun .* -m |python -m )?evar (?![:=])(.*)", line)
        if called and called[1].strip():
            words = re.split(r" {2,}(?=[^-\s])", called[1])[0]  # a remark may follow after two spaces
            words = shlex.split(words, comments=True)
            ends = [i for i, word in enumerate(words) if word in (">", "|", "&&", ";")]
            yield number, words[: min(ends, default=len(words))]


def code_lines(page: Path, fences: bool = True) -> str:
    """The page with everything blanked that is not code: fenced, or indented by four."""
    kept, fenced = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
            kept.append("")
        else:
            kept.append(line if (fenced and fences) or (not fenced and line.startswith("    ")) else "")
    return "\n".join(kept)


def find_command(words: list[str]) -> tuple[click.Command, click.Context, list[str]]:
    """The command that `words` names, its context, and the words that are left."""
    command, context = app, click.Context(app, info_name="evar")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{context.command_path} has no command {words[0]!r}"
        command, context = found, click.Context(found, info_name=words[0], parent=context)
        words = words[1:]
    return command, context, words


def check_parses(words: list[str]) -> None:
    """Click takes the command; `evar run` names encoders and tasks that exist (CAPITALS stand for the reader's own)."""
    if any(word.startswith("[--") for word in words):  # a synopsis
        return check_options(*find_command([word.split("|")[0] for word in words]))
    command, context, rest = find_command(words)
    try:
        made = command.make_context(context.info_name, list(rest), parent=context.parent)
    except click.exceptions.Exit:  # --help, --version
        return
    except click.UsageError as error:
        pytest.fail(f"evar {shlex.join(words)}: {error.format_message()}")
    if words[0] == "run" and made.params["tasks"]:
        for name in made.params["encoders"].split(","):
            check_encoder_name(name)
        for name in made.params["tasks"].split(","):
            own = name.isupper() or name.endswith(".yaml") or any(mark in name for mark in "*.")
            assert own or name in task_names(made.params["tasks_dir"]), f"no task {name!r}"


@functools.cache
def task_names(tasks_dir: str | None) -> set[str]:
    cards = ROOT / tasks_dir if tasks_dir else None
    return {*list_cards(cards), *list_suites(cards)}


def check_options(command: click.Command, context: click.Context, words: list[str]) -> None:
    known = {name for option in command.params for name in option.opts} | GIVEN
    for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(words)):
        assert name in known, f"{context.command_path} has no {name}"


def check_encoder_name(name: str) -> None:
    if not (name.isupper() or "*" in name or name == "..."):
        parsed = parse_encoder(name)
        known = {*list_encoders(), "mine"}  # `mine` is the entry point of docs/extending.md
        assert parsed.scheme in ("py", *list_schemes()) or ":" in parsed.name or parsed.name in known, (
            f"no encoder {name!r}"
        )


# --- what is not run -------------------------------------------------------------------------------------------------


def written_commands() -> list:
    found = []
    for page in [*DOCS, *OTHERS]:
        name = page.relative_to(ROOT).as_posix()
        for number, words in evar_commands(code_lines(page)):
            found.append(pytest.param(words, id=f"{name}-{number}: {' '.join(words)[:60]}"))
    return found


@pytest.mark.parametrize("words", written_commands())
def test_a_written_command_is_one_that_evar_takes(words):
    check_parses(words)


@pytest.mark.parametrize(
    "line",
    [
        "evar run logmel esc50 --limt 3",
        "evar rnu logmel esc50",
        "evar run logmle esc50",
        "evar run logmel esc5 --mini   # a remark",
        "evar plot heatmap [--prob NAME]",
        "evar table",
        "evar compare logmel mfcc --format yaml > out.txt",
    ],
)
def test_the_check_notices_what_evar_does_not_take(line):
    ((_, words),) = evar_commands(f"    {line}")
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_parses(words)


def all_commands(command: click.Command = app, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from all_commands(command.get_command(click.Context(command), name), (*path, name))


@pytest.mark.parametrize(("path", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in all_commands()])
def test_the_examples_of_help_are_commands_that_evar_takes(path, command):
    found = [words for _, words in evar_commands(command.help)]
    assert found, f"evar {' '.join(path)} --help has no example"
    for words in found:
        check_parses(words)


@pytest.mark.parametrize("page", [*DOCS, *OTHERS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_that_prose_mentions_exist(page):
    everywhere = (
        {name for _, command in all_commands() for option in command.params for name in option.opts} | FOREIGN | GIVEN
    )
    prose = re.sub(r"^```.*?^```$|^    .*?$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`\n]+)`", prose):
        options = re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)
        if not span.startswith("evar "):
            strange = [name for name in options if name not in everywhere] if span.startswith("--") else []
            assert not strange, f"no verb has {strange[0]} (in `{span}`)"
            continue
        words = [word for word in span.split()[1:] if re.fullmatch(r"[\w-]+", word)]
        if not words or words[0].isupper():
            continue
        command, context, _ = find_command([words[0], *(w for w in words[1:] if has_command(words[0], w))])
        check_options(command, context, options)


def has_command(group: str, name: str) -> bool:
    command = app.get_command(click.Context(app), group)
    return isinstance(command, click.Group) and name in command.list_commands(click.Context(command))


def indented(page: Path) -> list[str]:
    """The blocks of a page that are code by indentation."""
    found = re.findall(r"^\n((?:(?: {4}.*)?\n)+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [text for block in found if (text := textwrap.dedent(block).strip("\n") + "\n").strip()]


def test_yaml_of_the_readme_is_a_card_and_a_protocol(tmp_path):
    texts = [text for page in OTHERS[:2] for text in indented(page)]
    cards = [text for text in texts if re.search(r"^layout: ", text, re.MULTILINE)]
    protocols = [text for text in texts if re.search(r"^base: (fair|paper)", text, re.MULTILINE)]
    assert cards
    assert protocols
    for text in cards:
        path = tmp_path / f"{re.search(r'^name: (.+)$', text, re.MULTILINE)[1]}.yaml"
        path.write_text(text)
        assert find_card(str(path)).title
    for text in protocols:
        (tmp_path / "protocol.yaml").write_text(text)
        assert get_protocol(tmp_path / "protocol.yaml").strengths


def test_the_encoder_of_the_readme_keeps_the_contract():
    (text,) = [text for text in indented(ROOT / "README.md") if "evar.Encoder" in text]
    names = {}
    exec(compile(text, "README.md", "exec"), names)
    failed = [result for result in check_encoder(names["Mine"]()) if not result.ok]
    assert not failed, failed


@pytest.mark.parametrize("page", [*DOCS, *OTHERS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_python_by_indentation_imports_is_there(page):
    for text in indented(page):
        if re.match(r"(import|from) \w", text):
            exec("\n".join(line for line in text.splitlines() if re.match(r"(import|from) ", line)), {})


# --- what is run -----------------------------------------------------------------------------------------------------

RUN = ("sh", "python", "setup")


def is_run(block: Block) -> bool:
    return block.language in RUN and not block.note.startswith("not run")


PAGES = [page for page in DOCS if any(map(is_run, blocks(page)))]


@pytest.fixture
def own_modules():
    """Modules that a page writes and imports are gone after it, and so is its folder on the path."""
    sys.modules.pop("mine", None)  # another test's
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not getattr(sys.modules[name], "__file__", None) or name == "mine":
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names, printed = {"__name__": "__docs__"}, ""
    for block in blocks(page):
        where = f"{block.page}:{block.line}"
        if block.note.startswith("file: "):
            (tmp_path / block.note.removeprefix("file: ")).write_text(block.text)
        elif block.note == "entry points":
            make_distribution(tmp_path, block.text)
        elif block.note == "output":
            assert_prints(block, printed)
        elif block.note.startswith("measured: "):
            words = block.note.removeprefix("measured: ").replace("results/pack", str(ROOT / "results/pack"))
            assert_prints(block, run_evar(["leaderboard", *shlex.split(words)], where, capsys), exactly=True)
        elif block.note.startswith("not run"):
            if block.language == "python":
                compile(block.text, where, "exec")
        elif block.language in ("python", "setup"):
            exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)
        elif block.language == "sh":
            printed = "".join(run_evar(words, where, capsys) for words in only_evar(block))


def test_what_needs_no_data_elsewhere_runs_too(tmp_path, monkeypatch, capsys):
    """The commands with --mini of indented code and of help texts, each once, in one folder."""
    monkeypatch.chdir(tmp_path)
    texts = {page.name: code_lines(page, fences=False) for page in [*DOCS, *OTHERS]}
    texts |= {f"evar {' '.join(path)} --help": command.help for path, command in all_commands()}
    found = {
        tuple(words): name for name, text in texts.items() for _, words in evar_commands(text) if "--mini" in words
    }
    assert found
    for words, name in found.items():
        run_evar(list(words), name, capsys)


def only_evar(block: Block) -> list[list[str]]:
    """The commands of a block; one of another program has to be marked as not run."""
    found = [words for _, words in evar_commands(block.text)]
    lines = [line for line in re.sub(r"\\\n", " ", block.text).splitlines() if line.strip() and line[0] != "#"]
    assert len(found) == len(lines), f"{block.page}:{block.line}: only evar is run here: mark it <!-- not run: WHY -->"
    return found


def run_evar(words: list[str], where: str, capsys: pytest.CaptureFixture) -> str:
    """What `evar WORDS` prints, in this process."""
    from evar.cli import main

    importlib.invalidate_caches()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    assert not stop.value.code, f"{where}: evar {shlex.join(words)}\n{out}\n{err}"
    return out


def make_distribution(folder: Path, text: str) -> None:
    """What pip writes beside an installed package with these entry points."""
    group = re.search(r'entry-points\."([\w.]+)"', text)[1]
    points = "\n".join(f"{name} = {value}" for name, value in re.findall(r'^(\w+) = "(.+)"$', text, re.MULTILINE))
    (folder / "mine-1.dist-info").mkdir()
    (folder / "mine-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (folder / "mine-1.dist-info/entry_points.txt").write_text(f"[{group}]\n{points}\n")


def assert_prints(block: Block, printed: str, exactly: bool = False) -> None:
    """Each line of the block is printed in this order; numbers, widths and the mark of the best may differ, or nothing."""

    def form(line: str) -> str:
        line = re.sub(r"-{2,}", "--", line.replace("*", ""))
        return " ".join((line if exactly else re.sub(r"\d+(\.\d+)?", "0", line)).split())

    lines = iter([form(line) for line in printed.splitlines()])
    for line in block.text.splitlines():
        wanted = form(line)
        assert wanted in lines, f"{block.page}:{block.line}: not printed: {line}\n{printed}"
