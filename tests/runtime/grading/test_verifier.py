"""Verdicts: honest work scores 1, everything else does not, and what cannot be decided is no grade."""

import ast
import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.config import Bubblewrap, VerifierSandbox
from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import select
from runtime.grading.base import Verdict
from runtime.grading.id_verifier import read_outcomes
from runtime.grading.make import make_verifier
from runtime.grading.outcomes import outcomes_of, report_of
from runtime.grading.script_verifier import as_reward, read_score
from runtime.sandboxes.base import Sandbox, SandboxProvider, SandboxRequest
from runtime.sandboxes.box import BoxSandbox
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.entries import Link
from runtime.task import Task, load_task

from .conftest import CALC, IDS, Run

pytestmark = pytest.mark.sandbox

FIXED = {"/app/calc.py": CALC.format("+").encode()}


def grade(
    run: Run, provider: SandboxProvider, task: Task, artifacts: Mapping[str, bytes], **settings: float
) -> Verdict:
    verifier = make_verifier(Bubblewrap(**settings), provider)
    verdict = run(verifier.grade(task, artifacts))
    assert isinstance(verdict, Verdict)
    return verdict


def test_oracle_scores_1_and_doing_nothing_0(run: Run, provider: SandboxProvider, task: Task) -> None:
    solved = grade(run, provider, task, FIXED)
    assert (solved.reward, solved.status) == (1.0, "solved")
    assert solved.outcomes == dict.fromkeys(IDS, "passed")
    assert [run["complete"] for run in json.loads(solved.raw)["runs"]] == [True, True]
    assert "host_verdict" in solved.defences
    assert ("network_off" in solved.defences) == (provider.capabilities.isolation == "bubblewrap")
    noop = grade(run, provider, task, {"/app/calc.py": CALC.format("-").encode()})
    assert (noop.reward, noop.status) == (0.0, "unsolved")
    assert grade(run, provider, task, {}).reward == 0.0


