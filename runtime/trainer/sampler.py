"""verl's replay buffers, woken by the bell, in a fixed order, with staleness bounded by tokens and refills by a budget.

Selected by ``trainer.v1.sampler.custom_sampler``. When a batch is taken, and what is dropped for being stale, stays
verl's; on top of it:

- the trainer wakes when a group has been published, not at verl's next poll after two seconds;
- trajectories come in the order in which their prompts were given out, not in that of arrival and of random uids, so
  that equal samples make equal updates;
- verl judges staleness by the step at which a prompt was given out. A replica that serves older weights than it should
  would pass: here the oldest version of any token of the group counts as well;
- what is dropped is refilled within a budget, so that a run whose every group fails ends instead of going on for ever;
- in ``sync``, where groups without signal are left out, as many are begun as a batch probably takes, not two for each
  one that is left out: what comes too late for its step is thrown away.

verl tells a sampler that is not its own nothing of ``algorithm.filter_groups``: what its own would be given for it
comes as ``sampler_kwargs``, and is handed on to it.

Upstream: ``verl/trainer/ppo/v1/replay_buffer.py`` (poll_interval 2.0 is not in the YAML), 0.9.1.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection
from typing import Any

from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from runtime.errors import RunError
from runtime.run_paths import RunPaths
from runtime.telemetry.waits import overdue, waiting
from runtime.trainer.chosen import CHOSEN
from runtime.trainer.ledger import LEDGER
from runtime.trainer.publish import GIVEN_OUT, ORDER
from runtime.trainer.refills import REFILLS_PER_FILTERED_GROUP, REFILLS_PER_GROUP, ProbableNeed, RefillBudget, Shares
from runtime.trainer.wakeup import published

log = logging.getLogger(__name__)

_FALLBACK_SEC = 0.25
"""Poll interval when nobody announces groups (another agent loop manager, or another process)."""
_OWNER = "trainer"


class _Ordered:
    """What both buffers do beside verl's own."""

    poll_interval: float
    partitions: dict[str, dict[str, dict[str, Any]]]

    def __init__(self, **kwargs: Any) -> None:
        filters = dict(kwargs.get("sampler_kwargs") or {})
        per_group = REFILLS_PER_FILTERED_GROUP if filters.get("filter_groups_metric") else REFILLS_PER_GROUP
        self._budget = RefillBudget(kwargs.get("refill_fn"), per_group=per_group, halting=lambda: published.halting)
        self._wanted, self._moved = "group", time.monotonic()
        super().__init__(**{**kwargs, **filters, "poll_interval": _FALLBACK_SEC, "refill_fn": self._budget})

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        self._budget.begin(global_steps, batch_size)
        what = (
            f"{batch_size} groups of {'step' if partition_id == 'train' else 'the validation at step'} {global_steps}"
        )
        self._wanted, self._moved = what, time.monotonic()
        with waiting(RunPaths.of_process().waits, owner=_OWNER, what=what, deadline_sec=published.patience_sec):
            batch, metrics = super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        if partition_id == "train":
            uids = list(dict.fromkeys(key.split("_")[0] for key in batch.keys))
            LEDGER.taken(uids, step=global_steps)
            _forget(uids)
            metrics["training/refilled_groups"] = self._budget.used
        return batch, metrics

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        if partition_id == "train":
            LEDGER.dropped(
                sorted(uids), step=self._budget.step, reason="stale, failed, without signal or beyond the batch"
            )
            _forget(uids)
        super()._clear_groups(partition_id, uids)  # type: ignore[misc]

    def _orders(self, partition_id: str) -> dict[str, float]:
        """Of groups, as their prompts were given out: by the agent loop manager's word, or their trajectories'."""
        said = {key.split("_")[0]: tag.get(ORDER, math.inf) for key, tag in self.partitions[partition_id].items()}
        return {**said, **GIVEN_OUT}

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        if published.wait(self.poll_interval):
            self._moved = time.monotonic()
        elif time.monotonic() - self._moved > published.patience_sec:
            raise RunError(overdue(f"one more of {self._wanted}", owner=_OWNER, deadline_sec=published.patience_sec))
        return last_debug_time

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: set[str], batch_size: int
    ) -> tuple[list[str], dict[str, dict[str, Any]], dict[str, int]]:
        """The oldest groups, as verl would, but never left to the order of a set."""
        orders = self._orders(partition_id)
        ordered = sorted(sampleable_keys, key=lambda uid: (orders.get(uid, math.inf), uid))
        _, snapshot, steps = super()._select_prompt_uids(partition_id, set(), 0)  # type: ignore[misc]
        chosen = sorted(ordered, key=lambda uid: steps.get(uid, 0))[:batch_size]
        return chosen, snapshot, steps

    def _materialize_batch(self, partition_id: str, chosen: list[str], snapshot: dict[str, dict[str, Any]]) -> Any:
        batch = super()._materialize_batch(partition_id, chosen, snapshot)  # type: ignore[misc]
        rank = {uid: place for place, uid in enumerate(chosen)}
        pairs = sorted(zip(batch.keys, batch.tags, strict=True), key=lambda pair: _place(pair[0], rank))
        return KVBatchMeta(
            partition_id=partition_id, keys=[key for key, _ in pairs], tags=[dict(tag) for _, tag in pairs]
        )


