"""`python -m evar` is `evar`: the current folder, which Python puts first, is no place to import from.

A folder of data may hold a `yaml.py`. Encoders of one's own (`py:`) look there last, as with the command.
"""

import contextlib
import os
import sys

with contextlib.suppress(FileNotFoundError):  # a current folder that was removed holds nothing to import
    if not os.path.samefile(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "."):  # but for a checkout
        sys.path[:] = [path for path in sys.path if path not in ("", os.getcwd())]

from evar.cli import main

main()
