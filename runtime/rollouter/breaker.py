"""A circuit breaker: whether a server that has failed may be asked again, and when.

Closed: every call may go there. Open: none may, until a pause that doubles with every failed attempt is over, or, where
the server is certainly gone, until it answers a health check. Half-open: one call may, and what becomes of it decides;
where that is long in coming, as many again as are at it after each pause without a failure. Knows nothing of servers,
calls or balancing; not thread-safe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True)
class BreakerSettings:
    """``failures``: how many in a row open the breaker. ``pause_sec``: how long it stays open the first time;
    ``longest_pause_sec`` bounds the doubling.
    """

    failures: int = 3
    pause_sec: float = 1.0
    longest_pause_sec: float = 30.0


_MOST_DOUBLINGS = 16
_SHORTEST_SEC = 0.01


class Breaker:
    """``clock`` gives monotonic seconds."""

    def __init__(self, settings: BreakerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._failures = 0
        self._pause = settings.pause_sec
        self._retry_at: float | None = None
        self._trying = 0
        """Calls that have started since it opened and have not ended."""
        self._trying_since = 0.0

    @property
    def health(self) -> Health:
        if self._retry_at is None:
            return Health.CLOSED
        return Health.OPEN if self._clock() < self._retry_at else Health.HALF_OPEN

    def admits(self) -> bool:
        """Whether a call may start now."""
        if self._retry_at is None:
            return True
        return self._clock() >= self._retry_at and self._trying < self._allowed()

    def admits_in(self) -> float:
        """Seconds until a call may start, if nothing is heard meanwhile; infinite for a server that is gone."""
        if self.admits() or self._retry_at is None:
            return 0.0
        now = self._clock()
        if now < self._retry_at:
            return self._retry_at - now
        rest = self._settings.pause_sec - (now - self._trying_since) % self._settings.pause_sec
        return max(rest, _SHORTEST_SEC)

    def started(self) -> None:
        """A call has started. In the half-open state it is the attempt that everybody else waits for."""
        if self._retry_at is not None:
            if not self._trying:
                self._trying_since = self._clock()
            self._trying += 1

    def ended(self) -> None:
        """A call has ended; whether well or badly is said by ``succeeded`` or ``failed``, or not at all (cancelled)."""
        self._trying = max(0, self._trying - 1)

    def _allowed(self) -> int:
        """A reply may take minutes, and failures come at once: one that has not failed for a pause lets another try."""
        if not self._trying:
            return 1
        waited = (self._clock() - self._trying_since) / self._settings.pause_sec
        return 1 << min(int(waited), _MOST_DOUBLINGS)

    def succeeded(self) -> bool:
        """Close. True when it was not closed before."""
        reopened = self._retry_at is not None
        self._failures, self._retry_at, self._pause, self._trying = 0, None, self._settings.pause_sec, 0
        return reopened

    def answered(self) -> bool:
        """A health check was answered: a server that was gone is back. It does not excuse failed calls. True when this
        closed the breaker.
        """
        return self._retry_at == math.inf and self.succeeded()

    def failed(self, *, certain: bool = False) -> bool:
        """Count a failure; ``certain`` ones (the server is gone) open at once. True when this opened a closed breaker.

        While it is open, what still comes back from older calls changes nothing.
        """
        health = self.health
        self._failures += health is Health.CLOSED
        if certain:
            self._retry_at = math.inf
        elif health is Health.HALF_OPEN:
            self._pause = min(2 * self._pause, self._settings.longest_pause_sec)
            self._retry_at = self._clock() + self._pause
            self._trying = 0
        elif health is Health.CLOSED and self._failures >= self._settings.failures:
            self._retry_at = self._clock() + self._pause
        return health is Health.CLOSED and self._retry_at is not None
