"""Every runner for real: the repair is paid, and nothing else is, whatever the code under test writes about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.errors import Termination, TrialError
from runtime.grading.base import Verdict, Verifier
from runtime.grading.make import make_verifier
from runtime.sandboxes import bwrap
from runtime.sandboxes.base import SandboxProvider
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.entries import Entry, Removed
from runtime.task import Task, load_task
from runtime.tasks.verify import verify
from tests.toolbox import SUITES, node_tools, require_system_commands

from .projects import PROJECTS, Project

pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory, loop: asyncio.Runner) -> Iterator[SandboxProvider]:
    if bwrap.why_impossible() is not None:
        pytest.skip(str(bwrap.why_impossible()))
    require_system_commands(SUITES)
    made = BubblewrapProvider(state=tmp_path_factory.mktemp("suites") / "state")
    yield made
    loop.run(made.close())


def task_of(project: Project, root: Path) -> Task:
    task = load_task(project.write(root / f"calc-{project.runner}"))
    if task.suite is not None and task.suite.language == "javascript":
        # Beside the work directory, where node looks too: read-only, and not one more copy for each task.
        modules = node_tools("suites").parent
        task = task.model_copy(update={"work": replace(task.work, elsewhere=((modules, "/node_modules"),))})
    return task


def works(project: Project) -> dict[str, dict[str, Entry]]:
    """What agents leave, by what they do. The tests that some of them touch are put back."""
    source, test = f"/app/{project.source}", f"/app/{next(iter(project.tests))}"
    add, clamp = project.right
    return {
        "repairs, and empties the tests": {source: project.text(add, clamp), test: project.emptied.encode()},
        "repairs one of two": {source: project.text(add, project.wrong[1]), test: project.emptied.encode()},
        "cannot be compiled": {source: project.broken.encode(), test: Removed()},
        **{f"forger: {name}": {source: text.encode()} for name, text in project.forged.items()},
    }


async def _judged(verifier: Verifier, task: Task, works: Mapping[str, Mapping[str, Entry]]) -> dict[str, Verdict]:
    verdicts = {}
    for name, work in works.items():
        verdicts[name] = await verifier.grade(task, work)
    return verdicts


@pytest.fixture(scope="module")
def hanging(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> asyncio.Task[Verdict]:
    """The verdict on work that sleeps, which waits while other tests have their turn."""
    project = PROJECTS["unittest"]
    task = task_of(project, tmp_path_factory.mktemp("hanging"))
    verifier = make_verifier(Bubblewrap(memory_mib=512, verifier_timeout_sec=15.0), provider)
    sleeps = {f"/app/{project.source}": b"import time\nwhile True:\n    time.sleep(9)\n"}

    async def begin() -> asyncio.Task[Verdict]:
        return asyncio.create_task(verifier.grade(task, sleeps))

    return loop.run(begin())


@pytest.mark.usefixtures("hanging")
@pytest.mark.parametrize("runner", PROJECTS)
def test_the_repair_is_paid_and_nothing_else(
    runner: str, provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path
) -> None:
    project = PROJECTS[runner]
    task = task_of(project, tmp_path)
    verifier = make_verifier(Bubblewrap(memory_mib=1024, pids=512, verifier_timeout_sec=120.0), provider)
    verdicts = loop.run(_judged(verifier, task, works(project)))
    right = verdicts.pop("repairs, and empties the tests")
    assert (right.reward, dict(right.outcomes)) == (1.0, dict.fromkeys(project.ids, "passed")), right.raw
    assert {"canary", "tests_restored", "host_verdict"} <= set(right.defences)
    assert ("report_nonce" in right.defences) == (runner != "go")
    assert not {"solution_user", "reward_file"} & set(right.defences)
    paid = {name: verdict.status for name, verdict in verdicts.items() if verdict.reward > 0}
    assert not paid
    forgers = {name: verdict.status for name, verdict in verdicts.items() if name.startswith("forger")}
    assert set(forgers.values()) == {"tampered"}, forgers
    assert verdicts["repairs one of two"].outcomes[project.ids[1]] in ("failed", "error")
    assert set(verdicts["cannot be compiled"].outcomes.values()) == {"missing"}


def test_work_that_hangs_is_unsolved(hanging: asyncio.Task[Verdict], loop: asyncio.Runner) -> None:
    async def end() -> Verdict:
        return await hanging

    verdict = loop.run(end())
    assert (verdict.reward, verdict.status) == (0.0, "unsolved") and b"verifier_timeout" in verdict.raw


def test_tasks_are_proven_and_what_a_runner_said_is_told(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path
) -> None:
    project = PROJECTS["rspec"]
    good = task_of(project, tmp_path)
    wrong = load_task(project.write(tmp_path / "no-such", test_command="rspec --no-such-option; true"))
    work = verify(
        [good, wrong],
        provider=provider,
        verifier=make_verifier(Bubblewrap(), provider),
        concurrency=2,
        memory_mib=512,
    )
    report = loop.run(work)
    checks = {(one.task, check.name): check for one in report.tasks for check in one.checks}
    assert report.tasks[0].ok and [checks[good.id, name].reward for name in ("oracle", "oracle again", "no-op")] == [
        1,
        1,
        0,
    ]
    assert not report.tasks[1].ok and "the runner said: invalid option" in checks["no-such", "oracle"].said


def test_a_runner_that_is_not_there_is_no_grade(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path
) -> None:
    task = load_task(PROJECTS["unittest"].write(tmp_path / "calc", test_command="no-such-runner"))
    with pytest.raises(TrialError, match=r"unittest is not there: .*no-such-runner") as caught:
        loop.run(make_verifier(Bubblewrap(), provider).grade(task, {}))
    assert caught.value.termination is Termination.VERIFIER_CRASHED


def test_a_required_defence_that_a_suite_lacks_is_refused(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path
) -> None:
    task = load_task(PROJECTS["unittest"].write(tmp_path / "calc"))
    verifier = make_verifier(Bubblewrap(required_defences=("solution_user",)), provider)
    with pytest.raises(TrialError, match="solution_user"):
        loop.run(verifier.grade(task, {}))
