"""``cluster.env``: what a spec says of a variable is what every process of the trainer has, whoever carries it there,
or it is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import SpecError, check_spec, compile_in_memory, readers
from compiler.errors import dotted
from compiler.explain import explain_field
from runtime.config.variables import DEFAULTS, OWNED
from runtime.laptop.cpu_platform import CPU
from runtime.run_paths import RunPaths
from runtime.trainer.cuda.platform import CUDA
from runtime.trainer.environment import trainer_environment
from runtime.trainer.joined_ray import JOB_CONFIG
from tests.compiler.golden_cases import LAB, spec_path
from tests.compiler.test_readers import NASTY
from tests.targets.test_compose import ask
from tests.targets.test_k8s import pods
from tests.targets.variants import VARIANTS
from tests.toolbox import python_tools

REMOTE = ("docker", "k8s", "ray", "skypilot")
VALUES = {
    f"NAME_{number}": value
    for number, value in enumerate((*NASTY, "", "$(HOME)", "$$(HOME)", "a$(", "$", "$$HOME", "a=b", "it's", '"', "\\n"))
}
"""Each arrives, or is refused where Ray would make something else of it."""
SOUND = {name: value for name, value in VALUES.items() if not readers.ray_env(value)}


def compiled(target: str, env: Mapping[str, str]) -> dict[str, str]:
    return dict(compile_in_memory(LAB, target=target, sets=[f"cluster.env={json.dumps(env)}"]).files)


def by_kubelet(text: str) -> str:
    """As the kubelet reads a variable's value: ``$(NAME)`` is a reference, "$$" a dollar."""
    read, rest = "", text
    while rest:
        taken = 2 if rest.startswith("$$") else 1
        assert not rest.startswith("$("), "a reference"
        read, rest = read + rest[0], rest[taken:]
    return read


@pytest.fixture(scope="module")
def bundles() -> dict[str, dict[str, str]]:
    return {target: compiled(target, SOUND) for target in REMOTE}


def test_pods_have_what_the_spec_says(bundles: dict[str, dict[str, str]]) -> None:
    trainers = [pod for pod in pods(bundles["k8s"]) if "serviceAccountName" in pod["spec"]]
    assert len(trainers) == 2
    for pod in trainers:
        (container,) = pod["spec"]["containers"]
        found = {one["name"]: by_kubelet(one["value"]) for one in container["env"] if one["name"] in SOUND}
        assert found == SOUND
    (submitter,) = [pod for pod in pods(bundles["k8s"]) if pod["metadata"]["labels"]["liverl/role"] == "submitter"]
    assert {one["name"] for one in submitter["spec"]["containers"][0]["env"]} == {"HOME"}


def test_tasks_and_jobs_have_what_the_spec_says(bundles: dict[str, dict[str, str]]) -> None:
    for target, file, part in (("skypilot", "task.sky.yaml", "envs"), ("ray", "runtime-env.yaml", "env_vars")):
        given = yaml.safe_load(bundles[target][file])[part]
        assert {name: given[name] for name in SOUND} == SOUND
    for files in bundles.values():
        assert json.loads(files["runtime.json"])["env"] == SOUND


def test_this_machine_is_told_nothing() -> None:
    """A cluster's variables name what only it has."""
    assert json.loads(compiled("local", SOUND)["runtime.json"])["env"] == {}


def test_rays_workers_get_what_travels_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ray's own function."""
    utils = pytest.importorskip("ray._private.utils")
    for name, value in VALUES.items():
        monkeypatch.setenv(name, "")
        utils.update_envs({name: value})
        assert os.environ[name] == value or readers.ray_env(value), value


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="$(){}A_1 ", max_size=12))
def test_readers_agree_on_dollars(text: str) -> None:
    assert by_kubelet(readers.kubernetes_env(text)) == text
    expanded = os.path.expandvars(text)
    assert expanded == text or readers.ray_env(text)


@pytest.mark.consumers
def test_compose_has_what_the_spec_says(tmp_path: Path) -> None:
    answer = ask(tmp_path / "bundle", compiled("docker", VALUES))
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)["services"]["trainer"]["environment"]
    # Written as Compose would have to read it again.
    assert {name: found[name].replace("$$", "$") for name in VALUES} == VALUES


