"""``vllm.yaml`` uses canonical long flag names with values in range."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.compiler.golden_cases import CASES, REPOSITORY, golden_folder

CATALOGUE = REPOSITORY.parent / "shared" / "data" / "vllm-flags-0.32.0.json"


@pytest.fixture(scope="module")
def flags() -> dict[str, Any]:
    if not CATALOGUE.is_file():
        pytest.skip("the catalogue of vLLM's flags is not beside this checkout (../shared/data)")
    found: dict[str, Any] = json.loads(CATALOGUE.read_text())["flags"]
    return found


@pytest.mark.parametrize(("name", "target"), CASES)
def test_every_flag_exists_and_takes_the_value(flags: dict[str, Any], name: str, target: str) -> None:
    config = yaml.safe_load((golden_folder(name, target) / "vllm.yaml").read_text())
    for key, value in config.items():
        flag = flags.get(f"--{key}") or (flags.get(key) if key == "model" else None)
        assert flag is not None, f"vLLM has no --{key}"
        if flag["choices"]:
            assert value in flag["choices"], (key, value)
        if flag["type"] == "int":
            assert isinstance(value, int) and not isinstance(value, bool), (key, value)
    rollout = json.loads((golden_folder(name, target) / "runtime.json").read_text())["rollout"]
    assert config["max-model-len"] == rollout["prompt_length"] + rollout["response_length"]
