"""Which foreign tasks are used for training, in real sandboxes: those whose own solution scores more than nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from runtime.config import Bubblewrap, DirectorySource, TaskSet
from runtime.errors import TrialError
from runtime.grading.base import Verdict
from runtime.grading.task_scripts import attempt
from runtime.sandboxes import bwrap
from runtime.task import load_task
from runtime.tasks.graders import graders
from runtime.tasks.prepare import prepare
from tests.runtime.tasks.foreign import REWARD, TOML, write

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bwrap.why_impossible() is not None, reason=str(bwrap.why_impossible())),
]

CHECK = "grep -q new /app/a.txt"


def screened(tmp_path: Path, tasks: Mapping[str, Mapping[str, str | None]], **settings: int) -> dict[str, str]:
    """Task -> why it was left out, "" for those that stayed."""
    for name, files in tasks.items():
        write(tmp_path / "tasks" / name, files)
    problems: list[str] = []
    task_set = TaskSet(name="x", source=DirectorySource(paths=(str(tmp_path / "tasks"),)))
    environment = Bubblewrap(verifier_timeout_sec=30, **settings)  # type: ignore[arg-type]
    usable = prepare(task_set, cache=tmp_path / "cache", on_problem=problems.append, environment=environment)
    found = {task.id: "" for task in usable}
    for name in tasks:
        for problem in problems:
            if problem.startswith(f"{tmp_path / 'tasks' / name}"):
                found[name] = problem
    assert len(found) == len(tasks) and len(problems) == sum(map(bool, found.values())), problems
    return found


def json_reward(text: str) -> str:
    branches = f"if {CHECK}; then r='{text}'; else r=0; fi"
    return f'#!/bin/bash\n{branches}\necho "{{\\"reward\\": $r}}" > /logs/verifier/reward.json\n'


GOOD: dict[str, dict[str, str | None]] = {
    "plain": {},
    "solution-folder": {"solution/new.txt": "new\n", "solution/solve.sh": "#!/bin/bash\ncp /solution/new.txt a.txt\n"},
    "no-first-line": {"solution/solve.sh": "w=(new)\n[[ -f a.txt ]] && echo ${w[0]} > a.txt\n"},
    "python-scripts": {
        "solution/solve.sh": "#!/usr/bin/env python3\nopen('/app/a.txt', 'w').write('new')\n",
        "tests/test.sh": "#!/usr/bin/env python3\nright = 'new' in open('/app/a.txt').read()\n"
        "open('/logs/verifier/reward.txt', 'w').write(str(int(right)))\n",
    },
    "tests-write-beside-themselves": {
        "tests/test.sh": "#!/bin/bash\nset -e\ncd /tests && cp helper copy && chmod +x copy && mkdir out\n"
        f"./copy {REWARD}\n",
        "tests/helper": f"#!/bin/bash\n{CHECK} && echo 1 || echo 0\n",
    },
    "published": {
        "solution/solve.sh": "#!/bin/bash\necho new > /logs/artifacts/answer.txt\n",
        "tests/test.sh": f"#!/bin/bash\ngrep -q new /logs/artifacts/answer.txt && echo 1 {REWARD} || echo 0 {REWARD}\n",
    },
    "artifacts-only": {
        "task.toml": TOML + '[verifier]\nenvironment_mode = "separate"\n',
        "solution/solve.sh": "#!/bin/bash\necho new > /logs/artifacts/answer.txt\necho wrong > a.txt\n",
        "tests/test.sh": "#!/bin/bash\ngrep -q new /logs/artifacts/answer.txt && grep -q old /app/a.txt && r=1\n"
        f"echo ${{r:-0}} {REWARD}\n",
    },
    "env": {
        "task.toml": TOML.replace("[task]", '[solution.env]\nA = "new"\n[verifier.env]\nE = "new"\n[task]')
        + 'env = {APP_MODE = "prod"}\n',
        "solution/solve.sh": '#!/bin/bash\n[ "$APP_MODE" = prod ] && echo "$A" > /app/a.txt\n',
        "tests/test.sh": '#!/bin/bash\n[ "$(cat /app/a.txt)" = "$E" ] && [ "$APP_MODE" = prod ] && r=1\n'
        f"echo ${{r:-0}} {REWARD}\n",
    },
    "hidden-grader": {
        "environment/Dockerfile": "FROM x\nCOPY a.txt /app/a.txt\nCOPY grader.sh /opt/hidden/grader.sh\nWORKDIR /app\n",
        "environment/grader.sh": f"{CHECK}\n",
        "solution/solve.sh": "#!/bin/bash\n[ ! -e grader.sh ] && [ ! -e Dockerfile ] && echo new > a.txt\n",
        "tests/test.sh": f"#!/bin/bash\nif sh /opt/hidden/grader.sh; then echo 1; else echo 0; fi {REWARD}\n",
    },
    "part-of-a-point-for-nothing": {
        "tests/test.sh": f"#!/bin/bash\nif {CHECK}; then r=1.0; else r=0.25; fi; echo $r {REWARD}\n"
    },
    "true": {"tests/test.sh": json_reward("true")},
    "per-cent": {"tests/test.sh": json_reward("100")},
    "many-logs": {
        "tests/test.sh": f"#!/bin/bash\nhead -c 3000000 /dev/zero > /logs/verifier/log\n{CHECK} && r=1\n"
        f"echo ${{r:-0}} {REWARD}\n"
    },
    "no-solution": {"solution/solve.sh": None},
}


def test_tasks_as_harbor_runs_them_are_used(tmp_path: Path) -> None:
    assert set(screened(tmp_path, GOOD).values()) == {""}


BAD: dict[str, tuple[dict[str, str | None], list[str]]] = {
    "missing-tool": (
        {"tests/test.sh": f"#!/bin/bash\nnotool pytest\n[ $? -eq 0 ] && echo 1 {REWARD} || echo 0 {REWARD}\n"},
        ["its own solution scores 0", "notool: command not found"],
    ),
    "wrong-solution": ({"solution/solve.sh": "#!/bin/bash\nmake -C /nowhere\n"}, ["solve.sh ended with", "nowhere"]),
    "no-reward-when-solved": (
        {"tests/test.sh": f"#!/bin/bash\n{CHECK} && echo going && no-such-runner test && exit 1\necho 0 {REWARD}\n"},
        ["its own solution scores 0", "no-such-runner: command not found"],
    ),
    "unreadable": ({"tests/test.sh": json_reward('"one"')}, ["gets no grade", "'one' is no number"]),
    "not-built": (
        {"environment/Dockerfile": "FROM scratch\nWORKDIR /app\nRUN true\n"},
        ["Dockerfile must be built", "environment.images.build: true"],
    ),
    "solved": ({"environment/a.txt": "new\n"}, ["doing nothing scores 1"]),
    "nothing-to-gain": (
        {"tests/test.sh": f"#!/bin/bash\necho 0.25 {REWARD}\n"},
        ["its own solution scores 0.25, doing nothing 0.25"],
    ),
    "unproven-network": (
        {"solution/solve.sh": None, "task.toml": TOML + 'network_mode = "public"\n'},
        ["no network", "no solution"],
    ),
    "unproven-memory": (
        {"solution/solve.sh": None, "task.toml": TOML + 'memory = "4G"\n'},
        ["4096", "memory_mib is 1024"],
    ),
}


def test_tasks_that_would_train_at_0_are_named_with_why(tmp_path: Path) -> None:
    found = screened(tmp_path, {name: files for name, (files, _) in BAD.items()})
    for name, (_, words) in BAD.items():
        assert all(word in found[name] for word in words), (name, found[name])


def graded(tmp_path: Path, files: Mapping[str, str | None], work: Mapping[str, bytes] | None) -> Verdict:
    """What the verifier says of work on a task; None: of its own solution's."""
    task = load_task(write(tmp_path / "word", files))

    async def main() -> Verdict:
        async with graders(Bubblewrap(), state=tmp_path / "state") as (provider, verifier):
            given = work
            if given is None:
                made = await attempt(task, task.solve_script, provider=provider, name="x", memory_mib=1024, pids=128)
                given = made.artifacts
            return await verifier.grade(task, given)

    return asyncio.run(main())


