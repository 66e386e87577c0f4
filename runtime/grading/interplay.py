"""Which look-alikes leave a task's true tests alone: a failing test may leave state behind on which others stand.

Known from runs with the task's own solution: a true test that passed beside a look-alike is not disturbed by it. A
verdict that turns on a pair of which nothing is known asks first. It runs nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Interplay:
    """Of one task."""

    def __init__(self) -> None:
        self._harmless: dict[str, set[str]] = {}
        self._barred: set[str] = set()

    def unknown(self, failed: Iterable[str], spoiled: Iterable[str]) -> bool:
        """Whether one of ``spoiled`` may be why one of the tests ``failed`` did not pass."""
        beside = set(spoiled)
        return any(beside - self._harmless.get(test, set()) for test in failed)

    def learn(self, outcomes: Mapping[str, str], spoiled: Iterable[str]) -> bool:
        """From a run with the known solution: outcome of each true test beside the look-alikes ``spoiled``. Those that
        may have disturbed one are barred. False where a test failed that nothing disturbs: it is unsteady by itself.
        """
        beside = set(spoiled)
        for test, outcome in outcomes.items():
            if outcome == "passed":
                self._harmless.setdefault(test, set()).update(beside)
        failed = [test for test, outcome in outcomes.items() if outcome != "passed"]
        suspects = {one for test in failed for one in beside - self._harmless.get(test, set())}
        self._barred |= suspects
        return not failed or bool(suspects)

    def usable(self, ids: Iterable[str]) -> tuple[str, ...]:
        """Those of ``ids`` that may go on being spoiled."""
        return tuple(test_id for test_id in ids if test_id not in self._barred)
