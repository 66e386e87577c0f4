"""A small run that faults are injected into, and the invariants that must hold after each of them.

Real are groups, trials, sandboxes, agents' processes, proxy, verifier, pool of replicas, buffer and journal; the
replicas themselves are scripted, so that they can fail in every way.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.agent_loop.groups import GroupRequest, GroupRunner
from runtime.agent_loop.services import Services, open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialResult
from runtime.errors import HANDLING, Termination, TrialError
from runtime.proxy.codec import ChatCodec, load_codec
from runtime.rollouter.balanced import HealthChecks
from runtime.rollouter.engine import Generation, SamplingParams, WeightIdentity
from runtime.rollouter.pool import ReplicaPool
from runtime.run_paths import RunPaths
from runtime.task import Task
from runtime.trainer.ledger import Ledger
from runtime.trainer.stable import LATEST
from tests.runtime.agent_loop.conftest import make_config
from tests.runtime.proxy.scripted_engine import Call, ScriptedEngine

STEP, SIZE = 2, 3
"""Of the trainer, which goes on from its first step's checkpoint, and trials of a group."""
VERSION = STEP - 1
"""Of the weights that replicas begin with; 0 is too old."""
GONE = TrialError(Termination.MODEL_UNAVAILABLE, "connection reset by peer")


_REPLICAS = itertools.count()


class Replica:
    """Answers every session's first call with a word and its second with the repair, unless ``fault`` says otherwise:
    it is awaited before each reply and may raise, wait, or return a reply of its own."""

    def __init__(self, number: int, codec: ChatCodec, replies: Counter[str]) -> None:
        self.name = f"replica-{number}"
        self._engine = ScriptedEngine(codec, self._answer)
        # Log-probabilities tell all tokens of all replicas apart, in this process and the next.
        self._engine._sampled = next(_REPLICAS) * 100_000
        self._replies = replies
        self.load(VERSION)
        self.fault: Callable[[], Awaitable[Generation | None]] | None = None
        self.hung = self.dead = False
        self.calls = 0

    def load(self, version: int) -> None:
        self.served = WeightIdentity(version, f"print-{version}")
        self._engine.version = version

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        self.calls += 1
        await self._reachable()
        if self.fault is not None and (own := await self.fault()) is not None:
            return own
        generation = await self._engine.generate(prompt_ids, params, session=session)
        self._replies[session] += 1
        return generation

    def part(self, words: str) -> Generation:
        """The beginning of a reply that is cut by new weights."""
        return self._engine.generation(self._engine.split(words), "abort")

    async def identity(self) -> WeightIdentity:
        await self._reachable()
        return self.served

    async def abort_all(self) -> int:
        return 0

    async def close(self) -> None:
        await self._engine.close()

    async def _reachable(self) -> None:
        if self.dead:
            raise GONE
        if self.hung:
            await asyncio.Event().wait()

    def _answer(self, call: Call) -> str:
        return "SOLVE" if self._replies[call.session] else "look"


@dataclass
class World:
    """One process of a run over ``folder``; several, one after another, are a run that was killed and goes on."""

    folder: Path
    tokenizer: Path
    replicas: list[Replica] = field(default_factory=list)
    changed: Callable[[Services], Services] = lambda services: services
    """What a test puts in place of some service."""
    deadline_sec: float = 60.0
    attempts: int = 2

    def __post_init__(self) -> None:
        replies: Counter[str] = Counter()
        codec = load_codec(self.tokenizer, "hermes")
        self.replicas = [Replica(number, codec, replies) for number in range(2)]
        pointer = RunPaths(self.folder).checkpoints / LATEST
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.write_text(str(STEP - 1), encoding="ascii")

    def play(self, *tasks: Task, during: Callable[[ReplicaPool], Awaitable[None]] | None = None) -> list[TrialResult]:
        """One group of each task, to its end; then the invariants."""
        return asyncio.run(self._play(tasks, during))

    async def _play(self, tasks: Sequence[Task], during: Any) -> list[TrialResult]:
        checks = HealthChecks(interval_sec=0.05, timeout_sec=0.3, misses=2, patience_sec=1.0)
        pool = ReplicaPool({one.name: one for one in self.replicas}, checks=checks)
        config = make_config(attempts=self.attempts)
        ledger = Ledger()
        ledger.open(RunPaths(self.folder))
        state = self.folder / "state"
        try:
            async with open_services(config, engine=pool, model_folder=self.tokenizer, state=state) as services:
                runner = TrialRunner(self.changed(services), config, trials=RunPaths(self.folder).trials)
                groups = GroupRunner(runner, concurrency=4, deadline_sec=lambda _: self.deadline_sec, keeper=ledger)
                requests = [self._request(task) for task in tasks]
                work = [asyncio.create_task(groups.run(request)) for request in requests]
                if during is not None:
                    await during(pool)
                results = [trial for group in await asyncio.gather(*work) for trial in group]
                left = [path.name for path in state.rglob("box-*")]
            in_flight = pool.status()["total_inflight"]
        finally:
            ledger.close()
            await pool.close()
        check(results, in_flight=in_flight, leaked=left)
        return results

    _numbers = itertools.count()

    def _request(self, task: Task) -> GroupRequest:
        uid = f"uid{next(self._numbers)}"
        return GroupRequest(task, "train", f"train-{uid}", STEP, SIZE, 1.0, uid=uid)


def check(results: Sequence[TrialResult], *, in_flight: int, leaked: Sequence[str], behind: int = 0) -> None:
    """No sample lost or doubled, rewards from graded work alone, versions monotone and within the bound, nothing
    left."""
    names = [(one.key.task, one.key.group, one.key.index) for one in results]
    assert len(set(names)) == len(names), "a trial counts twice"
    trained: list[float] = []
    for one in results:
        graded = one.verdict != "no-grade"
        assert (one.reward is not None) == graded, f"{one.key.trial_id}: a reward without a verdict"
        assert not graded or HANDLING[one.termination].grade, f"{one.key.trial_id}: graded after {one.termination}"
        fate = one.accounting
        assert fate.trained + fate.discarded + fate.auxiliary + fate.lost == fate.sampled, one.key.trial_id
        for sample in one.samples:
            lists = (sample.response_ids, sample.response_mask, sample.response_logprobs, sample.weight_versions)
            assert len({len(values) for values in lists}) == 1
            mine = list(zip(sample.response_mask, sample.response_logprobs, sample.weight_versions, strict=True))
            versions = [version for mask, _, version in mine if mask]
            assert versions == sorted(versions), f"{one.key.trial_id}: versions go back: {versions}"
            assert not versions or STEP - 1 - versions[0] <= behind, f"{one.key.trial_id}: too old"
            assert all(math.isfinite(logprob) for _, logprob, _ in mine)
            trained += [logprob for mask, logprob, _ in mine if mask]
    assert len(set(trained)) == len(trained), "a sampled token is trained twice"
    assert in_flight == 0, f"{in_flight} calls are still counted as in flight"
    assert not leaked, f"sandboxes were left: {leaked}"


def with_verifier(verifier: Any) -> Callable[[Services], Services]:
    return lambda services: dataclasses.replace(services, verifier=verifier(services.verifier))
