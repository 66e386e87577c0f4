"""Every pinned example is one that its readers accept: Compose's, Kubernetes', KubeRay's, Kueue's and SkyPilot's own
schemas, on the bytes that ``golden/`` pins."""

from __future__ import annotations

import pytest
import yaml

from compiler import check_spec
from tests.compiler.golden_cases import CASES, SWEEPS, TARGETS, case_files, spec_path
from tests.targets.schemas import WITHOUT_SCHEMA, compose_errors, documents, kubernetes_errors, skypilot_errors


@pytest.mark.parametrize(("name", "target"), [case for case in CASES if case[1] in ("docker", "k8s", "skypilot")])
def test_schemas_accept_every_pinned_example(name: str, target: str) -> None:
    bundle = case_files(name, target)
    if target == "docker":
        assert compose_errors(yaml.safe_load(bundle["compose.yaml"])) == []
    elif target == "skypilot":
        assert skypilot_errors(yaml.safe_load(bundle["task.sky.yaml"])) == []
    else:
        checked = [document for document in documents(bundle) if document["kind"] not in WITHOUT_SCHEMA]
        assert len(checked) > 10
        assert [error for document in checked for error in kubernetes_errors(document)] == []


VARIATIONS = {"quickstart-gspo", "quickstart-ppo", "real-repos"}
"""Differ from the quickstart in what no target touches: pinned for one target, compiled for all."""


@pytest.mark.parametrize("name", sorted(path.stem for path in spec_path("x").parent.glob("*.jsonnet")))
def test_every_target_that_takes_an_example_has_it_pinned(name: str) -> None:
    def takes(target: str) -> bool:
        return not any(problem.severity == "fatal" for problem in check_spec(spec_path(name), target=target))

    taken = {target for target in TARGETS if takes(target)}
    pinned = {target for one, target in (*CASES, *SWEEPS) if one == name}
    assert pinned == (taken if name not in VARIATIONS else {"local"})
    assert name not in VARIATIONS or taken == set(TARGETS)


def test_the_spot_example_is_one_interruptible_machine_with_a_bucket() -> None:
    task = yaml.safe_load(case_files("spot-ec2", "skypilot")["task.sky.yaml"])
    assert task["resources"]["use_spot"] is True and task["resources"]["accelerators"] == {"H100": 8}
    assert task["file_mounts"]["~/liverl/runs"]["source"].startswith("s3://")
    assert task["secrets"] == {"WANDB_API_KEY": None}
    assert 'export LIVERL_PROXY_HOST="$own"' in task["run"]
