"""A trial once more: the same task in the same kind of box, its recorded replies served through the real proxy.

What the policy said is given again; what the box answers is new. So one sees whether a verdict holds, and can stop
after any turn and look inside. The run's own records are left alone: a replay lies in ``<run>/replays/<number>/``.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.config import RuntimeConfig, load_runtime_config
from runtime.errors import Termination, TrialError, UserError
from runtime.grading.work import MANIFEST
from runtime.launch.recorded import RecordedReplies
from runtime.launch.rundir import RunDirectory
from runtime.launch.score import find_model, find_policy, open_engine
from runtime.launch.whole import whole
from runtime.proxy.codec import load_codec
from runtime.report.trial import TrialView
from runtime.sandboxes.base import Mount, Sandbox
from runtime.scaffolds.base import AgentOutcome, ModelEndpoint, Needs, Scaffold, needs_of
from runtime.task import Task, load_task
from runtime.task_format import packed

Look = Callable[[Sandbox, Task], Awaitable[object]]
_PATIENCE_SEC = 86_400.0
"""Who looks into a box is under no deadline."""


@dataclass(frozen=True)
class Replay:
    """What came of it beside what had come of it then. ``differences``: where the box answered otherwise."""

    result: TrialResult
    folder: Path
    turns: int
    served: int
    differences: tuple[str, ...]
    reward_then: float | None
    verdict_then: str

    def to_json(self) -> dict[str, Any]:
        return {
            "trial_id": self.result.key.trial_id,
            "folder": str(self.folder),
            "turns": self.turns,
            "served": self.served,
            "differences": list(self.differences),
            "reward_then": self.reward_then,
            "reward_now": self.result.reward,
            "verdict_then": self.verdict_then,
            "verdict_now": self.result.verdict,
            "termination": self.result.termination.value,
            "error": self.result.error,
        }


class Watched:
    """A scaffold whose agent is left alone until its engine has ``reached`` the turn that was asked for. Then ``look``
    may look inside, and the agent goes on, or without ``goes_on`` is ended where it stands."""

    def __init__(self, inner: Scaffold, engine: RecordedReplies, *, look: Look | None, goes_on: bool) -> None:
        self._inner, self._engine, self._look, self._goes_on = inner, engine, look, goes_on

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return tuple(self._inner.mounts)

    @property
    def needs(self) -> Needs:
        return needs_of(self._inner)

    async def run(self, task: Task, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        agent = asyncio.ensure_future(self._inner.run(task, sandbox, endpoint, timeout_sec=timeout_sec))
        stop = asyncio.ensure_future(self._engine.reached.wait())
        try:
            await asyncio.wait({agent, stop}, return_when=asyncio.FIRST_COMPLETED)
            if self._look is not None:
                await self._look(sandbox, task)
            if not agent.done() and not self._goes_on:
                return AgentOutcome(Termination.COMPLETED)
            self._engine.go_on.set()
            return await agent
        finally:
            stop.cancel()
            agent.cancel()
            with suppress(BaseException):
                await agent


async def replay(
    directory: RunDirectory,
    view: TrialView,
    *,
    until: int | None = None,
    look: Look | None = None,
    policy: str | None = None,
    task_folder: Path | None = None,
) -> Replay:
    """Play the trial again: all of it, or ``until`` that many replies were given. Then ``look`` is called with the box;
    ``policy`` (a checkpoint) goes on from there, in place of the recording's end. Raises ``UserError`` for what of the
    trial is not there."""
    if not view.turns:
        raise UserError(f"{view.folder}: nothing to play again: {'; '.join(view.missing) or 'no turn was recorded'}")
    if until is not None and not 0 <= until <= len(view.turns):
        raise UserError(f"--until {until}: the trial has {len(view.turns)} turns; allowed: 0 to {len(view.turns)}")
    config = _config(directory, patient=look is not None)
    task = _patient(_task(directory, view, task_folder))
    model = (
        find_policy(policy, runs_dir=directory.runs_dir, option="--policy")
        if policy is not None
        else _tokenizer(directory)
    )
    out = _folder(directory)
    async with AsyncExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="liverl-replay-")))
        live = None
        if policy is not None:
            model = whole(model, state / "policy")
            live = await stack.enter_async_context(open_engine(directory, config, model))
        codec = load_codec(model, config.rollout.tool_parser)
        engine = RecordedReplies(view, codec, until=until, policy=live)
        opened = open_services(config, engine=engine, model_folder=model, state=state)
        services = await stack.enter_async_context(opened)
        # Without a stop in between, the recording is all that there is to say.
        goes_on = live is not None or look is not None
        watched = Watched(services.scaffold, engine, look=look, goes_on=goes_on)
        runner = TrialRunner(replace(services, scaffold=watched), config, trials=out / "trials")
        temperature = (view.record.get("sampling") or {}).get("temperature", config.rollout.temperature)
        result = await runner.run(task, key=_key(view), temperature=float(temperature))
    return Replay(
        result=result,
        folder=out,
        turns=len(view.turns),
        served=engine.served,
        differences=tuple(engine.differences),
        reward_then=view.record.get("reward"),
        verdict_then=str(view.record.get("verdict", "no-grade")),
    )


def _config(directory: RunDirectory, *, patient: bool) -> RuntimeConfig:
    config = load_runtime_config(directory.runtime_json)
    environment = config.environment.model_copy(update={"reuse_verdicts": False})
    if patient:
        environment = environment.model_copy(update={"agent_timeout_sec": _PATIENCE_SEC})
    dump = config.dump.model_copy(update={"trials_every": 1, "work_every": 1})
    rollout = config.rollout.model_copy(update={"attempts": 1})
    return config.model_copy(update={"environment": environment, "dump": dump, "rollout": rollout})


def _patient(task: Task) -> Task:
    agent = task.config.agent.model_copy(update={"timeout_sec": _PATIENCE_SEC})
    return task.model_copy(update={"config": task.config.model_copy(update={"agent": agent})})


def _key(view: TrialView) -> TrialKey:
    record = view.record
    return TrialKey(
        task=str(record.get("task", "task")),
        task_set=str(record.get("task_set", "")),
        step=view.step,
        group=str(record.get("group", "replay")),
        index=int(record.get("index") or 0),
        attempt=int(record.get("attempt") or 0),
        validation=bool(record.get("validation")),
        turn=int(record.get("turn") or 0),
    )


def _task(directory: RunDirectory, view: TrialView, named: Path | None) -> Task:
    manifest = view.record.get(MANIFEST)
    kept = manifest.get("task_path") if isinstance(manifest, dict) else None
    found = [Path(str(kept))] if kept else []
    name = str(view.record.get("task", ""))
    if name and "/" not in name:
        found += [path.parent / name for path in directory.tasks.rglob(packed.ARCHIVE)]
        found += [path.parent for path in directory.tasks.rglob(f"{name}/task.toml")]
        found += [path.parent for path in directory.cache.rglob(f"{name}/task.toml")]
    for folder in [named] if named is not None else found:
        if (folder / "task.toml").is_file() or folder.name in packed.names(folder.parent):
            try:
                return load_task(folder)
            except TrialError as error:
                raise UserError(str(error)) from None
    if named is not None:
        raise UserError(f"--task {named}: is no folder; name that of the task {name!r} of {view.trial_id}")
    raise UserError(f"{view.trial_id}: its task {name!r} is not where it was; name its folder with --task DIR")


def _tokenizer(directory: RunDirectory) -> Path:
    """Of the policy: every step of a run has the same."""
    if (directory.policy / "tokenizer.json").is_file():
        return directory.policy
    return find_model(directory.path, named="the tokenizer of")


def _folder(directory: RunDirectory) -> Path:
    home = directory.path / "replays"
    home.mkdir(exist_ok=True)
    number = 1 + max((int(path.name) for path in home.iterdir() if path.name.isdecimal()), default=0)
    folder = home / str(number)
    folder.mkdir()
    return folder
