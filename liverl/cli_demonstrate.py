"""``liverl tasks demonstrate``: a file of demonstrations for the supervised stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runtime.config import RuntimeConfig
    from runtime.config.demonstrations import MadeDemonstrations

from liverl.options import Arguments, RunsDir, Sandbox, Settings, to_write
from liverl.still_there import say, still_there
from runtime.run_paths import kept_folder


def demonstrate(
    spec: Annotated[
        Path,
        typer.Argument(metavar="SPEC|BUNDLE", help="Whose agent, policy and validation sets these are for."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", callback=to_write, metavar="FILE.parquet", help="Receives the demonstrations."),
    ],
    tasks: Annotated[
        list[Path] | None,
        typer.Option("--tasks", metavar="DIR", help="Verified tasks to solve in whole trials; may be repeated."),
    ] = None,
    times: Annotated[int | None, typer.Option("--times", min=1, help="Trials of each task. Default: 1.")] = None,
    pairs: Annotated[
        int, typer.Option("--pairs", metavar="TOKENS", min=0, help="Tokens of bug-repair pairs; no test is run.")
    ] = 0,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="Source code for pairs: stdlib, installed, or a folder of packages; may be repeated. Default: both.",
        ),
    ] = None,
    second_try: Annotated[
        float | None,
        typer.Option("--second-try", min=0, max=1, help="Share in which another edit fails first. Default: 0.3."),
    ] = None,
    kind_share: Annotated[
        float | None,
        typer.Option("--per-kind-fraction", min=0.01, max=1, help="Largest share of one kind of bug. Default: 0.1."),
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", help="Another policy than the spec's; only its tokenizer is read.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Processes, and trials at once.")] = None,
    runs_dir: RunsDir = Path("runs"),
    sandbox: Sandbox = None,
    tla: Arguments = None,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show a pretrained policy what to write: repairs of verified tasks as whole trials, and bug-repair pairs; without
    --tasks and --pairs those of the spec's own policy.warm_start.

    Nothing of the spec's validation sets is in it. Example: liverl tasks demonstrate one-gpu-real -o demos.parquet
    --pairs 100000000 --tasks tasks/train"""
    from liverl.compiled import bundle_files
    from runtime.config import DirectorySource, PretrainedPolicy, RuntimeConfig, TaskSet
    from runtime.config.demonstrations import MadeDemonstrations, Pairs
    from runtime.demonstrations.make import make, refuse, summary
    from runtime.demonstrations.many import speaker_of
    from runtime.demonstrations.validation import held_out_of
    from runtime.errors import UserError
    from runtime.launch.model import locate
    from runtime.tasks.directories import find_task_directories, load_tasks
    from runtime.tasks.prepare import prepare

    if out.suffix != ".parquet" or out.is_dir():
        raise UserError(f"-o {out}: not a .parquet file; demonstrations are written as Parquet")
    files = bundle_files(spec, target="local", sandbox=sandbox, tla=tla, settings=settings)
    config = RuntimeConfig.model_validate_json(files["runtime.json"])
    if policy is None and not isinstance(config.policy, PretrainedPolicy):
        raise UserError("policy.type: a new policy is demonstrated by its own warm start; name another by --policy")
    named = policy or str(getattr(config.policy, "path", ""))
    left_out: list[str] = []
    cache = kept_folder(runs_dir)
    if tasks or pairs:
        wanted = MadeDemonstrations(
            tasks=DirectorySource(paths=tuple(map(str, tasks))) if tasks else None,
            pairs=Pairs(tokens=pairs) if pairs else None,
        )
    else:
        wanted = _of_spec(config)
    wanted = _changed(wanted, times=times, second_try=second_try, kind_share=kind_share, sources=sources)
    model = locate(named)
    speaker_of(model, config.rollout.tool_parser, refuse(config, wanted))  # before tasks take their time
    found = []
    with still_there("making demonstrations"):
        if tasks:
            found = load_tasks(find_task_directories(tasks), on_problem=left_out.append)
        elif wanted.tasks is not None:
            found = prepare(
                TaskSet(name="demonstrations", source=wanted.tasks),
                cache=cache,
                on_problem=left_out.append,
                on_progress=say,
                environment=config.environment,
            )
        made = make(
            wanted,
            out,
            config=config,
            model_folder=model,
            tasks=found,
            held_out=held_out_of(config, cache=cache),
            processes=jobs,
            say=say,
        )
    for problem in left_out:
        typer.echo(f"left out: {problem}", err=True)
    if as_json:
        print(json.dumps(summary(made, out)))
        return
    typer.echo(
        f"{made.rows} demonstrations in {out}: {made.trials} trials, {made.pairs} pairs of {made.packages} packages;"
        f" {made.tokens:,} tokens, {made.trained:,} of them to be written by the policy"
    )
    total = max(1, made.rows)
    typer.echo("kinds: " + ", ".join(f"{kind} {100 * count / total:.1f} %" for kind, count in made.kinds.items()))
    for why, count in made.left_out.most_common():
        typer.echo(f"left out {count}: {why}")


def _changed(
    wanted: MadeDemonstrations,
    *,
    times: int | None,
    second_try: float | None,
    kind_share: float | None,
    sources: list[str] | None,
) -> MadeDemonstrations:
    """By the options that were given. Raises ``UserError`` for those that would change nothing."""
    from runtime.errors import UserError

    given: dict[str, object] = {"trials_per_task": times, "second_try": second_try, "kind_share": kind_share}
    idle = []
    if times is not None and wanted.tasks is None:
        idle.append("--times: no task is to be solved; name tasks by --tasks DIR")
    if sources and wanted.pairs is None:
        idle.append("--from: no pairs are asked for; ask for them by --pairs TOKENS")
    if idle:
        raise UserError(*idle)
    if sources and wanted.pairs is not None:
        given["pairs"] = wanted.pairs.model_copy(update={"sources": tuple(sources)})
    return wanted.model_copy(update={name: value for name, value in given.items() if value is not None})


def _of_spec(config: RuntimeConfig) -> MadeDemonstrations:
    """The one that the spec asks for."""
    from runtime.config import PretrainedPolicy
    from runtime.config.demonstrations import MadeDemonstrations
    from runtime.errors import UserError

    stage = config.policy.warm_start if isinstance(config.policy, PretrainedPolicy) else None
    asked = [one for one in (stage.demonstrations if stage else ()) if isinstance(one, MadeDemonstrations)]
    if len(asked) == 1:
        return asked[0]
    if asked:
        raise UserError(
            f"policy.warm_start.demonstrations: {len(asked)} of type made, and this writes one file; say which by"
            " --tasks and --pairs"
        )
    raise UserError(
        "nothing to demonstrate: policy.warm_start of the spec asks for no demonstrations of type made; name verified"
        " tasks by --tasks DIR, or ask for --pairs TOKENS"
    )