CHEATS: dict[str, dict[str, bytes]] = {
    "rewrites the tests": {"/app/tests/test_calc.py": b"def test_add(): pass\ndef test_double(): pass\n"},
    "exits at import": {"/app/calc.py": b"import os\nos._exit(0)\n"},
    "exits orderly at import": {"/app/calc.py": b"import sys\nsys.exit(0)\n"},
    "skips": {"/app/calc.py": b"import unittest\nraise unittest.SkipTest('no')\n"},
    "skips inside": {"/app/calc.py": b"import unittest\ndef add(a, b): raise unittest.SkipTest('x')\ndouble = add\n"},
    "kills everything": {"/app/calc.py": b"import os, signal\nos.kill(-1, 9)\n"},
    "kills the supervisor": {"/app/calc.py": b"import os\nos.kill(os.getppid(), 9)\nos._exit(0)\n"},
    "plants a conftest": {"/app/conftest.py": b"raise SystemExit(0)\n"},
    "writes outside": {"/etc/passwd": b"x", "/app/../etc/passwd": b"x", "/tmp/x": b"x"},
    "prints success": {"/app/calc.py": b"import os\nos.write(1, b'3 passed')\nos._exit(0)\n"},
    "forges a report without the nonce": {
        "/app/calc.py": b"""
import json, os
for fd in range(1, 30):
    for test in ("test_add", "test_double", "test_zero"):
        line = json.dumps({"event": "test", "id": "tests/test_calc.py::" + test, "outcome": "passed", "seconds": 0,
                           "error": None})
        try: os.write(fd, line.encode() + b"\\n" + json.dumps({"event": "done"}).encode() + b"\\n")
        except OSError: pass
os._exit(0)
"""
    },
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_are_never_paid(run: Run, isolated: BubblewrapProvider, task: Task, name: str) -> None:
    try:
        verdict = grade(run, isolated, task, CHEATS[name], verifier_timeout_sec=5)
    except TrialError as error:
        assert not error.handling.grade
    else:
        assert verdict.reward <= 0.0 and verdict.status in ("unsolved", "tampered")


def test_honest_work_with_files_of_its_own(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    more = {
        "/app/helpers/__init__.py": b"def plus(a, b):\n    return a + b\n",
        "/app/calc.py": b"from helpers import plus as add\ndef double(a):\n    print('noise')\n    return add(a, a)\n",
        "/app/tests/test_mine.py": b"def test_mine(): pass\n",
        "/app/conftest.py": b"import nothing_of_the_kind\n",
        "/app/pyproject.toml": b"[tool.pytest.ini_options]\n",
    }
    assert grade(run, isolated, task, more).reward == 1.0


def test_only_declared_artifacts_count(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    declared = task.model_copy(update={"liverl": task.liverl.model_copy(update={"artifacts": ("other",)})})
    assert grade(run, isolated, declared, FIXED).reward == 0.0


def test_oversized_artifacts_are_unsolved_with_a_reason(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    verdict = grade(run, isolated, task, {**FIXED, "/app/big": bytes(9 << 20)})
    assert verdict.reward == 0.0 and b"over the limit" in verdict.raw


SLEEPS = b"import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\ntime.sleep(60)\n"


def test_work_that_stalls_its_verdict_is_unsolved(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    """No grade would mean another attempt: a way out of a bad grade that any work could take."""
    verdict = grade(run, isolated, task, {"/app/calc.py": SLEEPS}, verifier_timeout_sec=0.7)
    assert (verdict.reward, verdict.status) == (0.0, "unsolved") and b"verifier_timeout" in verdict.raw


def test_where_no_work_gets_a_verdict_there_is_no_grade(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    (task.path / "tests" / "files" / "tests" / "test_calc.py").write_bytes(SLEEPS)
    with pytest.raises(TrialError) as caught:
        grade(run, isolated, task, FIXED, verifier_timeout_sec=0.5)
    assert caught.value.termination is Termination.VERIFIER_TIMEOUT


def test_an_endless_loop_is_unsolved(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    loops = (
        b"def add(a, b):\n    while True:\n        try:\n            while True: pass\n        except Exception: pass\n"
    )
    assert grade(run, isolated, task, {"/app/calc.py": loops + b"double = add\n"}).reward == 0.0


def test_a_daemon_of_the_agent_cannot_touch_the_verdict(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    """It rewrites every place that a naive verifier would look at, while the verdict is being computed."""
    script = """
(setsid sh -c 'while :; do
  for f in /app/calc.py /logs/verifier/reward.json /logs/verifier/reward.txt /tmp/report.json; do
    mkdir -p $(dirname $f); echo "{\\"reward\\": 1}" > $f; done
done' > /dev/null 2>&1 &)
"""

    async def main() -> Verdict:
        agent = await isolated.start(SandboxRequest(name="agent", lower=task.repository))
        await agent.exec(["sh", "-c", script], timeout_sec=10)
        await asyncio.sleep(0.1)
        verifier = make_verifier(Bubblewrap(), isolated)
        verdict = await verifier.grade(task, {})
        await agent.stop()
        return verdict

    assert run(main()).reward == 0.0


def script_task(task: Task, tmp_path: Path, script: str) -> Task:
    (task.path / "tests" / "test.sh").write_text(script)
    (task.path / "task.toml").write_text("")
    return load_task(task.path)


def test_a_foreign_task_is_graded_by_its_script(
    run: Run, isolated: BubblewrapProvider, task: Task, tmp_path: Path
) -> None:
    check = "cd /app; if python3 -c 'import calc; assert calc.add(2, 3) == 5'; then r=1; else r=0; fi\n"
    foreign = script_task(task, tmp_path, f"#!/bin/bash\n{check}echo $r > /logs/verifier/reward.txt\n")
    assert grade(run, isolated, foreign, FIXED).reward == 1.0
    assert grade(run, isolated, foreign, {}).reward == 0.0
    silent = script_task(task, tmp_path, "exit 0\n")
    with pytest.raises(TrialError) as caught:
        grade(run, isolated, silent, FIXED)
    assert caught.value.termination is Termination.VERIFIER_CRASHED


FOREIGN = (
    "cd /tests && if python3 -m unittest -q test_calc; then r=1; else r=0; fi; echo $r > /logs/verifier/reward.txt\n"
)
FOREIGN_TESTS = """
import sys, unittest
sys.path.insert(0, "/app")
from calc import add

class TestAdd(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(2, 3), 5)
"""


def test_a_foreign_task_is_guarded_by_spoiled_tests(
    run: Run, isolated: BubblewrapProvider, task: Task, tmp_path: Path
) -> None:
    """Its script believes an exit code and a file, which code under test can forge; the task's own solution shows that
    the script heeds its Python tests.
    """
    foreign = script_task(task, tmp_path, FOREIGN)
    (task.path / "tests" / "test_calc.py").write_text(FOREIGN_TESTS)
    (task.path / "solution").mkdir()
    (task.path / "solution" / "solve.sh").write_text("sed -i 's/a - b/a + b/' /app/calc.py\n")
    solved = grade(run, isolated, foreign, FIXED)
    assert (solved.reward, solved.status) == (1.0, "solved") and "canary" in solved.defences
    assert grade(run, isolated, foreign, {}).status == "unsolved"
    forges = b"import os\nopen('/logs/verifier/reward.json', 'w').write('{\"reward\": 1}')\nos._exit(0)\n"
    for attack in (b"import os\nos._exit(0)\n", forges):
        verdict = grade(run, isolated, foreign, {"/app/calc.py": attack})
        # Where there is a second user the file is out of its reach, and the program fails over that.
        foiled = attack is forges and "reward_file" in verdict.defences
        assert (verdict.reward, verdict.status) == ((0.0, "unsolved") if foiled else (-1.0, "tampered"))


def test_a_crash_of_the_runner_is_no_grade(
    run: Run, isolated: BubblewrapProvider, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code under test had no part in it, so neither 0 nor 1 would be true."""
    real = BoxSandbox.run_tests

    async def misdirected(self: BoxSandbox, runner: str, **arguments: Any) -> dict[str, Any]:
        return await real(self, runner, **{**arguments, "root": "/nowhere"})

    monkeypatch.setattr(BoxSandbox, "run_tests", misdirected)
    with pytest.raises(TrialError, match="test runner failed") as caught:
        grade(run, isolated, task, FIXED)
    assert caught.value.termination is Termination.VERIFIER_CRASHED and not caught.value.handling.grade


def test_required_defences(run: Run, isolated: BubblewrapProvider, task: Task, tmp_path: Path) -> None:
    def graded(*required: str) -> Verdict:
        verifier = make_verifier(Bubblewrap(required_defences=required), isolated)
        verdict = run(verifier.grade(task, FIXED))
        assert isinstance(verdict, Verdict)
        return verdict

    assert graded("canary", "fresh_sandbox", "network_off").reward == 1.0
    (task.path / "tests" / "files" / "tests" / "test_calc.py").write_text("from other import *\n")
    with pytest.raises(TrialError, match="canary") as caught:
        graded("canary")
    assert caught.value.termination is Termination.TASK_INVALID


@pytest.mark.parametrize(
    ("files", "reward"),
    [
        ({"reward.json": b'{"reward": 0.5}', "reward.txt": b"1"}, 0.5),
        ({"reward.json": b'{"score": 1}'}, 1.0),
        ({"reward.txt": b" 0.25\n"}, 0.25),
        ({}, None),
        ({"reward.txt": b"nan"}, None),
        ({"reward.txt": b"1e309"}, None),
        ({"reward.txt": b"2"}, 2.0),
        ({"reward.txt": b"-1.5"}, -1.5),
        ({"reward.txt": b""}, None),
        ({"reward.txt": b"\xff"}, None),
        ({"reward.json": b"{}"}, None),
        ({"reward.json": b"", "reward.txt": b"1"}, None),
        ({"reward.json": b'{"reward": true}'}, 1.0),
        ({"reward.json": b'{"reward": 100}'}, 100.0),
        ({"reward.json": b'{"speed": 3, "reward": 0.5}'}, 0.5),
        ({"reward.json": b'{"reward": 0.5, "speed": "fast"}'}, None),
        ({"reward.json": b'{"reward": 0.5, "speed": NaN}'}, None),
        ({"reward.json": b'{"reward": ' + b"9" * 400 + b"}"}, None),
        ({"reward.json": b'{"reward": null}'}, None),
        ({"reward.json": b"[1]"}, None),
        ({"reward.json": b"1"}, None),
        ({"reward.json": b"not json"}, None),
    ],
)
def test_reward_files(files: dict[str, bytes], reward: float | None) -> None:
    written = {f"/logs/verifier/{name}": content for name, content in files.items()}
    if reward is not None:
        assert read_score("t", written) == reward
        return
    with pytest.raises(TrialError) as caught:
        read_score("t", written)
    assert caught.value.termination is Termination.VERIFIER_CRASHED


@given(score=st.floats(-1e6, 1e6), best=st.none() | st.floats(-1e6, 1e6))
def test_a_score_is_a_part_of_the_best(score: float, best: float | None) -> None:
    """Always within [0, 1]; the best is the whole; and better work never gets less."""
    if best is None and score > 1:
        with pytest.raises(TrialError):
            as_reward("t", score, best=best)
        return
    reward = as_reward("t", score, best=best)
    assert 0 <= reward <= 1
    if best is not None:
        assert as_reward("t", max(best, 1.0), best=best) == 1
        assert as_reward("t", score + 1, best=best) >= reward
    if 0 <= score <= 1 and (best is None or best <= 1):
        assert reward == score


def test_a_report_is_data() -> None:
    hostile = {
        "tests": {"a": {"outcome": "passed"}, "b": {"outcome": ["passed"]}, "c": "passed", "d": {"outcome": "xpassed"}}
    }
    assert read_outcomes(hostile, ("a", "b", "c", "d", "e")) == {
        "a": "passed",
        "b": "missing",
        "c": "missing",
        "d": "missing",
        "e": "missing",
    }
    with pytest.raises(TrialError):
        read_outcomes({"tests": None}, ("a",))


def test_outcomes_of_replaced_files(run: Run, provider: SandboxProvider, repository: Path) -> None:
    async def main() -> None:
        broken = await report_of(provider, repository, {}, runner="mini", timeout_sec=10)
        assert outcomes_of(broken) == {IDS[0]: "failed", IDS[1]: "failed", IDS[2]: "passed"}
        files, ids = {"calc.py": CALC.format("+").encode()}, [*IDS, "tests/test_calc.py::no"]
        fixed = await report_of(provider, repository, files, ids, runner="mini", timeout_sec=10)
        assert outcomes_of(fixed) == dict.fromkeys(IDS, "passed")
        report = await report_of(provider, repository, {}, runner="mini", timeout_sec=10, trace=True, stop_first=True)
        assert report["trace"]["lines"]["calc.py"] == [2]

    run(main())


def test_a_verdict_costs_little_more_than_its_two_sandboxes(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    """About 20 ms on an idle machine; the cold start of an interpreter in each would show here even on a busy one."""
    verifier = make_verifier(Bubblewrap(), isolated)

    async def bare() -> None:
        await (await isolated.start(SandboxRequest(name="bare", lower=task.repository))).stop()

    async def main() -> tuple[float, float]:
        verdicts, sandboxes = [], []
        await verifier.grade(task, FIXED)
        for _ in range(20):
            marks = [time.perf_counter()]
            await verifier.grade(task, FIXED)
            marks.append(time.perf_counter())
            await bare()
            marks.append(time.perf_counter())
            verdicts.append(marks[1] - marks[0])
            sandboxes.append(marks[2] - marks[1])
        return min(verdicts), min(sandboxes)

    verdict, sandbox = run(main())
    assert verdict < 8 * sandbox, (verdict, sandbox)


def test_the_second_sandbox_has_limits_of_its_own(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    hungry = {"/app/calc.py": b"held = b'1' * (300 << 20)\n" + FIXED["/app/calc.py"]}

    def reward(memory_mib: int, verifier: int | None) -> float | None:
        settings = Bubblewrap(memory_mib=memory_mib, verifier=VerifierSandbox(memory_mib=verifier))
        verdict = run(make_verifier(settings, isolated).grade(task, hungry))
        assert isinstance(verdict, Verdict)
        return verdict.reward

    assert reward(128, None) == 0.0 and reward(128, 1024) == 1.0
    assert reward(1024, None) == 1.0 and reward(1024, 128) == 0.0


_PACKAGES = "sorted(one.metadata['Name'] for one in importlib.metadata.distributions())"


def test_agent_and_verifier_have_the_same_python(
    run: Run, provider: SandboxProvider, task: Task, tmp_path: Path
) -> None:
    """What is installed on the host by chance would let work pass for the agent alone. In isolated boxes there is
    nothing of it, and no program names a path of the host either."""
    tests = task.path / "tests" / "files" / "tests" / "test_calc.py"
    (task.path / "task.toml").write_text(
        '[metadata.liverl]\nfail_to_pass = ["tests/test_calc.py::test_add"]\ntest_files = ["tests/test_calc.py"]\n'
    )
    script = f"import importlib.metadata; print({_PACKAGES})"
    programs = "for p in /opt/python/bin/*; do head -c 2 $p | grep -q '#!' && head -n 1 $p; done; true"

    async def main() -> tuple[list[str], bytes]:
        agent = await provider.start(SandboxRequest(name="agent", lower=task.repository))
        packages = await agent.exec(["python3", "-c", script], timeout_sec=30)
        lines = await agent.exec(["sh", "-c", programs], timeout_sec=30)
        await agent.stop()
        return ast.literal_eval(packages.stdout.decode()), lines.stdout

    packages, lines = run(main())
    if provider.capabilities.isolation != "none":
        assert packages == [] and lines == b""
    tests.write_text(f"import importlib.metadata\n\n\ndef test_add():\n    assert {_PACKAGES} == {packages!r}\n")
    verdict = run(make_verifier(Bubblewrap(), provider).grade(load_task(task.path), {}))
    assert verdict.outcomes == {"tests/test_calc.py::test_add": "passed"}


def test_a_package_may_have_its_tests_among_its_modules(tmp_path: Path) -> None:
    """Its ``__init__.py`` is then code that a repair may change; of a folder of tests alone it is not."""
    files = {"pkg/__init__.py": "", "pkg/tests.py": "", "tests/__init__.py": "", "tests/test_a.py": ""}
    for name, text in files.items():
        path = tmp_path / "t" / "environment" / "repo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    toml = """[metadata.liverl]
fail_to_pass = ["pkg/tests.py::test", "tests/test_a.py::test"]
source_files = ["pkg/__init__.py"]
"""
    for name, text in {"task.toml": toml, "instruction.md": "", "tests/test.sh": ""}.items():
        path = tmp_path / "t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    work = {f"/app/{name}": b"x = 1\n" for name in (*files, "pkg/new.py")}
    assert set(select(load_task(tmp_path / "t"), work).files) == {"/app/pkg/__init__.py", "/app/pkg/new.py"}


def test_a_fault_of_the_machine_is_not_kept_as_a_fact_about_the_task(
    run: Run, isolated: BubblewrapProvider, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task.path / "solution" / "files").mkdir(parents=True, exist_ok=True)
    (task.path / "solution" / "files" / "calc.py").write_bytes(FIXED["/app/calc.py"])
    start, failed = isolated.start, []

    async def first_fails(request: SandboxRequest) -> Sandbox:
        if not failed:
            failed.append(request.name)
            raise TrialError(Termination.ENV_SETUP_FAILED, "no room")
        return await start(request)

    monkeypatch.setattr(isolated, "start", first_fails)

    async def main() -> tuple[Verdict, Verdict]:
        verifier = make_verifier(Bubblewrap(verifier_timeout_sec=60), isolated)
        with pytest.raises(TrialError, match="no room"):
            await verifier.grade(task, FIXED)
        work = {**FIXED, "/app/out": Link("/etc/passwd")}
        first, second = await verifier.grade(task, work), await verifier.grade(task, {})
        await verifier.close()
        return first, second

    first, second = run(main())
    assert (first.reward, second.reward) == (1.0, 0.0)
    assert {"solution_user", "canary"} & set(first.defences)
    assert json.loads(first.raw)["refused"] == {"out": "a link that leads out of the work directory"}
