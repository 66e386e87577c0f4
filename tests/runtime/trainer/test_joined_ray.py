"""A Ray that somebody else started: what travels to its workers, and a run on one of two nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compiler import compile_in_memory
from runtime import processes
from runtime.config.rollout import AgentLoop
from runtime.errors import MachineError
from runtime.files import write_folder
from runtime.laptop.cpu_platform import CPU
from runtime.launch.rundir import RunDirectory
from runtime.processes import reap
from runtime.run_paths import RAY_DIR, RUN_DIR, RunPaths
from runtime.telemetry.metrics import read_rows
from runtime.trainer import joined_ray
from runtime.trainer.environment import trainer_environment
from tests.docker_engine import free_port
from tests.liverl.test_run import ROOT, SMALL


def test_what_travels_is_what_liverl_set(tmp_path: Path) -> None:
    given = {
        "HF_TOKEN": "secret",
        "PATH": "/bin",
        "LIVERL_RAY_ADDRESS": "10.0.0.1:6379",
        joined_ray.JOB_CONFIG: json.dumps({"runtime_env": {"working_dir": "gcs://x"}, "metadata": {"job_id": "7"}}),
    }
    paths = RunPaths(tmp_path)
    made = trainer_environment(paths, platform=CPU, attempt=0, inherited=given)
    assert made["HF_TOKEN"] == "secret" and made["TMPDIR"], "the trainer itself has them"
    config = json.loads(made[joined_ray.JOB_CONFIG])
    variables = config["runtime_env"]["env_vars"]
    assert config["metadata"] == {"job_id": "7"} and "working_dir" not in config["runtime_env"]
    assert variables[RUN_DIR] == str(tmp_path) and variables[RAY_DIR] == made[RAY_DIR]
    assert variables["VERL_USE_EXTERNAL_MODULES"] == "runtime.laptop.verl_cpu"
    assert not {"HF_TOKEN", "PATH", "TMPDIR", "RAY_TMPDIR", joined_ray.JOB_CONFIG} & set(variables)
    del given["LIVERL_RAY_ADDRESS"]
    assert joined_ray.JOB_CONFIG not in trainer_environment(paths, platform=CPU, attempt=0, inherited=given)


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    joined_ray.check_cluster({"n_gpus_per_node": 1}, rollout={})
    monkeypatch.setenv(joined_ray.ADDRESS, f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(joined_ray, "_ANSWER_SEC", 0.05)
    with pytest.raises(MachineError, match="does not answer"):
        joined_ray.check_cluster({"n_gpus_per_node": 1}, rollout={})


@contextmanager
def node(folder: Path, *arguments: str) -> Iterator[None]:
    """One node of Ray with a token. What its workers inherit names another run: only what travels can be right."""
    program = Path(sys.executable).parent / "ray"
    environment = {**os.environ, RUN_DIR: str(folder), "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    environment |= {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    environment |= {"RAY_memory_monitor_refresh_ms": "0", "RAY_worker_register_timeout_seconds": "300"}
    ports = [f"--dashboard-agent-{name}-port={free_port()}" for name in ("grpc", "listen")]
    command = [str(program), "start", "--block", "--disable-usage-stats", "--num-cpus=8", *ports, *arguments]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.verl
@pytest.mark.torch
@pytest.mark.sandbox
@pytest.mark.timeout(600)
def test_a_bundle_is_submitted_to_a_running_ray_of_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``submit.sh``, with a token; the task runner lands on one node, the trainer's rank on the other, which has the
    GPU token; an agent-loop worker on each."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    address, dashboard = (f"127.0.0.1:{free_port()}" for _ in range(2))
    for name, value in {**token, joined_ray.ADDRESS: address}.items():
        monkeypatch.setenv(name, value)
    sets = [f"{path}={value}" for path, value in SMALL.items()]
    bundle = compile_in_memory(
        ROOT / "specs" / "quickstart.jsonnet",
        target="ray",
        sets=[
            *sets,
            'rollout.agent_loop={"workers": 2, "resource": "boxes"}',
            "schedule.steps=1",
            "schedule.validate_every=1",
            f'cluster.ray.runs_dir="{tmp_path}/runs"',
        ],
    )
    write_folder(tmp_path / "bundle", bundle.files)
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as short:
        folder = Path(short)
        boxes = ['--resources={"boxes": 1}']
        head = ["--head", *boxes, f"--port={address.rpartition(':')[2]}", "--num-gpus=0", f"--temp-dir={folder}"]
        head += [f"--dashboard-port={dashboard.rpartition(':')[2]}", f"--ray-client-server-port={free_port()}"]
        try:
            with node(folder, *head):
                with pytest.raises(MachineError, match="has 0 GPUs, but the trainer needs 1") as caught:
                    joined_ray.check_cluster({"n_gpus_per_node": 1, "device": "cpu"}, rollout={})
                assert "--num-gpus=1" in caught.value.fix
                with pytest.raises(MachineError, match="has 1 of the resource 'boxes', but 2 agent-loop workers"):
                    boxed = AgentLoop(workers=2, resource="boxes")
                    joined_ray.check_cluster({}, rollout={}, agent_loop=boxed)
                with node(folder, f"--address={address}", "--num-gpus=1", *boxes):
                    while True:
                        try:
                            joined_ray.check_cluster({"n_gpus_per_node": 1}, rollout={})
                            break
                        except MachineError:
                            continue  # the second node is on its way
                    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
                    submitted = subprocess.run(
                        ["bash", str(tmp_path / "bundle" / "submit.sh")],
                        env={"PATH": path, "HOME": short, "RAY_ADDRESS": f"http://{dashboard}", **token},
                        capture_output=True,
                        text=True,
                        check=False,
                    )
                    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
        finally:
            reap(folder)
    (record,) = (tmp_path / "runs").glob("*/*/run.json")
    run = RunDirectory(record.parent)
    assert run.read().state == "succeeded"
    found = {row.step: row.data for row in read_rows(run.metrics)}
    assert found[1]["agent_loop/trials"] == 8 and found[1]["weights/replicas_verified"] == 2
    workers = json.loads(run.path.joinpath("status.json").read_bytes())["workers"]
    assert [one["state"] for one in workers] == ["up", "up"]
    assert len({one["node"].partition(", node ")[2].partition(",")[0] for one in workers}) == 2
    names = {path.name for path in run.path.joinpath("journal", "workers").iterdir()}
    assert {name.partition("-")[2][0] for name in names} == {"0", "1"}
    assert processes.marked(run.path) == []
