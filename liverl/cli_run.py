"""``liverl run``: compile if need be, preflight, launch, follow. Knows the launchers by target name only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of all runs.")]
LAUNCHERS = ("local",)


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    spec: Annotated[
        Path | None,
        typer.Argument(
            help="A spec (.jsonnet) or a compiled bundle folder; not needed with --resume.", metavar="SPEC|BUNDLE"
        ),
    ] = None,
    target: Annotated[str, typer.Option("--target", help="Where to run: local.")] = "local",
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with this run: a path, an id, or `last`.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    sandbox: Annotated[
        str | None, typer.Option("--sandbox", help="bubblewrap or process, instead of the spec's (specs only).")
    ] = None,
    tla: Annotated[
        list[str] | None, typer.Option("--tla", metavar="KEY=VALUE", help="Top-level argument of the spec.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=JSON", help="Replace one value of the spec.")
    ] = None,
) -> None:
    """Run an experiment and follow it. Ctrl-C once stops in order, twice at once; --resume goes on."""
    from liverl.compiled import bundle_files
    from liverl.exits import resume_hint
    from runtime.errors import UserError
    from runtime.launch import ledger, local

    if target not in LAUNCHERS:
        raise UserError(
            f"--target {target}: cannot be launched from here; allowed: {', '.join(LAUNCHERS)};"
            f" `liverl compile SPEC --target {target}` writes its artifacts"
        )
    if resume is not None:
        if spec is not None or tla or settings or sandbox:
            raise UserError(
                "--resume goes on with the bundle that the run began with; leave out the spec and its options,"
                " or start a new run without --resume"
            )
        directory = local.reopen(ledger.find(resume, runs_dir=runs_dir), runs_dir=runs_dir)
    elif spec is None:
        raise UserError("nothing to run; name a spec (liverl run specs/quickstart.jsonnet), a bundle, or --resume RUN")
    else:
        files = bundle_files(spec, target=target, sandbox=sandbox, tla=tla, settings=settings)
        directory = local.prepare(files, runs_dir=runs_dir, spec=str(spec))
    with resume_hint(f"liverl run --resume {directory.path}"):
        local.execute(directory, cache=local.cache_of(runs_dir))
