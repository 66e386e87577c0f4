"""``liverl dashboard``: the live page of runs. Knows how to serve it and how specs are held against each other; what it
shows is ``runtime.page``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.suggest import RUNS_DIR

if TYPE_CHECKING:
    from runtime.page.library import Run

PORT = 8090


def register(app: typer.Typer) -> None:
    app.command()(dashboard)


def dashboard(
    runs_dir: Annotated[
        Path, typer.Argument(metavar="[RUNS_DIR]", envvar=RUNS_DIR, help="Folder of all runs, or one run's folder.")
    ] = Path("runs"),
    port: Annotated[int, typer.Option("--port", help="Where it listens; 0: any free port.", min=0, max=65535)] = PORT,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Every other than this machine's needs the token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            "--token", envvar="LIVERL_PAGE_TOKEN", help="The word that browsers must bring; default: a new one."
        ),
    ] = None,
) -> None:
    """Show runs in a browser while they go on: curves, health, trials, diagnosis. Ctrl-C ends it; runs do not notice.

    Example: liverl dashboard runs --port 8090
    """
    from runtime.errors import UserError
    from runtime.page.access import is_loopback, new_token
    from runtime.page.library import Library
    from runtime.page.serve import serve

    if runs_dir.exists() and not runs_dir.is_dir():
        raise UserError(f"{runs_dir}: not a folder; name the folder of all runs, or one run's folder")
    if token is not None and not token.strip():
        raise UserError("--token: empty; leave it out to get a new one, or name a word that is hard to guess")
    word = token if token is not None or is_loopback(host) else new_token()
    serve(
        Library(runs_dir),
        host=host,
        port=port,
        token=word,
        compare=differences,
        say=lambda text: print(text, flush=True),
    )


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What ``liverl diff`` says of each later run's bundle against the first's, ready for JSON."""
    from compiler.diff import compare
    from compiler.errors import SpecError
    from compiler.sides import open_side, target_of

    found: list[dict[str, Any]] = []
    for other in runs[1:]:
        bundles = [str(run.directory.bundle) for run in (runs[0], other)]
        try:
            target = target_of(bundles[0]) or "local"
            result = compare(*(open_side(bundle, target=target) for bundle in bundles))
        except (SpecError, OSError) as error:
            found.append({"b": other.name, "error": str(error), "sections": []})
            continue
        parts = {"Spec": result.facts, "What follows": result.follows, "Memory and cost": result.amounts}
        sections = [
            {"title": title, "changes": [asdict(change) for change in changes]}
            for title, changes in parts.items()
            if changes
        ]
        found.append({"b": other.name, "error": None, "sections": sections})
    return found
