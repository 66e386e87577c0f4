"""``liverl eval`` and ``liverl infer``: score a checkpoint; batch trajectories. Both resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from liverl.options import Arguments, RunsDir, Sandbox, Settings, index_to_write

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
        help="A Hugging Face folder, a checkpoints/global_step_N folder, a run (its newest; `last`: the newest training"
        " run), or a name of `liverl models list`.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=0, help="At most so many tasks of each set (0: all).")]
Resume = Annotated[
    str | None, typer.Option("--resume", metavar="RUN", help="Go on with this evaluation: a path, an id, or `last`.")
]


Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="A server that serves the model: vLLM's token API with --checkpoint, or any OpenAI-compatible one with"
        " --model (texts alone). Its key: LIVERL_ENGINE_KEY.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The model's name at an OpenAI-compatible --endpoint."),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


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
    endpoint: Endpoint = None,
    model: Model = None,
    pass_k: Annotated[
        str, typer.Option("--pass", metavar="K,K...", help="pass@k for these k, of --samples trials or more.")
    ] = "1",
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="RUN", help="An earlier one of the same tasks, for a paired test."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a checkpoint, or a model that a server serves, on the spec's validation tasks.

    Example: liverl eval quickstart --checkpoint runs/demo/ID -n 8 --pass 1,8"""
    from runtime.errors import UserError
    from runtime.suggest import liverl

    if resume is None and checkpoint is None and endpoint is None:
        raise UserError(
            "--checkpoint: missing; allowed: a Hugging Face folder, checkpoints/global_step_N, a run (a path, an id,"
            f" `last`), or a name of `{liverl('models', 'list')}`; or --endpoint with"
            " --model"
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
        endpoint=endpoint,
        model=model,
        pass_k=pass_k,
        against=against,
        as_json=as_json,
    )


def _ks(text: str, samples: int) -> list[int]:
    from runtime.errors import UserError

    wanted = [int(word) for word in text.split(",") if word.strip().isdecimal()]
    if len(wanted) != len(text.split(",")) or not all(wanted):
        raise UserError(f"--pass {text}: not numbers from 1 on, such as 1,4,8")
    if max(wanted) > samples:
        raise UserError(f"--pass {text}: pass@{max(wanted)} needs --samples {max(wanted)} or more, not {samples}")
    return wanted


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
    endpoint: Endpoint = None,
    model: Model = None,
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            metavar="FILE.parquet",
            callback=index_to_write,
            help="Index of the tasks with their pass rates.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Collect trajectories on the spec's training tasks, from a checkpoint or from the policy that the spec begins
    with.

    Example: liverl infer quickstart -n 4 --index tasks.parquet"""
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
        endpoint=endpoint,
        model=model,
        index=index,
        as_json=as_json,
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
    endpoint: str | None = None,
    model: str | None = None,
    pass_k: str | None = None,
    against: str | None = None,
    index: Path | None = None,
    as_json: bool = False,
) -> None:
    import json
    import sys

    from rich.console import Console

    from liverl.compiled import bundle_files, lasting_name, spec_options
    from liverl.exits import resume_hint
    from runtime import suggest
    from runtime.errors import UserError
    from runtime.launch import ledger, score

    ks = None if pass_k is None or resume is not None else _ks(pass_k, samples)
    earlier = None if against is None else ledger.find(against, runs_dir=runs_dir).path
    if resume is not None:
        begun = ledger.find(resume, runs_dir=runs_dir)
        if pass_k is not None and (begun.path / score.REQUEST_FILE).is_file():
            ks = _ks(pass_k, score.request_of(begun).num_samples)
        directory = score.reopen(begun)
    elif spec is None:
        raise UserError("nothing to score; name a spec (quickstart is one of the library), a bundle, or --resume RUN")
    else:
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise UserError(f"--endpoint {endpoint}: not an address; allowed: http://HOST:PORT or https://HOST/PATH")
        if endpoint is not None and (checkpoint is None) == (model is None):
            raise UserError(
                "--endpoint: needs one of --checkpoint (a folder with the served model's tokenizer.json: vLLM's API,"
                " exact tokens) and --model (the name at an OpenAI-compatible server, texts alone)"
            )
        if model is not None and endpoint is None:
            raise UserError("--model: needs --endpoint, the URL of the server that has it")
        request = score.Request(kind, checkpoint, samples, limit, endpoint, model)
        files = bundle_files(spec, target="local", sandbox=sandbox, tla=tla, settings=settings)
        options = spec_options(tla=tla, settings=settings, sandbox=sandbox)
        directory = score.prepare(files, request, runs_dir=runs_dir, spec=lasting_name(spec), options=options)
    with resume_hint(suggest.on_run(f"{kind} --resume", directory.path)):
        console = Console(stderr=True) if as_json else None
        result = score.execute(directory, console=console, ks=ks or (), against=earlier, quiet=as_json)
    if index is not None:
        from runtime.tasks.index import write_tried

        result["index"] = {"path": str(index), "tasks": write_tried(directory.path, index)}
        print(f"{result['index']['tasks']} tasks with their pass rates in {index}", file=sys.stderr)
    if as_json:
        print(json.dumps(result, indent=2))
