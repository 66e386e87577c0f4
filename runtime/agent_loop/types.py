"""Plain data of the agent loop: what identifies a trial, what came out of it, and how long each part took.

Knows nothing of sandboxes, proxies or trainers beyond their data types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from runtime.errors import Termination
from runtime.proxy.types import Accounting, Sample


@dataclass(frozen=True)
class TrialKey:
    """Which trial this is. ``group`` holds trials of one prompt, ``index`` counts them, ``attempt`` counts restarts.

    ``step`` is the trainer's global step (0 = before the first update); validation trials carry the step they score.
    ``turn`` counts the groups of this task in this step, as they were given out.
    """

    task: str
    task_set: str
    step: int
    group: str
    index: int
    attempt: int = 0
    validation: bool = False
    turn: int = 0

    @property
    def trial_id(self) -> str:
        """Unique within a run, safe as a file name and in a URL; later attempts have their own."""
        retry = f".r{self.attempt}" if self.attempt else ""
        return f"{self.task}.{self.group}.{self.index}{retry}"


@dataclass(frozen=True)
class Sampling:
    """How one trial samples. Temperature 0 is greedy; ``seed`` makes the trial repeatable."""

    temperature: float
    seed: int


@dataclass(frozen=True)
class Timings:
    """Seconds by part; a part that was not reached is 0. ``model`` and ``tools`` are inside ``agent``."""

    queue: float = 0.0
    setup: float = 0.0
    agent: float = 0.0
    model: float = 0.0
    download: float = 0.0
    verifier: float = 0.0
    teardown: float = 0.0
    total: float = 0.0

    @property
    def tools(self) -> float:
        """Time of the agent that was not spent waiting for the model."""
        return max(0.0, self.agent - self.model)


@dataclass(frozen=True)
class TrialResult:
    """One finished trial, good or bad. ``reward`` is None exactly when nothing graded it: never a silent 0."""

    key: TrialKey
    termination: Termination
    reward: float | None
    isolation: str
    timings: Timings
    sampling: Sampling
    verdict: str = "no-grade"
    """solved, unsolved, tampered (passed tests that no honest work passes; reward -1), or no-grade (no reward)."""
    reused_verdict: bool = False
    """The verdict is that of equal work on the task (``environment/reuse.py``)."""
    defences: tuple[str, ...] = ()
    outcomes: Mapping[str, str] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    model_calls: int = 0
    prompt_tokens: int = 0
    aborted: int = 0
    mismatches: int = 0
    unread_calls: int = 0
    """Tool calls of the policy that could not be read as such."""
    accounting: Accounting = field(default_factory=Accounting)
    """What became of every token that the engine sampled for this trial."""
    tool_gaps: tuple[float, ...] = ()
    error: str | None = None
    cause: str | None = None
    """How the agent died, where that is graded (``AGENT_DIED``)."""
    dropped_ends: tuple[str, ...] = ()
    """Ends that the run's trajectory filter leaves out of the loss."""
    image: str | None = None
    """The task's own image, by digest, that both boxes were made of; None for the backend's."""
    started: float = 0.0
    """When this attempt began, in seconds since the epoch."""
    unrecorded: str | None = None
    """Why its folder could not be written. It says nothing of the trial, whose grade counts."""

    def not_kept(self, failure: Exception) -> Self:
        """The same trial where no journal took it: without a grade, because what a crash would lose does not count."""
        end = Termination.NOT_KEPT if isinstance(failure, OSError) else Termination.INTERNAL
        why = f"it ended, and could not be kept: {type(failure).__name__}: {failure}"
        return replace(self, termination=end, reward=None, verdict="no-grade", reused_verdict=False, error=why)

    @property
    def has_samples(self) -> bool:
        """Whether there is anything to publish of it."""
        return bool(self.samples)

    @property
    def routed_bytes(self) -> int:
        """Of its samples' experts, where the routing of a mixture is replayed."""
        return sum(len(one.routed_experts.rows) for one in self.samples if one.routed_experts is not None)

    @property
    def trainable(self) -> bool:
        """Graded, not dropped by the trajectory filter, and with at least one token that the policy wrote."""
        return (
            self.reward is not None and not self.dropped and any(any(sample.response_mask) for sample in self.samples)
        )

    @property
    def dropped(self) -> bool:
        """Left out of the loss by the trajectory filter although the verifier graded it."""
        return self.reward is not None and self.termination.value in self.dropped_ends

    @property
    def weight_versions(self) -> tuple[int, int] | None:
        """Oldest and newest policy version of any token that the policy wrote; None without such a token."""
        versions = [
            version
            for sample in self.samples
            for version, mask in zip(sample.weight_versions, sample.response_mask, strict=True)
            if mask
        ]
        return (min(versions), max(versions)) if versions else None

    @property
    def completion_tokens(self) -> int:
        return sum(sum(sample.response_mask) for sample in self.samples)

    def record(self) -> dict[str, Any]:
        """The content of ``trial.json``: everything but the token lists."""
        versions = self.weight_versions
        return {
            "trial_id": self.key.trial_id,
            **asdict(self.key),
            "reward": self.reward,
            "termination": self.termination.value,
            "trainable": self.trainable,
            "verdict": self.verdict,
            "reused_verdict": self.reused_verdict,
            "isolation": self.isolation,
            "image": self.image,
            "defences": list(self.defences),
            "sampling": asdict(self.sampling),
            "started": self.started,
            "timings": {**asdict(self.timings), "tools": self.timings.tools},
            "weight_versions": None if versions is None else {"min": versions[0], "max": versions[1]},
            "samples": len(self.samples),
            "model_calls": self.model_calls,
            "completion_tokens": self.completion_tokens,
            "outcomes": dict(self.outcomes),
            "metrics": dict(self.metrics),
            "error": self.error,
            "cause": self.cause,
        }
