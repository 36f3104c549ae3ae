"""Code, names and links planted in what evar reads: nothing of it runs, and nothing lands or vanishes outside.

Planted code writes into the file that $EVAR_CANARY names. Faults are plants; tracebacks: Python's words, code that ran,
names that reached a terminal, a page, a table or a spreadsheet as more than text; results lost: files lost or written
outside the folder. `py:`, `hear:` and the code of one's own encoders are trusted, and not tried.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hostile_inputs
from common import Count, Finished, Options, environment, evar
from scenes import RUN, make_world
from targets_text import cells, record

FORMULAS = ("=cmd|' /C calc'!A0", "+SUM(1+1)*cmd()", "@SUM(A1)", "-2+3+cmd()")
NAMES = (
    "</script><script>window.owned=1</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))|`x`",
    "\\input{/etc/passwd}\\write18{id}$x$",
    "\x1b[2J\x1b]0;owned\x07\x9b2J",
    "evil\u202egpj.exe",
    "../../../outside/owned",
    *FORMULAS,
)
TERMINAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
MODULES = ("yaml", "numpy", "torch", "pandas", "click", "soundfile", "tqdm", "filelock", "scipy", "sklearn", "pyarrow")
STANDARD = ("csv", "json", "random", "tempfile", "string", "sitecustomize", "usercustomize", "evar_plugin", "difflib")


def drill(options: Options) -> list[Count]:
    drills = (pickles, modules, names, outputs, links, network)
    return [one(options.scratch / one.__name__, options.quick) for one in drills]


# --- code ------------------------------------------------------------------------------------------------------------


def pickles(folder: Path, quick: bool) -> Count:
    """Code in weights, checkpoints, PCA files, transformers folders, YAML; each given to the command that reads it."""
    count, world = Count("hostile code"), make_world(_made(folder))
    evil = hostile_inputs.checkpoints()[: 4 if quick else None]
    for number, content in enumerate(evil):
        (world / f"w{number}.pth").write_bytes(content)
    for number, content in enumerate(hostile_inputs.npz()):
        (world / f"p{number}.npz").write_bytes(content)
    hub = _made(world / "hub")
    (hub / "config.json").write_text(
        json.dumps(
            {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}, "hidden_size": 8}
        )
    )
    (hub / "own.py").write_text(_plant("auto_map"))
    (hub / "pytorch_model.bin").write_bytes(evil[0])
    (world / "tags.yaml").write_bytes(
        b"encoders: logmel\ntasks: !!python/object/apply:os.system ['echo yaml >> $EVAR_CANARY']\n"
    )
    card = (world / "cards" / "beeps.yaml").read_text()
    tag = "!!python/object/apply:os.system ['echo card >> $EVAR_CANARY']"
    (world / "cards" / "evil.yaml").write_text(card.replace("beeps", "evil") + f"licence: {tag}\n")
    trained = _made(world / "trained")
    (trained / "checkpoint.pt").write_bytes(evil[0])
    commands = [("run", f"byola-v2@w{number}.pth", "beeps", *RUN) for number in range(len(evil))][:: 1 if quick else 6]
    commands += [
        ("weights", "add", "byola-v2", "w0.pth"),
        ("run", "tags.yaml"),
        ("task", "evil", "--tasks-dir", "cards"),
    ]
    commands += [("run", "logmel", "beeps", "--tasks-dir", "cards", "--data", "data", "--probe", "tags.yaml")]
    if not quick:
        commands += [("encode", "hf:hub", "data/beeps", "-o", "o.npz"), ("check", "hf:hub")]
        commands += [("pretrain", "byola", "--audio", "data/beeps", "-o", "trained", "--resume", "--steps", "2")]
    for command in commands:
        _refused(count, world, command)
    return count


def modules(folder: Path, quick: bool) -> Count:
    """A folder of data, cards and results that holds modules named like those that evar imports, and is the current one."""
    count, world = Count("hostile modules"), make_world(_made(folder))
    script = Path(sys.executable).with_name("evar")
    for place in (world, world / "data", world / "data" / "beeps", _made(world / "results"), world / "cards"):
        for name in (*MODULES, *STANDARD):
            (place / f"{name}.py").write_text(_plant(name))
    ways = [([str(script)], (*MODULES, *STANDARD))] if script.exists() else []
    ways += [([sys.executable, "-m", "evar"], MODULES)]
    commands = [("run", "logmel", "beeps", *RUN), ("tasks", "--tasks-dir", "cards"), ("doctor",)]
    for start, planted in ways:
        for name in {*MODULES, *STANDARD} - {*planted}:  # what Python itself looks up before evar begins
            (world / f"{name}.py").unlink()
        for command in commands[: 1 if quick else None]:
            count.faults += len(planted)
            done = subprocess.run(
                [*start, *command], cwd=world, env=_environment(world), capture_output=True, text=True, errors="replace"
            )
            finished = Finished(done.returncode, done.stdout, done.stderr)
            count.saw(finished, " ".join(command))
            if finished.code:
                count.tracebacks += 1
                count.notes.append(f"{' '.join(command)} fails: {finished.stderr.strip()[-200:]}")
            _ran(count, world, " ".join([*start[-2:], *command]))
    return count


# --- names -----------------------------------------------------------------------------------------------------------


def names(folder: Path, quick: bool) -> Count:
    """Names that lead out of their folder, in every place that takes a name: refused, and nothing is written there."""
    count, world = Count("hostile names"), make_world(_made(folder / "a" / "b"))
    card = (world / "cards" / "beeps.yaml").read_text()
    for number, line in enumerate(("split_file: ../../../x", "folders: [../../..]", "layout: ../../x", "name: ../x")):
        key = line.partition(":")[0]
        kept = [text for text in card.splitlines() if not text.startswith(f"{key}:")]
        (world / "cards" / f"out{number}.yaml").write_text("\n".join([*kept, line]).replace("beeps", f"out{number}"))
    before = _snapshot(folder)
    out = "../../outside"
    commands = [
        ("run", f"{out}=logmel", "beeps", *RUN), ("run", "\x1b[2J=logmel", "beeps", *RUN),
        ("run", f"hf:{out}", "beeps", *RUN), ("task", out, "--tasks-dir", "cards"), ("data", "mini", out),
        ("weights", "fetch", out), ("store", "prune", "--key", out), ("run", "logmel", out, *RUN),
    ]  # fmt: skip
    commands += [("run", "logmel", f"out{number}", *RUN) for number in range(4)]
    for command in commands[:: 3 if quick else 1]:
        _refused(count, world, command)
    lost = {path for path in before.keys() | _snapshot(folder).keys() if not _inside(path, world, folder)}
    changed = [path for path in lost if before.get(path) != _snapshot(folder).get(path)]
    count.results_lost += len(changed)
    count.notes += [f"outside: {path}" for path in changed]
    return count


def outputs(folder: Path, quick: bool) -> Count:
    """Somebody's results with hostile names in them, shown and exported in every form: names stay text."""
    count, world = Count("hostile outputs"), _made(folder)
    results = world / "results"
    record(results)
    _rename(results)
    before = _snapshot(folder)
    (_made(world / "outside") / "mine").write_text("mine")
    commands = [("leaderboard",), ("leaderboard", "-o", "json"), ("report", "-o", "r.html"), ("export", "-o", "c.csv")]
    commands += [
        ("export", "-o", "p.csv", "--predictions"),
        ("table", "esc50", "--format", "text", "--protocol", "fair"),
    ]
    commands += [
        ("table", "esc50", "--protocol", "fair", "-o", f"t{suffix}") for suffix in (".md", ".tex", ".csv", ".html")
    ]
    commands += [("plot", "heatmap", "-o", "h.svg"), ("export", "--to", "tensorboard:tb")]
    for command in commands[: 4 if quick else None]:
        done = _evar(command, world)
        count.faults += len(NAMES)
        count.saw(done, " ".join(command))
        if done.code not in (0, 2):
            count.notes.append(f"{' '.join(command)}: exit {done.code}: {done.stderr.strip()[-200:]}")
            count.tracebacks += 1
        if TERMINAL.search(done.stdout + done.stderr.replace("\r", "")):
            count.tracebacks += 1
            count.notes.append(f"{' '.join(command)} prints what a terminal obeys")
    for path in sorted(world.glob("*.*")):
        for problem in _obeyed(path):
            count.tracebacks += 1
            count.notes.append(f"{path.name}: {problem}")
    kept = _snapshot(folder)
    lost = [path for path, content in before.items() if "predictions" in path and kept.get(path) != content]
    lost += [path for path in kept if path.startswith("outside") and path != "outside/mine"]
    count.results_lost += len(lost)
    count.notes += [f"lost, or outside: {path}" for path in lost]
    return count


