"""``--target docker``: a Compose file that Compose accepts, with as few rights as a container can have."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from compiler import SpecError, check_spec, compile_in_memory
from compiler.errors import dotted
from compiler.spec.trainer import Gpu
from runtime.config import RuntimeConfig
from runtime.scaffolds.agents import package
from targets import pins
from targets.cuda_set import ARCHITECTURES, CUDA_COMPILER, FLASH_ATTENTION
from targets.docker import SOURCE
from tests.compiler.golden_cases import LAB, spec_path
from tests.docker_engine import BASE, Engine
from tests.targets.schemas import compose_errors
from tests.targets.variants import EIGHT, GPUS, VARIANTS, cluster, compiled
from tests.toolbox import require_command

ROOT = Path(__file__).parents[2]
PODS = 'environment={"type": "kubernetes", "kubernetes": {"image": "registry/box:1", "kubeconfig": %s}}'
BOXES = 'environment={"type": "docker", "base_image": "python:3.11", "docker_host": %s}'
SANDBOX_HOST = cluster(docker={"sandbox_host": "tcp://sandboxes.example.com:2376"})


def trainer(files: dict[str, str]) -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load(files["compose.yaml"])["services"]["trainer"]
    return service


@pytest.mark.parametrize("variant", VARIANTS)
def test_compose_accepts_it(variant: str) -> None:
    document = yaml.safe_load(compiled(variant, "docker")["compose.yaml"])
    assert compose_errors(document) == []
    document["services"]["trainer"]["depend_on"] = ["x"]
    assert compose_errors(document)


def test_gpus_are_reserved_and_shared_memory_is_sized() -> None:
    service = trainer(compiled("gpus", "docker"))
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 8, "capabilities": ["gpu"]}
    assert service["shm_size"] == "64gb"
    assert "reservations" not in trainer(compiled("quickstart", "docker"))["deploy"]["resources"]


def test_the_container_has_few_rights() -> None:
    for variant in VARIANTS:
        service = trainer(compiled(variant, "docker"))
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True
        assert service["user"] == "10001:10001" and "privileged" not in service
        assert "docker.sock" not in compiled(variant, "docker")["compose.yaml"]
        assert service["healthcheck"]["test"][0] == "CMD"


def test_sandboxes_are_reached_with_tls() -> None:
    service = trainer(compiled("site", "docker"))
    assert service["environment"]["DOCKER_HOST"] == "tcp://sandboxes.example.com:2376"
    assert service["environment"]["DOCKER_TLS_VERIFY"] == "1"
    (certificates,) = [mount for mount in service["volumes"] if mount["target"] == "/certs"]
    assert certificates["read_only"] is True and certificates["source"] == "/etc/docker/certs"
    assert service["environment"]["DOCKER_CERT_PATH"] == "/certs"
    assert service["ports"] == ["8790:8790"]
    assert "ports" not in trainer(compiled("quickstart", "docker"))


def test_pods_elsewhere_reach_the_proxy_and_are_reached() -> None:
    files = dict(compile_in_memory(LAB, target="docker", sets=[PODS % '"/home/me/.kube/config"']).files)
    service = trainer(files)
    assert service["ports"] == ["8790:8790"] and json.loads(files["runtime.json"])["proxy"]["host"] == "0.0.0.0"
    (kubeconfig,) = [mount for mount in service["volumes"] if mount["target"] == "/home/me/.kube/config"]
    assert kubeconfig["read_only"] is True and kubeconfig["source"] == kubeconfig["target"]


def test_the_container_may_be_larger_than_a_head() -> None:
    sets = [*GPUS, cluster(docker={"machine": EIGHT})]
    service = trainer(dict(compile_in_memory(LAB, target="docker", sets=sets).files))
    assert service["shm_size"] == "64gb"
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 8


def test_the_image_is_built_without_a_hub_or_a_new_builder() -> None:
    """Debian's engine 20.10 knows no named contexts, and no hub need be asked for another syntax."""
    for variant in VARIANTS:
        text = compiled(variant, "docker")["Dockerfile"]
        assert "syntax=" not in text and "--mount" not in text
        copied = re.findall(r"^COPY (\S+) /tmp/liverl/(\S+)$", text, re.MULTILINE)
        assert {source for source, _ in copied} == {target for _, target in copied} == set(SOURCE)
        assert all((ROOT / name).exists() for name in SOURCE)
        build = trainer(compiled(variant, "docker"))["build"]
        assert build["context"] == "${LIVERL_SOURCE:-../../..}" and "additional_contexts" not in build


