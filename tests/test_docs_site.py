"""Fear: the site does not build, lacks a page or a verb, or a reader without network sees half of it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from evar.cli.app import VERBS, app
from evar.extras import missing

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name for path in (ROOT / "docs").glob("*.md")}
LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}

pytestmark = pytest.mark.skipif(bool(missing("docs")), reason="the docs extra is absent")


class Page(HTMLParser):
    """What one page loads, where it links to, and the anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.anchors = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in LOADS and given.get(LOADS[tag]) and given.get("rel") != "canonical":
            self.loads.add(given[LOADS[tag]])
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        if given.get("id"):
            self.anchors.add(given["id"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site as `make docs` builds it (without --quiet, under which --strict sees no warnings)."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_of_the_navigation_is_still_to_be_written():
    named = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == PAGES, "mkdocs.yml and docs/ differ"


def test_every_page_is_built_and_in_the_navigation(site):
    shown = (site / "index.html").read_text(encoding="utf-8")
    for name in PAGES:
        html = name.replace(".md", ".html")
        assert (site / html).is_file()
        assert f'href="{html}"' in shown or name == "index.md", f"{name} is not in the navigation of mkdocs.yml"


def test_nothing_is_loaded_from_elsewhere(site):
    for path in set(site.rglob("*.html")) - {site / "404.html"}:  # which only a server shows
        for target in Page(path).loads:
            assert not re.match(r"(https?:)?//", target), f"{path.name} loads {target}"
            assert (path.parent / unquote(target.split("?")[0].split("#")[0])).exists(), f"{path.name} lacks {target}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(@import|url\(\s*['\"]?)\s*(https?:)?//", path.read_text(encoding="utf-8")), path


def test_every_link_within_the_site_leads_somewhere(site):
    pages = {path.name: Page(path) for path in site.glob("*.html") if path.name != "404.html"}
    for name, page in pages.items():
        for link in page.links:
            target, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link) or target in ("", ".", "./") or "/" in target:
                target = name if link.startswith("#") else None
            if target is not None:
                assert target in pages, f"{name} links to {link}"
                assert not anchor or anchor in pages[target].anchors, f"{name} links to {link}"


def test_the_reference_has_every_verb_with_its_options_and_examples(site):
    page = site / "cli.html"
    text = re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")).replace("&amp;", "&")
    anchors, found = Page(page).anchors, []

    def visit(command: click.Command, path: str) -> None:
        found.append(path)
        assert path.replace(" ", "-") in anchors, f"{path} is not in the command line reference"
        for option in command.params:
            for name in option.opts if isinstance(option, click.Option) else ():
                assert name in text, f"{path} {name}"
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                visit(command.get_command(click.Context(command), name), f"{path} {name}")

    visit(app, "evar")
    assert len(found) > len(VERBS)
    assert "\b" not in text
    assert "Sentinel" not in text
    assert re.search(r"<code[^>]*>evar store prune --incomplete --dry-run", page.read_text(encoding="utf-8"))
