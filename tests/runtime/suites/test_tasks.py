"""Tasks that name a runner: what they must say, what is taken over from an agent, what stands in an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.errors import TrialError
from runtime.grading.artifacts import select
from runtime.grading.canary import Canary
from runtime.grading.suite_verifier import SuiteVerifier
from runtime.sandboxes.entries import Entry, Removed
from runtime.sandboxes.process import ProcessProvider
from runtime.task import Task, load_task
from runtime.tasks.index import read_index, write_index

from .projects import CARGO, CTEST, GO, MOCHA, PROJECTS, RSPEC, UNITTEST, Project


@pytest.mark.parametrize(
    ("project", "table", "why"),
    [
        (
            GO,
            {"runner": "golang"},
            "runner = 'golang': not known; cargo, ctest, go, gradle, jest, junit, log, maven, mini",
        ),
        (GO, {"runner": "log"}, "published.log_parser: missing"),
        (GO, {"runner": "junit"}, "test_command: junit reads what a command of the task's own writes"),
        (UNITTEST, {"runner": "mini", "test_command": "true"}, "test_command: mini has none"),
        (GO, {"test_timeout_sec": 9.0}, "test_timeout_sec: go times no single tests here"),
        (GO, {"fail_to_pass": [], "pass_to_pass": []}, "no fail_to_pass and no pass_to_pass"),
    ],
)
def test_what_a_task_must_say(project: Project, table: dict[str, object], why: str, tmp_path: Path) -> None:
    with pytest.raises(TrialError) as caught:
        load_task(project.write(tmp_path / "calc", **table))
    assert why in str(caught.value)


def taken(task: Task, work: Mapping[str, Entry]) -> set[str]:
    files = select(task, {f"/app/{name}": entry for name, entry in work.items()}).files
    return {name.removeprefix("/app/") for name in files}


@pytest.mark.parametrize("runner", PROJECTS)
def test_work_is_taken_and_tests_are_not(runner: str, tmp_path: Path) -> None:
    project = PROJECTS[runner]
    task = load_task(project.write(tmp_path / "calc"))
    test = next(iter(project.tests))
    assert taken(task, {project.source: b"x", "docs/new.md": b"x", test: b"x"}) == {project.source, "docs/new.md"}
    assert taken(task, {test: Removed(), project.source: Removed()}) == {project.source}


@pytest.mark.parametrize(
    ("project", "steering"),
    [
        (GO, ["go.mod", "zz_test.go", "vendor/a/b.go"]),
        (CARGO, ["Cargo.toml", ".cargo/config.toml", "build.rs", "target/debug/calc", "tests/common/mod.rs"]),
        (CTEST, ["CMakeLists.txt", "build/CMakeCache.txt", "cmake/all.cmake"]),
        (MOCHA, ["package.json", ".mocharc.yml", "node_modules/mocha/index.js"]),
        (RSPEC, [".rspec", "spec/spec_helper.rb", "Gemfile"]),
        (UNITTEST, ["sitecustomize.py", "evil.pth", "setup.cfg"]),
    ],
)
def test_what_steers_a_runner_is_the_tasks_own(project: Project, steering: list[str], tmp_path: Path) -> None:
    task = load_task(project.write(tmp_path / "calc"))
    assert taken(task, dict.fromkeys([project.source, *steering], b"x")) == {project.source}


def defences(task: Task, tmp_path: Path) -> set[str]:
    verifier = SuiteVerifier(Bubblewrap(), ProcessProvider(state=tmp_path / "state"))
    return set(verifier._defences(task, Canary({}, ()), apart=False))


def test_who_mends_nothing_but_a_test_without_a_look_alike_is_not_found_out_and_the_record_says_so(
    tmp_path: Path,
) -> None:
    task = load_task(MOCHA.write(tmp_path / "calc"))
    verifier = SuiteVerifier(Bubblewrap(), ProcessProvider(state=tmp_path / "state"))
    said = [verifier._says_canary(task, Canary({"a": b""}, ids)) for ids in (MOCHA.ids, MOCHA.ids[:1], MOCHA.ids[1:])]
    assert said == [True, False, False]


def test_a_task_may_give_a_manifest_to_agents_and_its_record_says_so(tmp_path: Path) -> None:
    kept = load_task(GO.write(tmp_path / "kept"))
    given = load_task(GO.write(tmp_path / "given", source_files=["go.mod", "calc.go"]))
    assert taken(given, {"go.mod": b"x"}) == {"go.mod"}
    assert "tests_restored" in defences(kept, tmp_path) and "tests_restored" not in defences(given, tmp_path)


def test_tests_beside_the_code_are_not_restored_and_a_command_has_no_secret(tmp_path: Path) -> None:
    inside = load_task(CARGO.write(tmp_path / "inside", fail_to_pass=["src/lib.rs::tests::adds"], pass_to_pass=[]))
    assert taken(inside, {"src/lib.rs": b"x"}) == {"src/lib.rs"}, "the file that holds code and tests is the agent's"
    assert "tests_restored" not in defences(inside, tmp_path)
    own = load_task(CARGO.write(tmp_path / "own", test_command="cargo test"))
    plain = load_task(CARGO.write(tmp_path / "plain"))
    assert "report_nonce" in defences(plain, tmp_path) and "report_nonce" not in defences(own, tmp_path)


def test_an_index_knows_the_language(tmp_path: Path) -> None:
    tasks = [load_task(project.write(tmp_path / project.runner)) for project in (GO, MOCHA, UNITTEST)]
    write_index(tasks, tmp_path / "index.parquet", rates={})
    found = {row["runner"]: row["language"] for row in read_index(tmp_path / "index.parquet")}
    assert found == {"go": "go", "mocha": "javascript", "unittest": "python"}
