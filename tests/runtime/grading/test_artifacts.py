"""Which of an agent's files a verdict takes over: the work, and no help of the tests."""

import json
from pathlib import Path

import pytest

from runtime.grading import artifacts
from runtime.grading.artifacts import select
from runtime.task import Task, load_task

TEST = "def test_x(): pass\n"


def make_task(root: Path, test: str, files: list[str], solution: list[str], **more: object) -> Task:
    """``files``, ``solution``: of the repository, and those that its known solution changes."""
    settings = {"fail_to_pass": [f"{test}::test_x"], "runner": "pytest", **more}
    repository = {f"environment/repo/{name}": "x = 1\n" for name in files} | {f"environment/repo/{test}": TEST}
    texts = repository | {f"solution/files/{name}": "x = 2\n" for name in solution}
    texts["task.toml"] = "[metadata.liverl]\n" + "".join(f"{key} = {json.dumps(it)}\n" for key, it in settings.items())
    for name, text in (texts | {"instruction.md": "x\n", "tests/test.sh": "exit 1\n"}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return load_task(root)


@pytest.mark.parametrize(
    ("test", "helper"),
    [
        ("unit_tests/test_x.py", "unit_tests/helper.py"),
        ("unit_tests/fast/test_x.py", "unit_tests/data/expected.json"),
        ("checks/test_x.py", "checks/helper.py"),
        ("test_x.py", "test_support.py"),
        ("tests/test_x.py", "pkg/testing.py"),
        ("tests/test_x.py", "pkg/_testutils/same.py"),
    ],
)
def test_helpers_are_the_tests_own_where_the_known_solution_leaves_them_alone(
    tmp_path: Path, test: str, helper: str
) -> None:
    new = str(Path("/app", helper).with_name("new.py"))  # files that the repository does not have are the agent's
    work = {f"/app/{helper}": b"y\n", "/app/pkg/core.py": b"y\n", new: b"y\n"}
    files = [helper, "pkg/core.py"]
    task = make_task(tmp_path / "a", test, files, ["pkg/core.py"])
    assert set(select(task, work).files) == set(work) - {f"/app/{helper}"}
    assert (helper in artifacts.tests_own_modules(task)) == helper.endswith(".py")
    for name, solution, more in (("b", [helper], {}), ("c", ["pkg/core.py"], {"source_files": files})):
        assert set(work) == set(select(make_task(tmp_path / name, test, files, solution, **more), work).files)


def test_a_module_that_stands_for_a_folder_of_tests_is_not_taken(tmp_path: Path) -> None:
    task = make_task(tmp_path / "python", "tests/test_x.py", ["pkg/core.py"], ["pkg/core.py"])
    assert set(select(task, {"/app/tests.py": b"y\n", "/app/pkg.py": b"y\n"}).files) == {"/app/pkg.py"}
    other = make_task(
        tmp_path / "go",
        "calc/calc_test.go",
        ["calc/calc.go"],
        ["calc/calc.go"],
        **{"runner": "go", "fail_to_pass": ["x/calc::TestX"], "test_files": ["calc/calc_test.go"]},
    )
    assert "/app/calc.go" in select(other, {"/app/calc.go": b"y\n"}).files
