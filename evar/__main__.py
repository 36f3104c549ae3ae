"""`python -m evar` is `evar`."""

from evar.cli import main

main()
