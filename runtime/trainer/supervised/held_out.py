"""What must never be demonstrated: packages and tasks that a run holds out for validation. Knows names only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.config import GenerateSource, TaskSet
from runtime.trainer.supervised.table import Demonstrations


def canonical(package: str) -> str:
    """As package indexes compare names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def packages_held_out(train: Iterable[TaskSet], validation: Iterable[TaskSet]) -> frozenset[str]:
    """Packages whose bugs are validated on and of which nothing is trained on. Of those in both, functions are split,
    which the sources of tasks see to."""
    return frozenset(_packages(validation) - _packages(train))


def _packages(sets: Iterable[TaskSet]) -> set[str]:
    return {
        canonical(package.name)
        for one in sets
        if isinstance(one.source, GenerateSource)
        for package in one.source.packages
    }


@dataclass(frozen=True)
class HeldOut:
    """``packages`` in canonical names, ``tasks`` by id."""

    packages: frozenset[str]
    tasks: frozenset[str]

    def leaks(self, demonstrations: Demonstrations) -> list[str]:
        """What of it is demonstrated, in words with how often; empty where nothing is."""
        found: dict[str, int] = {}
        for package, task in zip(demonstrations.texts("package"), demonstrations.texts("task"), strict=True):
            if (why := self._why(package, task)) is not None:
                found[why] = found.get(why, 0) + 1
        return [f"{why} ({count})" for why, count in sorted(found.items())]

    def _why(self, package: str, task: str) -> str | None:
        if package and canonical(package) in self.packages:
            return f"package {canonical(package)}"
        # Tasks of packages are called PACKAGE-DIGEST: earlier trials name no package.
        of = canonical(task.rpartition("-")[0])
        if of in self.packages:
            return f"package {of}"
        return f"task {task}" if task in self.tasks else None
