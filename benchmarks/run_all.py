"""Run every benchmark here one after the other and keep its JSON in a folder (default: benchmarks/out)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = ["run_cold", "audio_cache", "probe_search", "probe_paper", "encode", "encoders", "pretraining", "memory"]


def main() -> int:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "out"
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in BENCHMARKS:
        failed += subprocess.run([sys.executable, HERE / f"{name}.py", "--json", out / f"{name}.json"]).returncode != 0
        print(flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
