"""Options that several commands share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from runtime.suggest import RUNS_DIR


def no_file(folder: Path) -> Path:
    """A callback for ``--runs-dir``: what is suggested for a folder without runs works in no file. Raises
    ``UserError``."""
    from runtime.errors import UserError

    if os.path.lexists(folder) and not os.path.isdir(folder):  # noqa: PTH112 - a name that is too long is no fault here
        raise UserError(f"--runs-dir {folder}: is no folder; name another folder, or one that does not exist yet")
    return folder


RunsDir = Annotated[Path, typer.Option("--runs-dir", envvar=RUNS_DIR, callback=no_file, help="Folder of all runs.")]
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


def to_write(out: Path | None) -> Path | None:
    """A callback for ``-o``: what cannot be written there is said before the work and not after it. Leaves nothing
    behind. Raises ``UserError``."""
    return _writable(out, "-o")


def index_to_write(out: Path | None) -> Path | None:
    """``to_write`` for ``--index``."""
    return _writable(out, "--index")


def _writable(out: Path | None, option: str) -> Path | None:
    from runtime.errors import UserError

    if out is None:
        return None
    if out.exists() and not out.is_file() and not out.is_dir():
        # Files are replaced whole: root would put one in the place of /dev/null.
        raise UserError(
            f"{option} {out}: is a device or a pipe, and what is there is replaced; name a file or a folder"
        )
    place = out if out.is_dir() else out.parent
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{option} {out}: {place} is no folder; name another file or folder")
    try:
        Path(tempfile.mkdtemp(prefix=".liverl-", dir=place)).rmdir()
        if out.is_file() and not os.access(out, os.W_OK):
            raise PermissionError(13, "the file may not be written")
    except OSError as error:
        raise UserError(
            f"{option} {out}: nothing can be written in {place}: {error.strerror}; name another file or folder"
        ) from None
    return out


def folder_to_write(out: Path | None) -> Path | None:
    """``to_write`` for what becomes a folder."""
    from runtime.errors import UserError

    if out is not None and os.path.lexists(out) and not out.is_dir():
        raise UserError(f"-o {out}: is no folder; name another file or folder")
    return to_write(out)


def new_folder(out: Path) -> None:
    """For ``-o``: what is made comes beside nothing else. Raises ``UserError``."""
    from runtime.errors import UserError

    if out.exists() and any(out.iterdir()):
        raise UserError(f"-o {out}: not empty; give a new folder")
