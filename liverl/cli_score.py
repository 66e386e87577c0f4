"""``liverl eval`` and ``liverl infer``: score a checkpoint; batch trajectories. Both resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of all runs.")]
Spec = Annotated[
    Path | None,
    typer.Argument(metavar="SPEC|BUNDLE", help="A spec (.jsonnet) or a compiled bundle; not needed with --resume."),
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
Sandbox = Annotated[str | None, typer.Option("--sandbox", help="bubblewrap or process, instead of the spec's.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=JSON", help="Replace one value of the spec.")
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
    settings: list[str] | None,
) -> None:
    from liverl.compiled import bundle_files
    from liverl.exits import resume_hint
    from runtime.errors import UserError
    from runtime.launch import ledger, local, score

    if resume is not None:
        directory = score.reopen(ledger.find(resume, runs_dir=runs_dir))
    elif spec is None:
        raise UserError(
            f"nothing to score; name a spec (liverl {kind} specs/quickstart.jsonnet), a bundle, or --resume RUN"
        )
    else:
        request = score.Request(kind, checkpoint, samples, limit)
        files = bundle_files(spec, target="local", sandbox=sandbox, settings=settings)
        directory = score.prepare(files, request, runs_dir=runs_dir, spec=str(spec))
    with resume_hint(f"liverl {kind} --resume {directory.path}"):
        score.execute(directory, cache=local.cache_of(runs_dir))
