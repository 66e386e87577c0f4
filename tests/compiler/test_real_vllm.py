"""What the compiler writes and accepts for vLLM, given to the real parser and configuration of every version that has a
catalogue. No GPU, no weights, no engine; attention backends and memory are not tried."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler.load import evaluate
from compiler.lower_vllm import lower_vllm
from compiler.models import TABLE
from compiler.plan import make_plan
from compiler.spec.policy import ModelFacts
from compiler.validate import validate
from compiler.vllm_flags import FOLDER, OWNED, VERSION, VERSIONS, catalogue, flag_problems
from tests.compiler.golden_cases import CASES, REPOSITORY, case_files, spec_path
from tests.targets.variants import compiled
from tests.vllm_cpu import vllm_cpu

pytestmark = [pytest.mark.consumers, pytest.mark.timeout(1800)]

READER = """
import json, os, sys
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.engine.arg_utils import AsyncEngineArgs

outer, serve = FlexibleArgumentParser(), ServeSubcommand()
serve.subparser_init(outer.add_subparsers(dest="subparser"))

def read(path):
    try:
        found = outer.parse_args(["serve", "--config", path])
        serve.validate(found)
        return found, None
    except SystemExit:
        return None, "refused by the parser"
    except Exception as error:
        return None, str(error)

def engine(found):
    # Each in a process of its own: vLLM 0.32 changes its defaults while it works out a configuration.
    into, out = os.pipe()
    if not os.fork():
        try:
            whole = AsyncEngineArgs.from_cli_args(found).create_engine_config()
            said = {
                "max-model-len": whole.model_config.max_model_len, "seed": whole.model_config.seed,
                "dtype": str(whole.model_config.dtype).removeprefix("torch."),
                "served-model-name": [whole.model_config.served_model_name],
                "generation-config": whole.model_config.generation_config,
                "logprobs-mode": whole.model_config.logprobs_mode, "enforce-eager": whole.model_config.enforce_eager,
                "max-num-seqs": whole.scheduler_config.max_num_seqs,
                "max-num-batched-tokens": whole.scheduler_config.max_num_batched_tokens,
                "enable-prefix-caching": whole.cache_config.enable_prefix_caching,
                "gpu-memory-utilization": whole.cache_config.gpu_memory_utilization,
                "tensor-parallel-size": whole.parallel_config.tensor_parallel_size,
                "enable-expert-parallel": whole.parallel_config.enable_expert_parallel,
                "architecture": whole.model_config.architecture,
            }
        except Exception as error:
            said = str(error)
        os.write(out, json.dumps(said).encode())
        os._exit(0)
    os.close(out)
    return json.loads(os.fdopen(into, "rb").read())

result = {}
for path in sys.stdin.read().split():
    found, error = read(path)
    if error is None and sys.argv[1] == "engine":
        result[path] = [json.loads(json.dumps(vars(found), default=str)), engine(found)]
    else:
        result[path] = error or json.loads(json.dumps(vars(found), default=str))
print("RESULT" + json.dumps(result))
"""


@pytest.fixture(scope="module", params=VERSIONS)
def vllm(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A version, and the Python that has it."""
    return request.param, vllm_cpu(request.param)


