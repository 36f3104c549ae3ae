"""The tests of security share the targets and the hostile inputs of the drills."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "drills"))
