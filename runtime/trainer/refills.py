"""Groups that are asked for again, within a budget: stale, failed and uniform ones are replaced, but not for ever; and
how many a step begins that leaves out groups without signal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from runtime.errors import RunError
from runtime.trainer.halt import HALTED

REFILLS_PER_GROUP = 4
"""Groups that may be asked for again for each one that a batch needs."""
REFILLS_PER_FILTERED_GROUP = 10
"""The same where groups without signal are left out: nine of ten may be."""


class RefillBudget:
    """verl's ``refill_fn`` with a limit for each batch. Raises ``RunError`` beyond it. ``halting``: why the run is to
    end anyway, which comes first: the step whose checkpoint it waits for does not come to its end."""

    def __init__(
        self,
        refill: Callable[[int], Any] | None,
        *,
        per_group: int = REFILLS_PER_GROUP,
        halting: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._refill, self._per_group, self._halting = refill, per_group, halting
        self._limit = 0
        self.step = 0
        self.used = 0

    def begin(self, step: int, batch_size: int) -> None:
        """A batch of ``batch_size`` groups is about to be taken."""
        self.step, self._limit, self.used = step, self._per_group * batch_size, 0

    def __call__(self, count: int) -> None:
        self.used += count
        if self.used > self._limit:
            if (why := self._halting()) is not None:
                raise RunError(
                    f"{HALTED}: {why}; step {self.step} could not be brought to its end, with {self.used} groups that "
                    "had to be asked for again: the run was ended without a checkpoint of it"
                )
            raise RunError(
                f"RefillBudget: step {self.step}: {self.used} groups had to be asked for again (stale, failed or "
                f"without signal), more than {self._limit}: trials/{self.step}/*/trial.json say why; mend what fails "
                "them, raise mode.max_staleness where they were stale, take tasks of another difficulty or unset "
                "algorithm.drop_uniform_groups where they had no signal"
            )
        if self._refill is not None:
            self._refill(count)


def filters_in_step(v1: Any) -> bool:
    """Whether a step of verl's table ``trainer.v1`` is synchronous, leaves out groups without signal and so begins more
    of them until it has enough."""
    kwargs = (v1 or {}).get("sampler", {}).get("sampler_kwargs") or {}
    return bool(v1 and v1.get("trainer_mode") == "sync" and kwargs.get("filter_groups_metric"))


_GUESSES, _GUESSED_SHARE = 8, 0.7
"""Before a group of the step has ended: as if so many had, so large a share of them with a difference. Fewer guesses
begin many groups on the word of the first few, more of them learn too late."""


class ProbableNeed:
    """How many groups a step begins so that ``batch`` of them have trials of different reward: as many as that probably
    takes, by the share among those that have ended. At most ``at_once`` lie ahead of those.

    It hears of groups in the order in which their prompts were given out, never in that of arrival: so equal samples
    begin equal groups, and the next step has the same prompts however long each trial took.
    """

    def __init__(self, batch: int, *, at_once: int) -> None:
        self._batch, self._at_once = batch, at_once
        self._begun = batch
        self._ended = self._taken = 0

    def ended(self, *, taken: bool) -> int:
        """The next group in order has ended; ``taken``: it may be trained. Returns how many more are to be begun."""
        if self._taken >= self._batch:
            return 0
        self._ended += 1
        self._taken += taken
        share = (self._taken + _GUESSES * _GUESSED_SHARE) / (self._ended + _GUESSES)
        ahead = min(math.ceil((self._batch - self._taken) / share), self._at_once)
        more = max(0, self._ended + ahead - self._begun)
        self._begun += more
        return more
