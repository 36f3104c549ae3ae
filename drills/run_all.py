"""Break evar in every way we know, count what was lost: `make drill`, or `python drills/run_all.py [NAME ...]`.

A drill is a file here with `drill(options) -> list[Count]`. Nothing outside the scratch folder is touched.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from common import Count, Options, as_json, table  # noqa: E402


def names() -> list[str]:
    """The drills: every file here that defines one."""
    return sorted(path.stem for path in HERE.glob("*.py") if "\ndef drill(" in path.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--quick", action="store_true", help="a short round of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names()):
        parser.error(f"no drill {', '.join(sorted(unknown))}: expected some of {', '.join(names())}")
    counts: list[Count] = []
    for name in arguments.names or names():
        with tempfile.TemporaryDirectory(prefix=f"evar-drill-{name}-") as scratch:
            begun = time.perf_counter()
            try:
                counts += importlib.import_module(name).drill(Options(Path(scratch), arguments.seed, arguments.quick))
            except Exception as error:  # what other drills found is still told
                traceback.print_exc()
                counts.append(Count(name, notes=[f"the drill itself failed: {type(error).__name__}: {error}"]))
            print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    print(table(counts))
    for count in counts:
        for note in count.notes:
            print(f"{count.drill}: {note}")
    if arguments.json:
        arguments.json.write_text(as_json(counts))
    return 0 if all(count.passed for count in counts) else 1


if __name__ == "__main__":
    sys.exit(main())
