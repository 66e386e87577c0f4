"""Rules in Kubernetes' expression language, which JSON schemas do not know, evaluated by a real interpreter: those of
the custom resources that bundles hold, and the one that a bundle brings for the sandboxes' namespace."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compiler.golden_cases import CASES, case_files
from tests.targets.schemas import CUSTOM, documents, of_kind, with_defaults
from tests.targets.variants import VARIANTS, compiled
from tests.toolbox import python_tools

pytestmark = [pytest.mark.consumers, pytest.mark.timeout(600)]

EVALUATE = """
import json, sys
import cel
print(json.dumps([cel.evaluate(rule, values) for rule, values in json.load(sys.stdin)]))
"""
Question = tuple[str, dict[str, Any]]


def judged(questions: list[Question]) -> list[Any]:
    tools = python_tools("cel")
    ended = subprocess.run(
        [str(tools / "python"), "-c", EVALUATE],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    answers: list[Any] = json.loads(ended.stdout)
    return answers


def rules(schema: Any, value: Any) -> Iterator[Question]:
    """Every rule beside a value that is there. A rule about a change sees none."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield rule["rule"], {"self": value, "oldSelf": value}
    if isinstance(value, dict):
        for name, child in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(inner, dict):
                yield from rules(inner, child)
    elif isinstance(value, list):
        for child in value:
            yield from rules(schema.get("items", {}), child)


def asked(document: dict[str, Any]) -> list[Question]:
    found = json.loads(CUSTOM[document["kind"]].read_text())
    schema = found.get("schema", found)
    return list(rules(schema, with_defaults(schema, document)))


def bundles() -> list[dict[str, str]]:
    found = [dict(case_files(name, target)) for name, target in CASES if target == "k8s"]
    return found + [compiled(variant, "k8s") for variant in VARIANTS]


def test_custom_resources_keep_the_rules_of_their_definitions() -> None:
    custom = [one for files in bundles() for one in documents(files) if one["kind"] in CUSTOM]
    assert {one["kind"] for one in custom} == set(CUSTOM)
    questions = [question for one in custom for question in asked(one)]
    (job, *_) = (one for one in custom if one["kind"] == "RayJob")
    broken = copy.deepcopy(job)
    broken["spec"] |= {"managedBy": "me", "deletionStrategy": {"onSuccess": {"policy": "DeleteSelf"}}}
    wrong = asked(broken)
    answers = judged(questions + wrong)
    assert all(answer is True for answer in answers[: len(questions)]) and questions
    refused = {rule for (rule, _), answer in zip(wrong, answers[len(questions) :], strict=True) if answer is not True}
    assert len(refused) == 2


@pytest.mark.parametrize(("runtime", "admitted"), [("gvisor", True), ("runc", False), (None, False)])
def test_no_pod_gets_past_the_sandboxes_runtime(runtime: str | None, admitted: bool) -> None:
    (policy,) = of_kind(compiled("site", "k8s"), "ValidatingAdmissionPolicy")
    spec = {} if runtime is None else {"runtimeClassName": runtime}
    pod = {"metadata": {"name": "box"}, "spec": {"containers": [], **spec}}
    (answer,) = judged([(one["expression"], {"object": pod}) for one in policy["spec"]["validations"]])
    assert answer is admitted
