"""What a command costs before it works: fresh processes that import, and where `evar run` spends its import time.

Each statement runs in a Python of its own, in turn, all files in the page cache after the first round; CPU seconds (of all
threads) tell more on a machine that does other things. The second table is `python -X importtime` of one whole `evar run` on
200 synthetic clips: seconds by package, its own modules only.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import common

TARGETS = {
    "help": {"what": "`evar --help`, whole process", "most": 0.3, "unit": "s"},
}
STATEMENTS = {
    "nothing": "pass",
    "numpy": "import numpy",
    "soundfile, soxr": "import soundfile, soxr",
    "pandas": "import pandas",
    "sklearn.metrics": "import sklearn.metrics",
    "torch": "import torch",
    "torch, pandas": "import torch, pandas",
    "torch, pandas, sklearn.metrics": "import torch, pandas, sklearn.metrics",
    "evar --help": "import sys; sys.argv = ['evar', '--help']; from evar.cli import main; main()",
    "evar encoders": "import sys; sys.argv = ['evar', 'encoders']; from evar.cli import main; main()",
    "evar run --help": "import sys; sys.argv = ['evar', 'run', '--help']; from evar.cli import main; main()",
}


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--runs", type=int, default=3)
    options = words.parse_args()
    chosen = ["nothing", "torch, pandas", "evar --help"] if options.quick else list(STATEMENTS)

    cpu: dict[str, list[float]] = {name: [] for name in chosen}

    def fresh(name: str) -> None:
        begun = children()
        subprocess.run([sys.executable, "-c", STATEMENTS[name]], check=True, stdout=subprocess.DEVNULL)
        cpu[name].append(children() - begun)

    works = {name: lambda name=name: fresh(name) for name in chosen}
    runs = 1 if options.quick else options.runs
    seconds = common.side_by_side(works, runs, 0 if options.quick else 1)
    rows = [
        {"process": name, "seconds": common.Spread.of(taken), "CPU s": common.Spread.of(cpu[name][-runs:])}
        for name, taken in seconds.items()
    ]
    whole, packages = of_run()
    found = {"help": common.Spread.of(seconds["evar --help"])}
    title = f"imports of `evar run random:byola-v1-512`: {whole:.2f} s"
    common.finish("what starting costs", rows, TARGETS, found, {title: packages}, audio="synthetic")


def children() -> float:
    """CPU seconds of all processes that have ended here."""
    times = os.times()
    return times.children_user + times.children_system


def of_run() -> tuple[float, list[dict]]:
    """Seconds that one `evar run` spends importing, and by package."""
    from synthetic import write_task

    with tempfile.TemporaryDirectory() as folder:
        card = write_task(Path(folder) / "data", "bench", 200)
        command = [sys.executable, "-X", "importtime", "-m", "evar", "run", "random:byola-v1-512", str(card), "--quiet"]
        done = subprocess.run([*command, "--data", str(card.parent)], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"imports.py: evar run: exit code {done.returncode}: {done.stderr[-300:]}")
    spent, modules = collections.Counter(), collections.Counter()
    for microseconds, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", done.stderr):
        package = name.split(".")[0]
        spent[package] += int(microseconds)
        modules[package] += 1
    rows = [{"package": name, "seconds": us / 1e6, "modules": modules[name]} for name, us in spent.most_common(10)]
    return sum(spent.values()) / 1e6, rows


if __name__ == "__main__":
    main()
