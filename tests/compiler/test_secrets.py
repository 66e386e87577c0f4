"""Secrets: names that somebody uses, once each, delivered by every target in its way; values are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from compiler import check_spec, compile_in_memory
from compiler.check import check
from compiler.errors import Problem, dotted
from compiler.plan import make_plan
from compiler.validate import validate
from runtime.config import RuntimeConfig
from tests.compiler.golden_cases import LAB

KEY = {"name": "wandb", "key": "api-key"}
TRACKER = {"variable": "WANDB_API_KEY", "used_by": "observability", "kubernetes": KEY}
LOGGERS = 'observability.loggers=["console", "file", "wandb"]'


def problems(quickstart: Any, *secrets: dict[str, Any]) -> dict[str, Problem]:
    quickstart["secrets"] = list(secrets)
    return {dotted(problem.path): problem for problem in check(make_plan(validate(quickstart)))}


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "PYTHONPATH", "PATH", "CUDA_VISIBLE_DEVICES", "LIVERL_RUN_DIR"])
def test_variables_of_the_system_are_not_given_away(quickstart: Any, variable: str) -> None:
    found = problems(quickstart, {"variable": variable, "used_by": "storage"})
    assert found["secrets[0].variable"].severity == "fatal"


def test_one_name_once_and_for_something(quickstart: Any) -> None:
    quickstart["observability"] = {"loggers": ["console", "file", "wandb"]}
    assert problems(quickstart, TRACKER) == {}
    found = problems(quickstart, TRACKER, TRACKER)
    assert {path: one.severity for path, one in found.items()} == {"secrets[1].variable": "fatal"}
    assert "no secret is named WANDB_API_KEY" in problems(quickstart)["observability.loggers[2]"].text
    uses = ["policy", "tasks", "environment", "storage"]
    found = problems(quickstart, TRACKER, *({"variable": use.upper(), "used_by": use} for use in uses))
    assert {path: one.severity for path, one in found.items()} == {f"secrets[{n}].used_by": "warn" for n in range(1, 5)}


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ('policy={"type": "pretrained", "path": "hf_' + "a" * 34 + '"}', "policy.path"),
        ('proxy.host="http://me:hunter2@proxy"', "proxy.host"),
        (
            'scaffold={"type": "import", "import_path": "a.b:C", "kwargs": {"api_key": "hunter2"}}',
            "scaffold.kwargs.api_key",
        ),
    ],
)
def test_what_looks_inlined_is_refused_and_not_shown(override: str, path: str) -> None:
    found = {dotted(one.path): one for one in check_spec(LAB, sets=[override]) if one.severity == "fatal"}
    assert "looks like a secret" in found[path].text
    assert not any("hunter2" in one.text or "aaaa" in one.text for one in found.values())


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://hooks.slack.com/services/T0/B0/wordless", True),
        ("https://hooks.slack.com/workflows/T0/A0/1/wordless", True),
        ("https://discord.com/api/webhooks/1/wordless", True),
        ("https://discord.com/api/v10/webhooks/1/wordless", True),
        ("https://team.webhook.office.com/webhookb2/wordless", True),
        (
            "https://prod-1.westeurope.logic.azure.com:443/workflows/1/triggers/manual/paths/invoke?sv=1&sig=wordless",
            True,
        ),
        ("https://discord.com/channels/1", False),
        ("https://chat.example.com/runs", False),
    ],
)
def test_addresses_to_which_anybody_may_post_are_secrets(url: str, secret: bool) -> None:
    override = f'observability.notify=[{{"type": "webhook", "url": "{url}"}}]'
    found = {dotted(one.path): one for one in check_spec(LAB, sets=[override]) if one.severity == "fatal"}
    assert list(found) == (["observability.notify[0].url"] if secret else [])
    assert not any("wordless" in one.text or "url_variable" not in one.fix for one in found.values())


def test_every_target_delivers_in_its_way() -> None:
    sets = [f"secrets={json.dumps([TRACKER])}", LOGGERS]
    files = {
        target: compile_in_memory(LAB, target=target, sets=sets).files
        for target in ("local", "docker", "k8s", "ray", "skypilot")
    }
    for target in files:
        contract = RuntimeConfig.model_validate_json(files[target]["runtime.json"])
        assert [(one.variable, one.used_by) for one in contract.secrets] == [("WANDB_API_KEY", "observability")]
    compose = yaml.safe_load(files["docker"]["compose.yaml"])
    assert compose["services"]["trainer"]["environment"]["WANDB_API_KEY"] is None
    task = yaml.safe_load(files["skypilot"]["task.sky.yaml"])
    assert task["secrets"] == {"WANDB_API_KEY": None}
    assert "Needed in the environment of the cluster's nodes: WANDB_API_KEY" in files["ray"]["submit.sh"]
    job = next(one for one in yaml.safe_load_all(files["k8s"]["rayjobs.yaml"]) if one)
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    (variable,) = [one for one in pod["env"] if one["name"] == "WANDB_API_KEY"]
    assert variable["valueFrom"] == {"secretKeyRef": KEY}


def test_pods_need_to_know_the_clusters_name_for_it() -> None:
    unnamed = f"secrets={json.dumps([{**TRACKER, 'kubernetes': None}])}"
    found = check_spec(LAB, target="k8s", sets=[unnamed, LOGGERS])
    assert [dotted(one.path) for one in found if one.severity == "fatal"] == ["secrets[0].kubernetes"]
    assert all(one.severity == "warn" for one in check_spec(LAB, target="skypilot", sets=[unnamed, LOGGERS]))
