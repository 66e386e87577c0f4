"""The pytest runner must agree with plain pytest, also on edited files that the fork server has compiled before."""

import asyncio
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from runtime.grading.outcomes import outcomes_of, report_of
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider

from .conftest import Run, needs_bubblewrap

IMAGE = f"pytest=={pytest.__version__}"

FILES = {
    "src/shapes/__init__.py": "from .area import square\n",
    "src/shapes/area.py": "def square(x):\n    return x * x\n",
    "conftest.py": "import pytest\n\n\n@pytest.fixture\ndef side():\n    return 3\n",
    "setup.cfg": "[tool:pytest]\naddopts = --no-such-option\nmarkers =\n    slow: slow\n",
    "tests/helpers.py": "TWO = 2\n",
    "tests/test_shapes.py": """
import unittest

import pytest
from helpers import TWO
from shapes import square


def test_fixture(side):
    assert square(side) == 9


@pytest.mark.parametrize("x,y", [(1, 1), (TWO, 4), (-3, 9)])
def test_many(x, y):
    assert square(x) == y


class TestClass:
    def test_method(self, tmp_path):
        assert square(len(list(tmp_path.iterdir()))) == 0


class TestUnit(unittest.TestCase):
    def test_unit(self):
        self.assertEqual(square(5), 25)


@pytest.mark.skip
def test_skipped():
    assert False


@pytest.mark.xfail
def test_expected_failure():
    assert square(2) == 5


def test_output(capsys):
    print("hello")
    assert capsys.readouterr().out == "hello\\n"


@pytest.fixture
def broken():
    raise ValueError("no")


def test_broken_fixture(broken):
    pass


def test_negative():
    with pytest.raises(TypeError, match="multiply"):
        square("a")
""",
}
EDITS = ["def square(x):\n    return x + x\n", "def square(x):\n    return abs(x) ** 2\n", "import no_such_module\n"]

DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from testkit import pytest_runner
print(json.dumps(pytest_runner.run(sys.argv[2], trace=True)))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "package"


def plain_outcomes(package: Path, report: Path) -> dict[str, str]:
    """What ``python -m pytest`` says."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{package}:{package}/src", "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, cwd=package, env=environment, capture_output=True, check=False)
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        *folders, last = case.get("classname", "").split(".")
        prefix = (
            "::".join([f"{'/'.join(folders)}.py", last])
            if last.startswith("Test")
            else "/".join([*folders, last]) + ".py"
        )
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = {"failure": "failed", "error": "error", "skipped": "skipped"}[kinds.pop()] if kinds else "passed"
        if case.get("classname"):
            outcomes[f"{prefix}::{case.get('name')}"] = outcome
    return outcomes


def test_outcomes_explanations_and_trace(package: Path, tmp_path: Path) -> None:
    (package / "src/shapes/area.py").write_text(EDITS[0])
    kit = Path(__file__).parents[3] / "runtime" / "grading"
    done = subprocess.run([sys.executable, "-c", DRIVER, kit, package], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["complete"] and report["runner"] == "pytest"
    outcomes = {test_id: entry["outcome"] for test_id, entry in report["tests"].items()}
    assert outcomes == plain_outcomes(package, tmp_path / "junit.xml")
    failed = report["tests"]["tests/test_shapes.py::test_fixture"]["error"]
    assert failed["message"] == "square(side) gave 6, want 9"
    assert report["trace"]["test"] == "tests/test_shapes.py::test_fixture"
    assert report["trace"]["lines"]["src/shapes/area.py"] == [2]


@pytest.mark.sandbox
@pytest.mark.network
@needs_bubblewrap
def test_it_agrees_with_plain_pytest_on_edits(
    run: Run, isolated: BubblewrapProvider, package: Path, tmp_path: Path
) -> None:
    async def main() -> list[dict[str, str]]:
        return [
            outcomes_of(
                await report_of(
                    isolated,
                    package,
                    {"src/shapes/area.py": text.encode()},
                    runner="pytest",
                    image=IMAGE,
                    timeout_sec=60,
                )
            )
            for text in (FILES["src/shapes/area.py"], *EDITS, FILES["src/shapes/area.py"])
        ]

    results = run(main())
    assert results[0] == results[-1] and len(results[0]) == 11
    for text, found in zip((FILES["src/shapes/area.py"], *EDITS), results, strict=False):
        (package / "src/shapes/area.py").write_text(text)
        assert found == plain_outcomes(package, tmp_path / "junit.xml"), text


@pytest.mark.sandbox
@pytest.mark.network
@needs_bubblewrap
def test_the_image_is_there_for_commands_too(run: Run, isolated: BubblewrapProvider, package: Path) -> None:
    async def main() -> bytes:
        sandbox = await isolated.start(SandboxRequest(name="x", lower=package, image=IMAGE))
        command = ["python3", "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "tests"]
        result = await sandbox.exec(command, env={"PYTHONPATH": "/opt/image:/app/src"}, timeout_sec=60)
        await asyncio.sleep(0)
        return result.stdout

    assert b"8 passed, 1 skipped, 1 xfailed, 1 error" in run(main())
