"""verl itself judges the compiled configuration: Hydra composition, validate_config, every dataclass, and the names
in its registries."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from compiler import compile_in_memory
from compiler.bundle import write_files
from compiler.lower_algorithm import RENAMED_ESTIMATORS, UNSERVED_ESTIMATORS
from compiler.lower_verl import TORCH_CHECKPOINT_ENGINE, TORCH_ROLLOUT
from compiler.plan import make_plan
from compiler.spec.algorithm import KlEstimator, LossAggregation
from compiler.validate import validate
from tests.compiler.golden_cases import CASES, EXAMPLES, ON_GPUS, case_files, spec_path
from tests.compiler.test_axes import ALGORITHMS, LOSSES

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]

ALPHABET_SIZE = 256
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose policy is a tiny random Qwen2 with a byte-level tokenizer: verl reads its config and
    tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config

    folder = tmp_path_factory.mktemp("run")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    config = Qwen2Config(
        vocab_size=ALPHABET_SIZE + 2,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        architectures=["Qwen2ForCausalLM"],
    )
    config.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    return folder


@pytest.fixture
def compose(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: folder of a bundle -> the configuration as verl's main gets it."""
    import hydra

    monkeypatch.setenv("LIVERL_RUN_DIR", str(run_dir))
    monkeypatch.setenv("LIVERL_RAY_DIR", str(run_dir / "ray"))
    found = importlib.util.find_spec("verl")
    assert found is not None and found.origin is not None
    verl_config = Path(found.origin).parent / "trainer" / "config"

    def composed(folder: Path) -> Any:
        with hydra.initialize_config_dir(config_dir=str(folder), version_base=None):
            return hydra.compose(config_name="verl", overrides=[f"hydra.searchpath=[file://{verl_config}]"])

    return composed


