"""``liverl --version``. Knows nothing but where the number stands."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.callback()(options)


def _print(wanted: bool) -> None:
    if wanted:
        from compiler.compiled import VERSION

        typer.echo(VERSION)
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print, is_eager=True)
    ] = False,
) -> None:
    """What stands before the name of a command."""
