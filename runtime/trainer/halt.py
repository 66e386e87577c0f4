"""Ending a run that should not go on: after a checkpoint, with a message.

verl asks its configuration at the end of each step whether to save; the agent loop is the first that it calls in the
next one. So whoever wants the run to end sets ``save_freq`` to 1, and the next call for prompts after that checkpoint
is refused. Without a checkpoint (a full disk) it is the very next call. Knows no reasons.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from runtime.errors import RunError

log = logging.getLogger(__name__)

HALTED = "RunHalted"


class Halt:
    """``config`` is verl's own, the one that its trainer reads. Asked on one thread, checked on another."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._saved: int | None = None
        self._first: int | None = None
        self._save_freq: int = config.trainer.save_freq
        self._save = True
        self.why: str | None = None

    def ask(self, why: str, *, save: bool = True) -> None:
        """End the run after the next checkpoint; without ``save`` before the next step, with no checkpoint but those
        that are due anyway. The first reason stays."""
        if not save and self._save:
            self._save = False
            self._config.trainer.save_freq = self._save_freq
            log.error("the run will end without a further checkpoint: %s", why)
        elif self.why is None:
            log.error("the run will end after its next checkpoint: %s", why)
            self._config.trainer.save_freq = 1
            self._saved = None
        if self.why is None:
            self.why = why

    def saved(self, folder: Path) -> None:
        """A checkpoint is whole."""
        if self.why is not None:
            self._saved = int(folder.name.rpartition("_")[2])

    def check(self, step: int) -> None:
        """Prompts of ``step`` are asked for. Raises ``RunError`` when the run was to end and a checkpoint has been made
        since, or nothing trained that could be saved."""
        if self._first is None:
            self._first = step
        if self.why is None:
            return
        if not self._save:
            raise RunError(f"{HALTED}: {self.why}; the run was ended before step {step}, without a further checkpoint")
        if self._saved is not None:
            raise RunError(f"{HALTED}: {self.why}; the run was ended after the checkpoint of step {self._saved}")
        if step == self._first:
            raise RunError(f"{HALTED}: {self.why}; the run was ended before it had trained a step")
