"""Texts that look like something else reach the programs that read bundles as the texts that they are: kubectl (with
kustomize before it), Compose and SkyPilot, whose YAML are three different ones."""

from __future__ import annotations

import json
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler import compile_in_memory, readers
from compiler.emit import to_yaml
from runtime.config.base import LABEL_VALUE
from tests.compiler.golden_cases import LAB
from tests.compiler.test_readers import NASTY
from tests.targets.test_compose import ask
from tests.toolbox import debian_tools

DICE = random.Random(7)
SEEDS = ("1_000", "0o7", "0x1F", "1:30", "1e5", ".5", "-.inf", "y", "No", "~", "null", "2020-01-01T10:00:00Z", "+1")


def relative() -> str:
    """A text made of one that some reader takes for no text, or of the letters of such."""
    if DICE.random() < 0.5:
        return "".join(DICE.choices("0123456789eE+-._:xXoObBnNyYtTzZ~ ", k=DICE.randint(1, 7)))
    letters = list(DICE.choice(SEEDS))
    for _ in range(DICE.randint(0, 2)):
        letters[DICE.randrange(len(letters))] = DICE.choice("0_.:+-eEyNx9")
    return "".join(letters)


TEXTS = sorted({*NASTY, "", *(relative() for _ in range(600))})
MARKS = {f"a{number}": text for number, text in enumerate(TEXTS)}
VARIABLES = {f"N{number}": text for number, text in enumerate(TEXTS) if not readers.ray_env(text)}
LABELS = {
    **{f"l{number}": text for number, text in enumerate(TEXTS) if re.fullmatch(LABEL_VALUE, text)},
    **dict.fromkeys(("y", "n", "on", "1e5", "0x1F", "1_000", "null", "007"), "y"),
}


def compiled(target: str) -> dict[str, str]:
    values = {"env": VARIABLES, "labels": LABELS, "annotations": MARKS}
    return dict(
        compile_in_memory(
            LAB, target=target, sets=[f"cluster.{name}={json.dumps(value)}" for name, value in values.items()]
        ).files
    )


def by_kubectl(kubectl: str, text: str, folder: Path) -> dict[str, Any]:
    """A manifest as kubectl has it after reading; no server is asked."""
    (folder / "one.yaml").write_text(text)
    command = [kubectl, "annotate", "--local", "-f", str(folder / "one.yaml"), "zzz=read", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.mark.consumers
def test_kubectl_has_texts(tmp_path: Path) -> None:
    """Of what the templates write, read directly and after kustomize has written it anew; of what ``to_yaml`` writes,
    and of its keys."""
    kubectl = str(debian_tools("kubectl", "kubectl/trixie", suite="trixie") / "usr/bin/kubectl")
    files = compiled("k8s")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name, text in files.items():
        (bundle / name).write_text(text)
    built = subprocess.run([kubectl, "kustomize", str(bundle)], capture_output=True, text=True, check=True).stdout
    (anew,) = [one for one in built.split("\n---\n") if "\nkind: RayJob\n" in one]
    for text in (files["rayjobs.yaml"], anew):
        job = by_kubectl(kubectl, text, tmp_path)
        cluster = job["spec"]["rayClusterSpec"]
        pods = [cluster["headGroupSpec"]["template"], *(one["template"] for one in cluster["workerGroupSpecs"])]
        for metadata in (job["metadata"], *(pod["metadata"] for pod in pods)):
            assert LABELS.items() <= metadata["labels"].items()
            assert MARKS.items() <= metadata["annotations"].items()
        for pod in pods:
            env = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
            assert {name: env[name] for name in VARIABLES} == {
                name: readers.kubernetes_env(value) for name, value in VARIABLES.items()
            }
    plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": MARKS}
    keys = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "two"}, "data": dict.fromkeys(TEXTS, "n")}
    for value in (plain, keys):
        assert by_kubectl(kubectl, to_yaml(value), tmp_path)["data"] == value["data"]


@pytest.mark.consumers
def test_compose_has_texts(tmp_path: Path) -> None:
    answer = ask(tmp_path / "bundle", compiled("docker"))
    assert answer.returncode == 0, answer.stderr
    service = json.loads(answer.stdout)["services"]["trainer"]
    assert {name: service["environment"][name].replace("$$", "$") for name in VARIABLES} == VARIABLES
    assert service["labels"] == LABELS


def test_python_has_texts() -> None:
    """SkyPilot and Ray read with PyYAML."""
    task = yaml.safe_load(compiled("skypilot")["task.sky.yaml"])
    assert VARIABLES.items() <= task["envs"].items() and task["resources"]["labels"] == LABELS
    assert VARIABLES.items() <= yaml.safe_load(compiled("ray")["runtime-env.yaml"])["env_vars"].items()
    assert yaml.safe_load(to_yaml({"values": MARKS, **dict.fromkeys(TEXTS)})) == {
        "values": MARKS,
        **dict.fromkeys(TEXTS),
    }
