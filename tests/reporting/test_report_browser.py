"""The page in a real browser: it draws without an error and without the network, sorts by click and key, prints."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))
import results_data as d

from evar.reporting.report import Options, write_report
from evar.results import Results

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs a browser: apt-get install chromium chromium-driver",
)
FLAGS = [
    f"--{flag}"
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
    )
]
HOSTILE = "</script><img src=x onerror='window.hacked=1'>\"& 名前🎧 " + "x" * 160
ENTER = "\ue007"


class Browser:
    """Just enough of the WebDriver protocol (W3C) to drive chromedriver without a package for it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._base = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                self._call("GET", "/status")
                break
            except OSError:
                time.sleep(0.1)
        wanted = {
            "goog:chromeOptions": {"args": [*FLAGS, f"--user-data-dir={folder}"]},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{session['sessionId']}"

    def _call(self, method: str, path: str, body: dict | None = None):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:500]) from None

    def open(self, path: Path) -> None:
        self._call("POST", "/url", {"url": path.as_uri()})
        assert self.js("return document.documentElement.dataset.ready") == "true", self.problems()

    def js(self, script: str, *arguments):
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def element(self, script: str) -> str:
        return next(iter(self.js(script).values()))

    def click(self, script: str) -> None:
        self._call("POST", f"/element/{self.element(script)}/click")

    def keys(self, script: str, text: str) -> None:
        self._call("POST", f"/element/{self.element(script)}/value", {"text": text})

    def command(self, name: str, **parameters):
        return self._call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def problems(self) -> list[str]:
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        events = [
            json.loads(entry["message"])["message"] for entry in self._call("POST", "/se/log", {"type": "performance"})
        ]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def close(self) -> None:
        self._driver.terminate()
        self._driver.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made._call("DELETE", "")
    made.close()


