"""Sources of tasks in a spec: what the compiler refuses, and that the runtime reads what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compiler import check_spec, compile_in_memory
from compiler.check import check
from compiler.errors import dotted
from compiler.plan import make_plan
from compiler.validate import validate
from runtime.config import (
    GenerateSource,
    HarborSource,
    HistorySource,
    PublishedSource,
    RuntimeConfig,
    TerminalBenchSource,
)
from tests.compiler.golden_cases import LAB

PACKAGE = {"name": "inflection", "version": "0.5.1", "sha256": "0" * 64}
GENERATE = {
    "type": "generate",
    "packages": [PACKAGE],
    "per_package": 3,
    "seed": 1,
    "split": "train",
    "bugs": 2,
    "requirements": ["wcwidth==0.2.13"],
}
HISTORY = {"type": "history", "repository": "src/project", "revision": "v2", "after": "v1", "count": 30}
HARBOR = {
    "type": "harbor",
    "dataset": "toys",
    "version": "1.0",
    "registry": "https://example.com/registry.json",
    "task_names": ["a*"],
}
PUBLISHED = {"type": "swe-gym", "rows": "rows.parquet", "repositories": ["getmoto/moto"], "limit": 40}
BENCH = {"type": "terminal-bench", "path": "bench/tasks", "instances": ["hello-world"]}


def sets_of(train: dict[str, Any], *validation: dict[str, Any]) -> dict[str, Any]:
    return {
        "train": [{"name": "train", "source": train}],
        "validation": [{"name": f"held-out-{number}", "source": source} for number, source in enumerate(validation)],
    }


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (GENERATE, GenerateSource),
        (HISTORY, HistorySource),
        (HARBOR, HarborSource),
        (PUBLISHED, PublishedSource),
        (BENCH, TerminalBenchSource),
    ],
)
def test_the_runtime_reads_what_the_compiler_writes(source: dict[str, Any], kind: Any) -> None:
    files = compile_in_memory(LAB, target="docker", sets=[f"tasks={json.dumps(sets_of(source))}"]).files
    (written,) = RuntimeConfig.model_validate_json(files["runtime.json"]).train
    assert isinstance(written.source, kind)
    assert {key: written.source.model_dump(mode="json")[key] for key in source} == source
    said = {"generate": "2 bugs at a time", "history": "commits of src/project after v1 up to v2", "harbor": "toys 1.0"}
    said |= {"swe-gym": "swe-gym of rows.parquet: getmoto/moto, at most 40", "terminal-bench": "tasks of bench/tasks"}
    assert said[source["type"]] in files["SUMMARY.md"]


@pytest.mark.parametrize(
    ("train", "validation", "refused"),
    [
        (HISTORY, {**HISTORY, "after": "v2", "revision": "v3"}, None),
        (HISTORY, HISTORY, '"v1", but training takes commits of this repository up to v2'),
        (HISTORY, {"type": "history", "repository": "src/project"}, "null, but training"),
        (HISTORY, {**HISTORY, "repository": "src/another"}, None),
        (GENERATE, {**HISTORY, "after": None}, None),
    ],
)
def test_commits_that_measure_come_after_those_that_train(
    quickstart: Any, train: dict[str, Any], validation: dict[str, Any], refused: str | None
) -> None:
    quickstart["tasks"] = sets_of(train, validation)
    found = [one for one in check(make_plan(validate(quickstart))) if dotted(one.path).endswith(".after")]
    assert len(found) == (refused is not None)
    if refused is not None:
        assert refused in found[0].what and found[0].allowed == '"v2"' and found[0].severity == "fatal"
        assert dotted(found[0].path) == "tasks.validation[0].source.after"


def test_all_functions_are_for_packages_that_nothing_else_is_made_of(quickstart: Any) -> None:
    whole = {**GENERATE, "split": None}

    def problems(train: dict[str, Any], validation: dict[str, Any]) -> list[str]:
        quickstart["tasks"] = sets_of(train, validation)
        return [f"{dotted(one.path)}: {one.what}" for one in check(make_plan(validate(quickstart)))]

    other = {**whole, "packages": [{**PACKAGE, "name": "humanize"}]}
    assert not [said for said in problems(GENERATE, other) if "split" in said]
    both = "null, all functions, but 'train' trains on inflection"
    assert f"tasks.validation[0].source.split: {both}" in problems(GENERATE, whole)
    spelt = {**whole, "packages": [{**PACKAGE, "name": "Inflection"}]}
    assert any(said.endswith("trains on Inflection") for said in problems(GENERATE, spelt))
    assert "tasks.train[0].source.split: all tasks must not be trained on" in problems(whole, other)


def test_a_registry_that_anybody_on_the_way_could_write(quickstart: Any) -> None:
    quickstart["tasks"] = sets_of({**HARBOR, "registry": "http://example.com/registry.json"})
    (found,) = [one for one in check(make_plan(validate(quickstart))) if dotted(one.path).endswith("registry")]
    assert "https://" in found.allowed and found.severity == "fatal"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({**GENERATE, "bugs": 9}, "tasks.train[0].source.bugs: 9"),
        ({**GENERATE, "requirements": ["wcwidth"]}, "not of the form NAME==VERSION"),
        ({**HISTORY, "revision": "--all"}, "not a commit, tag or branch by its name"),
        (HISTORY, "tasks.train[0].source.repository: src/project: no such folder"),
        ({**HARBOR, "registry": "registry.json"}, "tasks.train[0].source.registry: registry.json: no such file"),
        (PUBLISHED, "tasks.train[0].source.rows: rows.parquet: no such file"),
        (BENCH, "tasks.train[0].source.path: bench/tasks: no such folder"),
        ({**PUBLISHED, "split": "test"}, 'tasks.train[0].source.split: "test": rows names a file'),
        ({**PUBLISHED, "repositories": ["moto"]}, 'tasks.train[0].source.repositories[0]: "moto" is no repository'),
        ({**PUBLISHED, "instances": ["a", "b", "a"]}, 'tasks.train[0].source.instances[2]: "a" is there twice'),
        ({"type": "swe-bench", "dataset": "verified"}, 'source.dataset: "verified" is no data set of the hub'),
        ({"type": "swe-bench", "limit": 0}, "tasks.train[0].source.limit: 0"),
        ({"type": "swe-bnech"}, "tasks.train[0].source.type"),
        (PUBLISHED, 'source.type: "swe-gym" tasks are made of images, of which environment.type process'),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(
    source: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [f"tasks={json.dumps(sets_of(source))}"]
    if "environment.type process" in said:
        sets.append('environment={"type": "process"}')
    found = check_spec(LAB, target="local", sets=sets)
    texts = [f"{dotted(one.path)}: {one.what}" for one in found if one.severity == "fatal"]
    assert any(said in text for text in texts), texts


@pytest.mark.parametrize(("kind", "lacking"), [("r2e", "reward_file"), ("swe-bench", "canary, reward_file")])
def test_a_defence_that_verdicts_by_a_log_never_have_is_refused(quickstart: Any, kind: str, lacking: str) -> None:
    quickstart["tasks"] = sets_of({"type": kind}, GENERATE)
    quickstart["environment"]["required_defences"] = ["canary", "reward_file", "host_verdict"]
    found = {dotted(one.path): one for one in check(make_plan(validate(quickstart)))}
    said = found["environment.required_defences"]
    assert f'"{kind}" tasks never have {lacking}: ' in said.what and said.severity == "fatal"


def test_weights_are_of_all_training_sets_and_of_no_other(quickstart: Any) -> None:
    quickstart["tasks"] = sets_of(GENERATE, GENERATE)
    quickstart["tasks"]["train"].append({"name": "more", "source": GENERATE, "weight": 2})
    quickstart["tasks"]["validation"][0]["weight"] = 1
    found = {dotted(one.path): one for one in check(make_plan(validate(quickstart)))}
    assert "more has 2" in found["tasks.train[0].weight"].what and "tasks.train[1].weight" not in found
    assert found["tasks.validation[0].weight"].allowed == "null"
