"""Look-alikes that leave state behind when they fail do not deny honest work."""

from __future__ import annotations

import pytest

from runtime.config import Bubblewrap
from runtime.grading.interplay import Interplay, before
from runtime.grading.make import make_verifier
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.task import Task

from .conftest import CALC, Run, needs_bubblewrap


def test_what_passed_together_is_known_and_what_did_not_is_left_out() -> None:
    known = Interplay()
    assert known.unknown({"a": {"b", "c"}}) and not known.unknown({}) and not known.unknown({"a": set()})
    assert known.learn({"a": "passed", "d": "passed"}, before("ad", "bc", "bac"))
    assert not known.unknown({"a": {"b"}, "d": {"b"}}) and known.unknown({"a": {"b", "c"}})
    assert known.learn({"a": "failed"}, {"a": {"b", "c"}}), "c may be why"
    assert known.usable(["a", "b", "c"]) == ("a", "b")
    assert not known.learn({"a": "failed"}, {"a": {"b"}}), "nothing disturbs it: it is unsteady"
    assert known.usable(["a", "b", "c"]) == ("a", "b")


LEAVING = """
import calc
from calc import add, double

LEFT = []


def test_add():
    LEFT.append(1)
    assert add(2, 3) == 5
    LEFT.clear()


def test_double():
    assert not LEFT
    assert double(4) == 8


def test_patched():
    calc.unused = 1
    assert add(1, 1) == 2
"""


@pytest.mark.sandbox
@needs_bubblewrap
def test_a_look_alike_that_disturbs_others_is_left_out(run: Run, isolated: BubblewrapProvider, task: Task) -> None:
    """Without that, one verdict in four of these denies the right work, by chance. A test that patches keeps its code
    in one process."""
    for name, text in {
        "solution/files/calc.py": CALC.format("+"),
        "tests/files/tests/test_calc.py": LEAVING,
    }.items():
        path = task.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    ids = tuple(f"tests/test_calc.py::test_{name}" for name in ("add", "double", "patched"))
    task = task.model_copy(update={"liverl": task.liverl.model_copy(update={"fail_to_pass": ids, "pass_to_pass": ()})})
    work, verdicts = {"/app/calc.py": CALC.format("+").encode()}, []
    for _ in range(8):  # each learns anew, from another order
        verifier = make_verifier(Bubblewrap(required_defences=("canary",)), isolated)
        verdicts += [run(verifier.grade(task, work)) for _ in range(3)]
    assert [verdict.reward for verdict in verdicts] == [1.0] * 24
    assert all("canary" in verdict.defences and "solution_user" not in verdict.defences for verdict in verdicts)
    assert run(verifier.grade(task, {})).reward == 0.0
