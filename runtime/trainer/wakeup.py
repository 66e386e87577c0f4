"""The bell between agent loop manager and replay buffer, which live in one process: rung when a group has been
published."""

from __future__ import annotations

import threading


class Bell:
    """``ring`` wakes one waiting ``wait`` (or the next one)."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def ring(self) -> None:
        self._event.set()

    def wait(self, timeout: float) -> None:
        """Return when the bell rang since the last call returned, or after ``timeout`` seconds."""
        self._event.wait(timeout)
        self._event.clear()


published = Bell()
