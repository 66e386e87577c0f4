"""Training in small, in a process that may die at any file operation, and one that goes on where it died.

Real are the agent loop manager's groups, the ledger with buffer and journal, the sampler (verl's own, with ours on it),
checkpoints with their marker, rows, and what a resume prepares. verl's trainer, its TransferQueue and what it saves of
it are written down here in a few lines (``verl/trainer/ppo/v1/trainer_base.py``, 0.9.1: ``fit``, ``_load_checkpoint``,
``_reissue_inflight_prompts``, ``_add_async_warmup_batches``, ``_save_checkpoint``); trials are numbers. All of a
process runs on one thread, so that a number of an operation means the same each time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from runtime import processes
from runtime.agent_loop.groups import GroupRunner
from runtime.agent_loop.trial import trial_seed
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.config import Curriculum as Settings
from runtime.errors import RunError, Termination
from runtime.proxy.types import Sample
from runtime.rollouter import buffer as buffer_module
from runtime.run_paths import ATTEMPT, RunPaths
from runtime.task import Task
from runtime.trainer import process, stable
from runtime.trainer.chosen import CHOSEN
from runtime.trainer.curriculum import Curriculum
from runtime.trainer.ledger import Ledger, resumed_step
from runtime.trainer.rows import RowWriter
from runtime.trainer.wakeup import published
from tests.faults.disk import DEAD, Disk

GROUPS, SIZE = 2, 2
FAILED, HALTED = 7, 8
"""Exit codes of a start that ended with an error, as a full disk makes it, and of a run that ended by itself."""


def parts() -> Any:
    """What imports verl, which takes seconds and warns of itself: once, for all starts to come."""
    from verl.trainer.ppo.v1 import replay_buffer

    from runtime.trainer import agent_loop_manager, publish, sampler

    return SimpleNamespace(manager=agent_loop_manager, publish=publish, sampler=sampler, replay_buffer=replay_buffer)


@dataclass(frozen=True)
class Plan:
    """A run. ``ahead``: batches that are rolled out ahead of the trainer (0: synchronous). ``ungraded``, ``slow``: the
    shares of trials that end without a grade, and that take several steps. ``filtered``: groups without signal are left
    out; ``curriculum``: it chooses the tasks. What a trial earns follows from its seed, how long it takes does not."""

    steps: int = 4
    ahead: int = 1
    staleness: int = 2
    save_every: int = 2
    keep: int = 1
    ungraded: float = 0.2
    slow: float = 0.2
    seed: int = 0
    groups: int = GROUPS
    size: int = SIZE
    filtered: bool = False
    curriculum: bool = False


class Queue:
    """In the TransferQueue's place."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, Any] = {}
        self.KVBatchMeta = SimpleNamespace

    def kv_list(self, partition: str | None = None) -> dict[str, Any]:
        return {"train": {key: dict(tag) for key, tag in self.held.items()}}

    def kv_clear(self, *, partition_id: str, keys: Sequence[str]) -> None:
        for key in keys:
            self.held.pop(key, None)
            self.rows.pop(key, None)

    def put(self, key: str, tag: Mapping[str, Any], row: Any = None) -> None:
        self.held.setdefault(key, {}).update(tag)
        if row is not None:
            self.rows[key] = row

    async def async_kv_put(self, *, key: str, partition_id: str, tag: Mapping[str, Any]) -> None:
        self.put(key, tag)

    async def async_kv_batch_put(self, *, keys: Any, partition_id: str, fields: Any, tags: Any) -> None:
        for key, row, tag in zip(keys, fields, tags, strict=True):
            earned = float(row["rm_scores"].sum())
            self.put(key, tag, {"words": row["responses"].tolist(), "seed": int(row["prompts"][0]), "reward": earned})

    def kv_batch_get(self, *, keys: Sequence[str], partition_id: str, select_fields: Sequence[str]) -> Any:
        import torch

        assert list(select_fields) == ["rm_scores"]
        return {"rm_scores": [torch.tensor([self.rows[key]["reward"]]) for key in keys]}

    def saved(self) -> str:
        return json.dumps({"held": self.held, "rows": self.rows})

    def groups(self, *states: str) -> list[str]:
        return [key for key, tag in self.held.items() if tag.get("is_prompt") and tag["status"] in states]


class Players:
    """What a manager asks of players, but for ``run``."""

    def __init__(self, training: Training) -> None:
        self._training = training

    @property
    def runner(self) -> Self:
        return self

    async def publish(self, row: Mapping[str, Any], results: Sequence[TrialResult], *, partition: str) -> int:
        await self._training.parts.publish.publish_group(row, results, partition=partition)
        return 0

    async def forget(self, keys: Sequence[TrialKey]) -> None: ...

    def counts(self) -> Mapping[str, float]:
        return {}