def _rename(results: Path) -> None:
    """Hostile names in all text columns of runs.csv, one row of two folds per name, and predictions for each."""
    import pandas as pd

    from evar.results_files import RUN_COLUMNS, csv_bytes

    common, folds = cells(1)
    told = pd.read_parquet(next((results / "predictions").iterdir()))
    rows = [RUN_COLUMNS]
    for number, name in enumerate(NAMES):
        cell = f"{number + 1000:016x}"
        kept = told.assign(clip_id=[f"{name}{i}" for i in range(len(told))], group=name)
        kept.replace({"x": name}).to_parquet(results / "predictions" / f"{cell}.parquet", index=False)
        for run in folds[0]:
            row = common[0] | run | {"schema": 2, "cell_id": cell, "run_macro_f1": 0.4}
            row |= dict.fromkeys(("encoder", "weights", "layers", "pooling", "host", "setting", "device"), name)
            rows.append([str(row[column]) for column in RUN_COLUMNS])
    (results / "runs.csv").write_bytes(csv_bytes(rows))


def _obeyed(path: Path) -> Iterator[str]:
    """What a reader of this kind of file would obey."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".csv":
        for row in csv.reader(io.StringIO(text, newline="")):
            yield from (f"the formula {cell!r}" for cell in row if cell.startswith(FORMULAS))
    elif path.suffix in (".html", ".md", ".svg"):
        found = re.findall(r"<img src=x|<script>window\.owned|(?<!\\)]\(javascript:", text)
        yield from (f"{tag!r} as it is" for tag in set(found) if path.suffix == ".md" or tag[0] == "<")
    elif path.suffix == ".tex":
        yield from re.findall(r"\\(?:input|write18)\{", "\n".join(x for x in text.splitlines() if x[:1] != "%"))


# --- links and the network -------------------------------------------------------------------------------------------


def links(folder: Path, quick: bool) -> Count:
    """Links in the folders that evar clears: what they lead to stays."""
    count, world = Count("hostile links"), make_world(_made(folder / "world"))
    if _evar(("run", "logmel", "beeps", *RUN), world).code:
        raise RuntimeError("the scene could not be made")
    store = world / "embeddings"
    (one,) = {path.parent for path in store.glob("*/*/*-*/meta.json")}
    outside = _made(folder / "outside")
    shutil.copytree(one, outside / "task" / one.name)
    (outside / "mine").write_text("mine")
    before = _snapshot(outside)
    plants = {
        store / ".trash": outside,
        store / "linked": outside,
        store / "logmel" / "again": outside / "task",
        store / "other" / "task" / one.name: outside / "task" / one.name,
        world / ".mini" / "esc10": outside,
        world / ".esc10.0.tmp": outside,
    }
    for link, target in plants.items():
        _made(link.parent)
        if not link.exists():
            link.symlink_to(target)
    commands = [
        ("store", "prune", "--older", "0"),
        ("store", "prune", "--incomplete"),
        ("store", "verify"),
        ("store", "list"),
    ]
    commands += [("data", "mini", "esc10", "--to", ".")]
    for command in commands[: 2 if quick else None]:
        count.faults += len(plants)
        count.saw(_evar(command, world), " ".join(command))
        lost = [path for path, content in before.items() if _snapshot(outside).get(path) != content]
        new = [path for path in _snapshot(outside) if path not in before]
        if lost or new:
            count.results_lost += len(lost) + len(new)
            count.notes.append(f"{' '.join(command)}: outside: lost {lost[:3]}, new {new[:3]}")
            break
    return count


def network(folder: Path, quick: bool) -> Count:
    """Commands that did not ask for a download, with a proxy that counts who calls."""
    count, world = Count("hostile network"), make_world(_made(folder))
    commands = [
        ("run", "logmel", "beeps", *RUN),
        ("run", "vggish", "beeps", *RUN),
        ("tasks",),
        ("encoders",),
        ("doctor",),
    ]
    commands += [("run", "hf:facebook/wav2vec2-base", "beeps", *RUN), ("run", "logmel", "esc50"), ("weights", "list")]
    commands += [("run", "tfhub:https://tfhub.dev/google/yamnet/1", "beeps", *RUN)]
    with _listening() as (port, calls):
        proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), f"http://127.0.0.1:{port}")
        for command in commands[:: 2 if quick else 1]:
            count.faults += 1
            count.saw(_evar(command, world, **proxy, EVAR_OFFLINE="0", HF_HUB_OFFLINE="0"), " ".join(command))
            if calls:
                count.tracebacks += 1
                count.notes.append(f"{' '.join(command)} called {calls[0][:80]!r}")
                calls.clear()
    return count


@contextmanager
def _listening() -> Iterator[tuple[int, list[bytes]]]:
    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                caller, _ = server.accept()
                with caller:
                    if not ended.is_set():
                        caller.settimeout(5)
                        calls.append(caller.recv(200))

        port = server.getsockname()[1]
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield port, calls
        ended.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()


# --- one command -----------------------------------------------------------------------------------------------------


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plant(name: str) -> str:
    return f"import os\nopen(os.environ['EVAR_CANARY'], 'a').write({name + ' '!r})\nraise ImportError('planted')\n"


def _environment(world: Path, **more: str) -> dict[str, str]:
    away = {"EVAR_CANARY": str(world / "canary"), "EVAR_CACHE": str(world / "cache"), "HF_HOME": str(world / "hf")}
    return environment(**away | more)


def _evar(command: tuple[str, ...], world: Path, **more: str) -> Finished:
    told = _environment(world, **more)
    return evar(*command, cwd=world, **{name: told[name] for name in ("EVAR_CANARY", "EVAR_CACHE", "HF_HOME", *more)})


def _refused(count: Count, world: Path, command: tuple[str, ...]) -> None:
    """A command that is to end in one line, without running what is planted."""
    done = _evar(command, world)
    words = " ".join(command)
    count.faults += 1
    count.saw(done, words)
    if not done.is_one_line_error:
        count.tracebacks += not done.has_traceback
        count.notes.append(
            f"{words}: exit {done.code}, expected one line: {(done.stderr or done.stdout).strip()[-200:]}"
        )
    if TERMINAL.search(done.stdout + done.stderr.replace("\r", "")):
        count.tracebacks += 1
        count.notes.append(f"{words}: prints what a terminal obeys")
    _ran(count, world, words)


def _ran(count: Count, world: Path, words: str) -> None:
    canary = world / "canary"
    if canary.exists():
        count.tracebacks += 1
        count.notes.append(f"{words}: planted code ran: {canary.read_text()[:100]}")
        canary.unlink()


def _snapshot(folder: Path) -> dict[str, bytes]:
    """All files by relative path; links are not followed."""
    found = {}
    for root, _, files in os.walk(folder):
        for name in files:
            path = Path(root, name)
            content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[path.relative_to(folder).as_posix()] = content
    return found


def _inside(path: str, world: Path, folder: Path) -> bool:
    return (folder / path).is_relative_to(world)
