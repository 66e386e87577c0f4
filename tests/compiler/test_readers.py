"""Whatever a spec calls something, each reader of the compiled files gets that back, or the compiler refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compiler import SpecError, check_spec, compile_all, compile_in_memory, readers
from compiler.emit import to_yaml
from compiler.errors import dotted
from tests.compiler.golden_cases import LAB, spec_path

NASTY = [
    *("1e5", "1e-5", "-1e3", "+1", "0x1f", "0o17", "0b1", "1_000", "1_0e2", "1:30", "1:30.5", ".5", ".5e3", "5."),
    *("007", "yes", "No", "on", "y", "null", "~", "true", ".inf", "-.INF", ".nan", "2020-01-01", "=", "<<", "???"),
    *("-", "--", "a b", " a", "a ", "a: b", "a #b", "#a", "- a", "-a", "'a", 'a"b', "a\\b", "a,b", "[a]", "{a}"),
    *("*a", "&a", "!a", "%a", "@a", "`a`", "|", ">", "${oc.env:HOME}", "${a", "a$b", "$HOME", "$$", "umlaut ä"),
    *("\u2028", "\U0001f600", "a" * 300),
    *("Y", "n", "N", "no", "OFF", "Null", "TRUE", "09", "-0", "190:20:30", "2001-12-14t21:59:43.10-05:00", "2020-1-1"),
]
TEXTS = st.text(alphabet="0123456789eE+-._:xobn~", min_size=1, max_size=8) | st.text(min_size=1, max_size=8)


def by_omegaconf(text: str) -> Any:
    """As verl reads its configuration: resolved in place, then read."""
    config = OmegaConf.create(text)
    OmegaConf.resolve(config)
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
@example("1e5")
@example("1_0e2")
def test_yaml_gives_back_texts_to_every_reader(text: str) -> None:
    value = {"value": text, "list": [text], "map": {text: 1}}
    written = to_yaml(value)
    assert yaml.safe_load(written) == value
    if "\x00" not in text and not readers.omegaconf(text):
        assert by_omegaconf(written) == value


@pytest.mark.parametrize("text", NASTY)
def test_yaml_gives_back_nasty_texts_or_the_reader_is_known_not_to(text: str) -> None:
    written = to_yaml({"value": text})
    assert yaml.safe_load(written) == {"value": text}
    try:
        same = by_omegaconf(written) == {"value": text}
    except OmegaConfBaseException:
        same = False
    assert same == (not readers.omegaconf(text))


@pytest.mark.parametrize("text", ["0X1F", "0B11", "0O17", "0X_f", "0_x1", "-_1", "1e_5", "09", "1_", "y", "N"])
def test_yaml_quotes_what_kubectl_alone_reads_otherwise(text: str) -> None:
    """go-yaml 2, whose numbers are Go's and whose truths are YAML 1.1's: a pod's variable must be text."""
    assert to_yaml({"value": text, "list": [text]}) == f"value: '{text}'\nlist:\n- '{text}'\n"
    assert to_yaml({text: 1}) == f"'{text}': 1\n"


@pytest.mark.parametrize("text", [*NASTY[::4], "???", "-a", "${oc.env:HOME}", "1e5", "umlaut ä"])
def test_a_models_path_arrives_or_is_refused(text: str) -> None:
    policy = json.dumps({"type": "pretrained", "path": text})
    try:
        # Off this machine a name without an owner is refused: no cache of the hub has it.
        files = compile_in_memory(spec_path("dense-8gpu"), target="local", sets=[f"policy={policy}"]).files
    except SpecError as error:
        assert {dotted(one.path) for one in error.problems if one.severity == "fatal"} == {"policy.path"}
        # "~" is a folder that is here, and holds no model.
        assert readers.model(text) or readers.omegaconf(text) or readers.vllm(text) or text == "~"
        return
    assert not readers.model(text) and not readers.omegaconf(text) and not readers.vllm(text)
    assert yaml.safe_load(files["vllm.yaml"])["model"] == text
    assert json.loads(files["runtime.json"])["policy"]["path"] == text


@pytest.mark.parametrize("name", ["1e5", "1e-5", "0x1f", "1", "007", "null", "yes", "on"])
def test_names_stay_names(name: str) -> None:
    for target in ("local", "docker", "ray", "skypilot"):
        files = compile_in_memory(LAB, target=target, sets=[f"name={json.dumps(name)}"]).files
        assert OmegaConf.create(files["verl.yaml"]).trainer.experiment_name == name
        for file in {"compose.yaml", "task.sky.yaml"} & files.keys():
            assert yaml.safe_load(files[file])["name"] == name


def test_a_sweep_over_learning_rates_keeps_its_names(tmp_path: Path) -> None:
    spec = tmp_path / "rates.jsonnet"
    (tmp_path / "one.jsonnet").write_text(spec_path("quickstart").read_text())
    spec.write_text("[(import 'one.jsonnet') + { name: name } for name in ['1e-5', '3e-5']]")
    compile_all(spec, out=tmp_path / "out")
    for name in ("1e-5", "3e-5"):
        verl = OmegaConf.load(tmp_path / "out" / name / "verl.yaml")
        assert verl.trainer.experiment_name == name


@pytest.mark.parametrize(
    ("name", "refusing"),
    [("7b-grpo", {"k8s"}), ("a---b", {"skypilot"}), ("b7--grpo", set()), ("1---2", {"k8s", "skypilot"})],
)
def test_names_that_a_cluster_would_refuse_later(name: str, refusing: set[str]) -> None:
    spec = spec_path("quickstart-site")
    for target in ("local", "docker", "k8s", "ray", "skypilot"):
        found = check_spec(spec, target=target, sets=[f"name={json.dumps(name)}"])
        fatal = [dotted(problem.path) for problem in found if problem.severity == "fatal"]
        assert fatal == (["name"] if target in refusing else []), target


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="$a{}_1-:", max_size=12))
def test_compose_finds_no_variable(text: str) -> None:
    """Compose's own rule: of the dollars before a name, pairs are dollars."""
    written = readers.compose(text)
    assert written.replace("$$", "") == text.replace("$", "") and written.replace("$$", "$") == text
