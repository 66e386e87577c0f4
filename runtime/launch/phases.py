"""The parts of a local run, in order: tasks, policy, baselines, data. Each one is skipped when an earlier attempt
finished it.

Every room is imported when its phase begins. Does not know who started the run or how it is shown (``Progress`` is told
what happens)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from runtime.config import DirectorySource, NewPolicy, RuntimeConfig, ShellScaffold, SynthSource, TaskSet
from runtime.errors import RunError, UserError
from runtime.files import as_umask_says, write_whole
from runtime.launch.model import locate
from runtime.launch.rundir import RunDirectory
from runtime.parts import names, part
from runtime.task import Task
from runtime.telemetry.progress import Progress


@dataclass(frozen=True)
class PreparedTasks:
    """Usable tasks by task-set name, in the order of the spec; ``demonstrations`` are for the warm start alone."""

    train: dict[str, list[Task]]
    validation: dict[str, list[Task]]
    demonstrations: list[Task]


def prepare_tasks(
    directory: RunDirectory, config: RuntimeConfig, progress: Progress, *, cache: Path, demonstrations: bool = True
) -> PreparedTasks:
    """Make or find all tasks (``demonstrations``: those of the warm start too). Unusable directories are reported and
    left out; a set without a single task is a ``RunError``."""
    from runtime.tasks.prepare import prepare

    left_out: list[str] = []
    proved: dict[str, list[Task]] = {}

    def problem(text: str) -> None:
        # Several sets may draw on one folder; what is wrong in it is said once.
        if text not in left_out:
            left_out.append(text)
            progress.problem(text)

    def one(task_set: TaskSet) -> list[Task]:
        def say(text: str) -> None:
            progress.update(f"{task_set.name}: {text}")

        progress.update(task_set.name)
        # Sets that differ in how they are sampled alone: directories are proved once.
        key = task_set.source.model_dump_json()
        if isinstance(task_set.source, DirectorySource) and key in proved:
            return proved[key]
        # Generated repositories are cheap and belong to the run; what was fetched and verified is worth keeping between
        # runs.
        home = directory.tasks if isinstance(task_set.source, SynthSource) else cache
        tasks = prepare(task_set, cache=home, on_problem=problem, on_progress=say, environment=config.environment)
        if not tasks:
            reasons = "; ".join(left_out[-3:]) or "its source is empty"
            raise RunError(f"task set {task_set.name!r} has no usable task: {reasons}")
        proved[key] = tasks
        return tasks

    with timed(directory, "tasks", progress):
        train = {task_set.name: one(task_set) for task_set in config.train}
        validation = {task_set.name: one(task_set) for task_set in config.validation}
        teaching: list[Task] = []
        if demonstrations and isinstance(config.policy, NewPolicy) and not done(directory, "policy"):
            source = config.policy.warm_start.demonstrations
            if not isinstance(
                source, SynthSource
            ):  # generated repositories are surveyed in memory, without directories
                teaching = one(TaskSet(name="demonstrations", source=source))
        counts = {name: len(tasks) for name, tasks in (train | validation).items()}
        directory.update(tasks=counts, left_out=tuple(left_out))
        note = ", ".join(f"{count} {name}" for name, count in counts.items())
        progress.update(note + (f", {len(left_out)} left out" if left_out else ""))
    return PreparedTasks(train, validation, teaching)


def make_policy(
    directory: RunDirectory,
    config: RuntimeConfig,
    progress: Progress,
    tasks: PreparedTasks,
    *,
    on_tokenizer: Callable[[Path], None],
) -> None:
    """Write ``policy/``: a new small model with its tokenizer and warm start, or a link to where an existing one lies
    on this machine. ``on_tokenizer``: what is to be looked at before the warm start takes its minutes."""
    # A run that was brought from another machine leads to where its model lay there.
    if done(directory, "policy") and directory.policy.exists():
        return
    if not isinstance(config.policy, NewPolicy):
        with timed(directory, "policy", progress):
            directory.policy.unlink(missing_ok=True)
            directory.policy.symlink_to(locate(config.policy.path), target_is_directory=True)
        return
    if not isinstance(config.scaffold, ShellScaffold):
        raise UserError(
            "policy.type: a new policy is taught with the tools of the shell scaffold; choose that, or a pretrained one"
        )
    partial = directory.path / ".policy.partial"
    with timed(directory, "policy", progress):
        shutil.rmtree(partial, ignore_errors=True)
        part("policies", config.policy.type)(
            config.policy,
            tasks.demonstrations,
            partial,
            shell=config.scaffold,
            seed=config.seed,
            on_progress=progress.update,
            on_tokenizer=on_tokenizer,
        )
        shutil.rmtree(directory.policy, ignore_errors=True)
        as_umask_says(partial)
        partial.rename(directory.policy)


def score_baselines(directory: RunDirectory, config: RuntimeConfig, progress: Progress, tasks: PreparedTasks) -> None:
    """Write ``baselines.json``: the scripted baselines on the validation tasks, under the same budget of actions."""
    if not config.baselines or done(directory, "baselines"):
        return
    from runtime.agent_loop.services import make_scaffold

    unique = {task.id: task for group in tasks.validation.values() for task in group}
    with timed(directory, "baselines", progress):
        table: Mapping[str, Any] = {"tasks": len(unique), "max_edits": 0, "rows": []}
        if isinstance(config.scaffold, ShellScaffold) and config.scaffold.tools in names("baselines"):
            score, scaffold = part("baselines", config.scaffold.tools), make_scaffold(config.scaffold)
            table = score(list(unique.values()), scaffold, environment=config.environment, on_progress=progress.update)
        write_whole(directory.baselines, orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n")


def write_data(directory: RunDirectory, config: RuntimeConfig, progress: Progress, tasks: PreparedTasks) -> None:
    """Write ``data/train.parquet`` and ``data/val.parquet`` as verl reads them."""
    from runtime.trainer.dataset import write_dataset

    with timed(directory, "data", progress):
        write_dataset(directory.path, config, tasks.train, tasks.validation)


def done(directory: RunDirectory, phase: str) -> bool:
    return phase in directory.read().phases


@contextmanager
def timed(directory: RunDirectory, phase: str, progress: Progress) -> Iterator[None]:
    """Show the phase, and record in ``run.json`` its seconds over all attempts and whether it has finished."""
    started = time.monotonic()

    def spent() -> float:
        record = directory.read()
        earlier = record.phases.get(phase, 0.0) + record.unfinished.get(phase, 0.0)
        return round(earlier + time.monotonic() - started, 2)

    with progress.phase(phase):
        try:
            yield
        except BaseException:
            directory.update(unfinished={**directory.read().unfinished, phase: spent()})
            raise
        seconds, record = spent(), directory.read()
        others = {name: value for name, value in record.unfinished.items() if name != phase}
        directory.update(phases={**record.phases, phase: seconds}, unfinished=others)
