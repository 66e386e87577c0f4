"""Groups that are asked for again, within a budget: stale, failed and uniform ones are replaced, but not for ever; and
how many a step begins that leaves out groups without signal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.errors import RunError
from runtime.files import write_whole
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


_GUESSES, _GUESSED_SHARE = 16, 0.7
"""Before a group of the step has ended: as if so many had, so large a share of them with a difference where no step
before says more. Fewer guesses begin many groups on the word of the first few, more of them learn too late."""


class Shares:
    """Of each step's groups the share with a difference, in a file of the run: what the next step probably has. A step
    that is taken again reads what it read before."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def before(self, step: int) -> float | None:
        """The mean of the two steps before ``step``; None: there were none, or the file is gone or damaged."""
        known = {at: share for at, share in self._read().items() if at < step}
        newest = [known[at] for at in sorted(known)[-2:]]
        return sum(newest) / len(newest) if newest else None

    def write(self, step: int, share: float) -> None:
        known = {at: one for at, one in self._read().items() if at < step}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps({**known, step: round(share, 4)}).encode())

    def _read(self) -> dict[int, float]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return {int(step): float(share) for step, share in found.items() if 0 < share <= 1}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


class ProbableNeed:
    """How many groups a step begins so that ``batch`` of them have trials of different reward: as many as that probably
    takes, by the share among those that have ended and by ``share``, that of the steps before. At most ``at_once`` lie
    ahead of those that have ended.

    It hears of groups in the order in which their prompts were given out, never in that of arrival: so equal samples
    begin equal groups, and the next step has the same prompts however long each trial took.
    """

    def __init__(self, batch: int, *, at_once: int, share: float | None = None) -> None:
        self._batch, self._at_once = batch, at_once
        self._guessed = _GUESSED_SHARE if share is None else share
        self._begun = batch
        self._ended = self._taken = 0

    @property
    def full(self) -> bool:
        """Whether the groups that it has heard of are enough."""
        return self._taken >= self._batch

    @property
    def share(self) -> float:
        """Of the groups that have ended until the batch was full."""
        return self._taken / self._ended if self._ended else self._guessed

    def first(self) -> int:
        """How many more than a batch the step begins with: replicas and boxes never wait for the first groups' end."""
        return self._more()

    def ended(self, *, taken: bool) -> int:
        """The next group in order has ended; ``taken``: it may be trained. Returns how many more are to be begun."""
        if self.full:
            return 0
        self._ended += 1
        self._taken += taken
        return self._more()

    def _more(self) -> int:
        share = (self._taken + _GUESSES * self._guessed) / (self._ended + _GUESSES)
        ahead = min(math.ceil((self._batch - self._taken) / share), self._at_once)
        more = max(0, self._ended + ahead - self._begun)
        self._begun += more
        return more
