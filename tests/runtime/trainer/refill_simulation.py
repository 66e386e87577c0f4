"""Steps that leave out groups without signal, in virtual time, through the real sampler: how many groups
are begun for each one that is trained, and how long a step takes.

Simulated are the trials: how long each takes, and whether those of its group differ. Both depend on the prompt's place
alone, so that ways of refilling are compared on the same prompts. Durations are lognormal; trials wait for a free place
in the order of prompts.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

BATCH, SIZE, IN_FLIGHT = 16, 16, 512
"""Groups of a step, trials of a group, and trials at once: half of the groups of ``specs/one-gpu-real.jsonnet``."""
BATCHES_AT_ONCE = IN_FLIGHT // (BATCH * SIZE) + 2
"""As the compiler says."""
MEDIAN_SEC, SIGMA = 60.0, 0.6


@dataclass
class Outcome:
    """Of all steps: groups begun, trained, without signal, and thrown away although they had one; virtual seconds.
    ``batches``: the prompts' places that each step trained."""

    begun: int = 0
    trained: int = 0
    uniform: int = 0
    surplus: int = 0
    cut_short: int = 0
    """Ended because their step had its batch without them."""
    seconds: float = 0.0
    stale: int = 0
    """Thrown away for their age, with a difference or not yet looked at."""
    batches: list[list[int]] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)
    """How many versions each trained group was."""

    @property
    def wasted(self) -> float:
        """Of the groups with a difference, the share that came too late for their step."""
        return self.surplus / (self.surplus + self.trained)


class Steps:
    """``mixed``: how large a share of the groups has trials of different reward. ``sampler``: the module. ``hurry``:
    durations are drawn anew with it; what is trained must not depend on it. ``staleness``: of ``colocate_async``, else
    ``sync``; ``ahead``: batches that are begun before the first."""

    def __init__(
        self,
        sampler: Any,
        *,
        mixed: float,
        kind: Any,
        staleness: int | None,
        ahead: int,
        seed: int = 0,
        hurry: int = 0,
        batches_at_once: int = BATCHES_AT_ONCE,
    ) -> None:
        self._ahead = ahead
        self._asynchronous = staleness is not None
        self._mixed, self._seed, self._hurry = mixed, seed, hurry
        self._module = sampler
        self._held: dict[str, dict[str, Any]] = {}
        self._rewards: dict[str, float] = {}
        self._now = 0.0
        self._step = 0
        self._cursor = itertools.count()
        self._line: deque[tuple[float, int]] = deque()
        self._running: list[tuple[float, int]] = []
        self._left: dict[int, int] = {}
        self._rung = False
        self.outcome = Outcome()
        own = sampler.PromptReplayBufferAsync if self._asynchronous else sampler.PromptReplayBuffer
        self._sampler = (kind or own)(
            trainer_mode="colocate_async" if self._asynchronous else "sync",
            trainer_config={},
            max_off_policy_threshold=staleness,
            max_off_policy_strategy="drop",
            sampler_kwargs={
                "filter_groups_metric": "reward",
                "gen_batch_size": 1,
                "train_batch_size": BATCH,
                "max_inflight_gen_batches": batches_at_once,
                "sync_refill_failed_groups": not self._asynchronous,
            },
            refill_fn=self._give_out,
        )

    def run(self, steps: int) -> Outcome:
        self._step = 1
        self._give_out(self._ahead * BATCH)
        for self._step in range(1, steps + 1):
            self._give_out(BATCH)
            batch, metrics = self._sampler.sample(self._step, "train", BATCH)
            steps_of = {
                int(key.split("_")[0]): tag["global_steps"] for key, tag in zip(batch.keys, batch.tags, strict=True)
            }
            self.outcome.behind += [self._step - given for given in steps_of.values()]
            places = list(dict.fromkeys(int(key.split("_")[0]) for key in batch.keys))
            self.kv_clear(partition_id="train", keys=batch.keys)
            assert self._asynchronous or not self._held, "something is left of the step"
            self.outcome.stale += int(metrics.get("training/off_policy/evicted_samples", 0))
            self.outcome.batches.append(places)
            self.outcome.trained += len(places)
            self.outcome.uniform += int(metrics.get("training/filter_groups/evicted_samples", 0))
            self.outcome.cut_short += int(metrics.get("training/filter_groups/cut_short", 0))
            assert not metrics.get("training/rollout_failure/evicted_samples")
            self.outcome.surplus += int(metrics.get("training/filter_groups/discarded_surplus_samples", 0))
        self.outcome.seconds = self._now
        return self.outcome

    def wait(self, timeout: float) -> bool:
        """In the bell's place: the next group ends."""
        if self._rung:
            self._rung = False
            return True
        while True:
            assert self._running, "nothing runs any more, and the step has too few groups"
            self._now, place = heapq.heappop(self._running)
            self._begin()
            self._left[place] -= 1
            if not self._left[place]:
                break
        uid, mixed = str(place), random.Random(f"{self._seed}/{place}").random() < self._mixed
        self._held[uid]["status"] = "finished"
        given = self._held[uid]["global_steps"]
        for index in range(2):
            key = f"{uid}_{index}_0"
            self._held[key] = {"order": place, "min_global_steps": given - 1, "global_steps": given}
            self._rewards[key] = float(mixed and index == 0)
        return True

    def enough(self, step: int, order: int) -> None:
        """What was given out later ends at once."""
        late = [place for place in self._left if place > order and self._left[place]]
        for place in late:
            self._held[str(place)]["status"] = "failure"
            self._left[place] = 0
        self._line = deque(one for one in self._line if one[1] not in late)
        self._running = [one for one in self._running if one[1] not in late]
        heapq.heapify(self._running)
        self._rung = bool(late)

    def _give_out(self, count: int) -> None:
        for _ in range(count):
            place = next(self._cursor)
            self._module.GIVEN_OUT[str(place)] = place
            self.outcome.begun += 1
            self._held[str(place)] = {"is_prompt": True, "global_steps": self._step, "status": "pending"}
            dice = random.Random(f"{self._seed}/{place}/{self._hurry}")
            self._line.extend((dice.lognormvariate(0.0, SIGMA) * MEDIAN_SEC, place) for _ in range(SIZE))
            self._left[place] = SIZE
        self._begin()

    def _begin(self) -> None:
        while self._line and len(self._running) < IN_FLIGHT:
            seconds, place = self._line.popleft()
            heapq.heappush(self._running, (self._now + seconds, place))

    # -- TransferQueue

    def kv_list(self) -> dict[str, Any]:
        return {"train": {key: dict(tag) for key, tag in self._held.items()}}

    def kv_clear(self, *, partition_id: str, keys: Any) -> None:
        for key in keys:
            self._held.pop(key, None)

    def kv_batch_get(self, *, keys: list[str], partition_id: str, select_fields: list[str]) -> Any:
        import torch

        return {"rm_scores": [torch.tensor([self._rewards[key]]) for key in keys]}


