"""Docker's own Compose reads every bundle and makes of it what the spec means. No daemon is asked."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from compiler import compile_in_memory
from targets.joining import PROXY_PORT
from tests.compiler.golden_cases import CASES, LAB, case_files
from tests.targets.variants import VARIANTS, compiled
from tests.toolbox import compose_plugins

pytestmark = [pytest.mark.consumers, pytest.mark.timeout(600)]

GOLDEN = [f"golden {name}" for name, target in CASES if target == "docker"]
SHELL = {"HF_TOKEN": "a value of the shell"}
"""The one secret that the shell has, of those that bundles ask for."""


def files_of(case: str) -> dict[str, str]:
    if case in VARIANTS:
        return compiled(case, "docker")
    return dict(case_files(case.removeprefix("golden "), "docker"))


def ask(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """``docker compose config`` in ``folder``, which holds the bundle then."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return subprocess.run(
        [str(compose_plugins() / "docker-compose"), "config", "--format", "json"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **SHELL},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("case", [*GOLDEN, *VARIANTS])
def test_compose_makes_of_the_bundle_what_the_spec_means(case: str, tmp_path: Path) -> None:
    files = files_of(case)
    spec = json.loads(files["resolved.json"])
    folder = tmp_path / "source" / "build" / "experiment" / "docker"
    answer = ask(folder, files)
    assert answer.returncode == 0, answer.stderr
    assert [line for line in answer.stderr.splitlines() if "variable is not set" not in line] == []
    read = json.loads(answer.stdout)
    assert read["name"] == spec["name"] and set(read["services"]) == {"trainer"}
    service: dict[str, Any] = read["services"]["trainer"]
    docker = spec["cluster"]["docker"]
    machine, sandboxes = docker["machine"] or spec["cluster"]["head"], docker["sandbox_host"]
    assert service["image"] == spec["cluster"]["image"]
    assert service["build"]["context"] == str(tmp_path / "source")
    assert service["build"]["dockerfile"] == f"build/{spec['name']}/docker/Dockerfile"
    assert service["command"][:4] == ["python", "-m", "liverl", "run"] and service["init"] is True
    assert (service["restart"], service["stop_grace_period"]) == ("on-failure:2", "2m0s")
    assert service.get("labels", {}) == spec["cluster"]["labels"]
    assert service["read_only"] is True and service["user"] == "10001:10001" and service["cap_drop"] == ["ALL"]
    # Sizes are in bytes by now.
    assert service["shm_size"] == str(machine["shm_gib"] << 30)
    resources = service["deploy"]["resources"]
    # Cores are counted only where the spec says what the machine is: an engine refuses more than it has.
    cores = {"cpus": machine["cpus"]} if docker["machine"] else {}
    assert resources["limits"] == {**cores, "memory": str(machine["memory_gib"] << 30)}
    assert service.get("ulimits") == ({"memlock": -1} if machine["gpus"] else None)
    gpus = {"capabilities": ["gpu"], "driver": "nvidia", "count": machine["gpus"]}
    assert resources.get("reservations") == ({"devices": [gpus]} if machine["gpus"] else None)
    health = service["healthcheck"]
    assert health.pop("test")[:5] == ["CMD", "python", "-m", "liverl", "status"]
    assert health == {"interval": "1m0s", "timeout": "30s", "retries": 3, "start_period": "2m0s"}
    # A secret has the value of the shell, or none; the file has neither.
    names = [secret["variable"] for secret in spec["secrets"]]
    assert {name: service["environment"][name] for name in names} == {name: SHELL.get(name) for name in names}
    assert not any(value in text for value in SHELL.values() for text in files.values())
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert mounts["/opt/liverl/bundle"]["source"] == str(folder) and mounts["/opt/liverl/bundle"]["read_only"] is True
    assert mounts["/runs"]["type"] == "volume" and mounts["/runs"]["source"] in read["volumes"]
    assert ("/certs" in mounts) == (sandboxes is not None)
    dashboard = spec["observability"]["dashboard"]
    ports = {port["target"] for port in service.get("ports", [])}
    proxy = {spec["proxy"]["port"] or PROXY_PORT} if sandboxes else set()
    assert ports == proxy | ({dashboard["port"]} if dashboard else set())


def test_a_dollar_stays_a_dollar(tmp_path: Path) -> None:
    pods = {"type": "kubernetes", "kubernetes": {"image": "python:3.11", "kubeconfig": "/home/${HOME}/config"}}
    files = compile_in_memory(LAB, target="docker", sets=[f"environment={json.dumps(pods)}"]).files
    answer = ask(tmp_path / "bundle", dict(files))
    mounts = json.loads(answer.stdout)["services"]["trainer"]["volumes"]
    # Written as Compose would have to read it again.
    assert "/home/$${HOME}/config" in {mount.get("source") for mount in mounts}


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("shm_size:", "shm_sice:", "shm_sice"),
        ("stop_grace_period: 2m", "stop_grace_period: 2 minutes", "unknown unit"),
        ('"64gb"', '"64 spoons"', "spoons"),
        ("count: 8", "count: many", "count"),
    ],
)
def test_compose_is_not_blind(good: str, bad: str, said: str, tmp_path: Path) -> None:
    files = dict(compiled("gpus", "docker"))
    assert good in files["compose.yaml"]
    files["compose.yaml"] = files["compose.yaml"].replace(good, bad)
    answer = ask(tmp_path / "bundle", files)
    assert answer.returncode and said in answer.stderr
