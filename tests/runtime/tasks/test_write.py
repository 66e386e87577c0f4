"""The writer's directories: whole, loadable, a valid git history, and gradable by plain shell as Harbor would."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.task import LiverlTable, load_task
from runtime.tasks.git_directory import git_directory
from runtime.tasks.write import toml_value, write_task

TEST = b"from shop.price import total\n\n\ndef test_total():\n    assert total([1, 2]) == 3\n"
BROKEN = b"def total(prices):\n    return sum(prices) + 1\n"
FIXED = b"def total(prices):\n    return sum(prices)\n"


def write_shop(out: Path, name: str = "shop-1", **more: object) -> Path:
    arguments: dict[str, object] = {
        "instruction": "Repair total().",
        "repository": {"shop/__init__.py": b"", "shop/price.py": BROKEN, "run.sh": b"#!/bin/sh\n"},
        "solution": {"shop/price.py": FIXED},
        "tests": {"tests/test_price.py": TEST},
        "liverl": LiverlTable(fail_to_pass=("tests/test_price.py::test_total",)),
    }
    return write_task(out, name=name, **(arguments | more))  # type: ignore[arg-type]


def test_round_trip_through_the_reader(tmp_path: Path) -> None:
    task = load_task(write_shop(tmp_path))
    assert task.id == "shop-1"
    assert task.config.task.name == "liverl/shop-1"
    assert task.expected_ids == ("tests/test_price.py::test_total",)
    assert task.liverl.test_files == ("tests/test_price.py",)
    assert (task.repository / "tests" / "test_price.py").read_bytes() == TEST
    assert os.access(task.repository / "run.sh", os.X_OK)
    assert [path.name for path in tmp_path.iterdir()] == ["shop-1"]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", f"safe.directory={folder}", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_git_accepts_the_history(tmp_path: Path) -> None:
    repo = load_task(write_shop(tmp_path)).repository
    assert git(repo, "fsck", "--full", "--strict") == ""
    assert git(repo, "log", "--format=%an %at %s") == "LiveRL 1704067200 Import\n"
    assert git(repo, "status", "--porcelain") == ""
    (repo / "shop" / "price.py").write_bytes(FIXED)
    assert "-    return sum(prices) + 1" in git(repo, "diff")


def test_commit_id_depends_on_the_files_alone() -> None:
    files = {"a.py": b"1", "b/c.py": b"2"}
    again = dict(reversed(files.items()))
    assert git_directory(files, message="x") == git_directory(again, message="x")
    assert git_directory(files, message="x") != git_directory(files | {"a.py": b"3"}, message="x")


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "a-b", "a.b", "ab", "z", "é", "A"]), min_size=1, max_size=3).map("/".join),
        st.binary(max_size=40),
        min_size=1,
        max_size=8,
    )
)
def test_any_tree_is_a_valid_repository(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    tree = {p: c for p, c in files.items() if not any(other.startswith(p + "/") for other in files)}
    folder = tmp_path_factory.mktemp("tree")
    for path, content in (tree | git_directory(tree, message="m")).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        if content.startswith(b"#!"):
            (folder / path).chmod(0o755)
    assert git(folder, "fsck", "--strict") == ""
    assert git(folder, "status", "--porcelain") == ""


def test_existing_task_is_refused_and_kept(tmp_path: Path) -> None:
    write_shop(tmp_path)
    with pytest.raises(FileExistsError):
        write_shop(tmp_path, instruction="another")
    assert (tmp_path / "shop-1" / "instruction.md").read_text() == "Repair total().\n"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a//b", ".git/config", "a/./b", ""])
def test_paths_that_leave_the_work_directory_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="must be relative"):
        write_shop(tmp_path, repository={path: b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "Shop", "a/b", ".a", "a" * 121])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="task name"):
        write_shop(tmp_path, name)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_string_survives_toml(text: str) -> None:
    assert tomllib.loads(f"key = {toml_value((text, text))}") == {"key": [text, text]}


def test_scripts_grade_as_harbor_would(tmp_path: Path) -> None:
    task = load_task(write_shop(tmp_path / "tasks"))
    logs = tmp_path / "logs"
    env = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "LIVERL_WORKDIR": str(task.repository),
        "LIVERL_LOGS": str(logs),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # ours, which most images lack
    }

    def reward() -> str:
        subprocess.run([str(task.tests / "test.sh")], env=env, capture_output=True, check=False)
        return (logs / "reward.txt").read_text().strip()

    assert reward() == "0"
    (task.repository / "tests" / "test_price.py").write_bytes(b"def test_total(): pass\n")
    assert reward() == "0", "tests that the agent changed must be restored"
    subprocess.run([str(task.path / "solution" / "solve.sh")], env=env, check=True)
    assert reward() == "1"