SKY = """
import json, sys, yaml
import sky
from sky.skylet import log_lib
task = sky.Task.from_yaml_config(yaml.safe_load(open("task.sky.yaml").read()))
print("RESULT" + log_lib.make_task_bash_script("env -0", env_vars=task.envs))
"""


@pytest.mark.consumers
@pytest.mark.timeout(1800)
def test_skypilots_script_exports_what_the_spec_says(bundles: dict[str, dict[str, str]], tmp_path: Path) -> None:
    """The script that SkyPilot makes of the task, run."""
    for name, text in bundles["skypilot"].items():
        (tmp_path / name).write_text(text)
    tools = python_tools("skypilot")
    shell = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    made = subprocess.run(
        [str(tools / "python"), "-c", SKY], cwd=tmp_path, env=shell, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-3000:]
    script = made.stdout.partition("RESULT")[2]
    said = subprocess.run(["bash", "-c", script], env=shell, capture_output=True, check=True).stdout
    found = dict(part.decode().split("=", 1) for part in said.split(b"\0") if b"=" in part)
    assert {name: found.get(name) for name in SOUND} == SOUND


def fatal(target: str, env: Mapping[str, Any]) -> list[str]:
    found = check_spec(LAB, target=target, sets=[f"cluster.env={json.dumps(env)}"])
    return [dotted(problem.path) for problem in found if problem.severity == "fatal"]


@pytest.mark.parametrize("target", REMOTE)
def test_what_ray_would_change_is_refused(target: str) -> None:
    changed = {name: value for name, value in VALUES.items() if name not in SOUND}
    assert len(changed) > 3
    refused = [] if target == "docker" else [f"cluster.env.{name}" for name in changed]
    assert fatal(target, changed) == refused


@pytest.mark.parametrize(
    "name", ["PATH", "PYTHONPATH", "HF_HUB_OFFLINE", "RAY_ADDRESS", "LIVERL_RUN_DIR", "POD_IP", "CUDA_VISIBLE_DEVICES"]
)
def test_what_a_run_depends_on_is_not_the_specs(name: str) -> None:
    assert fatal("k8s", {name: "x"}) == [f"cluster.env.{name}"]


def test_wrong_names_and_values_are_told_all_at_once_with_their_lines(tmp_path: Path) -> None:
    spec = tmp_path / "mine.jsonnet"
    (tmp_path / "lab.jsonnet").write_text(spec_path("quickstart").read_text())
    spec.write_text(
        "(import 'lab.jsonnet') + {\n"
        "  secrets: [{ variable: 'WANDB_API_KEY', used_by: 'observability' }],\n"
        "  cluster+: { env: {\n"
        "    HOME: '/x',\n"
        "    WANDB_PROJECT_KEY: 'fine',\n"
        "    HF_TOKEN: 'abc',\n"
        "    HTTPS_PROXY: 'http://me:hunter2@proxy',\n"
        "  } },\n"
        "}\n"
    )
    with pytest.raises(SpecError) as raised:
        compile_in_memory(spec)
    told = [problem for problem in raised.value.problems if problem.severity == "fatal"]
    lines = [one.position.rpartition("mine.jsonnet:")[2].split(":")[0] for one in told]
    assert set(zip((dotted(one.path) for one in told), lines, strict=True)) == {
        ("cluster.env.HOME", "4"),
        ("cluster.env.HF_TOKEN", "6"),
        ("cluster.env.HTTPS_PROXY", "7"),
    }
    assert not any("hunter2" in one.text or "abc" in one.text for one in told)
    assert fatal("local", {"a-b": "x"}) == ["cluster.env.a-b"] and fatal("local", {"A": "a\nb"}) == ["cluster.env.A"]


def test_a_variable_is_the_specs_or_a_secret() -> None:
    sets = ['secrets=[{"variable": "X", "used_by": "policy"}]', 'cluster.env={"X": "1"}']
    assert "cluster.env.X" in {dotted(one.path) for one in check_spec(LAB, sets=sets) if one.severity == "fatal"}


