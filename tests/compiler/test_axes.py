"""Every choice of the spec's axes reaches verl's configuration under the name that verl gives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from compiler.errors import SpecError
from compiler.load import evaluate
from compiler.lower_algorithm import RENAMED_ESTIMATORS, UNSERVED_ESTIMATORS
from compiler.lower_verl import lower_verl
from compiler.plan import make_plan
from compiler.spec.algorithm import Algorithm, Loss
from compiler.validate import validate
from tests.compiler.golden_cases import spec_path


def tags(union: Any) -> set[str]:
    """Every ``type`` of a discriminated union."""
    models = get_args(get_args(union)[0])
    return {tag for model in models for tag in get_args(model.model_fields["type"].annotation)}


ALGORITHMS = sorted(tags(Algorithm))
LOSSES = sorted(tags(Loss))


@pytest.fixture(scope="session")
def _dense() -> str:
    return json.dumps(evaluate(spec_path("dense-8gpu")).value)


@pytest.fixture
def dense(_dense: str) -> Any:
    return json.loads(_dense)


def tree(value: Any) -> Any:
    plan = make_plan(validate(value))
    return lower_verl(plan).tree()


@pytest.mark.parametrize(("save_every", "save_freq"), [(0, 200), (20, 20)])
def test_the_last_step_is_always_saved(dense: Any, save_every: int, save_freq: int) -> None:
    """With -1 verl would save none at all."""
    dense["schedule"] |= {"steps": 200, "save_every": save_every}
    assert tree(dense)["trainer"]["save_freq"] == save_freq


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms(dense: Any, name: str) -> None:
    critic = {"critic": {"learning_rate": 1e-5}} if name == "ppo" else {}
    dense["algorithm"] = {"type": name, "group_size": 8, **critic}
    found = tree(dense)
    assert found["algorithm"]["adv_estimator"] == RENAMED_ESTIMATORS.get(name, name)
    assert found["algorithm"]["adv_estimator"] not in UNSERVED_ESTIMATORS
    assert ("critic" in found) == (name == "ppo")
    loss = found["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"]
    assert loss == ("gspo" if name == "gspo" else "vanilla")


@pytest.mark.parametrize("name", LOSSES)
def test_losses(dense: Any, name: str) -> None:
    dense["algorithm"]["loss"] = {"type": name, **({"beta": 0.5} if name == "dro" else {})}
    actor = tree(dense)["actor_rollout_ref"]["actor"]
    assert actor["policy_loss"]["loss_mode"] == name
    if name == "dro":
        assert actor["policy_loss"]["dro_beta"] == 0.5
    if name == "sapo":
        assert (actor["tau_pos"], actor["tau_neg"]) == (1.0, 1.05)


def test_corrections(dense: Any) -> None:
    assert tree(dense)["algorithm"]["rollout_correction"] == {
        "rollout_is": "token",
        "rollout_is_threshold": 2.0,
        "rollout_is_batch_normalize": False,
        "rollout_rs": None,
        "bypass_mode": False,
    }
    dense["algorithm"]["correction"] = {
        "type": "bypass",
        "loss": "reinforce",
        "importance": {"lower": 0.5, "upper": 5.0},
        "rejection": [
            {"type": "seq_mean_k1", "lower": 0.999, "upper": 1.001},
            {"type": "token_k3", "upper": 0.01},
        ],
    }
    assert tree(dense)["algorithm"]["rollout_correction"] == {
        "rollout_is": "token",
        "rollout_is_threshold": "0.5_5.0",
        "rollout_is_batch_normalize": False,
        "rollout_rs": "seq_mean_k1,token_k3",
        "rollout_rs_threshold": "0.999_1.001,0.01",
        "bypass_mode": True,
        "loss_type": "reinforce",
    }


def test_lora_and_packing(dense: Any) -> None:
    dense["policy"]["lora"] = {"rank": 16, "alpha": 32}
    found = tree(dense)["actor_rollout_ref"]
    assert (found["model"]["lora_rank"], found["model"]["lora_alpha"]) == (16, 32)
    assert found["model"]["target_modules"] == "all-linear"
    assert found["actor"]["checkpoint"]["save_lora_only"] is True
    assert "hf_model" not in found["actor"]["checkpoint"]["save_contents"]
    assert found["actor"]["use_dynamic_bsz"] is True
    assert found["actor"]["ppo_max_token_len_per_gpu"] == 12288


@pytest.mark.parametrize("attention", ["sdpa", "varlen", "flash_attention_2"])
def test_sequences_are_packed_by_attention_that_can_and_logits_are_never_read_token_by_token(
    dense: Any, attention: str
) -> None:
    dense["trainer"] |= {"attention": attention, "sequence_parallel": 4 if attention == "flash_attention_2" else 1}
    model = tree(dense)["actor_rollout_ref"]["model"]
    assert model["use_remove_padding"] is (attention != "sdpa")
    own = "runtime.trainer.cuda.varlen" if attention == "varlen" else None
    assert model.get("external_lib") == own
    dense["trainer"]["share_prefixes"] = True
    shared = tree(dense)["actor_rollout_ref"]["model"].get("external_lib")
    assert attention != "varlen" or shared == "runtime.trainer.shared_prefixes"
    dense["trainer"] |= {"share_prefixes": False, "compile": True}
    compiled = tree(dense)
    assert attention != "varlen" or (
        compiled["actor_rollout_ref"]["model"]["external_lib"] == "runtime.trainer.compiled_layers"
    )
    # flash-attn brings a kernel for whole logits.
    assert model.get("use_fused_kernels", False) is (attention != "flash_attention_2")


def test_fsdp_shards_and_offloads(dense: Any) -> None:
    found = tree(dense)
    assert found["defaults"] == ["ppo_trainer", "_self_"]
    for part in ("actor", "ref"):
        engine = found["actor_rollout_ref"][part]["fsdp_config"]
        assert engine["ulysses_sequence_parallel_size"] == 4
        assert engine["param_offload"] is True
    assert "optimizer_offload" not in found["actor_rollout_ref"]["ref"]["fsdp_config"]


def test_veomni_replays_routes_on_two_machines() -> None:
    found = tree(evaluate(spec_path("moe-async")).value)
    assert found["defaults"][1] == {"override model_engine": "veomni"}
    actor, rollout = found["actor_rollout_ref"]["actor"], found["actor_rollout_ref"]["rollout"]
    assert actor["strategy"] == "veomni"
    assert actor["veomni"]["router_replay"]["mode"] == "R3"
    assert rollout["enable_rollout_routing_replay"] is True
    assert found["actor_rollout_ref"]["model"]["use_remove_padding"] is True  # verl refuses replay without
    assert (rollout["nnodes"], rollout["n_gpus_per_node"]) == (1, 8)
    assert rollout["checkpoint_engine"]["backend"] == "liverl_nccl"
    assert found["data"]["train_batch_size"] == 4 * actor["ppo_mini_batch_size"]
    assert "grad_clip" not in actor


def test_fsdp_replays_routes_by_an_engine_of_ours() -> None:
    """verl's own would ignore them: the compiler writes what puts ours in its place, for the actor alone."""
    value = evaluate(spec_path("moe-async")).value
    value["trainer"] |= {"type": "fsdp2", "device": "cuda", "attention": "varlen"}
    del value["trainer"]["expert_parallel"]
    found = tree(value)["actor_rollout_ref"]
    assert found["model"]["external_lib"] == "runtime.trainer.replay_engine"
    replay = {"_target_": "verl.workers.config.EngineRouterReplayConfig", "mode": "R3"}
    assert found["actor"]["fsdp_config"]["router_replay"] == replay
    assert "router_replay" not in found["ref"]["fsdp_config"]
    assert found["rollout"]["enable_rollout_routing_replay"] is True
    value["routing_replay"] = "off"
    found = tree(value)["actor_rollout_ref"]
    assert found["model"]["external_lib"] == "runtime.trainer.cuda.varlen"
    assert "router_replay" not in found["actor"]["fsdp_config"]


