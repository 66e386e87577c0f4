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
from runtime.errors import MachineError
from runtime.laptop.cpu_platform import CPU
from runtime.processes import reap
from runtime.run_paths import RAY_DIR, RUN_DIR, RunPaths
from runtime.trainer import joined_ray, process
from runtime.trainer.environment import trainer_environment
from tests.docker_engine import free_port
from tests.runtime.trainer.test_verl import GROUP, PROMPTS, ROOT, SMALL, make_run, rows, traces
from tests.runtime.trainer.test_verl import importable as importable
from tests.runtime.trainer.test_verl import policy as policy


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
    joined_ray.check_cluster({"n_gpus_per_node": 1})
    monkeypatch.setenv(joined_ray.ADDRESS, f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(joined_ray, "_ANSWER_SEC", 0.05)
    with pytest.raises(MachineError, match="does not answer"):
        joined_ray.check_cluster({"n_gpus_per_node": 1})


@contextmanager
def node(folder: Path, *arguments: str) -> Iterator[None]:
    """One node of Ray with a token. What its workers inherit names another run: only what travels can be right."""
    program = Path(sys.executable).parent / "ray"
    environment = {**os.environ, RUN_DIR: str(folder), "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
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
def test_a_run_on_a_running_ray_of_two_nodes(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token; the task runner lands on one node, the trainer's rank on the other, which has the GPU token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(joined_ray.ADDRESS, address)
    bundle = compile_in_memory(ROOT / "specs" / "quickstart-site.jsonnet", target="ray")
    run = make_run(tmp_path / "run", policy, "quickstart-site")
    RunPaths(run).verl_yaml.write_text(bundle.files["verl.yaml"])
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as short:
        folder = Path(short)
        try:
            head = ["--head", f"--port={address.rpartition(':')[2]}", "--num-gpus=0", f"--temp-dir={folder}"]
            with node(folder, *head, "--include-dashboard=false", f"--ray-client-server-port={free_port()}"):
                with pytest.raises(MachineError, match="has 0 GPUs, but the trainer needs 1") as caught:
                    process.train(run)
                assert "--num-gpus=1" in caught.value.fix
                with node(folder, f"--address={address}", "--num-gpus=1"):
                    overrides = ["trainer.total_training_steps=1", "trainer.val_before_train=False"]
                    overrides.append("trainer.logger=[console,file]")  # the site's tracker wants a key
                    while True:
                        try:
                            joined_ray.check_cluster({"n_gpus_per_node": 1})
                            break
                        except MachineError:
                            continue  # the second node is on its way
                    process.train(run, overrides=[*SMALL, *overrides, "trainer.save_freq=-1"])
        finally:
            reap(folder)
    assert rows(run)[1]["agent_loop/trials"] == PROMPTS * GROUP
    assert rows(run)[1]["weights/replicas_verified"] == 2
    assert traces(run) == []
