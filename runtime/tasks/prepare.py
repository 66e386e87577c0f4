"""From a task set's description to loaded tasks: generated ones are made once and kept, directories are read and
screened.

Where each kind comes from is its own module's business: ``generated.py``, ``directories.py``, ``index.py``,
``harbor_dataset.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from runtime.config import (
    Bubblewrap,
    DirectorySource,
    Environment,
    GenerateSource,
    HistorySource,
    IndexSource,
    PublishedSource,
    SynthSource,
    TaskSet,
    TerminalBenchSource,
)
from runtime.task import Task
from runtime.task_format import packed
from runtime.tasks.directories import OnProblem, find_task_directories, load_tasks
from runtime.tasks.graders import graders, in_own_loop
from runtime.tasks.images import with_images
from runtime.tasks.kept import NO_MATTER

_ENVIRONMENT: Environment = Bubblewrap()


def prepare(
    task_set: TaskSet,
    *,
    cache: Path,
    on_problem: OnProblem,
    on_progress: Callable[[str], None] | None = None,
    environment: Environment = _ENVIRONMENT,
) -> list[Task]:
    """The usable tasks of ``task_set``, in a fixed order; every unusable directory is named through ``on_problem``.

    Args:
        cache: folder of kept sets, packages and surveys, shared by runs and processes; state of sandboxes goes below
        it. on_progress: told what is being done while tasks are generated.
        environment: where tests run, to generate tasks from packages and to screen directories.

    Raises ``UserError`` for a wrong description (missing folder, duplicate id, wrong hash), ``MachineError`` when the
    machine, the package index or a registry cannot deliver, ``RunError`` when a set comes out empty or the sandboxes
    fail. May be called with or without a running event loop; blocks.
    """
    source = task_set.source
    say = on_progress or (lambda text: None)
    if isinstance(source, SynthSource | GenerateSource | HistorySource):
        folder = _generated(task_set, cache, environment, say)
        packed.unpack(folder)
        return load_tasks(sorted(path for path in folder.iterdir() if path.is_dir()), on_problem=on_problem)
    pins: dict[Path, str] = {}
    if isinstance(source, DirectorySource):
        found = find_task_directories([Path(path) for path in source.paths])[: source.limit]
    elif isinstance(source, IndexSource):
        from runtime.tasks.index import Band, indexed_tasks, pinned_images

        band = Band(source.pass_rate.least, source.pass_rate.most) if source.pass_rate is not None else None
        found = indexed_tasks(Path(source.path), band=band)[: source.limit]
        pins = pinned_images(Path(source.path))
    elif isinstance(source, PublishedSource | TerminalBenchSource):
        from runtime.tasks.sets.kept import set_directories

        found = set_directories(source, cache=cache, say=say, on_problem=on_problem)
    else:
        from runtime.tasks.harbor_dataset import task_directories

        found = task_directories(source, cache=cache, say=say, on_problem=on_problem)
    tasks = load_tasks(found, on_problem=on_problem)
    tasks = with_images(tasks, environment=environment, on_problem=on_problem, say=say, pins=pins)
    return _screened(tasks, cache=cache, on_problem=on_problem, environment=environment)


def _generated(task_set: TaskSet, cache: Path, environment: Environment, say: Callable[[str], None]) -> Path:
    from runtime.tasks.generated import history_set, package_set, synth_set

    source = task_set.source
    if isinstance(source, SynthSource):
        return synth_set(source, cache=cache)
    if isinstance(source, HistorySource):
        return history_set(source, name=task_set.name, cache=cache, environment=environment, say=say)
    assert isinstance(source, GenerateSource)
    return package_set(task_set, source, cache=cache, environment=environment, say=say)


def _screened(tasks: list[Task], *, cache: Path, on_problem: OnProblem, environment: Environment) -> list[Task]:
    from runtime.tasks.screened import Screened
    from runtime.tasks.verify import screen

    decides = environment.model_dump(mode="json", exclude={*NO_MATTER, "agent_timeout_sec"})
    screened = Screened(cache / "screened", limits=json.dumps(decides, sort_keys=True))

    async def work() -> list[Task]:
        async with graders(environment, state=cache / "sandboxes") as (provider, verifier):
            return await screen(
                tasks,
                provider=provider,
                verifier=verifier,
                concurrency=os.cpu_count() or 1,
                memory_mib=environment.memory_mib,
                pids=environment.pids,
                on_problem=on_problem,
                screened=screened,
            )

    return in_own_loop(work())
