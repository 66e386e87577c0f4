"""Tasks whose first prompt is longer than the spec allows: found before training, not one failed trial at a time.

Knows the built-in agent's first request; what other agents send first is known only when they run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from runtime.config import NewPolicy, RuntimeConfig, ShellScaffold
from runtime.errors import UserError
from runtime.launch.phases import PreparedTasks
from runtime.launch.rundir import RunDirectory
from runtime.task import Task
from runtime.telemetry.progress import Progress


def leave_out_long(
    directory: RunDirectory, config: RuntimeConfig, progress: Progress, tasks: PreparedTasks
) -> PreparedTasks:
    """``tasks`` without those whose first prompt has more than ``rollout.prompt_length`` tokens; each is named.

    Raises ``UserError`` when that leaves a task set empty, with the length that would do.
    """
    folder = directory.policy if isinstance(config.policy, NewPolicy) else Path(config.policy.path).expanduser()
    scaffold = config.scaffold
    if not isinstance(scaffold, ShellScaffold) or not (folder / "tokenizer.json").exists():
        return tasks
    from runtime.proxy.codec import load_codec
    from runtime.proxy.messages import Message
    from runtime.scaffolds.shell import tool_set

    codec = load_codec(folder, config.rollout.tool_parser)
    schemas = tool_set(scaffold.tools).SCHEMAS
    limit = config.rollout.prompt_length
    left_out: dict[str, int] = {}

    def length(task: Task) -> int:
        return len(codec.render_first([Message("user", task.instruction.strip())], schemas).encode())

    def fitting(name: str, group: list[Task]) -> list[Task]:
        lengths = {task.id: length(task) for task in group}
        kept = [task for task in group if lengths[task.id] <= limit]
        left_out.update({task.id: lengths[task.id] for task in group if lengths[task.id] > limit})
        if not kept:
            raise UserError(
                f"rollout.prompt_length: {limit} tokens, but the first prompt of every task of {name!r} is longer "
                f"({min(lengths.values())} to {max(lengths.values())}); {max(lengths.values())} would do for all"
            )
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