def two_for_one() -> Any:
    """The sampler that begins two groups for each one that is left out, as verl's does by itself."""
    from runtime.trainer import sampler

    class TwoForOne(sampler.PromptReplayBuffer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.refill_fn = self._budget

        def _sampleable_terminal_keys(self, partition_id: str, eviction_reasons: Any) -> set[str]:
            self._need = None
            return super()._sampleable_terminal_keys(partition_id, eviction_reasons)

    return TwoForOne


def simulate(
    *,
    mixed: float,
    steps: int = 12,
    kind: Any = None,
    staleness: int | None = None,
    ahead: int = 0,
    seed: int = 0,
    hurry: int = 0,
    batches_at_once: int = BATCHES_AT_ONCE,
) -> Outcome:
    """Needs the run's mark in the environment. The sampler's module is as it was afterwards."""
    from verl.trainer.ppo.v1 import replay_buffer

    from runtime.trainer import sampler

    play = Steps(
        sampler,
        mixed=mixed,
        kind=kind,
        staleness=staleness,
        ahead=ahead,
        seed=seed,
        hurry=hurry,
        batches_at_once=batches_at_once,
    )
    ledger = SimpleNamespace(taken=lambda *_, **__: None, dropped=lambda *_, **__: None)
    bell = SimpleNamespace(wait=play.wait, patience_sec=3600.0, halting=None, enough=play.enough)
    before = replay_buffer.tq, sampler.LEDGER, sampler.published
    replay_buffer.tq, sampler.LEDGER, sampler.published = play, ledger, bell  # type: ignore[assignment]
    try:
        return play.run(steps)
    finally:
        replay_buffer.tq, sampler.LEDGER, sampler.published = before
