"""``status.json``: what the run does right now, replaced about once a second for the progress display.

Knows counters only; reading it is never needed for correctness.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from runtime.agent_loop.types import TrialResult


class StatusFile:
    """Counters of the running phase. Used from one event loop; ``write`` replaces the file whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.phase = "starting"
        self.step = self.total = 0
        self._done = self._graded = self._tokens = 0
        self._solved = 0.0
        self._began = time.monotonic()

    def begin(self, phase: str, *, step: int, total: int) -> None:
        """A new batch of ``total`` trials; a batch that joins a running one of the same phase and step is added to
        it."""
        if phase == self.phase and step == self.step and self.total and self._done < self.total:
            self.total += total
            return
        self.phase, self.step, self.total = phase, step, total
        self._done = self._graded = self._tokens = 0
        self._solved = 0.0
        self._began = time.monotonic()

    def trial(self, result: TrialResult) -> None:
        self._done += 1
        self._tokens += result.completion_tokens
        if result.reward is not None:
            self._graded += 1
            self._solved += result.reward

    def write(self, *, in_flight: int, halting: str | None = None, workers: Sequence[Mapping[str, Any]] = ()) -> None:
        """``workers``: of each agent-loop worker, where there are several."""
        seconds = time.monotonic() - self._began
        content = {
            "time": time.time(),
            "phase": self.phase if self._done < self.total or not self.total else f"after {self.phase}",
            "step": self.step,
            "sandboxes": in_flight,
            **({"halting": halting} if halting else {}),
            **({"workers": list(workers)} if workers else {}),
            "trials": self.total,
            "done": self._done,
            "solve_rate": self._solved / self._graded if self._graded else None,
            "tokens_per_sec": self._tokens / seconds if seconds > 0 else 0.0,
        }
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        partial.write_bytes(orjson.dumps(content))
        partial.replace(self._path)
