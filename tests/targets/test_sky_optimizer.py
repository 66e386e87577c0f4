"""SkyPilot's own optimizer chooses machines for compiled tasks from a catalogue of a few rows, and ``liverl plan``
names the same machines at the same price. No account, no network: SkyPilot is told that AWS is enabled."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from compiler import compile_in_memory
from compiler.cost import DEFAULT_FAMILIES, Cost, Unknown, cost
from compiler.plan import make_plan
from compiler.validate import validate
from tests.compiler.golden_cases import CASES, case_files, spec_path
from tests.targets.variants import VARIANTS, compiled
from tests.toolbox import python_tools

pytestmark = [pytest.mark.consumers, pytest.mark.timeout(1800)]

CATALOGUE = Path(__file__).parents[1] / "compiler" / "data" / "vms.csv"
CHANGES: dict[str, dict[str, Any]] = {
    "on demand": {"spot": False},
    "zone": {"infra": "aws/us-east-1/us-east-1a"},
    "region": {"infra": "aws/eu-central-1", "spot": False},
    "anywhere": {"infra": "aws"},
    "named": {"instance_type": "m6i.large"},
    "three": {"nodes": 3},
    "other": {"accelerator": "H200", "spot": False},
    "too small": {"accelerator": "A100"},
    "no such GPU": {"accelerator": "H100X"},
    "no spot there": {"infra": "aws/eu-central-1"},
}
"""Of ``cluster.skypilot`` of the spec for spot machines."""
OPTIMIZE = """
import json, os, sys
from pathlib import Path
import sky, yaml
from sky import check, exceptions, global_user_state, skypilot_config
from sky.catalog import aws_catalog
from sky.clouds import CloudCapability
from sky.optimizer import Optimizer

workspace = skypilot_config.get_active_workspace()
global_user_state.set_enabled_clouds(["AWS"], CloudCapability.COMPUTE, workspace)
global_user_state.set_allowed_clouds(check._get_workspace_allowed_clouds(workspace), workspace)
found = {}
for folder in map(Path, sys.argv[1:]):
    os.chdir(folder)
    config = yaml.safe_load(Path("task.sky.yaml").read_text())
    secrets = [(name, "value") for name in config.get("secrets", {})]
    task = sky.Task.from_yaml_config(config, secrets_overrides=secrets)
    task.validate()
    with sky.Dag() as dag:
        dag.add(task)
    try:
        Optimizer.optimize(dag, quiet=True)
    except exceptions.ResourcesUnavailableError as error:
        found[folder.name] = str(error)
        continue
    best = task.best_resources
    hourly = best.get_cost(3600) * task.num_nodes
    found[folder.name] = [best.instance_type, best.region, task.num_nodes, best.use_spot, hourly]
print("RESULT" + json.dumps({"families": aws_catalog._DEFAULT_INSTANCE_FAMILY, "found": found}))
"""


def bundles() -> dict[str, dict[str, str]]:
    """Every compiled task by name: golden ones, variants, and changes of the one for spot machines."""
    found = {variant: compiled(variant, "skypilot") for variant in VARIANTS}
    for name, target in CASES:
        if target == "skypilot":
            found[f"golden {name}"] = dict(case_files(name, target))
    for change, settings in CHANGES.items():
        sets = [f"cluster.skypilot.{key}={json.dumps(value)}" for key, value in settings.items()]
        found[change] = dict(compile_in_memory(spec_path("spot-ec2"), target="skypilot", sets=sets).files)
    found["CPU on spot"] = dict(
        compile_in_memory(spec_path("quickstart-site"), target="skypilot", sets=["cluster.skypilot.spot=true"]).files
    )
    return found


def test_skypilot_chooses_the_machines_that_the_plan_names(tmp_path: Path) -> None:
    tools = python_tools("skypilot")
    catalogues = tmp_path / ".sky" / "catalogs" / "v8"
    for name, text in {
        "aws/vms.csv": CATALOGUE.read_text(),
        "common/accelerators.csv": "AcceleratorName,Clouds\nH100,['AWS']\nH200,['AWS']\nA100,['AWS']\n",
    }.items():
        (catalogues / name).parent.mkdir(parents=True)
        (catalogues / name).write_text(text)
    ours = bundles()
    folders = []
    for number, files in enumerate(ours.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        folders.append(str(folder))
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ended = subprocess.run(
        [str(tools / "python"), "-c", OPTIMIZE, *folders],
        env={**kept, **nowhere, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    result = json.loads(ended.stdout.partition("RESULT")[2])
    assert set(result["families"]) == set(DEFAULT_FAMILIES)
    theirs = dict(zip(ours, result["found"].values(), strict=True))
    for case, files in ours.items():
        found = cost(make_plan(validate(json.loads(files["resolved.json"]))), CATALOGUE)
        if isinstance(theirs[case], str):
            assert isinstance(found, Unknown), (case, theirs[case])
            assert "does not contain any instances" in theirs[case]
        else:
            assert isinstance(found, Cost), (case, found)
            priced = [found.instance_type, found.region, found.machines, found.spot, pytest.approx(found.hourly)]
            assert theirs[case] == priced, case
    assert {case for case, one in theirs.items() if isinstance(one, str)} == {
        "too small",
        "no such GPU",
        "no spot there",
    }
    assert theirs["golden spot-ec2"] == ["p5.48xlarge", "us-east-1", 1, True, pytest.approx(31.25)]