def test_megatron_parallel_sizes() -> None:
    found = tree(evaluate(spec_path("moe-megatron")).value)
    assert found["defaults"][1] == {"override model_engine": "megatron"}
    actor = found["actor_rollout_ref"]["actor"]
    engine = actor["megatron"]
    sizes = ["tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"]
    assert [engine[size] for size in sizes] == [4, 2, 2]
    assert (engine["expert_model_parallel_size"], engine["expert_tensor_parallel_size"]) == (32, 1)
    assert engine["override_transformer_config"]["recompute_granularity"] == "full"
    assert actor["optim"]["lr_decay_style"] == "constant"
    assert "override_config" not in found["actor_rollout_ref"]["model"]


def test_the_trajectory_filter_reaches_the_runtime(quickstart: Any) -> None:
    from compiler.lower_runtime import contract, lower_runtime
    from runtime.config.run import GradedEnd, TrajectoryFilter
    from runtime.errors import HANDLING

    assert set(get_args(GradedEnd)) == {end.value for end, handling in HANDLING.items() if handling.grade}
    assert TrajectoryFilter().drop == ()
    quickstart["algorithm"]["trajectory_filter"] = {"drop": ["overlong", "timeout"]}
    found = contract(lower_runtime(make_plan(validate(quickstart)), target="local"))
    assert found.trajectory_filter.drop == ("overlong", "timeout")


