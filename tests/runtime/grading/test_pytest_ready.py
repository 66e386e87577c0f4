"""What pytest does at the start of every run and was done before must show in no report."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KIT = Path(__file__).parents[3] / "runtime" / "grading"
TWICE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from testkit import pytest_ready, pytest_runner
ready, late = pytest_runner._READY, dict(word.split("=", 1) for word in sys.argv[3:])
os.environ.update(late)  # as a box's variables come after the fork server's
reports = []
for install in (ready.install, lambda: None):
    ready.install = install
    report = pytest_runner.run(sys.argv[2], trace=True)
    for test in report["tests"].values():
        del test["seconds"]
    reports.append({**report, "output": report["output"].rpartition(" in ")[0]})
print(json.dumps([ready._config is not None, *reports]))
"""
CONFTEST = """
import _pytest.tmpdir
import _pytest.recwarn
import pytest


@pytest.fixture
def late():
    return "put into a module of pytest's by a repository"


@pytest.fixture
def recwarn():
    return "in the place of pytest's own"


_pytest.tmpdir.late_one = late
_pytest.recwarn.recwarn = recwarn


def pytest_configure(config):
    assert config.invocation_params.dir.samefile(config.rootpath)
    assert config.pluginmanager.get_plugin("cacheprovider") is None
    config.addinivalue_line("markers", "ours: a mark")
"""
TESTS = """
import sys
import warnings

import pytest

pytestmark = pytest.mark.ours


def test_own(late_one, recwarn, tmp_path, monkeypatch, request):
    assert (late_one, recwarn) == ("x", tmp_path.is_dir())


def test_arguments(pytestconfig):
    assert pytestconfig.invocation_params.args[-1] != "test_it.py", pytestconfig.option.verbose


def test_warned():
    warnings.warn("something", UserWarning)


def test_captured(capsys, caplog):
    print("hello")
    assert [
        capsys.readouterr().out,
        len(
            caplog.records,
        ),
    ] == [
        "hello",
        0,
    ]


class TestIt:
    @pytest.mark.parametrize("n", [1, 2])
    def test_many(self, n):
        def inner():
            return n

        assert inner() == (
            1
        )
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ready") / "package"
    folder.mkdir()
    for name, text in {"conftest.py": CONFTEST, "test_it.py": TESTS, "pytest.ini": "[pytest]\n"}.items():
        (folder / name).write_text(text)
    return folder


def twice(package: Path, *late: str) -> tuple[bool, dict[str, Any], dict[str, Any]]:
    """Whether something was made ready, and the reports of a run with it and one without."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", TWICE, str(KIT), str(package), *late]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    made, ready, plain = json.loads(done.stdout.splitlines()[-1])
    return made, ready, plain


@pytest.fixture(scope="module")
def both(package: Path) -> tuple[bool, dict[str, Any], dict[str, Any]]:
    return twice(package)


def test_a_run_from_what_is_ready_says_what_one_from_the_start_says(
    both: tuple[bool, dict[str, Any], dict[str, Any]],
) -> None:
    made, ready, plain = both
    assert made, "this pytest is not known: every run starts from the beginning"
    assert ready == plain and ready["complete"]
    outcomes = {name.partition("::")[2]: test["outcome"] for name, test in ready["tests"].items()}
    assert outcomes["test_warned"] == outcomes["TestIt::test_many[1]"] == "passed"
    assert "put into a module of pytest's" in ready["tests"]["test_it.py::test_own"]["error"]["message"]
    assert "in the place of pytest's own" in ready["tests"]["test_it.py::test_own"]["error"]["message"]


def test_explanations_are_of_statements_on_several_lines(
    both: tuple[bool, dict[str, Any], dict[str, Any]],
) -> None:
    _, report, _ = both
    errors = {name.partition("::")[2]: test["error"] for name, test in report["tests"].items()}
    assert errors["TestIt::test_many[2]"]["message"] == "inner() gave 2, want 1"
    assert errors["test_captured"]["message"].endswith("caplog.records, ), ] gave ['', 0], want ['hello', 0]")


def test_variables_that_steer_pytest_are_heeded(package: Path) -> None:
    _, ready, plain = twice(package, "PYTEST_ADDOPTS=--maxfail=1")
    assert ready == plain and len(ready["tests"]) == 1
