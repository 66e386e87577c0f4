"""A model that the trainer would refuse when it has loaded it is refused by its ``config.json``, before a run."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from compiler import check_spec, compile_in_memory
from compiler.errors import dotted
from runtime.config import PretrainedPolicy, load_runtime_config
from runtime.config.model_layers import KNOWN_LAYERS, REPLAYED, layers_with_state, routers_unknown
from runtime.errors import UserError
from runtime.launch.model import check_layers
from tests.compiler.golden_cases import spec_path

STATEFUL: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
    ({"model_type": "qwen3_next", "linear_conv_kernel_dim": 4}, "linear_conv_kernel_dim"),
    ({"model_type": "qwen3_5", "text_config": {"layer_types": ["linear_attention"]}}, "linear_attention"),
    ({"model_type": "mamba", "state_size": 16, "conv_kernel": 4}, "conv_kernel"),
    ({"model_type": "jamba", "mamba_d_state": 16}, "mamba_d_state"),
    ({"model_type": "falcon_h1", "mamba_d_ssm": 1024}, "mamba_d_ssm"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*-"}, "mamba"),
    ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}, "conv"),
    ({"model_type": "rwkv"}, "rwkv"),
    ({"model_type": "llama4_text", "layer_types": ["chunked_attention"]}, "chunked_attention"),
]
SOUND: list[dict[str, Any]] = [
    {"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]},
    {"model_type": "qwen3"},
    {"model_type": "granitemoehybrid", "layer_types": ["full_attention"], "mamba_d_state": 128},
    {"model_type": "llama", "text_config": None},
]


@pytest.mark.parametrize(("said", "word"), STATEFUL, ids=lambda value: str(value)[:50])
def test_layers_with_a_state_are_seen(said: dict[str, Any], word: str) -> None:
    assert word in layers_with_state(said)


@pytest.mark.parametrize("said", SOUND, ids=str)
def test_others_are_not_taken_for_them(said: dict[str, Any]) -> None:
    assert layers_with_state(said) == ()


def problems(folder: Path, *sets: str) -> list[tuple[str, str]]:
    policy = json.dumps({"type": "pretrained", "path": str(folder)})
    found = check_spec(spec_path("one-gpu"), target="local", sets=[f"policy={policy}", *sets])
    return [(dotted(one.path), one.text) for one in found if one.severity == "fatal"]


def test_a_spec_for_a_folder_here_is_refused_by_its_place(tmp_path: Path) -> None:
    shared = ("trainer.attention=varlen", "trainer.share_prefixes=true")
    (tmp_path / "config.json").write_text(json.dumps(STATEFUL[0][0]))
    (problem,) = problems(tmp_path, *shared)
    assert problem[0] == "trainer.share_prefixes" and "linear_attention" in problem[1]
    assert problems(tmp_path) == []
    (tmp_path / "config.json").write_text(json.dumps(SOUND[0]))
    assert problems(tmp_path, *shared) == []
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deepseek_v3", "n_routed_experts": 64}))
    (problem,) = problems(tmp_path, "routing_replay=R3")
    assert problem[0] == "routing_replay" and "deepseek_v3" in problem[1]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_moe"}))
    assert problems(tmp_path, "routing_replay=R3") == []


def test_a_run_of_a_model_that_was_found_elsewhere_is_refused_too(tmp_path: Path) -> None:
    """A name of the hub, or a bundle that was compiled on another machine."""
    (tmp_path / "config.json").write_text(json.dumps(SOUND[0]))
    policy = json.dumps({"type": "pretrained", "path": str(tmp_path)})
    sets = [f"policy={policy}", "trainer.attention=varlen", "trainer.share_prefixes=true"]
    bundle = compile_in_memory(spec_path("one-gpu"), target="local", sets=sets).files
    (tmp_path / "runtime.json").write_text(bundle["runtime.json"])
    config = load_runtime_config(tmp_path / "runtime.json")
    assert isinstance(config.policy, PretrainedPolicy)
    check_layers(config, bundle)
    (tmp_path / "config.json").write_text("[]")  # others say what is wrong with it
    check_layers(config, bundle)
    (tmp_path / "config.json").write_text(json.dumps(STATEFUL[0][0]))
    with pytest.raises(UserError, match=r"linear_attention.*set trainer.share_prefixes to false"):
        check_layers(config, bundle)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_the_rules_are_those_of_transformers_models() -> None:
    """Every causal model of transformers, by its own default configuration."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from runtime.trainer.replayed_experts import SOFTMAX_ROUTERS

    seen = 0
    for kind, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        try:
            config = CONFIG_MAPPING[kind]()
            model = getattr(transformers, names if isinstance(names, str) else names[0])
        except Exception:  # one that needs parts, or a package that is not here
            continue
        said = config.to_dict()
        kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
        if getattr(model, "_is_stateful", False) or kinds - KNOWN_LAYERS:
            seen += 1
            assert layers_with_state(said), kind
        source = inspect.getsource(importlib.import_module(model.__module__))
        routers = set(re.findall(r"^class (\w+Router)\(", source, re.MULTILINE))
        if routers or kind in REPLAYED:
            assert (routers <= SOFTMAX_ROUTERS) == (routers_unknown(said) == ""), kind
    assert seen > 15
