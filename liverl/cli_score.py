"""``liverl eval`` and ``liverl infer``: score a checkpoint; batch trajectories. Both resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from liverl.options import Arguments, RunsDir, Sandbox, Settings

Spec = Annotated[
    Path | None,
    typer.Argument(
        metavar="SPEC|BUNDLE",
        help="A spec (.jsonnet, or a name of the library) or a compiled bundle; not needed with --resume.",
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="A Hugging Face folder, a checkpoints/global_step_N folder, or a run directory (its newest).",
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=0, help="At most so many tasks of each set (0: all).")]
Resume = Annotated[
    str | None, typer.Option("--resume", metavar="RUN", help="Go on with this evaluation: a path, an id, or `last`.")
]


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)
    app.command()(infer)


def evaluate(
    spec: Spec = None,
    checkpoint: Checkpoint = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Trials per task.")] = 1,
    limit: Limit = 0,
    resume: Resume = None,
    runs_dir: RunsDir = Path("runs"),
    sandbox: Sandbox = None,
    tla: Arguments = None,
    settings: Settings = None,
) -> None:
    """Score a checkpoint on the spec's validation tasks."""
    from runtime.errors import UserError

    if resume is None and checkpoint is None:
        raise UserError(
            "--checkpoint: missing; allowed: a Hugging Face folder, checkpoints/global_step_N, or a run directory"
        )
    _score(
        "eval",
        spec,
        checkpoint=checkpoint,
        samples=samples,
        limit=limit,
        resume=resume,
        runs_dir=runs_dir,
        sandbox=sandbox,
        tla=tla,
        settings=settings,
    )


def infer(
    spec: Spec = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Trajectories per task.")] = 1,
    checkpoint: Checkpoint = None,
    limit: Limit = 0,
    resume: Resume = None,
    runs_dir: RunsDir = Path("runs"),
    sandbox: Sandbox = None,
    tla: Arguments = None,
    settings: Settings = None,
) -> None:
    """Collect trajectories on the spec's training tasks, from a checkpoint or from the policy that the spec begins
    with."""
    _score(
        "infer",
        spec,
        checkpoint=checkpoint,
        samples=samples,
        limit=limit,
        resume=resume,
        runs_dir=runs_dir,
        sandbox=sandbox,
        tla=tla,
        settings=settings,
    )


def _score(
    kind: Literal["eval", "infer"],
    spec: Path | None,
    *,
    checkpoint: str | None,
    samples: int,
    limit: int,
    resume: str | None,
    runs_dir: Path,
    sandbox: str | None,
    tla: list[str] | None,
    settings: list[str] | None,
) -> None:
    from liverl.compiled import bundle_files, lasting_name, spec_options
    from liverl.exits import resume_hint
    from runtime import suggest
    from runtime.errors import UserError
    from runtime.launch import ledger, score

    if resume is not None:
        directory = score.reopen(ledger.find(resume, runs_dir=runs_dir))
    elif spec is None:
        raise UserError("nothing to score; name a spec (quickstart is one of the library), a bundle, or --resume RUN")
    else:
        request = score.Request(kind, checkpoint, samples, limit)
        files = bundle_files(spec, target="local", sandbox=sandbox, tla=tla, settings=settings)
        options = spec_options(tla=tla, settings=settings, sandbox=sandbox)
        directory = score.prepare(files, request, runs_dir=runs_dir, spec=lasting_name(spec), options=options)
    with resume_hint(suggest.on_run(f"{kind} --resume", directory.path)):
        score.execute(directory)