def accept(config: Any) -> None:
    """Everything that verl checks before it starts, and the dataclasses that it builds later."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    OmegaConf.resolve(config)
    with contextlib.redirect_stdout(io.StringIO()):
        validate_config(config, need_reference_policy(config), need_critic(config))
        parts = ["actor_rollout_ref.rollout", "actor_rollout_ref.model", "algorithm", "actor_rollout_ref.actor"]
        for part in [*parts, *(["critic"] if need_critic(config) else [])]:
            omega_conf_to_dataclass(OmegaConf.select(config, part))


@pytest.mark.parametrize(("name", "target"), [case for case in CASES if case[0] not in ON_GPUS])
def test_verl_accepts_every_golden_configuration(compose: Any, name: str, target: str, tmp_path: Path) -> None:
    write_files(tmp_path, case_files(name, target))
    from verl.utils.import_utils import load_class_from_fqn

    config = compose(tmp_path)
    accept(config)
    manager = load_class_from_fqn(config.actor_rollout_ref.rollout.agent.agent_loop_manager_class)
    assert callable(manager.create) and callable(manager.generate_sequences)
    assert (
        config.trainer.total_training_steps
        == json.loads(case_files(name, target)["resolved.json"])["schedule"]["steps"]
    )


VARIANTS = {
    "colocate_async": {"mode": {"type": "colocate_async"}},
    "separate_async": {"mode": {"type": "separate_async", "sync_every": 1}},
    "separate_async in four": {"mode": {"type": "separate_async", "sync_every": 4}, "schedule.mini_batch_size": 4},
    "KL loss": {"algorithm.kl": {"type": "loss", "coefficient": 0.001}},
    "KL reward": {"algorithm.kl": {"type": "reward", "coefficient": 0.001}},
    "dashboard": {"observability": {"dashboard": {"port": 8300}}},
    "vllm": {
        "rollout.type": "vllm",
        "rollout.replicas": 4,
        "rollout.tensor_parallel_size": 2,
        "trainer.device": "cuda",
        "trainer.ranks_per_node": 8,
        "trainer.precision": "bf16",
        "trainer.attention": "flash_attention_2",
        "algorithm.drop_uniform_groups": True,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_verl_accepts_the_other_variants(compose: Any, quickstart: Any, tmp_path: Path, variant: str) -> None:
    from compiler.check import check
    from compiler.emit import to_yaml
    from compiler.lower_verl import lower_verl

    for path, new in VARIANTS[variant].items():
        node = quickstart
        *parents, last = path.split(".")
        for part in parents:
            node = node[part]
        node[last] = new
    plan = make_plan(validate(quickstart))
    assert [problem for problem in check(plan) if problem.severity == "fatal"] == []
    (tmp_path / "verl.yaml").write_text(to_yaml(lower_verl(plan).tree()))
    config = compose(tmp_path)
    accept(config)
    # What verl asserts only after it has started its processes.
    if config.trainer.v1.trainer_mode == "separate_async":
        rollout, separate = config.actor_rollout_ref.rollout, config.trainer.v1.separate_async
        assert (
            config.data.train_batch_size
            == separate.parameter_sync_step * config.actor_rollout_ref.actor.ppo_mini_batch_size
        )
        assert rollout.nnodes > 0 and rollout.n_gpus_per_node > 0
        assert rollout.checkpoint_engine.backend != "naive"
        assert config.actor_rollout_ref.hybrid_engine is False


@pytest.mark.parametrize("name", ON_GPUS)
def test_verl_accepts_the_examples_for_gpus(compose: Any, tmp_path: Path, name: str) -> None:
    """The whole configuration, with a tiny model in the place of the large one: verl reads its config and tokenizer."""
    from compiler.emit import to_yaml
    from compiler.load import evaluate
    from compiler.lower_verl import RUN_DIR, lower_verl

    plan = make_plan(validate(evaluate(spec_path(name)).value))
    facts = lower_verl(plan)
    for model in ("actor_rollout_ref.model", "critic.model"):
        if f"{model}.path" in facts:
            facts.replace(f"{model}.path", lambda: f"{RUN_DIR}/policy", why="nothing is fetched")
    (tmp_path / "verl.yaml").write_text(to_yaml(facts.tree()))
    config = compose(tmp_path)
    accept(config)
    assert config.actor_rollout_ref.actor.strategy == plan.spec.trainer.type
    assert config.model_engine == {"veomni": "veomni", "megatron": "megatron"}.get(plan.spec.trainer.type, "dp")


def test_our_names_are_verls_names() -> None:
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.workers.config import ActorConfig

    from runtime.trainer.estimators import REMAX

    estimators = {RENAMED_ESTIMATORS.get(name, name) for name in ALGORITHMS}
    assert RENAMED_ESTIMATORS["remax"] == REMAX and REMAX in estimators
    # Ours is in the registry because it was imported; verl's own entry of that name cannot run.
    assert estimators | set(UNSERVED_ESTIMATORS) | {"remax"} == set(core_algos.ADV_ESTIMATOR_REGISTRY)
    assert not estimators & set(UNSERVED_ESTIMATORS)
    # GSPO's comes with the algorithm, bypass_mode with the correction.
    assert {*LOSSES, "gspo", "bypass_mode"} == set(core_algos.POLICY_LOSS_REGISTRY)
    for mode in ("sync", "colocate_async", "separate_async"):
        assert get_trainer_cls(mode)
    for aggregation in get_args(LossAggregation):
        ActorConfig(strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=1, loss_agg_mode=aggregation)


@pytest.mark.parametrize("name", get_args(KlEstimator))
def test_verl_computes_every_estimate_of_the_divergence(name: str) -> None:
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    torch = pytest.importorskip("torch")
    log_probs = torch.tensor([[-1.0, -2.0]])
    assert core_algos.kl_penalty(log_probs, log_probs, name).tolist() == [[0.0, 0.0]]
    with pytest.raises(NotImplementedError):
        core_algos.kl_penalty(log_probs, log_probs, "full")


@pytest.mark.parametrize("name", ["remax", *sorted(UNSERVED_ESTIMATORS)])
def test_what_is_left_out_fails_in_verl(name: str) -> None:
    """With exactly what the V1 trainer fetches for advantages. Passing here one day means that the spec can have it."""
    import inspect
    import re

    import numpy as np
    import torch
    from verl import DataProto
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo.v1 import trainer_base
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    found = re.search(r"def _compute_advantage.*?fields = \[(.*?)\]", inspect.getsource(trainer_base), re.DOTALL)
    assert found is not None
    fetched = set(re.findall(r'"(\w+)"', found[1])) - {"uid"}
    assert {"response_mask", "rm_scores", "old_log_probs"} <= fetched
    tensors = {field: torch.rand(4, 3) for field in fetched}
    tensors |= {"response_mask": torch.ones(4, 3), "token_level_rewards": torch.rand(4, 3)}

    def advantages(estimator: str) -> Any:
        data = DataProto.from_single_dict({**tensors, "uid": np.array(["a", "a", "b", "b"], dtype=object)})
        keys = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
        config = AlgoConfig(gdpo_reward_keys=["solved"])
        return compute_advantage_for_multi_trajectories(data, batch_keys=keys, adv_estimator=estimator, config=config)

    assert advantages("rloo").batch["advantages"].shape == (4, 3)
    with pytest.raises((AssertionError, TypeError, KeyError), match=r"baselines|sum_pi_squared|reward key|prompts"):
        advantages(name)


def test_the_plug_in_registers_the_names_that_the_compiler_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    from verl.checkpoint_engine import CheckpointEngineRegistry
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    import runtime.laptop.verl_cpu as plug_in

    assert plug_in.replica.ROLLOUT_NAME == TORCH_ROLLOUT
    assert RolloutReplicaRegistry.get(TORCH_ROLLOUT)
    assert CheckpointEngineRegistry.get(TORCH_CHECKPOINT_ENGINE)


def test_samplers_exist() -> None:
    from verl.utils.import_utils import load_extern_type

    for name in ("PromptReplayBuffer", "PromptReplayBufferAsync"):
        assert load_extern_type("pkg://runtime.trainer.sampler", name)


def test_main_ppo_reads_the_bundle_as_it_is_started(run_dir: Path, tmp_path: Path) -> None:
    """The command line of the trainer itself: ``--config-dir BUNDLE --config-name verl``, from an empty working
    directory."""
    import os
    import subprocess
    import sys

    write_files(tmp_path / "bundle", case_files("quickstart", "local"))
    environment = {**os.environ, "LIVERL_RUN_DIR": str(run_dir), "LIVERL_RAY_DIR": str(run_dir / "ray")}
    folder = run_dir / "cwd"
    folder.mkdir()
    done = subprocess.run(
        [
            *[sys.executable, "-m", "verl.trainer.main_ppo"],
            *["--config-dir", str(tmp_path / "bundle"), "--config-name", "verl"],
            *["--cfg", "job", "--resolve", "--package", "actor_rollout_ref.rollout"],
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "LiverlAgentLoopManager" in done.stdout
    assert f"{run_dir}/state/router.yaml" in done.stdout
    assert list(folder.iterdir()) == []


def test_the_specs_of_the_cases_exist() -> None:
    assert all(spec_path(name).is_file() for name, _ in CASES)


@pytest.mark.parametrize("name", ["one-gpu", *EXAMPLES])
def test_rays_cpus_are_enough_for_the_bundles_that_verl_places(name: str) -> None:
    """verl reserves three beside every GPU; a node with fewer would wait for ever."""
    from verl.single_controller.ray.base import ResourcePoolManager

    each = ResourcePoolManager.max_colocate_count
    tree = yaml.safe_load(compile_in_memory(spec_path(name), target="local").files["verl.yaml"])
    trainer, rollout = tree["trainer"], tree["actor_rollout_ref"]["rollout"]
    gpus = trainer["nnodes"] * trainer["n_gpus_per_node"] + rollout.get("nnodes", 0) * rollout.get("n_gpus_per_node", 0)
    assert tree["ray_kwargs"]["ray_init"]["num_cpus"] >= each * gpus + 8