class PromptReplayBuffer(_Ordered, ReplayBuffer):  # type: ignore[misc]
    """Synchronous sampling (trainer mode ``sync``)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._need: ProbableNeed | None = None
        self._ended: dict[str, tuple[float, bool]] = {}
        """Groups of the step that have ended: their order, and whether they may be trained."""
        self._heard: set[str] = set()
        self._step, self._last = 0, math.inf
        """The step, and the order of the group that fills its batch: those after it are not waited for."""
        self._first = False
        """Whether the step is still to begin what it probably takes beyond a batch."""
        if self.filter_groups_metric is not None:
            self.refill_fn = lambda count: None  # two for each one that is left out: ours is asked instead

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        filtered = self.filter_groups_metric is not None and partition_id == "train"
        at_once = self.max_inflight_gen_batches * batch_size
        shares = Shares(RunPaths.of_process().shares)
        self._need = ProbableNeed(batch_size, at_once=at_once, share=shares.before(global_steps)) if filtered else None
        self._ended, self._heard, self._first = {}, set(), self._need is not None
        self._step, self._last = global_steps, math.inf
        taken = super().sample(global_steps, partition_id, batch_size)
        if self._need is not None:
            try:
                shares.write(global_steps, self._need.share)
            except OSError as error:  # the next step guesses, and what it trains may differ from a run's that need not
                log.warning("step %d: its share of groups with a difference is not kept: %s", global_steps, error)
            if CHOSEN.curriculum is not None:
                CHOSEN.curriculum.over(last=self._last)
        return taken

    def _evict_terminal_groups(self, global_steps: int, partition_id: str, eviction_reasons: Any) -> Any:
        if self._need is not None:
            orders = self._orders(partition_id)
            left_out = set().union(*eviction_reasons[:3])
            self._ended |= {uid: (orders.get(uid, math.inf), False) for uid in left_out}
            return self._told_apart(
                partition_id,
                sum(orders.get(uid, math.inf) > self._last for uid in eviction_reasons[2]),
                super()._evict_terminal_groups(global_steps, partition_id, eviction_reasons),
            )
        return super()._evict_terminal_groups(global_steps, partition_id, eviction_reasons)

    def _told_apart(self, partition_id: str, ended: int, evicted: Any) -> Any:
        """Groups that were ended because the batch is full are beyond it, and have not failed."""
        uids, stale, uniform, metrics = evicted
        if ended:
            prefix = self._metrics_prefix(partition_id)
            failed, beyond = f"{prefix}/rollout_failure/evicted_samples", f"{prefix}/filter_groups/cut_short"
            metrics = {**metrics, failed: metrics[failed] - ended, beyond: ended}
        return uids, stale, uniform, metrics

    def _sampleable_terminal_keys(self, partition_id: str, eviction_reasons: Any) -> set[str]:
        """None of them while more have just been begun: verl does not know of those yet."""
        found: set[str] = super()._sampleable_terminal_keys(partition_id, eviction_reasons)
        if self._need is None:
            return found
        more, self._first = self._need.first() if self._first else 0, False
        orders = self._orders(partition_id)
        self._ended |= {uid: (orders.get(uid, math.inf), True) for uid in found}
        going_on = self.pending_keys[partition_id] | self.running_keys[partition_id]
        first = min((orders.get(uid, math.inf) for uid in going_on), default=math.inf)
        for order, uid in sorted((order, uid) for uid, (order, _) in self._ended.items() if uid not in self._heard):
            if going_on and order >= first:
                break  # one of those before it has not ended
            self._heard.add(uid)
            more += self._need.ended(taken=self._ended[uid][1])
            if self._need.full and self._last == math.inf:
                self._last = order
                if going_on:
                    published.enough(self._step, int(order))
        if more:
            self._budget(more)
        return set() if more else found


class PromptReplayBufferAsync(_Ordered, ReplayBufferAsync):  # type: ignore[misc]
    """Asynchronous sampling (``colocate_async``, ``separate_async``)."""

    def _stale_terminal_keys(self, global_steps: int, partition_id: str) -> set[str]:
        stale: set[str] = super()._stale_terminal_keys(global_steps, partition_id)
        limit = self.max_off_policy_threshold
        if partition_id != "train" or limit is None or self.max_off_policy_strategy != "drop":
            return stale
        finished = self.finished_keys[partition_id]
        # The batch of step N is trained on top of version N - 1: with tokens of that version alone it spans one.
        return stale | {
            uid
            for key, tag in self.partitions[partition_id].items()
            if (uid := key.split("_")[0]) in finished and global_steps - tag["min_global_steps"] > limit
        }


def _forget(uids: Collection[str]) -> None:
    for uid in uids:
        GIVEN_OUT.pop(uid, None)


def _place(key: str, rank: dict[str, int]) -> tuple[int, int, int]:
    uid, session, index = key.split("_")
    return rank[uid], int(session), int(index)
