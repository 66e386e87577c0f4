"""Scripted baselines under the policy's budget of edits: what can be had without learning anything.

``random``: repairs in random order over all repairable lines of the files that the failing test touched. ``fixed
order``: line by line, tool by tool. ``failing lines first``: in random order, but lines that the failing test executed
before all others. Random orders are scored by their exact expectation, not by one draw. Knows surveys only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb
from typing import Any

from runtime.config import Bubblewrap, Environment
from runtime.laptop.policy.demonstrations import Ground, Survey
from runtime.laptop.tools.survey import survey
from runtime.scaffolds.shell import ShellScaffold
from runtime.task import Task


def score(
    tasks: Sequence[Task],
    scaffold: ShellScaffold,
    *,
    environment: Environment | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """``{"tasks", "max_edits", "rows": [{"name", "solved", "rate"}]}``; ``solved`` is an expectation, maybe fractional.

    ``scaffold`` has the structured tools: no others can be scripted.
    """
    if not tasks:
        return {"tasks": 0, "max_edits": 0, "rows": []}
    edits = scaffold.settings.max_edits
    grounds = survey_all(tasks, scaffold, environment=environment or Bubblewrap(), on_progress=on_progress)
    rows = []
    for name, chance in (("random", at_random), ("fixed order", in_order), ("failing lines first", failing_first)):
        solved = sum(chance(ground.survey, edits) for ground in grounds if ground is not None)
        rows.append({"name": name, "solved": round(solved, 3), "rate": round(solved / len(tasks), 5)})
    return {"tasks": len(tasks), "max_edits": edits, "rows": rows}


def survey_all(
    tasks: Sequence[Task], scaffold: ShellScaffold, *, environment: Environment, on_progress: Callable[[str], None]
) -> list[Ground | None]:
    """Surveys in the order of ``tasks``; generated repositories in memory, all others in sandboxes."""
    from runtime.laptop.policy.fieldwork import survey_tasks
    from runtime.laptop.policy.memory import MemoryWorkspace, is_generated

    elsewhere = [task for task in tasks if not is_generated(task)]
    found = dict(
        zip(
            (task.id for task in elsewhere),
            survey_tasks(elsewhere, scaffold, environment=environment, on_progress=on_progress) if elsewhere else [],
            strict=True,
        )
    )
    return [
        found[task.id] if task.id in found else Ground(task.instruction.strip(), survey(MemoryWorkspace.of_task(task)))
        for task in tasks
    ]


def draws(good: int, total: int, number: int) -> float:
    """Chance that ``number`` draws without replacement from ``total``, of which ``good`` solve, hold one that does."""
    number = min(number, total)
    return 1.0 - comb(total - good, number) / comb(total, number) if total else 0.0


def at_random(ground: Survey, edits: int) -> float:
    good = sum(sum(stop["repairs"].values()) for stop in ground["stops"])
    return draws(good, sum(len(stop["repairs"]) for stop in ground["stops"]) + len(ground["others"]), edits)


def in_order(ground: Survey, edits: int) -> float:
    places = [
        ((*stop["place"], at), solves) for stop in ground["stops"] for at, solves in enumerate(stop["repairs"].values())
    ]
    places += [((path, index, at), False) for at, (path, index, _) in enumerate(ground["others"])]
    return float(any(solves for _, solves in sorted(places)[:edits]))


def failing_first(ground: Survey, edits: int) -> float:
    """Lines beyond the failing test's cannot mend it, so only draws among its own count."""
    good = sum(sum(stop["repairs"].values()) for stop in ground["stops"])
    return draws(good, sum(len(stop["repairs"]) for stop in ground["stops"]), edits)
