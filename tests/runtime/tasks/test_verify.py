"""Proving tasks in real sandboxes: repairs score, nothing and cheats do not, and what cannot be graded is named."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from liverl import cli_tasks
from runtime.config import Bubblewrap, DirectorySource, PlainProcess, TaskSet
from runtime.errors import MachineError, RunError, UserError
from runtime.grading.make import make_verifier
from runtime.sandboxes import make_provider
from runtime.task import Task, load_task
from runtime.tasks.prepare import prepare
from runtime.tasks.verify import AGAIN, TaskReport, VerifyReport, _checks, _Grade, verify
from tests.runtime.tasks.test_write import FIXED, write_shop

pytestmark = pytest.mark.sandbox

HONEST = b"sed -i 's/ + 1//' shop/price.py\n"
CHEATS = {
    "rewrite_tests.sh": b"echo 'def test_total(): pass' > tests/test_price.py\n",
    "write_reward.sh": b"mkdir -p /logs/verifier && echo 1 > /logs/verifier/reward.txt; exit 0\n",
    "exit_on_import.sh": b"echo 'import os; os._exit(0)' > shop/__init__.py\n",
    "conftest.sh": b"printf 'import os\\nos._exit(0)\\n' > conftest.py\n",
}


def run_verify(tasks: list[Task], state: Path, kind: str = "bubblewrap") -> VerifyReport:
    async def work() -> VerifyReport:
        environment = {"bubblewrap": Bubblewrap, "process": PlainProcess}[kind]()
        provider = make_provider(environment, state=state)
        try:
            verifier = make_verifier(environment, provider)
            try:
                return await verify(tasks, provider=provider, verifier=verifier, concurrency=2, memory_mib=1024)
            finally:
                await verifier.close()
        finally:
            await provider.close()

    return asyncio.run(work())


def test_a_good_task_is_proven(tmp_path: Path) -> None:
    task = load_task(write_shop(tmp_path / "tasks", honest={"sed.sh": HONEST}, cheat=CHEATS))
    report = run_verify([task], tmp_path / "state")
    (proven,) = report.tasks
    assert {check.name: check.reward for check in proven.checks} == {
        "oracle": 1.0,
        "no-op": 0.0,
        "honest/sed.sh": 1.0,
        **{f"cheat/{name}": 0.0 for name in CHEATS},
    }
    assert report.ok and report.isolation == "bubblewrap"
    assert (task.repository / "shop" / "price.py").read_bytes() != FIXED, "the pristine repository is never written"


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    useless = write_shop(tasks, "useless", solution={"shop/extra.py": b""})
    solved = write_shop(tasks, "solved", repository={"shop/__init__.py": b"", "shop/price.py": FIXED})
    missing = write_shop(tasks, "missing")
    (missing / "solution" / "solve.sh").unlink()
    failing = write_shop(tasks, "failing")
    (failing / "solution" / "solve.sh").write_text("echo no such tool >&2\nexit 3\n")
    report = run_verify([load_task(path) for path in (useless, solved, missing, failing)], tmp_path / "state")
    wrong = {
        (task.task, check.name): (check.reward, check.problem, check.said)
        for task in report.tasks
        for check in task.checks
        if not check.ok
    }
    assert wrong == {
        ("useless", "oracle"): (0.0, None, "tests/test_price.py::test_total failed"),
        ("solved", "oracle"): (1.0, None, ""),
        ("solved", "no-op"): (1.0, None, ""),
        ("missing", "oracle"): (None, "no solution/solve.sh", ""),
        ("failing", "oracle"): (0.0, "solve.sh ended with 3: no such tool", "tests/test_price.py::test_total failed"),
    }


def test_a_solution_that_scores_otherwise_the_second_time_is_called_flaky(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def once_more(name: str, again: float | None) -> TaskReport:
        scored = {"oracle": 1.0, "no-op": 0.0, **({AGAIN: again} if again is not None else {})}
        grades = {check: _Grade(reward, None, "", 0.1) for check, reward in scored.items()}
        return TaskReport(name, name, _checks(grades))

    report = VerifyReport((once_more("even", 1.0), once_more("odd", 0.0), once_more("measured", None)), (), "none")
    assert report.flaky == ("odd",) and not report.ok
    plain = report.to_json()
    assert plain["flaky"] == ["odd"] and [one["flaky"] for one in plain["tasks"]] == [False, True, False]  # type: ignore[attr-defined]
    cli_tasks._print_report(report.tasks[1])
    assert capsys.readouterr().out.startswith("FLAKY odd\n      oracle again: scored 0, expected 1, as before")


def call(*arguments: str) -> Result:
    import typer

    app = typer.Typer()
    cli_tasks.register(app)
    return CliRunner().invoke(app, ["tasks", *arguments])


def test_the_command_counts_and_fails_when_a_task_is_not_proven(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    write_shop(tasks, "good", honest={"sed.sh": HONEST})
    result = call("verify", str(tasks), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ok"] is True
    (tasks / "bad" / "tests").mkdir(parents=True)
    (tasks / "bad" / "task.toml").write_text("")
    (tasks / "bad" / "instruction.md").write_text("")
    result = call("verify", str(tasks))
    assert isinstance(result.exception, RunError)
    assert "1 of 1 tasks proven, 1 left out" in result.output
    assert "tests/test.sh" in result.output
    result = call("verify", str(tasks / "bad"), "--json")
    assert isinstance(result.exception, UserError)
    assert [json.loads(result.stdout)[key] for key in ("ok", "tasks")] == [False, []], "a report, whatever is in it"


def test_the_command_refuses_folders_without_tasks(tmp_path: Path) -> None:
    result = call("verify", str(tmp_path), str(tmp_path / "no"))
    assert isinstance(result.exception, UserError)
    assert len(result.exception.problems) == 2
    for wrong in ("dockr", "docker", "process:x", "kubernetes:boxes", "kubernetes:"):
        result = call("verify", str(tmp_path), "--sandbox", wrong)
        assert isinstance(result.exception, UserError)
        assert "process, docker:IMAGE or kubernetes:NAMESPACE:IMAGE" in str(result.exception)


def test_tasks_are_proven_on_pods_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the cluster, which is not there: its lack is the machine's, not a task's."""
    pytest.importorskip("kubernetes.aio")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    write_shop(tmp_path / "tasks", "good")
    result = call("verify", str(tmp_path / "tasks"), "--sandbox", "kubernetes:boxes:python:3.11-slim")
    found = result.exception
    assert isinstance(found, MachineError | ExceptionGroup), result.output
    cause = found.exceptions[0] if isinstance(found, ExceptionGroup) else found
    assert isinstance(cause, MachineError) and "kubeconfig" in cause.fix


def test_preparing_leaves_out_what_cannot_be_graded(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    write_shop(tasks, "good")
    write_shop(tasks, "solved", repository={"shop/__init__.py": b"", "shop/price.py": FIXED})
    broken = write_shop(tasks, "broken")
    (broken / "task.toml").write_text("schema_version = ")
    problems: list[str] = []
    task_set = TaskSet(name="mine", source=DirectorySource(paths=(str(tasks),)))
    usable = prepare(task_set, cache=tmp_path / "cache", on_problem=problems.append)
    assert [task.id for task in usable] == ["good"]
    assert len(problems) == 2
    assert any("broken/task.toml" in problem for problem in problems)
    assert any("doing nothing scores 1" in problem for problem in problems)
