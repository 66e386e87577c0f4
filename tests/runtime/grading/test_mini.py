"""The standard-library runner: outcomes, explanations, traces, and runs that misbehave."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from runtime.grading import testkit
from runtime.grading.testkit import mini

PROGRAM = Path(testkit.__file__).parent / "mini.py"


def repository(root: Path, **files: str) -> Path:
    """``pkg__calc`` becomes ``pkg/calc.py``."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return root


def message(report: dict, test_id: str) -> str:
    return report["tests"][test_id]["error"]["message"]


def test_outcomes_and_explanations(tmp_path: Path) -> None:
    repository(
        tmp_path,
        calc="def add(a, b):\n    return a - b\n\n\ndef boom():\n    return 1 / 0\n",
        tests__test_calc="""
            from calc import add, boom

            def helper(): pass
            def test_good(): assert add(0, 0) == 0
            def test_bad(): assert add(2, 3) == 5, "the sum"
            def test_in():
                assert (
                    add(1, 1)
                    in [2, 3]
                )
            def test_not(): assert not add(1, 0)
            def test_true(): assert add(1, 1)
            def test_raises(): boom()
            def test_skip():
                import unittest
                raise unittest.SkipTest("no")
        """,
    )
    report = mini.run(tmp_path)
    outcomes = {test_id.partition("::")[2]: entry["outcome"] for test_id, entry in report["tests"].items()}
    assert report["complete"] and report["ended"] == "exit" and report["collect_errors"] == {}
    assert outcomes == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_in": "failed",
        "test_not": "failed",
        "test_true": "failed",
        "test_raises": "failed",
        "test_skip": "skipped",
    }
    prefix = "tests/test_calc.py::"
    assert message(report, prefix + "test_bad") == "add(2, 3) gave -1, want 5: the sum"
    assert message(report, prefix + "test_in") == "add(1, 1) gave 0, want in [2, 3]"
    assert message(report, prefix + "test_not") == "add(1, 0) gave 1, want a false value"
    assert message(report, prefix + "test_true") == "add(1, 1) gave 0, want a true value"
    raised = report["tests"][prefix + "test_raises"]["error"]
    assert raised["type"] == "ZeroDivisionError"
    assert raised["frames"][-1] == ["calc.py", 6, "boom", "return 1 / 0"]


def test_selected_ids_and_missing_ones(tmp_path: Path) -> None:
    repository(tmp_path, test_a="def test_x(): pass\ndef test_y(): pass\n", test_b="def test_z(): assert 0\n")
    report = mini.run(tmp_path, ["test_a.py::test_y", "test_a.py::test_gone", "nowhere.py::test_q"])
    assert list(report["tests"]) == ["test_a.py::test_y"]
    assert list(mini.run(tmp_path, ["test_a.py"])["tests"]) == ["test_a.py::test_x", "test_a.py::test_y"]


def test_trace_holds_the_lines_of_the_first_failing_test(tmp_path: Path) -> None:
    repository(
        tmp_path,
        calc="def f(x):\n    if x:\n        return 1\n    return 2\n",
        tests__test_calc="import calc\ndef test_a(): assert calc.f(1) == 1\ndef test_b(): assert calc.f(0) == 3\n",
    )
    report = mini.run(tmp_path, trace=True, stop_first=True)
    assert report["trace"] == {
        "test": "tests/test_calc.py::test_b",
        "lines": {"calc.py": [2, 4], "tests/test_calc.py": [3]},
        "recent": [["calc.py", 4], ["calc.py", 2], ["tests/test_calc.py", 3]],
    }


def test_a_syntax_error_is_a_collect_error(tmp_path: Path) -> None:
    repository(
        tmp_path, calc="def f(:\n", test_calc="import calc\ndef test_a(): pass\n", test_other="def test_b(): pass\n"
    )
    report = mini.run(tmp_path)
    error = report["collect_errors"]["test_calc.py"]
    assert error["type"] == "SyntaxError" and error["frames"][-1][:2] == ["calc.py", 1]
    assert report["tests"]["test_other.py::test_b"]["outcome"] == "passed"


@pytest.mark.parametrize(
    ("body", "outcome", "kind"),
    [
        ("while True: pass", "failed", "TestTimeout"),
        ("__import__('os')._exit(0)", "error", "Crashed"),
        ("__import__('sys').exit(0)", "failed", "SystemExit"),
        ("__import__('os').kill(__import__('os').getpid(), 9)", "error", "Crashed"),
    ],
)
def test_misbehaving_tests_never_pass(tmp_path: Path, body: str, outcome: str, kind: str) -> None:
    repository(tmp_path, test_a=f"def test_x():\n    {body}\n")
    entry = mini.run(tmp_path, test_timeout=0.2)["tests"]["test_a.py::test_x"]
    assert (entry["outcome"], entry["error"]["type"]) == (outcome, kind)


