"""``liverl run``: compile if need be, preflight, launch, follow. Knows the launchers by target name only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runtime.errors import UserError

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of all runs.")]
TARGETS = ("local", "docker", "k8s", "ray", "skypilot")


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    spec: Annotated[
        Path | None,
        typer.Argument(
            help="A spec (.jsonnet) or a compiled bundle folder; not needed with --resume.", metavar="SPEC|BUNDLE"
        ),
    ] = None,
    target: Annotated[str, typer.Option("--target", help=f"Where to run: {', '.join(TARGETS)}.")] = "local",
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with this run: a path, an id, or `last`; `auto`, with a spec or bundle: its unfinished run,"
            " else a new one.",
        ),
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
    from compiler.registry import ALIASES
    from liverl.again import unfinished
    from liverl.compiled import bundle_files
    from liverl.exits import resume_hint
    from runtime.launch import ledger, local

    target = ALIASES.get(target, target)
    if target not in TARGETS:
        raise UserError(
            f"--target {target}: cannot be launched from here; allowed: {', '.join(TARGETS)};"
            f" `liverl compile SPEC --target {target}` writes its artifacts"
        )
    if target != "local":
        _launch(spec, target=target, resume=resume, sandbox=sandbox, tla=tla, settings=settings)
        return
    if resume is not None and resume != "auto":
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
        begun = unfinished(files, runs_dir=runs_dir) if resume == "auto" else None
        if begun is not None:
            directory = local.reopen(begun, runs_dir=runs_dir)
        else:
            directory = local.prepare(files, runs_dir=runs_dir, spec=str(spec))
    with resume_hint(f"liverl run --resume {directory.path}"):
        local.execute(directory, cache=local.cache_of(runs_dir))


def _launch(
    named: Path | None,
    *,
    target: str,
    resume: str | None,
    sandbox: str | None,
    tla: list[str] | None,
    settings: list[str] | None,
) -> None:
    """Compile if need be, then hand the bundle's folder to the target's client."""
    from liverl.compiled import bundle_files
    from liverl.launchers import launch

    if named is None:
        raise UserError(f"nothing to run; name a spec or a bundle: liverl run SPEC --target {target}")
    if resume not in (None, "auto"):
        raise UserError(
            f"--resume {resume}: run directories of {target} are not here; launch the same spec again, its job goes on"
            " with the unfinished run by itself"
        )
    files = bundle_files(named, target=target, sandbox=sandbox, tla=tla, settings=settings)
    folder = named
    if not named.is_dir():
        from compiler.bundle import write_bundle

        folder = Path("build") / json.loads(files["liverl.lock"])["experiment"] / target
        write_bundle(folder, files)
    launch(target, folder)
