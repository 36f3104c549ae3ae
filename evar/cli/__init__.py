"""The command line: `main` runs a verb and turns every error that the user can mend into one line and exit code 2."""

from __future__ import annotations

import os
import sys


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `evar` and `python -m evar`. Exits 0, 1 (a check failed, or our own bug), 2 (bad input), 130 (Ctrl-C)."""
    # Before torch loads its OpenMP: threads that wait by spinning cost 4x on a machine that does anything else.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import click

    from evar.cli.app import app
    from evar.errors import EvarError

    try:
        code = app.main(arguments, prog_name="evar", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except EvarError as error:
        _fail(str(error), error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "evar"
        _fail(f"{error.format_message()} (see '{where} --help')", 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped; what is finished is kept, run the same command again to continue", 130)
    except BrokenPipeError:  # `evar leaderboard | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MemoryError:
        _fail("out of memory: try a smaller --batch or --limit", 2)
    except Exception as error:
        if os.environ.get("EVAR_TRACEBACK"):
            raise
        _fail(f"{type(error).__name__}: {error} (a bug of evar: EVAR_TRACEBACK=1 shows where)", 1)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    print(f"evar: error: {line}", file=sys.stderr)
    sys.exit(code)
