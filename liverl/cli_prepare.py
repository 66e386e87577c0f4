"""``liverl tasks prepare``: a spec's task sets as folders, to look at or to carry to a machine without a network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liverl.options import Arguments, Sandbox, Settings, cache_folder
from liverl.still_there import say, still_there

if TYPE_CHECKING:
    from runtime.config import RuntimeConfig, TaskSet


def prepare(
    spec: Annotated[Path, typer.Argument(metavar="SPEC|BUNDLE", help="Whose task sets these are.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Receives a folder for each set.")],
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="SET", help="This set alone; may be repeated.")
    ] = None,
    sandbox: Sandbox = None,
    tla: Arguments = None,
    settings: Settings = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Fetched packages and kept sets. Default: ~/.cache/liverl.")
    ] = None,
) -> None:
    """Make the tasks of a spec and prove them, without a run: packages are worked on side by side on every core.

    What is in the cache needs no network. Example: liverl tasks prepare one-gpu-real -o tasks"""
    from liverl.compiled import bundle_files
    from runtime.config import RuntimeConfig
    from runtime.errors import RunError, UserError
    from runtime.tasks.prepare import prepare as prepared

    files = bundle_files(spec, target="local", sandbox=sandbox, tla=tla, settings=settings)
    config = RuntimeConfig.model_validate_json(files["runtime.json"])
    sets = _sets(config)
    if unknown := sorted(set(only or ()) - sets.keys()):
        raise UserError(f"--only {', '.join(unknown)}: no such set; allowed: {', '.join(sets)}")
    home = cache_folder(cache)
    for name, task_set in sets.items():
        if only and name not in only:
            continue
        target = out / name
        if target.exists():
            raise UserError(f"{target}: is there already; give a new folder, or the other sets by --only")
        problems: list[str] = []
        with still_there(f"preparing {name}"):
            tasks = prepared(
                task_set,
                cache=home,
                on_problem=problems.append,
                on_progress=lambda text, name=name: say(f"{name}: {text}"),  # type: ignore[misc]
                environment=config.environment,
            )
        for problem in problems:
            typer.echo(f"left out: {problem}", err=True)
        if not tasks:
            raise RunError(f"{name}: no usable task")
        partial = out / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        for task in tasks:
            shutil.copytree(task.path, partial / task.id, symlinks=True)
        partial.rename(target)
        typer.echo(f"{len(tasks)} tasks in {target}")


def _demonstrated(config: RuntimeConfig) -> list[TaskSet]:
    from runtime.config import PretrainedPolicy, TaskSet
    from runtime.config.demonstrations import MadeDemonstrations

    stage = config.policy.warm_start if isinstance(config.policy, PretrainedPolicy) else None
    made = [one for one in (stage.demonstrations if stage else ()) if isinstance(one, MadeDemonstrations)]
    return [TaskSet(name="demonstrations", source=one.tasks) for one in made if one.tasks is not None]


def _sets(config: RuntimeConfig) -> dict[str, TaskSet]:
    """By name; of sets that differ in their name or temperature alone, the first."""
    found: dict[str, TaskSet] = {}
    for one in (*config.train, *_demonstrated(config), *config.validation):
        if all(one.source != other.source for other in found.values()):
            found[one.name] = one
    return found
