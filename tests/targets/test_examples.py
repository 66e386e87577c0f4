"""Every pinned example is one that its readers accept: Compose's, Kubernetes', KubeRay's, Kueue's and SkyPilot's own
schemas, on the bytes in ``golden/``."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.compiler.golden_cases import CASES, golden_folder
from tests.targets.schemas import WITHOUT_SCHEMA, compose_errors, documents, kubernetes_errors, skypilot_errors


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "target"), [case for case in CASES if case[1] in ("docker", "k8s", "skypilot")])
def test_schemas_accept_every_pinned_example(name: str, target: str) -> None:
    bundle = files(golden_folder(name, target))
    if target == "docker":
        assert compose_errors(yaml.safe_load(bundle["compose.yaml"])) == []
    elif target == "skypilot":
        assert skypilot_errors(yaml.safe_load(bundle["task.sky.yaml"])) == []
    else:
        checked = [document for document in documents(bundle) if document["kind"] not in WITHOUT_SCHEMA]
        assert len(checked) > 10
        assert [error for document in checked for error in kubernetes_errors(document)] == []


def test_the_spot_example_is_one_interruptible_machine_with_a_bucket() -> None:
    task = yaml.safe_load(files(golden_folder("spot-ec2", "skypilot"))["task.sky.yaml"])
    assert task["resources"]["use_spot"] is True and task["resources"]["accelerators"] == {"H100": 8}
    assert task["file_mounts"]["~/liverl/runs"]["source"].startswith("s3://")
    assert task["secrets"] == {"WANDB_API_KEY": None}
    assert 'export LIVERL_PROXY_HOST="$own"' in task["run"]
