"""The ``liverl`` command: assembles the subcommands. Knows no room's work; every subcommand imports its room when
called.

Start-up time is part of the interface (``liverl --help`` and ``liverl compile`` stay under 0.4 s), so nothing heavy is
imported here, and the library of the command line only where it has work (``liverl.direct``)."""

from __future__ import annotations

import atexit
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    import typer

EPILOG = (
    "Exit codes: 0 done · 1 a bug of ours · 2 the spec or an argument is wrong · 3 the machine lacks something"
    " · 4 the run failed · 130 interrupted · 141 nobody reads the output any more"
)


def build_app() -> typer.Typer:
    """The whole command tree."""
    import typer

    from liverl import (
        cli_compile,
        cli_doctor,
        cli_export,
        cli_gc,
        cli_images,
        cli_init,
        cli_ledger,
        cli_models,
        cli_page,
        cli_proxy,
        cli_replay,
        cli_run,
        cli_score,
        cli_tasks,
        cli_trials,
        cli_version,
    )

    app = typer.Typer(
        name="liverl",
        help="Online reinforcement learning of coding agents on real repositories, from one declarative spec.",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for part in (
        cli_init,
        cli_compile,
        cli_run,
        cli_ledger,
        cli_page,
        cli_trials,
        cli_replay,
        cli_export,
        cli_gc,
        cli_images,
        cli_tasks,
        cli_score,
        cli_models,
        cli_proxy,
        cli_doctor,
        cli_version,
    ):
        part.register(app)
    return app


def main() -> None:
    """Entry point: runs the command and ends the process with its exit code."""
    if sys.argv[1:2] in (["compile"], ["check"]):
        # Most of what these make lives as long as they do: looking for garbage in it is a tenth of their time.
        gc.set_threshold(100_000)
    _have_streams()
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped; it must not end the command.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    from liverl.direct import direct
    from liverl.exits import exit_codes

    with exit_codes():
        command = direct(sys.argv[1:])
        if command is None:
            build_app()(prog_name=_name())
        else:
            _call(command)


def _have_streams() -> None:
    """Who started us may have closed a standard stream. The next file that is opened would take its place, and whatever
    a child process prints would be written into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))


def _name() -> str:
    """What help and errors call this program: what the user can type. Completion is for the name alone."""
    from runtime.suggest import PROGRAM, liverl

    completing = "_LIVERL_COMPLETE" in os.environ or any(word.endswith("-completion") for word in sys.argv[1:2])
    return PROGRAM if completing else liverl()


def _call(command: Callable[[], None]) -> None:
    """Runs the command and ends the process: taking all of its modules apart would be a sixth of its time."""
    try:
        command()
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        # What is still in the buffer must not fail at the very end.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        raise
    atexit._run_exitfuncs()
    os._exit(0)