def test_a_proxy_for_everything_is_a_warning() -> None:
    found = check_spec(LAB, sets=['cluster.env={"HTTPS_PROXY": "http://p:1"}'])
    assert [(dotted(one.path), one.severity) for one in found] == [("cluster.env.HTTPS_PROXY", "warn")]
    assert check_spec(LAB, sets=['cluster.env={"HTTPS_PROXY": "http://p:1", "no_proxy": "10.0.0.0/8"}']) == []


@pytest.mark.parametrize("platform", [CPU, CUDA])
def test_the_trainer_has_them_and_what_it_sets_itself_is_known(tmp_path: Path, platform: Any) -> None:
    """The table of names is held against what the trainer really sets; where the spec may speak, it holds, on the
    workers of a standing Ray too."""
    inherited = {"LIVERL_RAY_ADDRESS": "10.0.0.1:6379"}
    loggers = ("wandb", "mlflow", "swanlab", "trackio", "tensorboard")
    paths = RunPaths(tmp_path / "runs" / "one")

    def made(env: Mapping[str, str], loggers: tuple[str, ...] = ()) -> dict[str, str]:
        return trainer_environment(
            paths, platform=platform, attempt=0, loggers=loggers, given_by_spec=env, inherited=inherited
        )

    for name in {*made({}, loggers), *made({})}:
        assert OWNED.fullmatch(name) or name in DEFAULTS, name
    chosen = {**dict.fromkeys(DEFAULTS, "the spec's"), "NCCL_DEBUG": "INFO"}
    found = made(chosen)
    assert chosen.items() <= found.items()
    assert chosen.items() <= json.loads(found[JOB_CONFIG])["runtime_env"]["env_vars"].items()


@pytest.mark.parametrize(
    ("target", "file"), [("k8s", "rayjobs.yaml"), ("ray", "runtime-env.yaml"), ("skypilot", "task.sky.yaml")]
)
def test_explain_finds_them(target: str, file: str) -> None:
    said = explain_field(LAB, "cluster.env.FI_PROVIDER", sets=['cluster.env={"FI_PROVIDER": "efa"}'], target=target)
    assert f"gives    {file}" in said and "runtime.json" in said


def _set_by_bundles() -> dict[str, set[str]]:
    """Target -> the variables that its files set by themselves."""
    plain = {"cluster.env": {}, "secrets": []}
    sets = [f"{name}={json.dumps(value)}" for name, value in plain.items()]
    found: dict[str, set[str]] = {}
    for variant in ("site", "weights", "dashboard"):
        for target in REMOTE:
            files = compile_in_memory(LAB, target=target, sets=[*VARIANTS[variant], *sets]).files
            names = found.setdefault(target, set())
            if target == "k8s":
                containers = [one for pod in pods(files) for one in pod["spec"]["containers"]]
                names.update(one["name"] for container in containers for one in container.get("env", ()))
            elif target == "docker":
                names.update(yaml.safe_load(files["compose.yaml"])["services"]["trainer"]["environment"])
            elif target == "ray":
                names.update(yaml.safe_load(files["runtime-env.yaml"])["env_vars"])
            else:
                names.update(yaml.safe_load(files["task.sky.yaml"])["envs"])
    return found


def test_what_files_set_themselves_is_set_by_nobody_else() -> None:
    """A name twice is a mapping that Compose refuses, and of two a kubelet takes the last."""
    for target, names in _set_by_bundles().items():
        assert len(names) >= 2
        for name in names:
            secret = {"variable": name, "used_by": "observability", "kubernetes": {"name": "a", "key": "b"}}
            cases = {"cluster": f"cluster.env={json.dumps({name: 'x'})}", "secrets": f"secrets={json.dumps([secret])}"}
            for place, change in cases.items():
                found = check_spec(LAB, target=target, sets=[*VARIANTS["weights"], change])
                fatal = {dotted(one.path) for one in found if one.severity == "fatal"}
                assert any(path.startswith(place) for path in fatal), (target, name, place)
