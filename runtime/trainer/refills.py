"""Groups that are asked for again, within a budget: stale, failed and uniform ones are replaced, but not for ever."""

from __future__ import annotations

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
