"""From logs to verdicts: parsers of sets without a package, what each set makes of the statuses, and package swebench's
own parsers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.errors import TrialError
from runtime.grading import swebench_log
from runtime.grading.log_verdict import END, EXIT, PARSERS, START, Expected, judge, output, r2e_expected

BOTH = Expected(("t.py::new",), ("t.py::old",))


def log(text: str, code: int = 0) -> str:
    return f"before\n+ : '{START}'\n{text}\n+ : '{END}'\n{EXIT}: {code}\nafter\n"


@pytest.mark.parametrize(
    ("parser", "text", "found"),
    [
        ("pytest-verbose", "a.py::x PASSED [ 50%]\na.py::y[1] FAILED [100%]\n  a.py::z PASSED", ["PASSED", "FAILED"]),
        (
            "pytest-summary",
            "PASSED a.py::x\n\x1b[31mFAILED\x1b[0m a.py::y - no\nSKIPPED [1] a.py:3: why",
            ["PASSED", "FAILED"],
        ),
        (
            "go",
            "--- PASS: TestX (0.00s)\n    --- FAIL: TestX/one (0.01s)\n--- SKIP: TestY (0s)",
            ["PASSED", "FAILED", "SKIPPED"],
        ),
        ("unittest", "test_a (t.T) ... ok\ntest_b (t.T) ... FAIL\nx ... skipped", ["PASSED", "FAILED"]),
        (
            "r2e",
            "PASSED r/t.py::no\n= short test summary info =\nPASSED r/t.py::A::x\nFAILED r/t.py::y - z",
            ["PASSED", "FAILED"],
        ),
    ],
)
def test_parsers(parser: str, text: str, found: list[str]) -> None:
    assert list(PARSERS[parser](text).values()) == found


@given(
    st.lists(st.sampled_from(["PASSED", "FAILED", "SKIPPED", "--- PASS:", "ok", " ... ", " ", " - ", "::", "[", "\n"]))
)
@example(["PASSED", " ", " "])
@example(["--- PASS: ", *[" ("] * 300_000])
def test_no_log_makes_a_parser_fail_or_go_on_for_ever(words: list[str]) -> None:
    text = "short test summary info\n" + "".join(words)
    for parse in PARSERS.values():
        found = parse(text)
        assert set(found.values()) <= {"PASSED", "FAILED", "SKIPPED", "ERROR", "XFAIL", "XPASS"}
        judge(text, found, BOTH, "fail_only")


def test_a_log_of_one_long_number_is_judged() -> None:
    assert not judge("1" * 1_000_000, {}, BOTH, "fail_only").solved


def test_tests_of_classes_are_joined_as_r2e_joins_them() -> None:
    text = "short test summary info\nPASSED r/t.py::A::x\n"
    assert PARSERS["r2e"](text) == {"A.x": "PASSED"} == r2e_expected('{"\\u001b[32mA.x\\u001b[0m - why": "PASSED"}')


@pytest.mark.parametrize(
    ("found", "code", "solved", "problem"),
    [
        ({"t.py::new": "PASSED", "t.py::old": "PASSED"}, 0, True, ""),
        ({"t.py::new": "XFAIL", "t.py::old": "SKIPPED"}, 0, True, ""),
        ({"t.py::new": "SKIPPED", "t.py::old": "PASSED"}, 0, False, ""),
        ({"t.py::new": "PASSED"}, 0, False, ""),
        ({"t.py::new": "PASSED", "t.py::old": "FAILED"}, 1, False, ""),
        ({"t.py::new": "PASSED", "t.py::old": "PASSED", "t.py::else": "FAILED"}, 1, True, ""),
        ({"t.py::new": "PASSED", "t.py::old": "PASSED"}, 1, False, "no test failed, yet"),
        ({}, 0, False, "no test ended"),
    ],
)
def test_fail_to_pass_and_pass_to_pass(found: dict[str, str], code: int, solved: bool, problem: str) -> None:
    verdict = judge(log("", code), found, BOTH, "pass_and_fail")
    assert verdict.solved == solved and problem in verdict.problem and bool(problem) == bool(verdict.problem)


def test_names_that_a_set_has_cut() -> None:
    expected = Expected(("t.py::a[x, y",), ())
    good = {"t.py::a[x, y, 1]": "PASSED", "t.py::a[x, y, 2]": "XFAIL"}
    assert judge(log(""), good, expected, "pass_and_fail").solved
    assert not judge(log(""), good | {"t.py::a[x, y, 3]": "FAILED"}, expected, "pass_and_fail").solved
    assert not judge(log(""), {"t.py::ab": "PASSED"}, Expected(("t.py::a",), ()), "pass_and_fail").solved


def test_failures_alone_are_listed() -> None:
    """An empty list is a success only where something says that tests ran."""
    assert judge(log("12 passing"), {}, BOTH, "fail_only").solved
    assert not judge(log("0 passing"), {}, BOTH, "fail_only").solved
    assert not judge(log("12 passing"), {"t.py::old": "FAILED"}, BOTH, "fail_only").solved


def test_every_test_ends_as_it_should() -> None:
    expected = Expected(statuses={"a": "PASSED", "b": "FAILED"})
    assert judge(log("", 1), {"a": "PASSED", "b": "FAILED"}, expected, "exact").solved
    assert not judge(log(""), {"a": "PASSED", "b": "PASSED"}, expected, "exact").solved
    verdict = judge(log(""), {"a": "PASSED", "b": "FAILED", "c": "PASSED"}, expected, "exact")
    assert not verdict.solved and verdict.outcomes["c"] == "unexpected"
    assert judge("PASSED x", {"x": "PASSED"}, Expected(), "all").solved
    assert not judge("", {}, Expected(), "all").solved


def test_what_broke_the_run_is_said() -> None:
    good = {"t.py::new": "PASSED", "t.py::old": "PASSED"}
    assert "Patch Apply Failed" in judge(log(">>>>> Patch Apply Failed"), good, BOTH, "pass_and_fail").problem
    assert "did not come to its end" in judge(f": '{START}'\nPASSED", good, BOTH, "pass_and_fail").problem
    assert output(log("middle")).count("middle") == 1 and "after" not in output(log("middle"))


@pytest.mark.consumers
def test_package_swebench_reads_its_own_logs(swebench: None) -> None:
    assert swebench_log.why_missing("parse_log_django") is None
    assert "has no log parser 'parse_log_x'" in str(swebench_log.why_missing("parse_log_x"))
    facts = {"repo": "django/django", "instance_id": "x", "version": ""}

    def read(parser: str, text: str) -> dict[str, str]:
        return asyncio.run(swebench_log.statuses(parser, text, facts))

    assert read("parse_log_django", "test_a (x.T) ... ok\ntest_b (x.T) ... FAIL") == {
        "test_a (x.T)": "PASSED",
        "test_b (x.T)": "FAILED",
    }
    assert read("parse_log_cargo", "test a::b ... ok") == {"a::b": "PASSED"}


def test_a_log_that_keeps_a_parser_busy_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swebench_log, "_PARSE_SEC", 0.0)
    with pytest.raises(TrialError, match="read for 0 s"):
        asyncio.run(swebench_log.statuses("parse_log_pytest", "", {}))


def test_what_a_parser_prints_is_no_part_of_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "swebench"
    (package / "harness").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "harness" / "log_parsers.py").write_text(
        "def noisy(log, spec):\n    print('{}')\n    return {log: 'PASSED'}\nPARSER_REGISTRY = {'noisy': noisy}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert asyncio.run(swebench_log.statuses("noisy", "x", {})) == {"x": "PASSED"}
