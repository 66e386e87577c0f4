"""Whether a run should go on: whether there is anything to learn from, shares of failed trials, verifiers that crash,
tokens that do not fit; memory and disk.

Judges only; who stops the run, and how, is not known here.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from runtime.config.health import Health
from runtime.errors import Termination

WINDOW = 64
"""Newest trials that shares are taken of; before there are so many, nothing is judged."""
MOST_MEMORY = 0.97
MEMORY_SAMPLES = 10
"""In a row, before too little free memory counts: a checkpoint or a build in some box takes much for a moment."""
LEAST_FREE_MIB = 512
_VERIFIER = frozenset({Termination.VERIFIER_CRASHED, Termination.VERIFIER_TIMEOUT})


class Ended(Protocol):
    """What is looked at of a trial; ``TrialResult`` has it."""

    @property
    def termination(self) -> Termination: ...

    @property
    def reward(self) -> float | None: ...

    @property
    def mismatches(self) -> int: ...


class HealthWatch:
    """Of one run. ``grouped``: its algorithm compares the trials of a group with each other, else those of the whole
    batch. ``memory``: share of the memory in use; ``free_mib``: free space below the run directory."""

    def __init__(
        self, limits: Health, *, grouped: bool, memory: Callable[[], float], free_mib: Callable[[], float]
    ) -> None:
        self._limits, self._grouped = limits, grouped
        self._memory, self._free_mib = memory, free_mib
        self._short_of_memory = 0
        self._newest: deque[tuple[Termination, bool, bool]] = deque(maxlen=WINDOW)
        self._signal = limits.signal_groups
        self._groups: list[list[float]] = []

    def trial(self, result: Ended) -> None:
        self._newest.append((result.termination, result.reward is None, result.mismatches > 0))

    def group(self, rewards: Sequence[float], *, step: int) -> None:
        """What the graded trials of one training group are compared by. Only a run's own beginning tells whether its
        policy can learn."""
        if not self._groups and step > 1:
            self._signal = None
        if self._signal is not None and len(rewards) > self._grouped:  # one trial alone compares with nothing
            self._groups.append(list(rewards))

    def why_stop(self) -> str | None:
        """The first reason to end the run after a checkpoint, in words for people; None while there is none. To be
        asked once a second."""
        return self._trials() or self._no_signal() or self._memory_short()

    def disk_full(self) -> str | None:
        """A reason to end the run without a further checkpoint, which would fill the disk; None while there is none."""
        if (free := self._free_mib()) < LEAST_FREE_MIB:
            return f"{free:.0f} MiB of disk are free, less than {LEAST_FREE_MIB}"
        return None

    def _no_signal(self) -> str | None:
        if self._signal is None or len(self._groups) < self._signal:
            return None
        groups = self._groups if self._grouped else [[reward for group in self._groups for reward in group]]
        if any(len(set(group)) > 1 for group in groups):
            self._signal = None  # there is something to learn from: not asked again
            return None
        rewards = [reward for group in self._groups for reward in group]
        solved = sum(reward >= 1 for reward in rewards)
        advice = (
            "take harder tasks"
            if solved == len(rewards)
            else "take easier tasks (an index of them can be cut by pass rate), a better policy or a longer warm "
            "start, or more turns and siblings"
        )
        count = len(self._groups)
        alike = (
            f"none of the first {count} groups holds trials of different reward"
            if self._grouped
            else f"all trials of the first {count} groups have the same reward"
        )
        return (
            f"{alike} ({solved} of {len(rewards)} trials solved their task): there is nothing to learn from; {advice}, "
            "or set health.signal_groups to null"
        )

    def _trials(self) -> str | None:
        limits, seen = self._limits, len(self._newest)
        if seen < WINDOW:
            return None
        failed = [end for end, ungraded, _ in self._newest if ungraded]
        verifier = sum(end in _VERIFIER for end in failed)
        mismatched = sum(mismatch for _, _, mismatch in self._newest)
        ends = ", ".join(f"{count} {end.value}" for end, count in Counter(failed).most_common(3))
        for name, count, allowed, what in (
            # The more specific first: a verifier that crashes fails its trial too.
            ("verifier_crashes", verifier, limits.verifier_crashes, "were left without a grade by their verifier"),
            ("failed_trials", len(failed), limits.failed_trials, f"ended without a grade ({ends})"),
            ("token_mismatches", mismatched, limits.token_mismatches, "hold tokens that cannot be trained on"),
        ):
            if allowed < 1 and count > allowed * seen:
                return f"{count} of the newest {seen} trials {what}; health.{name} allows {allowed:.0%}"
        return None

    def _memory_short(self) -> str | None:
        used = self._memory()
        self._short_of_memory = self._short_of_memory + 1 if used > MOST_MEMORY else 0
        if self._short_of_memory < MEMORY_SAMPLES:
            return None
        return f"{used:.1%} of the memory are in use, more than {MOST_MEMORY:.0%} for {MEMORY_SAMPLES} samples in a row"


def memory_in_use(root: Path = Path("/")) -> float:
    """Share of the machine's memory that is not available, or of the limit of this process's control group where that
    is nearer. What the page cache and the kernel's own caches hold can be given back and does not count."""
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    table = {name: int(value.split()[0]) << 10 for name, _, value in (line.partition(":") for line in lines)}
    used = 1 - table["MemAvailable"] / table["MemTotal"]
    group = root / "sys/fs/cgroup"
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        current = int((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return used
    cache = sum(int(stat.get(name, 0)) for name in ("inactive_file", "active_file", "slab_reclaimable"))
    return max(used, (current - cache) / limit)


def free_mib(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 2**20
