"""Whether a file of demonstrations shows what validation holds out. Rows say of which package and task they are; what a
run of its own holds out, ``runtime.demonstrations.held_out`` says."""

from __future__ import annotations

from collections import Counter

from runtime.config.tasks import canonical
from runtime.demonstrations.held_out import HeldOut, package_of
from runtime.trainer.supervised.table import Demonstrations


def leaks(demonstrations: Demonstrations, held_out: HeldOut) -> list[str]:
    """What of it is demonstrated, in words with how often; empty where nothing is."""
    found: Counter[str] = Counter()
    for package, task in zip(demonstrations.texts("package"), demonstrations.texts("task"), strict=True):
        if (why := _why(package, task, held_out)) is not None:
            found[why] += 1
    return [f"{why} ({count})" for why, count in sorted(found.items())]


def _why(package: str, task: str, held_out: HeldOut) -> str | None:
    if task in held_out.tasks:
        return f"task {task}"
    # Earlier trials name no package, but their tasks are called PACKAGE-DIGEST.
    for name in {canonical(package), canonical(package_of(task))} - {""}:
        if name in held_out.names and name not in held_out.trained:
            return f"package {name}"
    return None
