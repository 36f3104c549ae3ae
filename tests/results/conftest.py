"""The results' tests share `results_data.py`, which their subprocesses import too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
