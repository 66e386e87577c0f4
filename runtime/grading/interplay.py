"""Which look-alikes can be used: a failing test may leave state behind that makes true tests fail, or other look-alikes
pass.

Known from runs with the task's own solution: a true test that passed after a look-alike is not disturbed by it. A
verdict that turns on a pair of which nothing is known asks first. It runs nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

Before = Mapping[str, Set[str]]
"""True test -> the look-alikes that ran before it."""


def before(tests: Iterable[str], spoiled: Iterable[str], order: Sequence[str]) -> Before:
    """order: tests as they came to their ends; one that is not there may have had any look-alike before it."""
    places = {test_id: place for place, test_id in enumerate(order)}
    last = len(order)
    return {test: {one for one in spoiled if places.get(one, -1) < places.get(test, last)} for test in tests}


class Interplay:
    """Of one task."""

    def __init__(self) -> None:
        self._harmless: dict[str, set[str]] = {}
        self._barred: set[str] = set()

    def unknown(self, failed: Before) -> bool:
        """Whether a look-alike may be why one of the tests ``failed`` did not pass."""
        return any(alike - self._harmless.get(test, set()) for test, alike in failed.items())

    def learn(self, outcomes: Mapping[str, str], ran: Before) -> bool:
        """From a run with the known solution: the outcome of each true test, and what ran before it. Look-alikes that
        may have disturbed one are barred. False where a test failed that nothing disturbs: it is unsteady by itself.
        """
        suspects: set[str] = set()
        failed = False
        for test, outcome in outcomes.items():
            if outcome == "passed":
                self._harmless.setdefault(test, set()).update(ran[test])
            else:
                failed = True
                suspects |= ran[test] - self._harmless.get(test, set())
        self._barred |= suspects
        return not failed or bool(suspects)

    @property
    def barred(self) -> frozenset[str]:
        return frozenset(self._barred)

    def acquit(self, ids: Iterable[str]) -> None:
        """They were suspected beside the one that it was."""
        self._barred.difference_update(ids)

    def bar(self, ids: Iterable[str]) -> None:
        """Look-alikes that the known solution passes, because of what others leave behind."""
        self._barred.update(ids)

    def usable(self, ids: Iterable[str]) -> tuple[str, ...]:
        """Those of ``ids`` that may go on being spoiled."""
        return tuple(test_id for test_id in ids if test_id not in self._barred)
