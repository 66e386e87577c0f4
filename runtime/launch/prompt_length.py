"""Tasks whose first prompt is longer than the spec allows: found before training, not one failed trial at a time.

Knows the built-in agent's first request; what other agents send first is known only when they run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from runtime.config import RuntimeConfig, ShellScaffold
from runtime.errors import UserError
from runtime.launch.phases import PreparedTasks
from runtime.launch.rundir import RunDirectory
from runtime.task import Task
from runtime.telemetry.progress import Progress


def refuse_long(folder: Path, config: RuntimeConfig, tasks: PreparedTasks) -> None:
    """Raise ``UserError`` when the first prompts of a whole task set are too long for the tokenizer of ``folder``."""
    if (length := _first_prompts(folder, config)) is None:
        return
    for name, group in (tasks.train | tasks.validation).items():
        if not any(length(task) <= config.rollout.prompt_length for task in group):
            raise _none_fits(name, [length(task) for task in group], config.rollout.prompt_length)


def leave_out_long(
    directory: RunDirectory, config: RuntimeConfig, progress: Progress, tasks: PreparedTasks
) -> PreparedTasks:
    """``tasks`` without those whose first prompt has more than ``rollout.prompt_length`` tokens; each is named.

    Raises ``UserError`` when that leaves a task set empty, with the length that would do.
    """
    if (length := _first_prompts(directory.policy, config)) is None:
        return tasks
    limit = config.rollout.prompt_length
    left_out: dict[str, int] = {}

    def fitting(name: str, group: list[Task]) -> list[Task]:
        lengths = {task.id: length(task) for task in group}
        kept = [task for task in group if lengths[task.id] <= limit]
        left_out.update({task.id: lengths[task.id] for task in group if lengths[task.id] > limit})
        if not kept:
            raise _none_fits(name, list(lengths.values()), limit)
        return kept

    train = {name: fitting(name, group) for name, group in tasks.train.items()}
    validation = {name: fitting(name, group) for name, group in tasks.validation.items()}
    if left_out:
        record = directory.read()
        for task_id, tokens in left_out.items():
            progress.problem(f"{task_id}: left out: first prompt of {tokens} tokens, rollout.prompt_length is {limit}")
        directory.update(
            tasks={name: len(group) for name, group in (train | validation).items()},
            left_out=(*record.left_out, *(f"{task_id}: first prompt too long" for task_id in left_out)),
        )
    return dataclasses.replace(tasks, train=train, validation=validation)


def _first_prompts(folder: Path, config: RuntimeConfig) -> Callable[[Task], int] | None:
    """The number of tokens of a task's first prompt; None where it cannot be known before the agent runs."""
    scaffold = config.scaffold
    if not isinstance(scaffold, ShellScaffold) or not (folder / "tokenizer.json").exists():
        return None
    from runtime.proxy.codec import load_codec
    from runtime.proxy.messages import Message
    from runtime.scaffolds.shell import tool_set

    codec = load_codec(folder, config.rollout.tool_parser)
    schemas = tool_set(scaffold.tools).SCHEMAS
    # What it will show is known when the tests have run there; code has some three characters a token.
    look = 0 if scaffold.first_look is None else scaffold.first_look.max_chars // 3
    return lambda task: look + len(codec.render_first([Message("user", task.instruction.strip())], schemas).encode())


def _none_fits(name: str, lengths: list[int], limit: int) -> UserError:
    return UserError(
        f"rollout.prompt_length: {limit} tokens, but the first prompt of every task of {name!r} is longer "
        f"({min(lengths)} to {max(lengths)}); {max(lengths)} would do for all"
    )