@pytest.mark.parametrize("runner", ["mini", "pytest_runner"])
@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("time.sleep(0.6)", "passed"),  # three times its limit, but of no processor
        ("time.sleep(60)", "failed"),
        ("subprocess.run(['sleep', '60'])", "failed"),
        ("sum(x for x in iter(int, 1))", "failed"),
    ],
)
def test_what_counts_is_the_time_of_the_processor(tmp_path: Path, runner: str, body: str, outcome: str) -> None:
    repository(tmp_path, test_a=f"import subprocess\nimport time\n\n\ndef test_x():\n    {body}\n")
    code = "import json, sys, importlib; r = importlib.import_module(f'testkit.{sys.argv[1]}')\n"
    code += "print(json.dumps(r.run(sys.argv[2], test_timeout=0.2)))"
    command = [sys.executable, "-c", code, runner, str(tmp_path)]  # pytest inside pytest would share its state
    env = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[1])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["tests"]["test_a.py::test_x"]["outcome"] == outcome


def test_a_run_that_ignores_the_alarm_is_killed(tmp_path: Path) -> None:
    body = "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGPROF])\n"
    repository(tmp_path, test_a=f"{body}def test_x():\n    while True: time.sleep(1)\n")
    report = mini.run(tmp_path, timeout=1.5)
    assert report["ended"] == "timeout" and not report["complete"]
    assert report["tests"]["test_a.py::test_x"]["error"]["type"] == "Timeout"


def test_a_daemon_that_holds_the_pipes_does_not_hang_the_run(tmp_path: Path) -> None:
    seen, folder = tmp_path / "seen", tmp_path / "repository"
    folder.mkdir()
    waiting = f"        while not os.path.exists({str(seen)!r}):\n            time.sleep(0.1)\n"
    daemon = f"    if os.fork() == 0:\n        os.setsid()\n{waiting}        os._exit(0)\n"
    repository(folder, test_a=f"import os, time\ndef test_x():\n{daemon}")
    try:
        report = mini.run(folder, timeout=30)
    finally:
        seen.touch()
    assert report["complete"] and report["tests"]["test_a.py::test_x"]["outcome"] == "passed"


def test_reports_without_the_nonce_are_ignored(tmp_path: Path) -> None:
    forged = json.dumps({"event": "test", "id": "test_a.py::test_x", "outcome": "passed", "seconds": 0, "error": None})
    repository(
        tmp_path,
        test_a=f"""
            import os
            def test_x():
                for fd in range(3, 64):
                    try: os.write(fd, {forged!r}.encode() + b"\\n")
                    except OSError: pass
                os._exit(0)
        """,
    )
    report = mini.run(tmp_path, nonce="0f3a")
    assert report["tests"]["test_a.py::test_x"]["outcome"] == "error" and not report["complete"]


def test_the_caller_and_the_repository_stay_clean(tmp_path: Path) -> None:
    repository(tmp_path, calc="X = 1\n", test_a="import calc\ndef test_x(): print('noise')\n")
    before = (list(sys.path), set(sys.modules), sorted(path.name for path in tmp_path.rglob("*")))
    report = mini.run(tmp_path)
    assert report["output"] == "noise\n" or report["output"] == ""
    assert before == (list(sys.path), set(sys.modules), sorted(path.name for path in tmp_path.rglob("*")))


def test_a_stale_bytecode_cache_is_not_used(tmp_path: Path) -> None:
    repository(tmp_path, calc="X = 1\n", test_a="import calc\ndef test_x(): assert calc.X == 2\n")
    subprocess.run([sys.executable, "-c", "import calc"], cwd=tmp_path, check=True)
    stat = (tmp_path / "calc.py").stat()
    (tmp_path / "calc.py").write_text("X = 2\n")
    os.utime(tmp_path / "calc.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert mini.run(tmp_path)["tests"]["test_a.py::test_x"]["outcome"] == "passed"


def test_as_a_program(tmp_path: Path) -> None:
    repository(tmp_path / "repo", test_a="def test_x(): assert 1 + 1 == 3\n")
    command = [sys.executable, "-I", "-S", PROGRAM, tmp_path / "repo", "--report", tmp_path / "report.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "1 + 1 gave 2, want 3" in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["complete"]
