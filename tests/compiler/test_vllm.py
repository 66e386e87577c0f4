"""``vllm.yaml`` uses canonical long flag names with values in range, judged by the catalogue of the pinned vLLM."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
import yaml

from compiler import check_spec
from compiler.load import evaluate
from compiler.lower_verl import lower_verl
from compiler.lower_vllm import lower_vllm
from compiler.plan import make_plan
from compiler.spec.rollout import VllmRollout
from compiler.validate import validate
from compiler.vllm_flags import FOLDER, OWNED, VERSION, VERSIONS, catalogue, flag_problems
from targets.pins import CUDA
from tests.compiler.golden_cases import CASES, EXAMPLES, case_files, spec_path


def judge(config: dict[str, Any]) -> None:
    for key, value in config.items():
        flag = catalogue().get(key)
        assert flag is not None, f"vLLM has no --{key}"
        if flag["choices"]:
            assert value in flag["choices"], (key, value)
        if flag["type"] == "int":
            assert isinstance(value, int) and not isinstance(value, bool), (key, value)


@pytest.mark.parametrize(("name", "target"), CASES)
def test_every_flag_exists_and_takes_the_value(name: str, target: str) -> None:
    config = yaml.safe_load(case_files(name, target)["vllm.yaml"])
    judge(config)
    rollout = json.loads(case_files(name, target)["runtime.json"])["rollout"]
    assert config["max-model-len"] == rollout["prompt_length"] + rollout["response_length"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_for_gpus(name: str) -> None:
    judge(lower_vllm(make_plan(validate(evaluate(spec_path(name)).value))).tree())


def test_the_catalogue_is_of_the_version_that_we_pin() -> None:
    assert CUDA["vllm"] == VERSION
    assert len(catalogue()) > 200
    assert set(OWNED) <= set(catalogue())


def test_flags_reach_verl_and_the_server_by_their_names() -> None:
    plan = make_plan(validate(evaluate(spec_path("moe-async")).value))
    assert lower_vllm(plan)["async-scheduling"].value is True
    assert lower_verl(plan)["actor_rollout_ref.rollout.engine_kwargs.vllm.async_scheduling"].value is True


def test_the_engine_s_worker_may_have_a_process_of_its_own() -> None:
    value = evaluate(spec_path("one-gpu")).value
    place = "actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend"
    assert place not in lower_verl(make_plan(validate(value))), "verl's own choice is mp"
    value["rollout"]["flags"] = {"distributed-executor-backend": "uni"}
    plan = make_plan(validate(value))
    assert lower_verl(plan)[place].value == "uni"
    assert lower_vllm(plan)["distributed-executor-backend"].value == "uni"
    (problem,) = flag_problems({"distributed-executor-backend": "ray"})
    assert "mp, uni" in problem.allowed


@pytest.mark.parametrize("given", [{"cudagraph_mode": "FULL"}, '{"cudagraph_mode": "full", "mode": 3}'])
def test_graphs_that_gave_wrong_probabilities_are_refused(given: Any) -> None:
    (problem,) = flag_problems({"compilation-config": given})
    assert "other probabilities" in problem.what and "FULL_AND_PIECEWISE" in problem.allowed


def test_a_flag_that_is_off_is_said_so_that_vllm_hears_it() -> None:
    """``false`` in the file is nothing to vLLM, and null is a text. verl knows both."""
    value = evaluate(spec_path("moe-async")).value
    value["rollout"]["flags"] = {"async-scheduling": False, "headless": False, "block-size": None}
    plan = make_plan(validate(value))
    facts = lower_vllm(plan)
    assert facts["no-async-scheduling"].value is True and "async-scheduling" not in facts
    assert facts["no-async-scheduling"].origins[0] == "rollout.flags.async-scheduling"
    assert facts["headless"].value is False and "block-size" not in facts
    assert lower_verl(plan)["actor_rollout_ref.rollout.engine_kwargs.vllm.async_scheduling"].value is False


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"kv-cache-dtyp": "fp8"}, "did you mean kv-cache-dtype?"),
        ({"kv-cache-dtype": "fp9"}, '"fp9" is not possible'),
        ({"tensor-parallel-size": 2}, "set rollout.tensor_parallel_size"),
        ({"api-key": "x"}, "set by LiveRL"),
        ({"enable-lora": True}, "set by LiveRL from policy.lora"),
        ({"max-loras": 2}, "for several adapters, but a run trains one"),
        ({"lora-modules": ["a=/adapters/a"]}, "for several adapters, but a run trains one"),
        ({"block-size": "many"}, "many"),
        ({"async-scheduling": 1}, "a switch"),
        ({"spec-method": "None"}, "is not possible"),
        ({"cudagraph-capture-sizes": [1, "two"]}, '"two": not a whole number'),
        ({"tokenizer": True}, "takes a value"),
        ({"allowed-origins": ["*"]}, "no list"),
        ({"compilation-config": "level 3"}, "not JSON"),
        ({"kv-cache-memory-bytes": "4k"}, "not a whole number"),
        ({"model_tag": "x"}, "has no --model_tag"),
    ],
)
def test_wrong_flags(flags: dict[str, Any], said: str) -> None:
    (problem,) = flag_problems(flags)
    assert said in problem.text and problem.path == ("rollout", "flags", *flags)


@pytest.mark.parametrize("version", VERSIONS)
def test_catalogues_have_one_form(version: str) -> None:
    """Read by the same script: the same keys, actions in one spelling, every entry as the checks expect it."""
    text = (FOLDER / f"vllm-flags-{version}.json").read_text()
    whole = json.loads(text)
    assert whole["_meta"]["vllm"] == version and whole["_meta"]["flags"] == len(whole["flags"])
    assert list(whole["flags"]) == sorted(whole["flags"])
    keys = {"options", "dest", "action", "type", "choices", "nargs", "default", "group"}
    assert all(set(entry) == keys and entry["action"].isalpha() for entry in whole["flags"].values())
    assert set(OWNED) <= set(catalogue(version)) and "--help" not in whole["flags"]


def test_a_flag_of_another_version_names_it() -> None:
    (problem,) = flag_problems({"watermark-config": "x"})
    assert "vLLM 0.24.0 has no --watermark-config; 0.32.0 has it" in problem.text
    (problem,) = flag_problems({"calculate-kv-scales": True}, version="0.32.0")
    assert "vLLM 0.32.0 has no --calculate-kv-scales; 0.24.0 has it" in problem.text
    (problem,) = flag_problems({"no-such-flag-anywhere": True})
    assert "has it" not in problem.text


def test_a_version_that_does_not_go_with_verl_is_refused() -> None:
    found = check_spec(spec_path("dense-8gpu"), sets=['rollout.version="0.32.0"'])
    (problem,) = [one for one in found if one.severity == "fatal"]
    assert problem.path == ("rollout", "version") and "transformers < 5.11" in problem.what
    assert get_args(VllmRollout.model_fields["version"].annotation) == VERSIONS


def test_right_flags() -> None:
    flags = {"kv-cache-dtype": "fp8", "async-scheduling": False, "block-size": None, "cudagraph-capture-sizes": [1, 2]}
    assert list(flag_problems(flags)) == []
    json_flags = {"compilation-config": {"mode": 3}, "allowed-origins": '["*"]', "mm-processor-kwargs": "{}"}
    assert list(flag_problems(json_flags)) == []
