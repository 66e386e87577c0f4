"""The agent loop manager that verl calls (``rollout.agent.agent_loop_manager_class``): prompts in, published groups
out.

Lives in verl's task runner process, on an event loop of its own in a daemon thread, because verl expects
``generate_sequences`` to return at once and polls the TransferQueue. Trials, groups and publication are other modules'
business; this one decides what verl gets to see: a failed trial is never a reward of 0. Upstream:
``verl/trainer/main_ppo.py`` and ``verl/trainer/ppo/v1/agent_loop_tq.py``, 0.9.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop
from tensordict import NonTensorData, NonTensorStack, TensorDict

from runtime.agent_loop.deaths import why_all_died
from runtime.agent_loop.groups import GroupRequest, GroupRunner, first_ended
from runtime.agent_loop.health import HealthWatch, free_mib, memory_in_use
from runtime.agent_loop.status import StatusFile
from runtime.agent_loop.step_metrics import image_metrics, step_metrics
from runtime.agent_loop.trial import longest_trial_sec
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.config import RuntimeConfig, load_runtime_config
from runtime.errors import RunError
from runtime.grading.base import solved_share
from runtime.run_paths import RunPaths
from runtime.task import Task, load_task
from runtime.trainer.chosen import CHOSEN
from runtime.trainer.curriculum import Ended
from runtime.trainer.diagnosis import AGENTS_DIED
from runtime.trainer.estimators import BASELINES, REMAX
from runtime.trainer.halt import Halt
from runtime.trainer.image_order import ImageOrder
from runtime.trainer.ledger import LEDGER
from runtime.trainer.platform import find_platform
from runtime.trainer.players import Players, ThisProcess
from runtime.trainer.publish import GIVEN_OUT, ORDER, finished_groups, mark_running, publish_group
from runtime.trainer.refills import filters_in_step
from runtime.trainer.rows import TRAINER, RowWriter
from runtime.trainer.stable import SAVED
from runtime.trainer.trained_steps import TrainedSteps
from runtime.trainer.wakeup import published

logger = logging.getLogger(__name__)

_STATUS_SEC = 1.0
_TURN = "turn"
"""Of a row: see ``TrialKey``. With a task more than once in a step, as where groups without signal are replaced or sets
have weights, equal seeds made the same trials twice."""
_GROUP_ESTIMATORS = frozenset(
    {
        "grpo",
        "grpo_passk",
        "grpo_vectorized",
        "rloo",
        "rloo_vectorized",
        "opo",
        "gdpo",
        "gpg",
        "reinforce_plus_plus_baseline",
    }
)
"""Advantage estimators that compare siblings: a group of one teaches them nothing right. The others compare the trials
of the whole batch, and ReMax each one with its prompt's greedy trial."""


@dataclass
class _Step:
    """What one (step, partition) has so far; rewritten as a row whenever all of its groups have settled."""

    began: float
    open_groups: int = 0
    groups: list[list[TrialResult]] = field(default_factory=list)
    baselines: list[float | None] = field(default_factory=list)
    """ReMax: the greedy trial's reward of every group; None where it has none."""
    images: Mapping[str, float] = field(default_factory=dict)
    """What the sandboxes had counted of tasks' images when the step began."""
    prompts: int = 0
    turns: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Groups that were given out, by task set and task."""
    outside: int = 0
    """Those of tasks that were outside of the curriculum's band when they were given out."""


