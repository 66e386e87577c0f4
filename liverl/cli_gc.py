"""``liverl gc``: what runs left that nobody needs, shown with its size and removed with ``--yes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liverl.options import RunsDir


def register(app: typer.Typer) -> None:
    app.command("gc", epilog="Example: liverl gc --only checkpoints --older-than 3, then the same with --yes")(collect)


def collect(
    runs_dir: RunsDir = Path("runs"),
    only: Annotated[
        list[str] | None, typer.Option("--only", help="checkpoints, trials, caches or images; again for more.")
    ] = None,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0.0, metavar="DAYS", help="Of runs that ended so long ago.")
    ] = 7.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, it is only shown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Free space: old checkpoints but the newest and the best of each run, old trials, caches, images.

    Runs that go on are never touched."""
    import json

    from runtime.errors import MachineError, UserError
    from runtime.launch import free

    wrong = [kind for kind in only or () if kind not in free.KINDS]
    if wrong:
        raise UserError(f"--only {wrong[0]}: unknown; allowed: {', '.join(free.KINDS)}")
    found = free.find(runs_dir, kinds=only or free.KINDS, older_than_days=older_than)
    problems = free.remove(found) if yes else []
    left = [one for one in found if yes and one.there]
    total = sum(one.size for one in found if one not in left)
    if as_json:
        rows = [
            {"kind": one.kind, "path": str(one.path), "bytes": one.size, "why": one.why, "left": one in left}
            for one in found
        ]
        print(json.dumps({"removed": yes, "bytes": total, "found": rows, "problems": problems}, indent=2))
    else:
        for one in found:
            why = "left: in use by now, or not to be removed" if one in left else one.why
            print(f"{one.size / 1e6:10.1f} MB  {one.kind:<11}  {one.path}  ({why})")
        verb = "freed" if yes else "to be freed; --yes removes it"
        nothing = (
            f"nothing to free below {runs_dir}, of runs that ended {older_than:g} days ago or earlier; "
            "--older-than DAYS looks at newer ones"
        )
        print(f"{total / 1e6:10.1f} MB  {verb}" if found else nothing)
    if problems:
        raise MachineError("\n".join(problems), fix="make these folders yours, or remove them as their owner")
