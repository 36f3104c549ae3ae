"""The command line: `main` runs a verb and turns every error that the user can mend into one line and exit code 2."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import Any

from evar.errors import EvarError, out_of_memory, printable


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `evar` and `python -m evar`. Exits 0, 1 (a check failed, or our own bug), 2 (bad input), 130 (Ctrl-C)."""
    # Before torch loads its OpenMP: threads that wait by spinning cost 4x on a machine that does anything else.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import click

    from evar.cli.app import VERBS, app

    warnings.showwarning = _warn
    no_words = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click before 8.2 shows the help itself
    try:
        with contextlib.redirect_stdout(_Printable(sys.stdout)):
            code = app.main(arguments, prog_name="evar", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except EvarError as error:
        _fail(str(error), error.exit_code)
    except no_words as error:  # `evar`, `evar store`: what there is
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        verb = [word for word in arguments or sys.argv[1:] if word in VERBS][:1]
        where = error.ctx.command_path if error.ctx else " ".join(["evar", *verb])
        _fail(f"{error.format_message()} (see '{where} --help')", 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped; what is finished is kept, run the same command again to continue", 130)
    except (_ReaderLeft, BrokenPipeError):  # `evar leaderboard | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if out_of_memory(error):
            _fail("out of memory: try a smaller --batch or --limit, or end other programs", 2)
        if folder_is_gone():
            _fail(GONE, 2)
        if os.environ.get("EVAR_TRACEBACK"):
            raise
        _fail(f"{type(error).__name__}: {error} (a bug of evar: EVAR_TRACEBACK=1 shows where)", 1)


GONE = "the current folder has been removed or moved away: cd to one that is there, and run the same command again"


def folder_is_gone() -> bool:
    """Whether the current folder was removed: then no relative name means anything, and libraries crash on import."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


class _ReaderLeft(Exception):
    """Nobody reads what is printed any more. No OSError: of one for a broken pipe click makes exit code 1."""


class _Printable:
    """A text stream on which names that others chose cannot move the cursor or retitle the window."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(printable(text))
        except BrokenPipeError:
            raise _ReaderLeft from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise _ReaderLeft from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_show_another = warnings.showwarning


def _warn(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
    """A warning of ours in one line; those of other packages as Python shows them."""
    if os.path.abspath(filename).startswith(_PACKAGE):
        print(printable(f"evar: warning: {' '.join(str(message).split())}"), file=sys.stderr)
    else:
        _show_another(message, category, filename, *rest, **more)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    print(printable(f"evar: error: {line}"), file=sys.stderr)
    sys.exit(code)
