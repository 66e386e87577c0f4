"""The curriculum of this process's run: verl makes the data set that draws by it and the agent loop that tells it how
groups ended apart from each other. None without one."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.trainer.curriculum import Curriculum


@dataclass
class _Chosen:
    curriculum: Curriculum | None = None


CHOSEN = _Chosen()
