"""Equal work is graded once, unequal work and what could not be decided always."""

import asyncio
from collections.abc import Mapping

import pytest

from runtime.config import Bubblewrap
from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import Selection
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.grading.reuse import ReusingVerifier, digest
from runtime.sandboxes.base import SandboxProvider
from runtime.task import Task

from .conftest import CALC, Run

RIGHT = {"/app/calc.py": CALC.format("+").encode()}
WRONG = {"/app/calc.py": CALC.format("*").encode()}


class Counting:
    """Solves nothing, but ``RIGHT``; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.calls = 0
        self.closed = False
        self.failures = failures

    async def grade(self, task: Task, artifacts: Mapping[str, bytes]) -> Verdict:
        self.calls += 1
        await asyncio.sleep(0.01)
        if self.calls <= self.failures:
            raise TrialError(Termination.VERIFIER_CRASHED, "not now")
        solved = artifacts == RIGHT
        return Verdict(float(solved), "solved" if solved else "unsolved", {}, ("host_verdict",), 0.01, b"{}")

    async def close(self) -> None:
        self.closed = True


def test_equal_work_at_once_is_graded_once(run: Run, task: Task) -> None:
    counting = Counting()
    verifier = ReusingVerifier(counting)

    async def work() -> list[Verdict]:
        everything = [RIGHT, WRONG, {}, RIGHT, {}, WRONG, RIGHT]
        return await asyncio.gather(*(verifier.grade(task, one) for one in everything))

    verdicts = run(work())
    assert counting.calls == 3
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert [verdict.reused for verdict in verdicts] == [False, False, False, True, True, True, True]
    run(verifier.close())
    assert counting.closed


def test_what_the_verifier_does_not_take_over_makes_no_difference(run: Run, task: Task) -> None:
    verifier = ReusingVerifier(Counting())
    assert not run(verifier.grade(task, {})).reused
    untouched = {"/app/calc.py": CALC.format("-").encode(), "/app/tests/test_calc.py": b"", "/app/.git/index": b"x"}
    assert run(verifier.grade(task, untouched)).reused


def test_another_task_has_verdicts_of_its_own(run: Run, task: Task, other_task: Task) -> None:
    counting = Counting()
    verifier = ReusingVerifier(counting)
    assert not run(verifier.grade(task, RIGHT)).reused
    assert not run(verifier.grade(other_task, RIGHT)).reused
    assert counting.calls == 2


def test_no_decision_is_kept(run: Run, task: Task) -> None:
    counting = Counting(failures=1)
    verifier = ReusingVerifier(counting)

    async def work() -> list[Verdict | BaseException]:
        return await asyncio.gather(*(verifier.grade(task, RIGHT) for _ in range(3)), return_exceptions=True)

    first, second, third = run(work())
    assert isinstance(first, TrialError)
    assert isinstance(second, Verdict) and not second.reused
    assert isinstance(third, Verdict) and third.reused
    assert counting.calls == 2


def test_a_cancelled_trial_leaves_the_others_their_verdict(run: Run, task: Task) -> None:
    verifier = ReusingVerifier(Counting())

    async def work() -> Verdict:
        first = asyncio.create_task(verifier.grade(task, RIGHT))
        second = asyncio.create_task(verifier.grade(task, RIGHT))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert run(work()).reward == 1.0


def test_few_are_kept(run: Run, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 16
    monkeypatch.setattr("runtime.grading.reuse.MAX_VERDICTS", most)
    counting = Counting()
    verifier = ReusingVerifier(counting)

    async def work() -> None:
        many = ({"/app/calc.py": b"%d" % number} for number in range(most + 1))
        await asyncio.gather(*(verifier.grade(task, one) for one in many))

    run(work())
    assert not run(verifier.grade(task, {"/app/calc.py": b"0"})).reused
    assert run(verifier.grade(task, {"/app/calc.py": b"%d" % most})).reused


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"/app/a": b"xy"}, {"/app/a": b"x", "y": b""}),
        ({"/app/a": b"", "/app/b": b"c"}, {"/app/a": b"c", "/app/b": b""}),
        ({"/app/a": b""}, {}),
    ],
)
def test_a_digest_is_of_names_and_contents(left: dict[str, bytes], right: dict[str, bytes]) -> None:
    assert digest(Selection(left)) != digest(Selection(right))
    assert digest(Selection(left)) == digest(Selection(dict(reversed(left.items()))))
    assert digest(Selection(problem="too large")) != digest(Selection())


@pytest.mark.sandbox
def test_a_real_verifier_says_the_same_again(run: Run, isolated: SandboxProvider, task: Task) -> None:
    verifier = make_verifier(Bubblewrap(reuse_verdicts=True), isolated)
    first, again = run(verifier.grade(task, RIGHT)), run(verifier.grade(task, RIGHT))
    assert (first.reward, first.reused, again.reused) == (1.0, False, True)
    assert (again.outcomes, again.defences, again.raw) == (first.outcomes, first.defences, first.raw)
    assert again.seconds < first.seconds
    assert run(verifier.grade(task, WRONG)).reward == 0.0