class Trials(Players):
    """In the players' place. The first word of a trial is its number, the others are the policies that said them."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self._dice = random.Random(f"{training.plan.seed}/{training.start}")

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        plan, training = self._training.plan, self._training
        number = next(training.numbers)
        words, versions = [number], [training.version]
        for _ in range(self._dice.randint(12, 40) if self._dice.random() < plan.slow else self._dice.randint(1, 6)):
            words.append(training.policies[training.version])
            versions.append(training.version)
            await asyncio.sleep(0)
        training.tell(say="played", number=number, task=task.id)
        seed = trial_seed(plan.seed, key)
        reward = None if self._dice.random() < plan.ungraded else float(seed % 2)
        count = len(words)
        return TrialResult(
            key=key,
            termination=Termination.COMPLETED if reward is not None else Termination.SANDBOX_LOST,
            reward=reward,
            isolation="none",
            timings=Timings(),
            sampling=Sampling(1.0, 0),
            samples=(Sample([seed], words, [1] * count, [0.0] * count, versions),),
            started=float(number),
        )


class Training:
    """One start, to its last step. ``tell`` is heard by who watches, whatever becomes of this process."""

    def __init__(
        self, plan: Plan, folder: Path, *, start: int, tasks: Sequence[Task], tell: Callable[..., None]
    ) -> None:
        self.plan, self.start, self.tell, self._tasks = plan, start, tell, tasks
        self.paths, self.parts = RunPaths(folder), parts()
        self.queue, self.ledger = self._make_queue(), Ledger()
        self.numbers = itertools.count(start * 1000)
        self.loop = asyncio.new_event_loop()
        self._turns = 0
        self._place_parts()
        arguments: list[str] = []
        process._prepare_resume(self.paths, arguments)
        for made in (self.paths.rows, self.paths.checkpoints):
            made.mkdir(parents=True, exist_ok=True)
        self.state: dict[str, Any] = {"step": 0, "cursor": 0, "policies": {"0": 0}, "trained": []}
        CHOSEN.curriculum = self._make_curriculum() if plan.curriculum else None
        self._load()
        self.version = int(self.state["step"])
        self.policies = {int(version): policy for version, policy in self.state["policies"].items()}
        self.ledger.open(self.paths, restored=self.parts.publish.finished_groups("train"))
        self._report()
        self._manager = self._make_manager()
        self._sampler = self._make_sampler()
        self._rows = RowWriter(self.paths.rows_file("verl", attempt=start))

    def run(self) -> dict[str, Any]:
        plan = self.plan
        restored = len(self.queue.groups("pending", "running", "finished", "failure"))
        self.step = self.version + 1
        self._reissue()
        self._give_out(max(0, plan.ahead * plan.groups - restored))
        while self.step <= self.plan.steps:
            self._give_out(plan.groups)
            batch, _ = self._sampler.sample(self.step, "train", plan.groups)
            held = len(self.queue.groups("pending", "running", "finished", "failure"))
            assert held == plan.ahead * plan.groups, f"step {self.step}: {held} groups are given out and not taken"
            self._train(batch)
            if self.step % plan.save_every == 0 or self.step == self.plan.steps:
                self._save()
            self._sync()
            self.queue.kv_clear(partition_id="train", keys=batch.keys)
            self._rows.write(self.step, {"training/global_step": self.step})
            self.step += 1
        self._report()
        buffer = self.ledger._buffer
        assert buffer is not None
        # What the trainer holds beyond its last step, and prompts of a later step, which nobody has asked for yet.
        waiting = set(self.queue.groups("pending", "running", "finished", "failure"))
        waiting |= {
            name for name, one in buffer._groups.items() if one.state == "open" and one.slot.step >= self.plan.steps - 1
        }
        return {**self.state, "waiting": sorted(waiting)}

    # -- verl's trainer

    def _give_out(self, count: int) -> None:
        rows = []
        for _ in range(count):
            cursor = self.state["cursor"]
            self.state["cursor"] += 1
            uid = f"{self.start}.{cursor}"
            rows.append(self._row(uid, cursor if CHOSEN.curriculum is None else CHOSEN.curriculum.draw()))
            self.queue.put(uid, {"is_prompt": True, "status": "pending", "global_steps": self.step}, rows[-1])
        if rows:
            if self.plan.filtered and CHOSEN.curriculum is not None:
                CHOSEN.curriculum.begun(self.step)
            self._begin(rows)

    def _begin(self, rows: list[dict[str, Any]]) -> None:
        self._manager._start(rows, False)

    def _reissue(self) -> None:
        uids = self.queue.groups("pending", "running")
        gone = [key for key in self.queue.held if "_" in key and key.split("_")[0] in uids]
        self.queue.kv_clear(partition_id="train", keys=gone)
        rows = [{**self.queue.rows[uid], "global_steps": self.step} for uid in uids]
        for uid in uids:
            self.queue.put(uid, {"status": "pending", "global_steps": self.step})
        if rows:
            self._begin(rows)

    def _row(self, uid: str, cursor: int) -> dict[str, Any]:
        task = self._tasks[cursor % len(self._tasks)]
        info = {"task": str(task.path), "task_id": task.id, "task_set": "train"}
        return {"uid": uid, "global_steps": self.step, "extra_info": info}

    def _train(self, batch: Any) -> None:
        for _ in range(5):  # rollouts go on meanwhile
            self._turn()
        for key in batch.keys:
            uid, index, _ = key.split("_")
            row = self.queue.rows[key]
            self.state["trained"].append({"step": self.step, "uid": uid, "index": int(index), **row})
        self.policies[self.step] = self.start * 100 + self.step
        self.state |= {"step": self.step, "policies": {str(one): name for one, name in self.policies.items()}}

    def _sync(self) -> None:
        """Weights reach the replicas."""
        self.version = self.step

    def _save(self) -> None:
        folder = stable.step_folder(self.paths.checkpoints, self.step)
        (folder / "actor" / "huggingface").mkdir(parents=True, exist_ok=True)
        (folder / "actor" / "model.pt").write_bytes(b"weights" * 100)
        drawn = None if CHOSEN.curriculum is None else CHOSEN.curriculum.state()
        (folder / "data.pt").write_text(json.dumps({**self.state, "curriculum": drawn}))
        if self.plan.ahead:
            (folder / "transfer_queue").mkdir(exist_ok=True)
            (folder / "transfer_queue" / "all.json").write_text(self.queue.saved())
        with (self.paths.checkpoints / stable.LATEST).open("w") as pointer:
            pointer.write(str(self.step))
        marker = stable.StableMarker(SimpleNamespace(trainer={"max_actor_ckpt_to_keep": self.plan.keep + 1}))
        marker.on_save(None, self.step, str(folder))

    def _load(self) -> None:
        step = resumed_step(self.paths.checkpoints)
        if not step:
            return
        folder = stable.step_folder(self.paths.checkpoints, step)
        self.state = json.loads((folder / "data.pt").read_text())
        if CHOSEN.curriculum is not None:
            CHOSEN.curriculum.load(self.state.pop("curriculum"))
        if self.plan.ahead:
            saved = json.loads((folder / "transfer_queue" / "all.json").read_text())
            self.queue.held, self.queue.rows = saved["held"], saved["rows"]

    # -- what is around

    def _place_parts(self) -> None:
        self._place_process()
        verl = self.parts
        verl.publish.tq = verl.replay_buffer.tq = self.queue
        verl.sampler.LEDGER = verl.manager.LEDGER = self.ledger
        verl.sampler.KVBatchMeta = SimpleNamespace
        verl.publish.as_tensordict = lambda rows: rows
        verl.manager.logger.disabled = True
        buffer_module._COMPACT_BYTES = 2000
        stable.SAVED[:] = [lambda folder: self.ledger.saved(folder.parent)]
        keep = self.ledger.keep

        async def heard(request: Any, result: TrialResult) -> None:
            await keep(request, result)
            if result.reward is not None and result.samples:
                at = [request.uid, result.key.index]
                self.tell(say="kept", number=self._number(result), at=at)

        reserve = self.ledger.reserve

        def reserved(request: Any) -> list[TrialResult]:
            found = reserve(request)
            for one in found:
                if not one.samples:
                    continue
                self.tell(say="claimed", number=self._number(one), at=[request.uid, one.key.index])
            return found

        dropped = self.ledger.dropped

        def drop(groups: Any, *, step: int, reason: str) -> None:
            dropped(groups, step=step, reason=reason)
            self.tell(say="dropped", groups=list(groups))

        taken = self.ledger.taken

        def take(groups: Any, *, step: int) -> None:
            taken(groups, step=step)
            self._report()  # by the next start the journal may have forgotten it

        self.ledger.taken = take  # type: ignore[method-assign]
        self.ledger.keep, self.ledger.reserve = heard, reserved  # type: ignore[method-assign]
        self.ledger.dropped = drop  # type: ignore[method-assign]

    def _place_process(self) -> None:
        """One thread for all, and nothing else of the run below its folder."""

        async def inline(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            return function(*arguments, **named)

        aside = self.paths.path.with_name("aside")
        os.environ |= {processes.MARK: str(aside), ATTEMPT: str(self.start)}
        asyncio.to_thread = inline  # type: ignore[assignment]
        published.wait = self._wait  # type: ignore[method-assign]

    def _make_curriculum(self) -> Curriculum:
        settings = Settings.model_validate({"band": {"least": 0.4, "most": 0.6}, "floor": 0.3, "warmup_steps": 0})
        tasks = [("train", task.id) for task in self._tasks]
        return Curriculum(settings, tasks, weights={}, seed=self.plan.seed, prompts=self.plan.groups)

    def _make_queue(self) -> Queue:
        return Queue()

    def _number(self, result: TrialResult) -> int:
        """Which trial it is, of all starts."""
        return result.samples[0].response_ids[0]

    def _make_manager(self) -> Any:
        manager: Any = object.__new__(self.parts.manager.LiverlAgentLoopManager)
        manager._loop, manager._background, manager._steps, manager._given_out = self.loop, set(), {}, 0
        manager._train_size = manager._val_size = self.plan.size
        manager._fewest, manager._greedy_baseline = 2, False
        manager._filtered, manager._played, manager._enough = self.plan.filtered and not self.plan.ahead, {}, None
        published.enough = manager._stop_after
        manager._run = self.paths
        rollout = SimpleNamespace(temperature=1.0, spare_trials=0)
        manager._config = SimpleNamespace(rollout=rollout)
        manager._tasks = {str(task.path): task for task in self._tasks}
        manager._health = SimpleNamespace(group=lambda *_, **__: None)
        manager._status = SimpleNamespace(begin=lambda *_, **__: None)
        manager._write_row = lambda *_: None
        manager._dead = None
        manager._players = Trials(self)
        manager._groups = GroupRunner(manager._players, concurrency=6, keeper=self.ledger)
        return manager

    def _make_sampler(self) -> Any:
        sampler = self.parts.sampler
        made = sampler.PromptReplayBufferAsync if self.plan.ahead else sampler.PromptReplayBuffer
        filters: dict[str, Any] = {
            "filter_groups_metric": "reward",
            "gen_batch_size": 1,
            "max_inflight_gen_batches": 3,
            "sync_refill_failed_groups": not self.plan.ahead,
        }
        return made(
            trainer_mode="colocate_async" if self.plan.ahead else "sync",
            trainer_config={},
            max_off_policy_threshold=self.plan.staleness if self.plan.ahead else None,
            max_off_policy_strategy="drop",
            sampler_kwargs={**filters, "train_batch_size": self.plan.groups} if self.plan.filtered else {},
            refill_fn=self._give_out,
        )

    def _wait(self, timeout: float) -> bool:
        self._turn()
        return True

    def _turn(self) -> None:
        """A moment passes: every trial says a word."""
        self._turns += 1
        assert self._turns < 3000, f"step {self.step}: nothing moves any more: {self.queue.held}"
        self.loop.run_until_complete(asyncio.sleep(0))

    def _report(self) -> None:
        buffer = self.ledger._buffer
        assert buffer is not None
        lost = [(one.group, index) for one in buffer.lost for index in one.trials]
        self.tell(say="lost", at=lost, unread=self.ledger._unread)


@dataclass
class Witness:
    """What was said by all starts of a run, and its end."""

    said: list[dict[str, Any]] = field(default_factory=list)
    starts: int = 0
    operations: list[int] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    taken_by_disk: set[int] = field(default_factory=set)
    """Trials whose records were damaged after all had been done for them."""


@dataclass(frozen=True)
class Fault:
    """What befalls one start: see ``Disk``."""

    at: int = 0
    power: bool = False
    full: tuple[int, int] = (0, 0)
    seed: int = 0


def run(plan: Plan, faults: Sequence[Fault], *, folder: Path, tasks: Sequence[Task]) -> Witness:
    """One start after another, each with its fault, and a last one without."""
    parts()
    witness = Witness()
    (folder / "run").mkdir(parents=True)
    (folder / "aside").mkdir()
    for fault in (*faults, Fault()):
        code = _start(plan, fault, witness, folder=folder, tasks=tasks)
        if code in (0, HALTED):
            break
        expected = (FAILED, DEAD) if fault != Fault() else ()
        assert code in expected, f"a start with {fault} ended with exit code {code}: {witness.errors[-1:]}"
    return witness


def _start(plan: Plan, fault: Fault, witness: Witness, *, folder: Path, tasks: Sequence[Task]) -> int:
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        _child(plan, fault, witness.starts, say, folder=folder, tasks=tasks)
    os.close(say)
    witness.starts += 1
    with os.fdopen(hear, "rb") as stream:
        heard = [json.loads(line) for line in stream.read().splitlines()]
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for one in heard:
        match one["say"]:
            case "end":
                witness.end = one["state"]
            case "error":
                witness.errors.append(one["what"])
            case "operations":
                witness.operations.append(one["count"])
            case _:
                witness.said.append(one)
    return code


def _child(plan: Plan, fault: Fault, start: int, say: int, *, folder: Path, tasks: Sequence[Task]) -> None:
    write, leave = os.write, os._exit

    def tell(**what: Any) -> None:
        write(say, json.dumps(what).encode() + b"\n")

    try:
        disk = Disk(folder / "run", **asdict(fault))
        disk.install()
        state = Training(plan, folder / "run", start=start, tasks=tasks, tell=tell).run()
        tell(say="operations", count=disk.count)
        tell(say="end", state=state)
        leave(0)
    except RunError as error:
        tell(say="error", what=str(error))
        leave(HALTED)
    except OSError as error:
        if not fault.full[1]:
            _crash(error, tell, leave)
        tell(say="error", what=str(error))
        leave(FAILED)
    except BaseException as error:
        _crash(error, tell, leave)


def _crash(error: BaseException, tell: Callable[..., None], leave: Callable[[int], Any]) -> None:
    tell(say="error", what="".join(traceback.format_exception(error)[-6:]))
    leave(1)


def check(plan: Plan, witness: Witness) -> None:
    """Nothing lost, nothing doubled, nothing too old, of no policy that is no more. A run with more failures than its
    budget of replacements ends by itself, and says so."""
    if not (end := witness.end):
        assert witness.errors[-1].startswith("RefillBudget: "), witness.errors
        return
    trained = end["trained"]
    by_step: dict[int, set[str]] = {}
    for one in trained:
        by_step.setdefault(one["step"], set()).add(one["uid"])
    assert sorted(by_step) == list(range(1, plan.steps + 1)), "a step is missing"
    uids = [uid for group in by_step.values() for uid in group]
    assert len(set(uids)) == len(uids), "a group was trained in two steps"
    if plan.ahead:
        assert all(len(group) == plan.groups for group in by_step.values()), by_step
    numbers = [one["words"][0] for one in trained]
    assert len(set(numbers)) == len(numbers), "a trial was trained twice"
    assert len({(one["uid"], one["index"]) for one in trained}) == len(trained), "a place was trained twice"
    if not plan.ahead:
        said = {(one["step"], one["seed"]) for one in trained}
        assert len(said) == len(trained), "two trials of a step have one seed"
    version_of = {policy: int(version) for version, policy in end["policies"].items()}
    for one in trained:
        assert set(one["words"][1:]) <= set(version_of), f"{one}: sampled by a policy that is no more"
        versions = [version_of[policy] for policy in one["words"][1:]]
        assert versions == sorted(versions) and versions[-1] < one["step"], f"{one}: versions go back"
        assert one["step"] - versions[0] <= (plan.staleness if plan.ahead else 1), f"{one}: too old"
    _account(witness, set(numbers))


def _account(witness: Witness, trained: set[int]) -> None:
    """Every trial that was acknowledged is trained, or was dropped or lost and said so, or waits for its step."""
    end = witness.end
    kept: dict[int, set[tuple[str, int]]] = {}
    dropped, lost = set[str](), set[tuple[str, int]]()
    for one in witness.said:
        match one["say"]:
            case "kept" | "claimed":
                kept.setdefault(one["number"], set()).add((one["at"][0], one["at"][1]))
            case "dropped":
                dropped |= set(one["groups"])
            case "lost":
                lost |= {(name, index) for name, index in one["at"]}
                assert not one["unread"]
    waiting = set(end["waiting"])
    for number, places in kept.items():
        gone = number in witness.taken_by_disk or places & lost
        if number in trained or gone or any(uid in dropped or uid in waiting for uid, _ in places):
            continue
        raise AssertionError(f"trial {number} of {places} was acknowledged, and nobody knows of it")
