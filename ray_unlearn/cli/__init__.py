"""The command line: one subcommand per stage. Heavy imports happen inside the subcommands.

    ray-unlearn generate faces.yaml --workers 2
    sys.exit(main(["status", "faces.yaml"]))

Exit codes: 0 all done, 1 error, 2 wrong usage or study, 3 missing runs, 130/143 interrupted and resumable. An error is
one line on standard error: what, where, expected, found, what to do. A signal ends every subcommand within
`interrupts.GRACE_S` seconds.

Does not cover: the work of a subcommand, which is done in the room that it calls.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from ray_unlearn import __version__
from ray_unlearn.cli import (
    all_,
    evaluate,
    examples,
    export,
    forget,
    generate,
    import_,
    init,
    leaderboard,
    logs,
    methods,
    plan,
    quickstart,
    report,
    status,
    submit,
    verify,
)
from ray_unlearn.cli.epilogs import epilog
from ray_unlearn.cli.options import naming_study
from ray_unlearn.errors import Interrupted, RayUnlearnError, first_line
from ray_unlearn.terminal import Escaping, print_error, print_line
from ray_unlearn.usercode.exits import threads_left

app = typer.Typer(
    name="ray-unlearn",
    help="Make populations of unlearned and retrained checkpoints from one study file, and score unlearning methods.",
    epilog="Exit codes: 0 all done, 1 error, 2 wrong usage or study, 3 missing runs, 130 or 143 a signal (resumable).",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for command in (
    quickstart.quickstart,
    init.init,
    examples.examples,
    methods.methods,
    plan.plan,
    generate.prepare,
    generate.generate,
    status.status,
    verify.verify,
    logs.logs,
    evaluate.evaluate,
    report.report,
    export.export,
    submit.submit,
):
    app.command(epilog=epilog(command.__name__))(naming_study(command))
app.command(epilog=epilog("leaderboard"))(leaderboard.leaderboard)
app.command("import", epilog=epilog("import"))(import_.import_)
app.command(epilog=epilog("forget"))(forget.forget)
app.command("all", epilog=epilog("all"))(naming_study(all_.everything))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    from ray_unlearn.interrupts import GRACE_S, RESUMABLE, ends_within, interrupts

    try:
        with ends_within(GRACE_S), interrupts():
            given = list(arguments) if arguments is not None else None
            return int(_command()(args=given, prog_name="ray-unlearn", standalone_mode=False) or 0)
    except SystemExit as done:
        return _left(done)
    except Interrupted as stop:
        print_error(f"{stop}; {RESUMABLE}")
        return stop.exit_code
    except RayUnlearnError as error:
        print_error(f"error: {error}")
        return error.exit_code
    except OSError as error:
        print_error(f"error: {error.filename or 'the system'}: {error.strerror or error}")
        return 1
    except Exception as error:
        return _shown(error)


@functools.cache
def _command() -> Any:
    """Return the command line as the framework runs it, which takes 18 ms to build; a process may run many commands."""
    return typer.main.get_command(app)


def _left(done: SystemExit) -> int:
    """Return the exit code where something ends Python: the framework's completion, or a user's code, which fails."""
    *_, (frame, _line) = traceback.walk_tb(done.__traceback__)
    if str(frame.f_globals.get("__name__")).partition(".")[0] == typer.__name__ and isinstance(done.code, int):
        return done.code
    print_error(f"error: {first_line(done)}: code of a net, a method or a plugin, which ended this command")
    return 1


def _shown(error: Any) -> int:
    """Print an error that no room raised: a wrong command line, or a bug with its traceback; return the exit code."""
    stream = Escaping(sys.stderr)
    if hasattr(error, "format_message"):  # the command line framework's, whose class has another name in each version
        error.show(file=stream)
        return int(error.exit_code)
    traceback.print_exception(error, file=stream)
    return 1


def run() -> NoReturn:
    """Run the `ray-unlearn` command and exit. Ctrl-C while Python itself starts or ends shows no traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with suppress(AttributeError, OSError, ValueError):  # where standard error is no file
        faulthandler.enable()  # a crash in C code of a net shows the net's line
    code = main()
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):  # Python would wait for threads that wait for a storage
        _end(code)
    if threads := threads_left():  # and for these without end
        print_error(f"warning: the net's code left a thread running ({', '.join(threads)}); it ends with this command")
        atexit._run_exitfuncs()
        _end(code)
    sys.exit(code)


def _end(code: int) -> NoReturn:
    """End this process now, without waiting for its threads."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Make populations of unlearned and retrained checkpoints from one study file, and score unlearning methods."""
    if version:
        print_line(__version__)
        raise typer.Exit