def record(folder: Path, number: int, task: str, **changed) -> None:
    rng = np.random.default_rng(number)
    target = np.arange(40) % 4
    names = np.array(["dog", "cat", "</td>", "d" * 60], dtype=object)
    made = d.cell(number, task=task, task_fingerprint=task, n_test=40, **changed)
    kept = {
        "clip_id": [f"{i:03d}" for i in range(40)],
        "group": "g",
        "fold": target + 1,
        "seed": 0,
        "target": names[target],
    }
    kept |= {"predicted": names[np.where(rng.random(40) < 0.6, target, 0)], "score_true": 0.5}
    Results(folder).record(made, d.runs(made), pd.DataFrame(kept))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Every part of the page: two protocols, layers, hostile names, flags, synthetic rows, a training run."""
    folder = tmp_path_factory.mktemp("report")
    for task, shift in (("esc10", 0.0), ("us8k", 0.1)):
        record(folder / "results", 1, task, encoder="alpha", mean=0.5 + shift, layers="block1")
        record(folder / "results", 2, task, encoder="alpha", mean=0.6 + shift, layers="block2")
        record(folder / "results", 3, task, encoder="beta", mean=0.69 - shift, contaminated=True)
        record(folder / "results", 4, task, encoder=HOSTILE, mean=0.4, host=HOSTILE, weights=HOSTILE)
        record(folder / "results", 5, task, encoder="gamma", synthetic=True, mean=0.99)
        record(folder / "results", 6, task, encoder="gamma", protocol="knn", mean=0.3)
    record(folder / "results", 7, "us8k", encoder="unfinished", mean=0.95)
    (folder / "run").mkdir()
    (folder / "run" / "log.csv").write_text(
        "step,loss,embedding_std\n" + "".join(f"{i},{1 / i},0.04\n" for i in range(1, 900))
    )
    (folder / "run" / "probe.csv").write_text(
        "step,encoder,task,score,split\n0,b,esc10,0.2,valid\n100,b,esc10,0.4,valid\n"
    )
    write_report(
        folder / "r.html", Options(results=str(folder / "results"), embeddings="none", training=(str(folder / "run"),))
    )
    return folder / "r.html"


BOARD = "document.querySelector('#board-0 table')"
ORDER = f"return [...{BOARD}.querySelectorAll('tbody tr')].map((row) => row.querySelector('th').title.slice(0, 14))"


def head(name: str) -> str:
    return f"return [...{BOARD}.querySelectorAll('.sort')].find((button) => button.textContent.startsWith('{name}'))"


def test_every_part_is_drawn_without_errors_or_network(browser, page):
    browser.requests()
    browser.open(page)
    sections = browser.js("return [...document.querySelectorAll('main > section')].map((part) => part.id)")
    assert sections == [
        "board-0", "board-1", "board-2", "heat", "cost", "layers", "confusion", "classes", "training", "provenance",
    ]  # fmt: skip
    drawn = browser.js(
        "return [...document.querySelectorAll('figure')].map((f) => f.querySelectorAll('svg, table').length)"
    )
    assert all(drawn), drawn
    assert (
        browser.js("return document.querySelector('main').innerHTML.match(/NaN|undefined|Infinity|\\[object/g)") is None
    )
    assert browser.problems() == []
    assert {url.partition(":")[0] for url in browser.requests()} <= {
        "file",
        "data",
        "chrome",
        "chrome-untrusted",
    }  # chrome...: the browser's own pages, no network; on a slow machine its first one is still loading


def test_names_do_not_run(browser, page):
    browser.open(page)
    assert browser.js("return window.hacked === undefined && document.querySelectorAll('img').length === 0")
    assert browser.js(
        "return [...document.querySelectorAll('#board-0 tbody th')].some((h) => h.title === arguments[0])", HOSTILE
    )


def test_a_click_on_a_head_sorts_and_another_turns_it(browser, page):
    browser.open(page)
    assert browser.js(ORDER)[:3] == ["alpha · block2", "beta", "alpha · block1"]  # by average, incomplete lines last
    assert browser.js(ORDER)[-1] == "unfinished"
    browser.click(head("esc10"))
    assert browser.js(ORDER) == ["beta", "alpha · block2", "alpha · block1", HOSTILE[:14], "unfinished"]
    assert browser.js(head("esc10") + ".closest('th').getAttribute('aria-sort')") == "descending"
    browser.click(head("esc10"))
    assert browser.js(ORDER) == [HOSTILE[:14], "alpha · block1", "alpha · block2", "beta", "unfinished"]
    browser.click(head("encoder"))
    assert browser.js(ORDER)[1:3] == ["alpha · block1", "alpha · block2"]
    assert browser.js(f"return {BOARD}.querySelectorAll('[aria-sort]').length") == 1


def test_the_keyboard_sorts_and_opens_provenance(browser, page):
    browser.open(page)
    browser.keys(head("us8k"), ENTER)
    assert browser.js(ORDER)[0] == "unfinished"
    browser.keys(f"return {BOARD}.querySelector('tbody .num')", ENTER)
    text = browser.js("return document.querySelector('dialog[open]').innerText")
    for expected in (
        "95.0 %",
        "unfinished on us8k",
        "evar run unfinished us8k",
        "2.11.0",
        "cpu (1 threads)",
        "0007",
        "fold1",
    ):
        assert expected in text
    assert not set(text.split()) & {"false", "true", "null", "undefined", "NaN"}
    browser.keys("return document.querySelector('dialog .close')", ENTER)
    assert browser.js("return document.querySelector('dialog[open]')") is None


def test_flags_and_synthetic_rows_are_told_in_words(browser, page):
    browser.open(page)
    assert "contaminated" in browser.js("return document.querySelector('#board-0').innerText")
    synthetic = browser.js("return document.querySelector('section.synthetic').innerText")
    assert "synthetic stand-ins: these numbers say nothing about the real tasks" in synthetic
    assert "gamma" in synthetic
    assert browser.js(ORDER + ".includes('gamma')") is False


def test_choices_draw_again(browser, page):
    browser.open(page)
    for name in ("heat", "cost", "confusion", "classes"):
        for at in range(browser.js(f"return document.querySelectorAll('#{name} select').length")):
            before = browser.js(f"return document.querySelector('#{name} figure').innerHTML")
            changed = browser.js(
                f"const s = document.querySelectorAll('#{name} select')[{at}]; const n = s.options.length;"
                "s.selectedIndex = n - 1; s.dispatchEvent(new Event('change')); return n > 1"
            )
            after = browser.js(f"return document.querySelector('#{name} figure').innerHTML")
            assert (before != after) == changed, (name, at)
    browser.js("document.querySelector('#every').open = true")
    time.sleep(0.3)
    assert browser.js("return document.querySelectorAll('#every tbody tr').length") == 13
    assert browser.problems() == []


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_no_width_makes_the_page_scroll_sideways(browser, page, width):
    browser.command("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    browser.open(page)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    browser.command("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_both_papers(browser, page, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.command("Emulation.setEmulatedMedia", media="", features=features)
    browser.open(page)
    worst = browser.js(
        """
        const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
        const light = (text) => {
          const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((x) => linear(x / 255));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ground = (node) => { for (; node; node = node.parentElement) {
          const c = getComputedStyle(node).backgroundColor; if (c !== 'rgba(0, 0, 0, 0)') return c; } };
        const every = document.querySelectorAll('main span, td, th, p, figcaption, li, footer, summary, label');
        const ratios = [...every].map((node) => {
          const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); });
        return Math.min(...ratios);
        """
    )
    browser.command("Emulation.setEmulatedMedia", media="", features=[])
    assert worst >= 4.5  # WCAG AA


def test_print_shows_the_tables_and_hides_the_controls(browser, page, tmp_path):
    browser.open(page)
    printed = browser.command("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")
    browser.command("Emulation.setEmulatedMedia", media="print", features=[])
    shown = browser.js(
        "return [...document.querySelectorAll('.controls, nav')].map((node) => getComputedStyle(node).display)"
    )
    table = browser.js(f"return getComputedStyle({BOARD}).display")
    browser.command("Emulation.setEmulatedMedia", media="", features=[])
    assert set(shown) == {"none"}
    assert table == "table"


def test_a_page_without_rows_says_what_to_run(browser, tmp_path):
    write_report(tmp_path / "r.html", Options(results=str(tmp_path / "none"), embeddings="none"))
    browser.open(tmp_path / "r.html")
    assert "evar run logmel" in browser.js("return document.body.innerText")
    assert browser.problems() == []


def test_a_page_with_one_row_is_whole(browser, tmp_path):
    record(tmp_path / "results", 1, "esc50", mean=1.0, ci95_low=1.0, ci95_high=1.0, std=None)
    write_report(tmp_path / "r.html", Options(results=str(tmp_path / "results"), embeddings="none"))
    browser.open(tmp_path / "r.html")
    assert (
        browser.js("return document.querySelector('main').innerHTML.match(/NaN|undefined|Infinity|\\[object/g)") is None
    )
    assert browser.js("return document.querySelector('.best')") is None  # nothing to be better than
    assert browser.problems() == []
