"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runtime.suggest import RUNS_DIR

RunsDir = Annotated[Path, typer.Option("--runs-dir", envvar=RUNS_DIR, help="Folder of all runs.")]
Sandbox = Annotated[str | None, typer.Option("--sandbox", help="bubblewrap or process, instead of the spec's.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=JSON", help="Replace one value of the spec.")
]
Arguments = Annotated[
    list[str] | None, typer.Option("--tla", metavar="KEY=VALUE", help="Top-level argument of the spec.")
]


def cache_folder(given: Path | None = None) -> Path:
    """Where fetched and made things are kept, shared by all runs of this machine."""
    return given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverl"


def kept_folder(runs_dir: Path) -> Path:
    """Where the runs of a folder keep what they share (``RunDirectory.cache``): what a command makes for a spec lies
    there, so that its runs find it."""
    return runs_dir / ".cache"


def new_folder(out: Path) -> None:
    """For ``-o``: what is made comes beside nothing else. Raises ``UserError``."""
    from runtime.errors import UserError

    if out.exists() and any(out.iterdir()):
        raise UserError(f"-o {out}: not empty; give a new folder")