class LiverlAgentLoopManager:
    """Seam B of verl: ``create`` once, then ``generate_sequences`` per batch."""

    @classmethod
    def create(
        cls,
        config: Any,
        llm_client: Any,
        teacher_client: Any = None,
        reward_loop_worker_handles: Any = None,
    ) -> LiverlAgentLoopManager:
        """Called by keyword in the task runner, where no event loop runs. Replicas are reached in the platform's own
        way, and rewards come from our verifier: verl's clients and workers are not used."""
        del llm_client, teacher_client, reward_loop_worker_handles
        return cls(config)

    def __init__(self, config: Any) -> None:
        self._run = RunPaths.of_process()
        self._config: RuntimeConfig = load_runtime_config(self._run.runtime_json)
        self._verl = config
        rollout = config.actor_rollout_ref.rollout
        self._train_size, self._val_size = int(rollout.n), int(rollout.val_kwargs.n)
        grouped = str(config.algorithm.adv_estimator) in _GROUP_ESTIMATORS and self._train_size > 1
        self._fewest = 2 if grouped else 1
        self._greedy_baseline = str(config.algorithm.adv_estimator) == REMAX
        self._filtered = filters_in_step(config.trainer.get("v1"))
        self._platform = find_platform(str(config.trainer.device))
        self._tasks: dict[str, Task] = {}
        self._images: dict[str, str] = {}
        self._steps: dict[tuple[int, bool], _Step] = {}
        self._given_out = 0
        data = config.get("data") or {}
        foretold = CHOSEN.curriculum.ahead if CHOSEN.curriculum is not None else None
        shuffle, seed = bool(data.get("shuffle", True)), data.get("seed")
        self._order = ImageOrder.of(self._run.path, shuffle=shuffle, seed=seed, foretold=foretold)
        LEDGER.open(self._run, restored=finished_groups("train"))
        self._halt = Halt(config)
        SAVED.extend([lambda folder: LEDGER.saved(folder.parent), self._halt.saved])
        run = self._run.path
        self._health = HealthWatch(
            self._config.health,
            grouped=grouped or self._greedy_baseline,
            memory=self._memory,
            free_mib=lambda: free_mib(run),
        )
        self._trained = TrainedSteps(
            self._run.rows_file(TRAINER), least_correlation=self._config.health.least_correlation
        )
        self._rows = RowWriter(self._run.rows_file("loop"))
        self._status = StatusFile(self._run.status)
        self._background: set[asyncio.Task[None]] = set()
        self._played: dict[int, tuple[int, asyncio.Task[tuple[list[TrialResult], float | None]]]] = {}
        """Of groups that their step may do without: order, step, and what plays them."""
        self._enough: tuple[int, int] | None = None
        """The newest step that has its batch, and the order of the group that filled it."""
        published.enough = lambda *at: self._loop.call_soon_threadsafe(self._stop_after, *at)  # type: ignore[assignment]
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        ready = threading.Event()
        self._failure: BaseException | None = None
        self._dead: str | None = None
        threading.Thread(target=self._serve, args=(ready,), name="agent-loop", daemon=True).start()
        ready.wait()
        if self._failure is not None:
            raise self._failure

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Start one group per row and return. verl has already marked every ``uid`` pending.

        Raises ``RunError`` when all agents of a finished batch had died: every further one would die as well; and when
        the run is to end.
        """
        published.check()
        if self._dead is not None:
            raise RunError(self._dead)
        validate = bool(_plain(prompts["validate"], 0)) if "validate" in prompts.keys() else False  # noqa: SIM118
        rows = list(rows_of(prompts))
        if rows and not validate:
            self._halt.check(int(rows[0]["global_steps"]))
            if self._filtered and CHOSEN.curriculum is not None:
                CHOSEN.curriculum.begun(int(rows[0]["global_steps"]))
            if self._order is not None:
                self._order.given_out([int(row["extra_info"]["index"]) for row in rows])
        self._loop.call_soon_threadsafe(self._start, rows, validate)

    def _start(self, rows: list[dict[str, Any]], validate: bool) -> None:
        size = self._val_size if validate else self._train_size
        step = int(rows[0]["global_steps"]) if rows else 0
        greedy = int(self._greedy_baseline and not validate)
        total = sum(int(row.get("__rollout_n__", size)) + greedy for row in rows)
        self._status.begin("validation" if validate else "rollout", step=step, total=total)
        # Kept until a later step begins: what is asked for again belongs to the same row.
        for old in [key for key, one in self._steps.items() if key[0] < step and not one.open_groups]:
            del self._steps[old]
        if (record := self._steps.get((step, validate))) is None:
            began, counts = time.monotonic(), dict(self._players.counts())
            record = self._steps[step, validate] = _Step(began=began, images=counts)
        record.open_groups += len(rows)
        if not validate and CHOSEN.curriculum is not None:
            infos = [row["extra_info"] for row in rows]
            record.prompts += len(infos)
            record.outside += CHOSEN.curriculum.outside([(info["task_set"], info["task_id"]) for info in infos])
        for row in rows:
            self._given_out += 1
            row[ORDER] = self._given_out
            if not validate:
                GIVEN_OUT[str(row["uid"])] = self._given_out
                task = str(row["extra_info"]["task_set"]), str(row["extra_info"]["task"])
                row[_TURN] = record.turns[task]
                record.turns[task] += 1
            self._spawn(self._group(row, validate=validate, record=record))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _group(self, row: dict[str, Any], *, validate: bool, record: _Step) -> None:
        partition = "val" if validate else "train"
        results: list[TrialResult] = []
        publishing, keys = False, list[TrialKey]()
        played: tuple[list[TrialResult], float | None] | None = ([], None)
        try:
            await mark_running(row["uid"], partition=partition)
            request = self._request(row, validate=validate)
            keys += map(request.key, range(request.most))
            greedy = _greedy(request) if self._greedy_baseline and not validate else None
            keys += [] if greedy is None else [greedy.key(0)]
            order = int(row[ORDER]) if self._filtered and not validate else None
            played = await self._play(request, greedy, order=order)
            if played is None:
                publishing = True
                await self._drop(row, "its step has its batch without it")
                await publish_group(row, [], partition=partition)
                return
            results, baseline = played
            if not validate and CHOSEN.curriculum is not None:
                CHOSEN.curriculum.ended(_ended(row, results))
            kept = [result for result in results if (result.reward is not None if validate else result.trainable)]
            kept = first_ended([result for result in kept if result.has_samples], request.size)
            reason = f"fewer than {self._fewest} of its trials can be trained"
            if not validate:
                rewards = [result.reward for result in kept if result.reward is not None]
                compared = [] if baseline is None else [baseline]
                self._health.group([*rewards, *compared] if rewards else [], step=int(row["global_steps"]))
            if validate:  # the mean of a validation is a solve rate
                kept = [replace(result, reward=solved_share(result.reward or 0.0)) for result in kept]
            if self._greedy_baseline and not validate:
                record.baselines.append(baseline)
                if baseline is None:
                    kept, reason = [], "its greedy trial was not graded: there is nothing to compare the others with"
                elif kept:
                    BASELINES.put(str(row["uid"]), baseline)
            if len(kept) < (1 if validate else self._fewest):
                kept = []
                if not validate:
                    await self._drop(row, reason)
            publishing = True
            if lost := await self._players.publish(row, kept, partition=partition):
                logger.error("group %s: %d finished trial(s) lost with their workers", row["uid"], lost)
        except Exception as error:
            # Not a trial's failure (those are data) but ours: verl must hear of the group's end all the same, or it
            # waits for ever.
            logger.exception("group %s: could not be run or published", row["uid"])
            if not validate and not publishing:  # what was put of it may still be taken
                with contextlib.suppress(OSError):
                    await self._drop(row, f"could not be run: {type(error).__name__}: {error}")
            await publish_group(row, [], partition=partition)
        finally:
            self._spawn(self._players.forget(keys))
            if played is not None:
                record.groups.append([_without_experts(result) for result in results])
            record.open_groups -= 1
            try:
                if record.open_groups == 0:
                    self._settled(int(row["global_steps"]), validate, record)
            except OSError as error:  # a row that cannot be written holds up no step
                logger.error("step %s: its row could not be written: %s", row["global_steps"], error)
            finally:
                published.ring()

    async def _play(
        self, request: GroupRequest, greedy: GroupRequest | None, *, order: int | None
    ) -> tuple[list[TrialResult], float | None] | None:
        """The group's results, and the reward of its greedy trial. None: its step has its batch without it, as may be
        where ``order`` is given."""

        async def both() -> tuple[list[TrialResult], float | None]:
            if greedy is None:
                return await self._groups.run(request), None
            return await asyncio.gather(self._groups.run(request), self._baseline(greedy))

        if order is None:
            return await both()
        if self._enough is not None and self._enough[0] == request.step and order > self._enough[1]:
            return None
        playing = asyncio.create_task(both())
        self._played[order] = request.step, playing
        try:
            return await playing
        except asyncio.CancelledError:
            if (own := asyncio.current_task()) is None or own.cancelling():
                playing.cancel()
                raise
            return None
        finally:
            del self._played[order]

    def _stop_after(self, step: int, order: int) -> None:
        """The step needs none of its groups that were given out after this one."""
        self._enough = step, order
        for later, (of, playing) in self._played.items():
            if of == step and later > order:
                playing.cancel()

    def _settled(self, step: int, validate: bool, record: _Step) -> None:
        """All groups of a step that were asked for so far have come to their end."""
        trials = [result for group in record.groups for result in group]
        if validate and not any(trial.samples and trial.reward is not None for trial in trials):
            # verl asks for the rows of a validation without looking whether there are any.
            ends = Counter(trial.termination.value for trial in trials)
            said = ", ".join(f"{count} {end}" for end, count in ends.most_common()) or "none was run"
            logger.error("NothingToScore: step %s: no trial left anything to score: %s", step, said)
        if (why := why_all_died(trials)) is not None:
            self._dead = f"{AGENTS_DIED}: step {step}: {why}"
            logger.error("%s", self._dead)
        self._write_row(step, validate, record)

    async def _drop(self, row: Mapping[str, Any], reason: str) -> None:
        """Durable when it returns; not on the event loop, which a slow disk would hold up."""
        uid, step = str(row["uid"]), int(row["global_steps"])
        await asyncio.to_thread(LEDGER.dropped, [uid], step=step, reason=reason)

    async def _baseline(self, greedy: GroupRequest) -> float | None:
        """The reward of one greedy trial of the prompt, which is not trained on; None when it could not be graded."""
        return next((one.reward for one in await self._groups.run(greedy)), None)

    def _request(self, row: Mapping[str, Any], *, validate: bool) -> GroupRequest:
        info = row["extra_info"]
        own = float(info.get("temperature", -1.0))
        temperature = own if validate and own >= 0 else self._config.rollout.temperature
        if not row.get("__do_sample__", True):
            temperature = 0.0
        size = int(row.get("__rollout_n__", self._val_size if validate else self._train_size))
        return GroupRequest(
            task=self._task(str(info["task"]), str(info.get("image", ""))),
            task_set=str(info["task_set"]),
            # The uid's first part is enough to tell apart the groups of one step, and keeps file names short.
            group=f"{info['task_set']}-{str(row['uid']).partition('-')[0]}",
            step=int(row["global_steps"]),
            size=size,
            temperature=temperature,
            validation=validate,
            uid=str(row["uid"]),
            turn=int(row.get(_TURN, 0)),
            spare=0 if validate else self._config.rollout.spare_trials,
        )

    def _task(self, path: str, image: str) -> Task:
        if path not in self._tasks:
            self._images[path] = image
            task = self._tasks[path] = load_task(Path(path), image=image or None)
            # Every trial has a deadline of its own, so that each group ends; the worst of them one trial after another.
            most = max(self._train_size + self._config.rollout.spare_trials, self._val_size) + 1  # ReMax's greedy one
            longest = self._longest_sec(task) * most
            published.patience_sec = max(published.patience_sec, longest)
        return self._tasks[path]

    def _write_row(self, step: int, validate: bool, record: _Step) -> None:
        size = self._val_size if validate else self._train_size
        row = step_metrics(record.groups, group_size=size, seconds=time.monotonic() - record.began)
        counts = self._players.counts()
        row.update({f"sandbox/{name}": float(value) for name, value in counts.items()})
        row.update(image_metrics(record.images, counts))
        row.update(self._players.metrics())
        row["agent_loop/cut_short"] = self._groups.cut_short
        row.update({f"buffer/{name}": float(value) for name, value in LEDGER.stats().items()})
        if record.baselines:
            known = [reward for reward in record.baselines if reward is not None]
            row["remax/baselines_missing"] = len(record.baselines) - len(known)
            if known:
                row["remax/baseline_mean"] = sum(known) / len(known)
        if not validate and CHOSEN.curriculum is not None:
            row.update(CHOSEN.curriculum.metrics())
            row["curriculum/prompts_outside"] = record.outside / max(1, record.prompts)
            CHOSEN.curriculum.write(self._run.curriculum)
        if validate:
            row = {f"val-aux/{name}": value for name, value in row.items()}
        self._rows.write(step, row)
        self._write_status()

    def _write_status(self) -> None:
        workers = self._players.status()
        self._status.write(in_flight=self._groups.in_flight, halting=self._halt.why, workers=workers)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live(ready))
        except BaseException as error:
            self._failure = error
            logger.exception("the agent loop has ended")
            published.broken(f"{type(error).__name__}: {error}")
            ready.set()

    async def _live(self, ready: threading.Event) -> None:
        model_folder = Path(str(self._verl.actor_rollout_ref.model.path)).expanduser()
        async with self._open_players(model_folder) as players:
            self._players = players
            self._groups = self._group_runner(players)
            ready.set()
            while True:  # it ends with its process
                try:
                    self._look(players)
                    self._write_status()
                except OSError as error:  # the disk's, which may pass; trials go on
                    logger.warning("the run's health could not be looked at: %s", error)
                await asyncio.sleep(_STATUS_SEC)

    def _look(self, players: Players) -> None:
        """Whether the run should go on."""
        if (why := self._health.disk_full()) is not None:
            self._halt.ask(why, save=False)
        elif (why := players.why_hopeless()) is not None:
            self._halt.ask(f"no agent-loop worker is left: {why}")
        elif (why := self._health.why_stop() or self._trained.why_stop()) is not None:
            self._halt.ask(why)
        published.halting = self._halt.why

    def _on_trial(self, result: TrialResult) -> None:
        self._status.trial(result)
        self._health.trial(result)

    def _open_players(self, model_folder: Path) -> AbstractAsyncContextManager[Players]:
        if self._config.rollout.agent_loop.workers == 1:
            return ThisProcess.open(self._config, platform=self._platform, model_folder=model_folder, run=self._run)
        from runtime.trainer.ray_workers import RayWorkers

        device = str(self._verl.trainer.device)
        return RayWorkers.open(
            self._config, device=device, model_folder=model_folder, run=self._run, image_of=self._image_of
        )

    def _image_of(self, task: Task) -> str | None:
        return self._images.get(str(task.path)) or None

    def _longest_sec(self, task: Task) -> float:
        return longest_trial_sec(self._config, task)

    def _memory(self) -> float:
        return max(memory_in_use(), self._players.memory())

    def _group_runner(self, players: Players) -> GroupRunner:
        return GroupRunner(
            players.runner,
            concurrency=self._config.rollout.concurrency,
            deadline_sec=self._longest_sec,
            on_trial=self._on_trial,
            keeper=LEDGER,
        )


def _greedy(request: GroupRequest) -> GroupRequest:
    """The one greedy trial of a prompt that ReMax compares with."""
    return replace(request, group=f"{request.group}-greedy", size=1, temperature=0.0, uid="", spare=0)


def _ended(row: Mapping[str, Any], results: Sequence[TrialResult]) -> Ended:
    """A group as the curriculum counts it: also one without signal, which says most of its task."""
    rewards = [solved_share(result.reward) for result in results if result.reward is not None]
    info, order = row["extra_info"], int(row.get(ORDER, 0))
    task_set, task = str(info["task_set"]), str(info["task_id"])
    return Ended(str(row["uid"]), task_set, task, int(row["global_steps"]), order, len(rewards), sum(rewards))


def _without_experts(result: TrialResult) -> TrialResult:
    """What a row needs of it: a mixture's experts are a hundred times the size of the rest."""
    return replace(result, samples=tuple(replace(sample, routed_experts=None) for sample in result.samples))


def rows_of(prompts: TensorDict) -> Iterator[dict[str, Any]]:
    """One plain dict per prompt: tensors by row, stacked objects by row, shared objects as they are."""
    for index in range(len(prompts)):
        yield {key: _plain(value, index) for key, value in prompts.items()}


def _plain(value: Any, index: int) -> Any:
    if isinstance(value, NonTensorStack):
        return value[index].data
    if isinstance(value, NonTensorData):
        return value.data
    if hasattr(value, "__getitem__") and not isinstance(value, str | bytes):
        return value[index]
    return value