def test_a_filter_that_drops_everything_is_refused(quickstart: Any) -> None:
    from compiler.check import check
    from runtime.config.run import GradedEnd

    quickstart["algorithm"]["trajectory_filter"] = {"drop": list(get_args(GradedEnd))}
    fatal = [problem.path for problem in check(make_plan(validate(quickstart))) if problem.severity == "fatal"]
    assert fatal == [("algorithm", "trajectory_filter", "drop")]


@pytest.mark.parametrize("name", sorted(UNSERVED_ESTIMATORS))
def test_what_verl_cannot_run_is_refused_with_the_reason(quickstart: Any, name: str) -> None:
    quickstart["algorithm"]["type"] = name
    with pytest.raises(SpecError) as raised:
        validate(quickstart)
    (problem,) = raised.value.problems
    assert problem.path == ("algorithm", "type") and UNSERVED_ESTIMATORS[name] in problem.what
    assert "grpo" in problem.allowed


def test_an_index_with_a_band_reaches_the_runtime(quickstart: Any, tmp_path: Path) -> None:
    from compiler.check import check
    from compiler.lower_runtime import contract, lower_runtime
    from runtime.config import IndexSource
    from targets.local import TARGET

    path = tmp_path / "index.parquet"
    source = {"type": "index", "path": str(path), "pass_rate": {"least": 0.25, "most": 0.75}}
    quickstart["tasks"]["train"] = [{"name": "band", "source": source}]
    plan = make_plan(validate(quickstart))
    (kept,) = contract(lower_runtime(plan, target="local")).train
    assert isinstance(kept.source, IndexSource) and kept.source.pass_rate is not None
    assert (kept.source.pass_rate.least, kept.source.pass_rate.most) == (0.25, 0.75)
    assert [problem.path for problem in TARGET.check(plan)] == [("tasks", "train", 0, "source", "path")]
    path.touch()
    assert list(TARGET.check(plan)) == []
    source["pass_rate"] = {"least": 0.8, "most": 0.2}
    (problem,) = [one for one in check(make_plan(validate(quickstart))) if one.severity == "fatal"]
    assert problem.path == ("tasks", "train", 0, "source", "pass_rate", "least")
    source["path"] = "tasks.csv"
    with pytest.raises(SpecError, match=r"not a \.parquet file"):
        validate(quickstart)


def test_a_curriculum_draws_in_the_place_of_verls_sampler_and_is_refused_where_it_does_nothing(quickstart: Any) -> None:
    from compiler.check import check
    from compiler.lower_runtime import contract, lower_runtime
    from compiler.lower_verl import lower_verl

    def problems(**given: Any) -> list[tuple[Any, ...]]:
        quickstart["tasks"]["curriculum"] = {"band": {"least": 0.2, "most": 0.8}, **given}
        return [one.path for one in check(make_plan(validate(quickstart))) if one.severity == "fatal"]

    assert problems() == []
    for mode in ("sync", "colocate_async", "separate_async"):
        quickstart["mode"] = {"type": mode, **({"sync_every": 2} if mode == "separate_async" else {})}
        plan = make_plan(validate(quickstart))
        data = lower_verl(plan).tree()["data"]
        assert (data["shuffle"], data["custom_cls"]["name"]) == (False, "CurriculumDataset")
        found = contract(lower_runtime(plan, target="local")).curriculum
        assert found is not None and (found.band.least, found.floor) == (0.2, 0.1)
    quickstart["mode"] = {"type": "sync"}
    place, steps = ("tasks", "curriculum"), quickstart["schedule"]["steps"]
    assert problems(band={}) == [(*place, "band")]
    assert problems(band={"least": 0.9, "most": 0.1}) == [(*place, "band", "least")]
    assert problems(warmup_steps=steps) == [(*place, "warmup_steps")]
    with pytest.raises(SpecError, match="floor"):
        problems(floor=0)
    source = {"type": "index", "path": "x.parquet", "pass_rate": {"most": 0.1}}
    quickstart["tasks"]["train"] = [{"name": "band", "source": source}]
    assert problems() == [("tasks", "train", 0, "source", "pass_rate")]
    quickstart["schedule"]["steps"] = 0
    assert place in problems()


def test_remax_is_for_the_synchronous_mode(quickstart: Any) -> None:
    from compiler.check import check

    quickstart["algorithm"] = {"type": "remax", "group_size": 1}
    quickstart["trainer"]["micro_batch_size"] = 1
    assert check(make_plan(validate(quickstart))) == []
    quickstart["mode"] = {"type": "colocate_async"}
    fatal = [problem.path for problem in check(make_plan(validate(quickstart))) if problem.severity == "fatal"]
    assert fatal == [("mode", "type")]


def test_a_run_needs_its_metrics_in_a_file(quickstart: Any) -> None:
    from compiler.check import check

    quickstart["observability"] = {"loggers": ["console"]}
    fatal = [problem.path for problem in check(make_plan(validate(quickstart))) if problem.severity == "fatal"]
    assert fatal == [("observability", "loggers")]
