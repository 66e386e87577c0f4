"""``liverl init``: a folder to start in, with a spec to change.

Knows which files a newcomer needs, not what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

IGNORED = "runs/\nbuild/\n"


def register(app: typer.Typer) -> None:
    app.command()(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Made if it is missing.")] = Path(),
    template: Annotated[
        str, typer.Option("--from", metavar="NAME", help="A spec that comes with LiveRL.")
    ] = "quickstart",
) -> None:
    """Begin an experiment of your own: a copy of a spec that comes with LiveRL, and a .gitignore."""
    from compiler.library import names, specs_folder
    from runtime import suggest
    from runtime.errors import UserError

    if template not in names():
        raise UserError(f"--from {template}: no such spec; allowed: {', '.join(names())}")
    spec = folder / f"{template}.jsonnet"
    if spec.exists():
        raise UserError(f"{spec}: is there already; name another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    spec.write_bytes((specs_folder() / spec.name).read_bytes())
    ignored = folder / ".gitignore"
    if not ignored.exists():
        ignored.write_text(IGNORED, encoding="utf-8")
    print(f"{suggest.shown(spec)}: written; change it as you like")
    print("\nTry next")
    for command in ("check", "plan", "run"):
        print(f"  {suggest.liverl(command, spec)}")
