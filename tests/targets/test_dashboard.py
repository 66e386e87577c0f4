"""Ray's dashboard: off unless asked for, at the address of the spec, refused where a running cluster has its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler import check_spec, compile_in_memory
from compiler.errors import dotted
from tests.compiler.golden_cases import LAB
from tests.targets.schemas import compose_errors
from tests.targets.variants import cluster

SANDBOX_HOST = cluster(docker={"sandbox_host": "tcp://sandboxes.example.com:2376"})


def asked(**dashboard: Any) -> str:
    return f"observability.dashboard={json.dumps(dashboard)}"


def ray_init(target: str, *sets: str) -> dict[str, Any]:
    files = compile_in_memory(LAB, target=target, sets=list(sets)).files
    arguments: dict[str, Any] = yaml.safe_load(files["verl.yaml"])["ray_kwargs"]["ray_init"]
    return arguments


def test_off_by_default() -> None:
    assert ray_init("local")["include_dashboard"] is False
    script = compile_in_memory(LAB, target="skypilot").files["task.sky.yaml"]
    assert "--include-dashboard false" in script and "--include-dashboard true" not in script


def test_docker_publishes_it_where_the_spec_says() -> None:
    sets = [asked(port=8300), SANDBOX_HOST]
    document = yaml.safe_load(compile_in_memory(LAB, target="docker", sets=sets).files["compose.yaml"])
    assert compose_errors(document) == []
    assert document["services"]["trainer"]["ports"] == ["8790:8790", "127.0.0.1:8300:8300"]
    alone = yaml.safe_load(compile_in_memory(LAB, target="docker", sets=[asked()]).files["compose.yaml"])
    assert alone["services"]["trainer"]["ports"] == ["127.0.0.1:8265:8265"]
    inside = ray_init("docker", asked(port=8300))
    assert (inside["dashboard_host"], inside["dashboard_port"]) == ("0.0.0.0", 8300)


def test_the_script_of_skypilot_starts_it_on_the_head(tmp_path: Path) -> None:
    task = yaml.safe_load(compile_in_memory(LAB, target="skypilot", sets=[asked()]).files["task.sky.yaml"])
    started = [line for line in task["run"].splitlines() if line.startswith("ray start --head")]
    assert len(started) == 1 and '"${more[@]}"' in started[0]
    assert "more=(--include-dashboard true --dashboard-host 127.0.0.1 --dashboard-port 8265)" in task["run"]
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)


@pytest.mark.parametrize("target", ["k8s", "ray"])
def test_a_running_cluster_has_its_own(target: str) -> None:
    assert not {"include_dashboard", "dashboard_host", "dashboard_port"} & set(ray_init(target, asked()))
    found = check_spec(LAB, target=target, sets=[asked(host="10.0.0.1", port=8300)])
    refused = {dotted(one.path) for one in found if one.severity == "fatal"}
    assert {"observability.dashboard.host", "observability.dashboard.port"} <= refused


@pytest.mark.parametrize(
    ("target", "sets", "severity"),
    [
        ("local", [asked(host="0.0.0.0")], "warn"),
        ("local", [asked(port=8790), "proxy.port=8790"], "fatal"),
        ("docker", [asked(port=8790), SANDBOX_HOST], "fatal"),
        ("skypilot", [asked(port=8266)], "fatal"),
        ("local", [asked(host="localhost")], "fatal"),
    ],
)
def test_an_address_that_cannot_be_meant(target: str, sets: list[str], severity: str) -> None:
    found = check_spec(LAB, target=target, sets=sets)
    assert severity in [one.severity for one in found if dotted(one.path).startswith("observability.dashboard.")]


_START = """
import json, sys, ray
ray.init(**json.loads(sys.argv[1]), logging_level="ERROR")
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.verl
def test_ray_answers_there(tmp_path: Path) -> None:
    """Ray started with the compiled arguments, as verl starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ray_init("local", asked(port=port))
    del arguments["_temp_dir"]
    token = "0123456789abcdef" * 2
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    process = subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        address = f"http://127.0.0.1:{port}/api/version"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["ray_version"]
    finally:
        process.communicate("", timeout=60)
