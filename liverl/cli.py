"""The ``liverl`` command: assembles the subcommands. Knows no room's work; every subcommand imports its room when
called.

Start-up time is part of the interface (``liverl --help`` and ``liverl compile`` stay under 0.4 s), so nothing heavy is
imported here."""

from __future__ import annotations

import typer

from liverl import cli_compile, cli_doctor, cli_ledger, cli_proxy, cli_run, cli_score, cli_tasks
from liverl.exits import exit_codes

EPILOG = (
    "Exit codes: 0 done · 1 a bug of ours · 2 the spec or an argument is wrong · 3 the machine lacks something"
    " · 4 the run failed · 130 interrupted"
)


def build_app() -> typer.Typer:
    """The whole command tree."""
    app = typer.Typer(
        name="liverl",
        help="Online reinforcement learning of coding agents on real repositories, from one declarative spec.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for part in (cli_compile, cli_run, cli_ledger, cli_tasks, cli_score, cli_proxy, cli_doctor):
        part.register(app)
    return app


def main() -> None:
    """Entry point: runs the command and ends the process with its exit code."""
    with exit_codes():
        build_app()(prog_name="liverl")