def test_namespaces_are_allowed_only_where_sandboxes_are_made_inside() -> None:
    files = compiled("quickstart", "docker")
    assert trainer(files)["security_opt"] == [
        *("no-new-privileges:true", "seccomp:seccomp.json", "apparmor:unconfined", "systempaths=unconfined"),
    ]
    (denied,) = json.loads(files["seccomp.json"])["syscalls"]
    assert {"bpf", "kexec_load", "init_module", "keyctl"} <= set(denied["names"]) and denied["errnoRet"] == 1
    elsewhere = dict(compile_in_memory(LAB, target="docker", sets=[PODS % '"/home/me/.kube/config"']).files)
    assert trainer(elsewhere)["security_opt"] == ["no-new-privileges:true"] and "seccomp.json" not in elsewhere


@pytest.mark.consumers
def test_debians_engine_lets_the_container_isolate_its_trials(tmp_path: Path) -> None:
    """With the bundle's own restrictions: no capability, a read-only root, no new privileges, an ordinary user."""
    files = compiled("quickstart", "docker")
    service = trainer(files)
    (tmp_path / "seccomp.json").write_text(files["seccomp.json"])
    options = ["--user", service["user"], "--read-only", "--tmpfs", "/tmp:exec,mode=1777"]
    options += [f"--cap-drop={one}" for one in service["cap_drop"]]
    # The engine's own image of Debian has no bubblewrap; its libraries come along with this machine's.
    libraries = "/usr/lib/x86_64-linux-gnu"
    options += ["-v", f"{require_command('bwrap', package='bubblewrap')}:/usr/bin/bwrap:ro"]
    options += ["-v", f"{libraries}:/host:ro", "-e", "LD_LIBRARY_PATH=/host", "--network=none"]
    box = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    with Engine.temporary() as engine:
        for given, works in ((service["security_opt"], True), (service["security_opt"][:1], False)):
            chosen = [f"--security-opt={one.replace(':', '=', 1)}" for one in given]
            chosen = [one.replace("seccomp=", f"seccomp={tmp_path}/") for one in chosen]
            command = ["docker", "-H", engine.url, "run", "--rm", *options, *chosen, BASE, *box, "sh", "-c", "echo $$"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert (done.returncode == 0) == works, done.stderr
            assert not works or int(done.stdout) < 5, "the box sees the container's processes"


def test_secrets_come_from_the_shell() -> None:
    environment = trainer(compiled("site", "docker"))["environment"]
    assert environment["HF_TOKEN"] is None and environment["WANDB_API_KEY"] is None


def test_no_image_is_a_variable_of_compose() -> None:
    with pytest.raises(SpecError, match=r"cluster\.image: .* not the name of a container image"):
        compile_in_memory(LAB, target="docker", sets=[cluster(image="a/${HOME}:1")])


@pytest.mark.parametrize(("variant", "pinned"), [("quickstart", pins.CPU), ("gpus", pins.CUDA)])
def test_the_image_holds_the_pins(variant: str, pinned: dict[str, str]) -> None:
    text = compiled(variant, "docker")["Dockerfile"]
    assert f"FROM python:{pinned['python']}-slim" in text
    assert set(re.findall(r"^      (\S+==\S+) \\$", text, re.MULTILINE)) == set(pins.requirements(pinned))
    instructions = re.findall(r"^([A-Z]+) ", re.sub(r"\\\n", "", text), re.MULTILINE)
    assert set(instructions) <= {"ARG", "FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "CMD"}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.endswith("\\"):
            assert lines[number + 1].startswith(" "), line
    assert instructions.index("USER") > max(index for index, one in enumerate(instructions) if one == "RUN")


FLASH = 'trainer.attention="flash_attention_2"'


def test_the_image_has_flash_attention_where_the_trainer_asks_for_it() -> None:
    """Compiled for the spec's GPU: there is no wheel. Elsewhere nothing is compiled."""
    for sets, wanted in (([FLASH, "trainer.gpu=H100"], "90"), ([FLASH], "'80;90;100'")):
        files = dict(compile_in_memory(LAB, target="docker", sets=[*GPUS, cluster(head=EIGHT), *sets]).files)
        (step,) = re.findall(r"^RUN pip install ninja(?:.*\\\n)+.*$", files["Dockerfile"], re.MULTILINE)
        assert f"FLASH_ATTN_CUDA_ARCHS={wanted} " in step and FLASH_ATTENTION in step
        assert all(requirement in step for requirement in pins.requirements(CUDA_COMPILER))
        # Torch's headers are there before.
        assert files["Dockerfile"].index("torch==") < files["Dockerfile"].index(step)
        subprocess.run(["bash", "-n", "-c", step.removeprefix("RUN ")], check=True)
    assert "flash" not in compiled("gpus", "docker")["Dockerfile"]


def test_compiler_and_torch_are_of_one_cuda() -> None:
    assert {version.rpartition(".")[0] for version in CUDA_COMPILER.values()} == {"13.0"}
    assert set(get_args(Gpu)) == set(ARCHITECTURES)


def test_what_the_image_lacks_is_told() -> None:
    found = check_spec(spec_path("moe-megatron"), target="docker")
    (told,) = [one for one in found if dotted(one.path) == "trainer.type"]
    assert told.severity == "warn" and "megatron-core, mbridge, transformer-engine" in told.what


@pytest.mark.parametrize(
    ("scaffold", "python", "line"),
    [
        ('{"type": "claude-code", "version": "2.1.197", "max_turns": 9}', "3.11", "COPY --from=node:22-bookworm-slim"),
        ('{"type": "openhands-sdk", "version": "1.57.0", "max_turns": 9}', "3.12", "FROM python:3.12-slim-bookworm"),
        ('{"type": "terminus-2", "version": "0.24.0", "max_turns": 9}', "3.12", "install-recommends.* tmux "),
    ],
)
def test_the_image_has_what_installs_the_agent(scaffold: str, python: str, line: str) -> None:
    """The same programs for which the runtime looks on a machine."""
    sets = [
        *GPUS,
        cluster(head=EIGHT),
        f"scaffold={scaffold}",
        'policy={"type": "pretrained", "path": "Qwen/Qwen3-8B"}',
        'cluster.weights={"sources": [{"type": "present"}]}',
    ]
    sets += ['rollout.tool_parser="hermes"', "rollout.max_tokens_per_turn=64"]
    files = compile_in_memory(LAB, target="docker", sets=sets).files
    assert re.search(line, files["Dockerfile"])
    assert json.loads(files["liverl.lock"])["pins"]["python"] == python
    wanted = package(RuntimeConfig.model_validate_json(files["runtime.json"]).scaffold)  # type: ignore[arg-type]
    assert wanted.registry == "npm" or int(python.partition(".")[2]) >= wanted.python
    assert ("node" in files["Dockerfile"]) == (wanted.registry == "npm")


def test_the_image_has_the_tracker_and_harbor() -> None:
    harbor = '{"type": "harbor", "harbor": {"environment": "gke", "proxy_host": "10.0.0.1"}}'
    sets = [f"environment={harbor}", 'observability.loggers=["file", "mlflow"]']
    text = compile_in_memory(LAB, target="docker", sets=sets).files["Dockerfile"]
    assert "FROM python:3.12-" in text and "mlflow==" in text and ",harbor]" in text


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        (GPUS, "cluster.head.gpus"),
        ([*GPUS, cluster(head=EIGHT, docker={"machine": {**EIGHT, "gpus": 4}})], "cluster.docker.machine.gpus"),
        (['rollout.agent_loop={"workers": 2, "resource": "boxes"}'], "rollout.agent_loop.resource"),
        ([PODS % "null"], "environment.kubernetes.kubeconfig"),
        ([BOXES % "null"], "cluster.docker.sandbox_host"),
        ([BOXES % '"tcp://elsewhere:2376"', SANDBOX_HOST], "environment.docker_host"),
        ([*GPUS, "trainer.nodes=2", cluster(head={**EIGHT, "gpus": 16})], "trainer.nodes"),
        ([cluster(docker={"sandbox_host": "unix:///var/run/docker.sock"})], "cluster.docker.sandbox_host"),
        ([cluster(head={"cpus": 1, "memory_gib": 2, "shm_gib": 2})], "cluster.head.shm_gib"),
    ],
)
def test_what_one_machine_cannot_hold_is_refused(sets: list[str], path: str) -> None:
    fatal = [problem for problem in check_spec(LAB, target="docker", sets=sets) if problem.severity == "fatal"]
    assert path in [dotted(problem.path) for problem in fatal]
