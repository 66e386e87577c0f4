"""The bell between agent loop manager and replay buffer, which live in one process: rung when a group has been
published."""

from __future__ import annotations

import threading


class Bell:
    """``ring`` wakes one waiting ``wait`` (or the next one)."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.patience_sec = 3600.0
        """How long the bell may be silent while somebody waits: longer than any group takes, which whoever rings
        knows."""

    def ring(self) -> None:
        self._event.set()

    def wait(self, timeout: float) -> bool:
        """Return when the bell rang since the last call returned, or after ``timeout`` seconds; whether it rang."""
        rang = self._event.wait(timeout)
        self._event.clear()
        return rang


published = Bell()