def run(python: Path, folder: Path, *arguments: str, given: str = "") -> str:
    ended = subprocess.run(
        [str(python), "-W", "ignore", *arguments],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CACHE_ROOT": str(folder)},
        input=given,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def read(python: Path, folder: Path, what: str, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What vLLM makes of each file, by name: a mapping, or why it is refused."""
    for name, config in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    said = run(python, folder, "-c", READER, what, given=" ".join(f"{name}.yaml" for name in files))
    return {path.removesuffix(".yaml"): one for path, one in json.loads(said.partition("RESULT")[2]).items()}


def write_model(folder: Path, facts: ModelFacts) -> None:
    """A model's ``config.json`` as Hugging Face has it; vLLM reads nothing else before it loads weights."""
    shape: dict[str, Any] = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    if facts.num_experts:
        shape = {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "num_experts": facts.num_experts,
            "num_experts_per_tok": facts.experts_per_token,
            "moe_intermediate_size": facts.expert_intermediate_size,
        }
    shape |= {
        "num_hidden_layers": facts.num_layers,
        "hidden_size": facts.hidden_size,
        "intermediate_size": facts.intermediate_size,
        "num_attention_heads": facts.num_heads,
        "num_key_value_heads": facts.num_key_value_heads,
        "head_dim": facts.head_dim,
        "vocab_size": facts.vocabulary_size,
        "max_position_embeddings": facts.max_position,
        "torch_dtype": "bfloat16",
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape))


def written() -> dict[str, dict[str, Any]]:
    """Every ``vllm.yaml`` of the golden bundles, and one of the site's on GPUs, each once."""
    files = {f"{name}-{target}": case_files(name, target)["vllm.yaml"] for name, target in CASES}
    files["site"] = compiled("site", "docker")["vllm.yaml"]
    once = {text.partition("model:")[2]: name for name, text in reversed(files.items())}
    return {name: yaml.safe_load(files[name]) for name in once.values()}


def test_the_catalogue_is_what_the_script_reads(vllm: tuple[str, Path], tmp_path: Path) -> None:
    version, python = vllm
    run(python, tmp_path, str(REPOSITORY / "scripts" / "vllm_flags.py"), "out.json")
    assert (tmp_path / "out.json").read_bytes() == (FOLDER / f"vllm-flags-{version}.json").read_bytes()


def test_vllm_makes_of_every_file_what_the_spec_says(vllm: tuple[str, Path], tmp_path: Path) -> None:
    version, python = vllm
    files = written()
    assert len(files) >= 6
    facts = {str(config["model"]): TABLE.get(config["model"], TABLE["Qwen/Qwen3-0.6B"]) for config in files.values()}
    for name, one in facts.items():
        write_model(tmp_path / name, one)  # a name of Hugging Face is also a path below the working folder
    # One more than what the model can hold: the engine's configuration looks at the model.
    beyond = {**files["dense-8gpu-local"], "max-model-len": TABLE["Qwen/Qwen3-8B"].max_position + 1}
    answers = read(python, tmp_path, "engine", {**files, "beyond": beyond})
    assert "max_position_embeddings" in answers["beyond"][1]
    for name, config in files.items():
        parsed, found = answers[name]
        wanted = {key.replace("-", "_"): value for key, value in config.items()}
        assert {key: parsed[key] for key in wanted} == wanted
        experts = "enable-return-routed-experts" in config
        if experts and version != VERSION:
            # Newer ones return experts with a runner that needs triton, and so a GPU.
            assert "requires Model Runner V2" in found
            continue
        assert isinstance(found, dict), (name, found)
        assert {key: found[key] for key in config if key in found} == {k: config[k] for k in config if k in found}
        assert found["architecture"] == ("Qwen3MoeForCausalLM" if experts else "Qwen3ForCausalLM")


NOT_ALONE = {
    "chat-template",
    "data-parallel-multi-port-external-lb",
    "enable-auto-tool-choice",
    "enable-log-outputs",
    "grpc-port",
}
"""Need another flag or a file."""
REFUSED: dict[str, dict[str, Any]] = {
    "unknown": {"kv-cache-dtyp": "fp8"},
    "choice": {"kv-cache-dtype": "fp9"},
    "number": {"block-size": "many"},
    "value": {"tokenizer": True},
    "list": {"allowed-origins": ["a", "b"]},
    "json": {"compilation-config": "level 3"},
    "positional": {"model_tag": "x"},
}
"""Here both say no."""


def samples(entry: dict[str, Any]) -> list[Any]:
    """Values that a spec might give to a flag, right and wrong."""
    choices = [choice for choice in entry["choices"] or () if choice is not None]
    kind = (entry["type"] or "").removeprefix("optional:")
    plain = choices or {"int": [7], "float": [0.5, 1], "str": ["word"]}.get(kind, [])
    return [None, True, False, *plain, plain[:2], "fp99"]


def understood(found: Any, sample: Any, *, unset: Any) -> bool:
    """Whether vLLM took the value as meant; it makes lists of single values where a flag takes several."""
    return bool(found in (sample, [sample]) if sample is not None else found == unset)


def test_vllm_takes_the_flags_that_the_compiler_takes(vllm: tuple[str, Path], tmp_path: Path) -> None:
    """And each means what the spec says: null is vLLM's default, false is false."""
    version, python = vllm
    value = evaluate(spec_path("moe-async")).value
    value["rollout"] |= {"version": version, "flags": {}}
    files = {"bare": lower_vllm(make_plan(validate(value))).tree()}
    given: dict[str, tuple[str, Any]] = {}
    refused = 0
    for name, entry in catalogue(version).items():
        if name in OWNED or name in NOT_ALONE or name == "config":
            continue
        for number, sample in enumerate(samples(entry)):
            if list(flag_problems({name: sample}, version=version)):
                refused += 1
                continue
            value["rollout"]["flags"] = {name: sample}
            case = f"{name}-{number}"
            files[case], given[case] = lower_vllm(make_plan(validate(value))).tree(), (entry["dest"], sample)
    assert len(given) > 700 and refused > 500
    assert all(list(flag_problems(one, version=version)) for one in REFUSED.values())
    files |= {case: {**files["bare"], **one} for case, one in REFUSED.items()}
    parsed = read(python, tmp_path, "parser", files)
    assert [case for case in REFUSED if not isinstance(parsed[case], str)] == []
    unset = parsed["bare"]
    wrong = {
        case: (sample, parsed[case] if isinstance(parsed[case], str) else parsed[case].get(dest))
        for case, (dest, sample) in given.items()
        if isinstance(parsed[case], str) or not understood(parsed[case].get(dest), sample, unset=unset.get(dest))
    }
    assert wrong == {}, json.dumps(wrong, indent=1)
