"""``liverl run``: compile if need be, preflight, launch, follow. Knows the launchers by target name only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from liverl.cli_page import PORT
from liverl.options import Arguments, RunsDir, Settings
from runtime import suggest
from runtime.errors import UserError

TARGETS = ("local", "docker", "k8s", "ray", "skypilot")


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    spec: Annotated[
        Path | None,
        typer.Argument(
            help="A spec (.jsonnet, or a name of the library: quickstart) or a compiled bundle folder; not needed with"
            " --resume.",
            metavar="SPEC|BUNDLE",
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
    tla: Arguments = None,
    settings: Settings = None,
) -> None:
    """Run an experiment and follow it. Ctrl-C once stops in order, twice at once; --resume goes on."""
    from compiler.registry import ALIASES
    from liverl.again import unfinished
    from liverl.compiled import bundle_files, lasting_name, spec_options
    from liverl.exits import resume_hint
    from liverl.unread_output import outlive_readers
    from runtime.launch import ledger, local

    outlive_readers()
    target = ALIASES.get(target, target)
    if target not in TARGETS:
        raise UserError(
            f"--target {target}: cannot be launched from here; allowed: {', '.join(TARGETS)};"
            " `compile` takes other targets too, and writes their artifacts"
        )
    if target != "local":
        _launch(spec, target=target, resume=resume, runs_dir=runs_dir, sandbox=sandbox, tla=tla, settings=settings)
        return
    if resume is not None and resume != "auto":
        if spec is not None or tla or settings or sandbox:
            raise UserError(
                "--resume goes on with the bundle that the run began with; leave out the spec and its options,"
                " or start a new run without --resume"
            )
        directory = local.reopen(ledger.find(resume, runs_dir=runs_dir))
    elif spec is None:
        raise UserError(
            f"nothing to run; name a spec (`{suggest.liverl('run', 'quickstart')}`), a bundle, or --resume RUN"
        )
    else:
        files = bundle_files(spec, target=target, sandbox=sandbox, tla=tla, settings=settings)
        begun = unfinished(files, runs_dir=runs_dir) if resume == "auto" else None
        if begun is not None:
            directory = local.reopen(begun)
        else:
            options = spec_options(tla=tla, settings=settings, sandbox=sandbox)
            directory = local.prepare(files, runs_dir=runs_dir, spec=lasting_name(spec), options=options)
    page = suggest.liverl("dashboard", directory.runs_dir)
    print(f"watch it: {page}", flush=True)
    print(f"      at: http://127.0.0.1:{PORT}/#/overview?run={_page_name(directory.path)}", flush=True)
    with resume_hint(suggest.on_run("run --resume", directory.path)):
        local.execute(directory)


def _page_name(run: Path) -> str:
    return quote(f"{run.parent.name}/{run.name}", safe="")


def _launch(
    named: Path | None,
    *,
    target: str,
    resume: str | None,
    runs_dir: Path,
    sandbox: str | None,
    tla: list[str] | None,
    settings: list[str] | None,
) -> None:
    """Compile if need be, then hand the bundle's folder to the target's client."""
    from compiler.library import find_spec
    from liverl.compiled import bundle_files
    from liverl.launchers import launch

    if named is None:
        raise UserError(
            f"nothing to run; name a spec or a bundle: `{suggest.liverl('run', 'quickstart', '--target', target)}`"
        )
    if resume not in (None, "auto"):
        raise UserError(
            f"--resume {resume}: run directories of {target} are not here; launch the same spec again, its job goes on"
            " with the unfinished run by itself"
        )
    files = bundle_files(named, target=target, sandbox=sandbox, tla=tla, settings=settings)
    folder = find_spec(named)
    if not folder.is_dir():
        from compiler.bundle import write_bundle

        folder = Path("build") / json.loads(files["liverl.lock"])["experiment"] / target
        write_bundle(folder, files)
    launch(target, folder, runs_dir=runs_dir)
