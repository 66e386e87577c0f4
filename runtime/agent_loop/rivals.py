"""Scripts with the agent's budget of edits and the bugs' own grammar, without a model: what a policy has to beat.

``failing lines``: changes of the lines that the failing test executed, the last one first. ``random lines``: of all
lines that it executed, at random. ``told the function``: of the broken function, at random, which no agent knows. A
script's edits are independent of each other, and solved is what makes all tests of the task pass.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from runtime.agent_loop.visits import ask, visit
from runtime.config import Bubblewrap, Environment
from runtime.sandboxes.base import Sandbox
from runtime.scaffolds.shell import LIVERL, SHELL, ShellScaffold
from runtime.task import Task
from runtime.tasks.generate.functions import functions_of
from runtime.tasks.generate.mutate import Mutant, mutants_of

NAMES = ("failing lines, last first", "random executed lines", "told the function")
TRY_SEC = 300.0
LONGEST = 400
"""Lines of a function that is changed."""


def score(
    tasks: Sequence[Task],
    scaffold: ShellScaffold,
    *,
    environment: Environment | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """``{"tasks", "max_edits", "rows": [{"name", "solved", "rate"}]}``. Tasks that name no tests count as unsolved."""
    edits = scaffold.settings.max_edits

    async def rivals(box: Sandbox, task: Task) -> tuple[bool, ...]:
        return await _rivals(box, task, scaffold, edits)

    found = visit(
        tasks, scaffold, rivals, environment=environment or Bubblewrap(), done="tried by scripts", say=on_progress
    )
    rows = []
    for place, name in enumerate(NAMES if tasks else ()):
        solved = sum(one is not None and one[place] for one in found)
        rows.append({"name": name, "solved": solved, "rate": round(solved / len(tasks), 5)})
    return {"tasks": len(tasks), "max_edits": edits, "rows": rows}


async def _rivals(box: Sandbox, task: Task, scaffold: ShellScaffold, edits: int) -> tuple[bool, ...]:
    if not task.expected_ids:
        raise ValueError("it names no tests")
    recent = [(path, line) for path, line in (await _try(box, scaffold, task, None))["recent"]]
    plans = await asyncio.to_thread(_plans, task, recent, edits)
    versions = list({(one.function.path, text): None for plan in plans for one, text in plan})
    asked = [{path: text} for path, text in versions]
    solved = (await _try(box, scaffold, task, asked))["solved"] if asked else []
    solving = {version for version, ok in zip(versions, solved, strict=True) if ok}
    return tuple(any((one.function.path, text) in solving for one, text in plan) for plan in plans)


async def _try(box: Sandbox, scaffold: ShellScaffold, task: Task, versions: list[dict[str, str]] | None) -> Any:
    said = json.dumps({} if versions is None else {"versions": versions}).encode()
    return await ask(box, task, scaffold, LIVERL / SHELL / "try_out.py", stdin=said, timeout_sec=TRY_SEC)


_Plan = list[tuple[Mutant, str]]
"""Mutants, and what the module is with each."""


def _plans(task: Task, recent: Sequence[tuple[str, int]], edits: int) -> tuple[_Plan, _Plan, _Plan]:
    """What each script tries, in order of ``NAMES``."""
    rng = random.Random(task.id)
    texts = {path: text for path in dict.fromkeys(path for path, _ in recent) if (text := _text(task, path))}
    by_line: dict[tuple[str, int], list[Mutant]] = {}
    lines = set(recent)
    for path, text in texts.items():
        for function in functions_of(path, text):
            ran = any((path, line) in lines for line in range(function.start, function.end + 1))
            if ran and function.end - function.start < LONGEST:
                for mutant in mutants_of(function, text):
                    by_line.setdefault((path, mutant.line), []).append(mutant)
    ordered: list[Mutant] = []
    for place in recent:
        some = by_line.get(place, [])
        ordered += rng.sample(some, len(some))
    everything = sorted(ordered, key=lambda one: (one.function.path, one.line, one.segment))
    known = _broken_function(task)
    plans = (
        ordered[:edits],
        rng.sample(everything, min(edits, len(everything))),
        rng.sample(known, min(edits, len(known))),
    )
    return tuple([(one, one.apply(_text(task, one.function.path) or "")) for one in plan] for plan in plans)  # type: ignore[return-value]


def _broken_function(task: Task) -> list[Mutant]:
    """All changes of the functions that the solution changes."""
    solution = task.path / "solution" / "files"
    found: list[Mutant] = []
    for file in sorted(path for path in solution.rglob("*.py") if path.is_file()) if solution.is_dir() else ():
        path = file.relative_to(solution).as_posix()
        text = _text(task, path)
        if text is None:
            continue
        right, broken = file.read_text(encoding="utf-8").split("\n"), text.split("\n")
        line = next((n for n, (a, b) in enumerate(zip(right, broken, strict=False), 1) if a != b), len(broken))
        for function in functions_of(path, text):
            if function.start <= line <= function.end:
                found += mutants_of(function, text)
    return found


def _text(task: Task, path: str) -> str | None:
    try:
        return (task.repository / path).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
