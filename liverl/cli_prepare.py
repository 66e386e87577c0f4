"""``liverl tasks prepare``: a spec's task sets before its run, where runs look for them, and as folders to look at or
to carry to a machine without a network."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liverl.options import Arguments, RunsDir, Sandbox, Settings, folder_to_write
from liverl.still_there import say, still_there
from runtime.run_paths import kept_folder

if TYPE_CHECKING:
    from runtime.config import RuntimeConfig, TaskSet
    from runtime.task import Task


def prepare(
    spec: Annotated[Path, typer.Argument(metavar="SPEC|BUNDLE", help="Whose task sets these are.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=folder_to_write, metavar="DIR", help="Receives a folder for each set too."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="SET", help="This set alone; may be repeated.")
    ] = None,
    sandbox: Sandbox = None,
    tla: Arguments = None,
    settings: Settings = None,
    runs_dir: RunsDir = Path("runs"),
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", help="Fetched packages and kept sets. Default: .cache of --runs-dir, where its runs look."
        ),
    ] = None,
) -> None:
    """Make the tasks of a spec and prove them, without a run: packages are worked on side by side on every core. Runs
    of --runs-dir find them there.

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
    home = cache or kept_folder(runs_dir)
    for name, task_set in sets.items():
        if only and name not in only:
            continue
        target = None if out is None else out / name
        if target is not None and target.exists():
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
        if target is None:
            typer.echo(f"{name}: {len(tasks)} tasks, kept in {home}")
        else:
            _copy(tasks, target)
            typer.echo(f"{len(tasks)} tasks in {target}")


def _copy(tasks: Sequence[Task], target: Path) -> None:
    """Whole or not at all, whoever else writes there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for task in tasks:
            shutil.copytree(task.path, partial / task.id, symlinks=True)
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


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
