"""The bell between agent loop manager and replay buffer, which live in one process: rung when a group has been
published, and when none will be any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runtime.errors import RunError


class Bell:
    """``ring`` wakes one waiting ``wait`` (or the next one)."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.patience_sec = 3600.0
        """How long the bell may be silent while somebody waits: longer than any group takes, which whoever rings
        knows."""
        self.halting: str | None = None
        """Why the run is to end, which its replay buffer could not bring about."""
        self.enough: Callable[[int, int], None] = lambda step, order: None
        """Called from the trainer's thread: this step has its batch with the group of this order, and needs none of
        those that were given out after it."""
        self._broken: str | None = None

    def ring(self) -> None:
        self._event.set()

    def broken(self, why: str) -> None:
        """Nobody will ring any more."""
        self._broken = why
        self._event.set()

    def check(self) -> None:
        """Raise ``RunError`` when nobody will ring any more."""
        if self._broken is not None:
            raise RunError(f"AgentLoopEnded: {self._broken}")

    def wait(self, timeout: float) -> bool:
        """Return when the bell rang since the last call returned, or after ``timeout`` seconds; whether it rang. Raises
        what ``check`` raises."""
        rang = self._event.wait(timeout)
        self._event.clear()
        self.check()
        return rang


published = Bell()
