"""Run every benchmark of this folder, each in a process of its own, and draw up what was aimed at and what was measured.

A benchmark is a file here with a `main()`. Each leaves NAME.json in the output folder; `summary.json` there holds the
machine, its limits and every target. A benchmark that fails is told, and the exit code is 1.

    python benchmarks/run_all.py                        # everything: `make bench`
    python benchmarks/run_all.py --quick                # minutes become seconds, and numbers mean nothing
    python benchmarks/run_all.py --only encode,decode
    python benchmarks/run_all.py --table                # the table again, from the JSON that is there
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def benchmarks() -> list[str]:
    """The names of the benchmarks here, in order: files whose source defines `main`, without importing them."""
    return [path.stem for path in sorted(HERE.glob("*.py")) if path != Path(__file__).resolve() and _has_main(path)]


def targets(name: str) -> dict[str, dict]:
    """What a benchmark declares as TARGETS, a literal, without importing it."""
    for node in ast.parse((HERE / f"{name}.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "TARGETS":
            return ast.literal_eval(node.value)
    return {}


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", nargs="?", type=Path, default=HERE / "out", help="default: benchmarks/out")
    words.add_argument("--quick", action="store_true", help="a short round: shows that all of them work")
    words.add_argument("--only", metavar="NAME,NAME", help="these; the others' JSON stays in the summary")
    words.add_argument("--table", action="store_true", help="measure nothing; print the table from the JSON there")
    words.add_argument("--list", action="store_true", help="say what there is")
    options = words.parse_args()
    if options.list:
        print("\n".join(benchmarks()))
        return 0
    names = options.only.split(",") if options.only else benchmarks()
    if unknown := set(names) - set(benchmarks()):
        words.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(benchmarks())}")
    options.out.mkdir(parents=True, exist_ok=True)
    failed, spent = [], {}
    for name in [] if options.table else names:
        code, spent[name] = measure(name, options.out, options.quick)
        print(
            f"\n{name}: {f'failed with exit code {code}' if code else 'done'} after {spent[name]:.0f} s\n", flush=True
        )
        failed += [name] if code else []
    found = summarized(options.out) | {"failed": failed, "seconds": spent}
    (options.out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")

    from common import summary

    print(f"## Targets\n\n{summary([target for one in found['benchmarks'].values() for target in one['targets']])}")
    for name in failed:
        print(f"{name} failed", file=sys.stderr)
    return 1 if failed else 0


def measure(name: str, out: Path, quick: bool) -> tuple[int, float]:
    """(exit code, seconds) of one benchmark; an old result is removed first, so that it never passes for a new one."""
    (out / f"{name}.json").unlink(missing_ok=True)
    command = [sys.executable, HERE / f"{name}.py", "--json", out / f"{name}.json", *(["--quick"] if quick else [])]
    begun = time.perf_counter()
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}  # as the `evar` command does
    code = subprocess.run(command, env=environment).returncode
    return code, time.perf_counter() - begun


def summarized(out: Path) -> dict:
    """Machine, limits and targets of all benchmarks whose JSON is in `out`; a target without a result is `not measured`."""
    found: dict = {"benchmarks": {}}
    for name in benchmarks():
        declared = [{**target, "measured": None, "spread": None, "met": None} for target in targets(name).values()]
        path = out / f"{name}.json"
        held = json.loads(path.read_text()) if path.exists() else {}
        found["benchmarks"][name] = {
            "audio": held.get("audio"),
            "machine": held.get("machine"),
            "limits": held.get("limits"),
            "targets": held.get("targets") or declared,
        }
    return found


def _has_main(path: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(path.read_text()).body)


if __name__ == "__main__":
    sys.exit(main())