PARTS = '#!/bin/bash\necho "{\\"reward\\": $(grep -c . /app/a.txt)0}" > /logs/verifier/reward.json\n'
TEN_LINES = "#!/bin/bash\nseq 10 > /app/a.txt\n"


@pytest.mark.parametrize(("lines", "reward"), [(1, 0.1), (4, 0.4), (10, 1.0), (30, 1.0)])
def test_points_are_parts_of_what_the_solution_scores(tmp_path: Path, lines: int, reward: float) -> None:
    """Ten points a line; the solution writes ten lines."""
    files = {"tests/test.sh": PARTS, "solution/solve.sh": TEN_LINES}
    verdict = graded(tmp_path, files, {"/app/a.txt": b"x\n" * lines})
    assert verdict.reward == pytest.approx(reward) and verdict.status == ("solved" if reward == 1 else "unsolved")


def test_points_of_an_unknown_whole_are_no_grade(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="scored 40"):
        graded(tmp_path, {"tests/test.sh": PARTS, "solution/solve.sh": None}, {"/app/a.txt": b"x\n" * 4})


def test_a_fault_of_the_tests_is_not_booked_as_the_works(tmp_path: Path) -> None:
    """A reward that nothing can read comes with right work only: the control run is one with the solution."""
    with pytest.raises(TrialError, match="bad reward file"):
        graded(tmp_path, {"tests/test.sh": json_reward('"one"')}, None)
    # Work that breaks the tests where the solution does not is still unsolved.
    breaks = f"#!/bin/bash\ngrep -q bad /app/a.txt && exit 1\n{CHECK} && r=1\necho ${{r:-0}} {REWARD}\n"
    verdict = graded(tmp_path / "b", {"tests/test.sh": breaks}, {"/app/a.txt": b"bad\n"})
    assert (verdict.reward, verdict.status) == (0.0, "unsolved")
