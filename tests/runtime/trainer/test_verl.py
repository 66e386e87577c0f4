"""verl's own trainer, unmodified, on CPU: the examples' compiled bundles, a random policy, a handful of tasks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from compiler import compile_spec
from runtime.config import RuntimeConfig, load_runtime_config
from runtime.errors import RunError, UserError
from runtime.launch.whole import whole
from runtime.processes import marked
from runtime.rollouter.buffer import DataBuffer
from runtime.run_paths import WORKER, RunPaths
from runtime.trainer import environment, process, stable
from runtime.trainer.dataset import write_dataset
from runtime.trainer.rows import read_rows
from tests.runtime.agent_loop.conftest import make_task
from tests.runtime.proxy.tiny_model import MIXTURE, write_policy

pytestmark = [pytest.mark.verl, pytest.mark.torch, pytest.mark.sandbox, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[3]
GLOO = "tests.runtime.trainer.cuda.gloo_engine"
PROMPTS, GROUP = 2, 4
SMALL = [
    f"data.train_batch_size={PROMPTS}",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
    f"actor_rollout_ref.rollout.n={GROUP}",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    "trainer.test_freq=-1",
    "trainer.save_freq=1",
    # Not a schedule over all steps: runs of different lengths are compared.
    "actor_rollout_ref.actor.optim.lr_scheduler_type=constant",
]


CURRICULUM = {"tasks.curriculum": {"band": {"least": 0.2, "most": 0.8}, "floor": 0.3}}
BRIEF = ["trainer.val_before_train=False", "trainer.save_freq=3"]
CRITIC = [f"critic.ppo_mini_batch_size={PROMPTS}", "critic.ppo_micro_batch_size_per_gpu=4"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of a few ten thousand parameters with the small policy's tokenizer."""
    return write_policy(tmp_path_factory.mktemp("policy"), family="compact")


def make_run(
    folder: Path, policy: Path, example: str, *, agent: str = "ParityAgent", fields: dict[str, Any] | None = None
) -> Path:
    """A run directory as the launcher would have prepared it, from the example's compiled bundle for this machine.
    ``fields`` of the spec, in place of the example's."""
    (folder / "bundle").mkdir(parents=True)
    if fields is None:
        source = ROOT / "golden" / example
    else:
        source = folder / "compiled"
        small = {"schedule.train_batch_size": PROMPTS, "schedule.mini_batch_size": PROMPTS, **fields}
        sets = [f"{name}={orjson.dumps(value).decode()}" for name, value in small.items()]
        compile_spec(ROOT / "specs" / f"{example}.jsonnet", out=source, sets=sets)
    (folder / "bundle" / "verl.yaml").write_bytes((source / "verl.yaml").read_bytes())
    raw = load_runtime_config(source / "runtime.json").model_dump(mode="json")
    raw["scaffold"] = {"type": "import", "import_path": f"tests.runtime.agent_loop.agents:{agent}"}
    raw["rollout"] |= {"slots": 8, "concurrency": 8, "max_tokens_per_turn": 16}
    config = RuntimeConfig.model_validate_json(orjson.dumps(raw))
    (folder / "bundle" / "runtime.json").write_text(config.model_dump_json())
    (folder / "policy").symlink_to(policy)
    tasks = [make_task(folder / "tasks", f"task-{index}") for index in range(4)]
    validation = {one.name: tasks[:2] for one in config.validation}
    write_dataset(folder, config, {"train": tasks}, validation)
    return folder


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' agent must be importable in the trainer's processes; the product itself is installed."""
    original = environment.trainer_environment

    def with_tests(run: Path, **settings: Any) -> dict[str, str]:
        return {**original(run, **settings), "PYTHONPATH": str(ROOT)}

    monkeypatch.setattr(process, "trainer_environment", with_tests)


def rows(run: Path) -> dict[int, dict[str, Any]]:
    lines = RunPaths(run).metrics.read_bytes().splitlines()
    found = [(row["step"], row["data"]) for row in map(orjson.loads, lines)]
    assert len({step for step, _ in found}) == len(found), "a step was reported twice"
    return dict(found)


def check_steps(run: Path, *, last: int, whole: bool = True) -> dict[int, dict[str, Any]]:
    """What must hold on every step of every run. ``whole``: a step plays what it trains."""
    found = rows(run)
    assert sorted(found) == list(range(last + 1))
    for step, data in found.items():
        assert data["weights/version"] == step and data["weights/mismatches"] == 0
        assert data["weights/replicas_verified"] == 2
        if step == 0:
            continue
        assert data["training/rollout_probs_diff_max"] <= 1e-4
        assert data["training/off_policy/trajectory_staleness/max"] == 0
        assert data["weights/served_min"] == data["weights/served_max"] == step - 1
        trials = data["agent_loop/trials"]
        assert (trials == PROMPTS * GROUP if whole else trials >= PROMPTS * GROUP) and data["agent_loop/ungraded"] == 0
        assert data["integrity/isolated_ratio"] == 1.0 and data["timing_s/agent_loop/harbor_verifier/mean"] > 0
    return found


def traces(run: Path) -> list[object]:
    left: list[object] = [path for path in (environment.ray_dir(run), RunPaths(run).state) if path.exists()]
    mounts = Path("/proc/mounts").read_text().count(str(run))
    return left + marked(run) + ([f"{mounts} mounts"] if mounts else [])


def killed_in_step_two(run: Path) -> dict[int, dict[str, Any]]:
    """Train in a process of its own, kill it after two steps; the rows until then."""
    launcher = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from runtime.trainer import environment, process
original = environment.trainer_environment
process.trainer_environment = lambda *a, **k: {{**original(*a, **k), "PYTHONPATH": {str(ROOT)!r}}}
process.train(Path({str(run)!r}), overrides={[*SMALL, "trainer.total_training_steps=50"]!r})
"""
    child = subprocess.Popen([sys.executable, "-c", launcher])
    try:
        while not RunPaths(run).metrics.exists() or max(rows(run), default=0) < 2:
            assert child.poll() is None, RunPaths(run).trainer_log.read_text()[-3000:]
            time.sleep(0.05)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    return rows(run)


def headless_after_step_two(run: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Train, and kill the head service of the run's Ray after two steps: a failure with its cause, and nothing left.
    Returns the newest step that was reported."""
    monkeypatch.setattr(environment, "HEAD_LOST_SEC", 5)
    killed = list[int]()

    def kill() -> None:
        while not RunPaths(run).metrics.exists() or max(rows(run), default=0) < 2:
            time.sleep(0.05)
        for pid in marked(run):
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/gcs_server"):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(RunError, match=r"the head service of the run's Ray \(gcs_server\) has been gone for 5 s"):
        process.train(run, overrides=[*SMALL, "trainer.total_training_steps=50"])
    assert len(killed) == 1 and traces(run) == []
    return max(rows(run))


def check_each_trained_once(run: Path) -> None:
    """Every trial that ever counted is of a group that was taken, each in one step, or was left out for want of signal
    or because its step was full; no two of a step have one seed."""
    buffer = DataBuffer(RunPaths(run).groups_journal)
    groups = buffer.groups()
    steps = Counter(step for _, state, step in groups if state == "taken")
    assert steps == dict.fromkeys(range(1, max(rows(run)) + 1), PROMPTS)
    assert not buffer.lost and buffer.stats().keys() <= {"taken", "dropped", "open", "lost_trials"}
    kept = [(group.state, sorted(group.trials)) for group in buffer._groups.values() if group.trials]
    assert all(trials == list(range(GROUP)) or state == "dropped" for state, trials in kept)
    assert {state for state, _ in kept} <= {"taken", "dropped"}
    assert sum(state == "taken" for state, _ in kept) == PROMPTS * len(steps)
    for step in steps:
        ended = sum(state != "open" and at == step for _, state, at in groups)
        trials = played(run, step)
        assert PROMPTS * GROUP <= len(trials) <= ended * GROUP, f"step {step}: a trial is missing, or was played twice"
        assert len({seed for _, _, seed, _ in trials}) == len(trials), f"step {step}: a group is another's copy"


def played(run: Path, step: int) -> list[tuple[str, int, int, float]]:
    """Task, index, seed and reward of a step's trials."""
    records = [orjson.loads(path.read_bytes()) for path in (RunPaths(run).trials / str(step)).glob("*/trial.json")]
    return sorted((one["task"], one["index"], one["sampling"]["seed"], one["reward"]) for one in records)


def test_grpo_learns_through_the_whole_line_and_survives_a_kill(tmp_path: Path, policy: Path) -> None:
    run = make_run(tmp_path / "run", policy, "quickstart", fields=CURRICULUM)
    before = killed_in_step_two(run)
    killed_at = max(before)

    last = killed_at + 2
    process.train(run, resume=True, overrides=[*SMALL, f"trainer.total_training_steps={last}"])
    found = check_steps(run, last=last)
    again = read_rows(RunPaths(run).rows_file("verl", attempt=1))
    resumed = min(step for step, data in again if "training/global_step" in data) - 1
    assert killed_at - 1 <= resumed <= killed_at + 1, "more than the step in flight was lost"
    assert {step: found[step] for step in before if step <= resumed - 1} == {
        step: before[step] for step in before if step <= resumed - 1
    }
    for name in ("held-out", "held-out-sampled"):
        assert 0.0 <= found[0][f"val-core/{name}/reward/mean@1"] <= 1.0
    for data in list(found.values())[1:]:
        assert sum(data[f"curriculum/{name}"] for name in ("below", "within", "above")) == 4
    assert 0 < len(orjson.loads(RunPaths(run).curriculum.read_bytes())["tasks"]) <= 4
    fingerprints = [found[step]["weights/fingerprint"] for step in found]
    assert len(set(fingerprints)) > 1, "no update changed the weights"

    checkpoints = RunPaths(run).checkpoints
    assert stable.stable_steps(checkpoints)[-1] == last
    from transformers import AutoModelForCausalLM

    from runtime.laptop.engine.weights import Architecture, state_fingerprint

    saved = stable.step_folder(checkpoints, last) / "actor" / "huggingface"
    model = AutoModelForCausalLM.from_pretrained(saved)
    architecture = Architecture.from_config(orjson.loads((saved / "config.json").read_bytes()))
    assert state_fingerprint(architecture, model.state_dict()) == fingerprints[-1]

    trials = [path.parent for path in (RunPaths(run).trials / str(last)).glob("*/trial.json")]
    assert len(trials) == PROMPTS * GROUP
    record = orjson.loads((trials[0] / "trial.json").read_bytes())
    assert record["isolation"] == "bubblewrap" and record["weight_versions"] == {"min": last - 1, "max": last - 1}
    assert traces(run) == []
    check_asynchronous(tmp_path / "asynchronous", policy, fingerprints=fingerprints[1:4])


def check_asynchronous(run: Path, policy: Path, *, fingerprints: list[str]) -> None:
    """Without staleness, separate_async makes the weights of sync, of a run that was killed and resumed at that: same
    seed, same samples, same parameters, bit for bit. They travel as between two GPUs, gloo in NCCL's place."""
    mode = {"type": "separate_async", "warmup_batches": 0, "max_staleness": 1, "sync_every": 1}
    make_run(run, policy, "quickstart", fields={"mode": mode, **CURRICULUM})
    engine = "actor_rollout_ref.rollout.checkpoint_engine"
    transfer = [f"{engine}.backend=liverl_gloo", f"++{engine}.custom_backend_module={GLOO}"]
    process.train(run, overrides=[*SMALL, *BRIEF, *transfer, f"trainer.total_training_steps={len(fingerprints)}"])
    found = rows(run)
    for step, fingerprint in enumerate(fingerprints, start=1):
        assert found[step]["weights/fingerprint"] == fingerprint, f"step {step}"
        assert found[step]["training/off_policy/trajectory_staleness/max"] == 0
        assert found[step]["training/rollout_probs_diff_max"] <= 1e-4
    assert traces(run) == []


def test_adapters_alone_are_trained_kept_and_resumed_on_another_machine(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained by two ranks, each of which holds half of every tensor, and each of which sends what its trajectories
    begin with alike through the model once; without groups that teach nothing, of tasks that a curriculum chooses. The
    first machine loses the head of its Ray."""
    from runtime.laptop.engine.weights import Weights
    from runtime.rollouter.fingerprint import fingerprint

    lora = {"rank": 4, "alpha": 8, "target_modules": ["q_proj", "o_proj", "down_proj"]}
    fields = {"policy": {"type": "pretrained", "path": str(policy), "lora": lora}, "trainer.ranks_per_node": 2}
    fields |= {"trainer.attention": "varlen", "trainer.share_prefixes": True}
    fields |= {"algorithm.drop_uniform_groups": True, **CURRICULUM}
    first = make_run(tmp_path / "first" / "run", policy, "quickstart", fields=fields)
    killed_at = headless_after_step_two(first, monkeypatch)
    saved = stable.stable_steps(RunPaths(first).checkpoints)[-1]

    # What is carried over is the run's folder; the model is there already, in another place.
    run = Path(shutil.copytree(first, tmp_path / "second" / "run", symlinks=True))
    model = shutil.copytree(policy, tmp_path / "second" / "model")
    (run / "policy").unlink()
    (run / "policy").symlink_to(model)
    last = max(killed_at, saved) + 1
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-4] + bytes(4))
    with pytest.raises(UserError, match="other weights than the model that the adapter of global_step_"):
        process.train(run, resume=True, overrides=SMALL)
    (model / "model.safetensors").write_bytes(weights)
    process.train(run, resume=True, overrides=[*SMALL, f"trainer.total_training_steps={last}"])

    found = check_steps(run, last=last, whole=False)
    check_each_trained_once(run)
    assert len({data["weights/fingerprint"] for data in found.values()}) > 2, "no update changed the policy"
    assert all(data["actor/forwarded_tokens_share"] < 0.9 for step, data in found.items() if step)
    begun = fingerprint(Weights.load(policy).named_tensors())
    assert found[0]["weights/fingerprint"] == begun, "an adapter changes nothing before its first update"
    for step in stable.stable_steps(RunPaths(run).checkpoints):
        actor = stable.step_folder(RunPaths(run).checkpoints, step) / "actor"
        made = whole(actor / "huggingface", tmp_path / f"whole-{step}")
        # The base is as it was, and what the adapter makes of it is what was served.
        assert fingerprint(Weights.load(made).named_tensors()) == found[step]["weights/fingerprint"]
        sizes = sum(path.stat().st_size for path in actor.glob("*.safetensors"))
        shares = [path.stat().st_size for path in actor.glob("model_world_size_2_rank_?.pt")]
        assert len(shares) == 2 and sizes + sum(shares) < len(weights) / 3
    assert traces(run) == []


def test_rollouts_go_on_while_the_trainer_trains(tmp_path: Path) -> None:
    """colocate_async, a batch ahead: trials in flight are held for an update and go on under the new weights. The
    policy is a mixture, trained with the experts that its rollout chose: the trainer would refuse a batch without."""
    policy = write_policy(tmp_path / "mixture", family="compact", kind="Qwen3Moe", **MIXTURE)
    mode = {"type": "colocate_async", "warmup_batches": 1, "max_staleness": 2}
    fields = {"mode": mode, "policy": {"type": "pretrained", "path": str(policy)}, "routing_replay": "R3"}
    run = make_run(tmp_path / "run", policy, "quickstart", fields=fields)
    process.train(run, overrides=[*SMALL, *BRIEF, "trainer.total_training_steps=3"])
    found = rows(run)
    assert sorted(found) == [1, 2, 3]
    for step, data in found.items():
        assert data["weights/mismatches"] == 0 and data["training/refilled_groups"] == 0
        assert data["training/off_policy/trajectory_staleness/max"] <= 1, f"step {step}: the bound of the spec"
        assert data["training/rollout_actor_probs_pearson_corr"] >= 0.99, f"step {step}"
    buffer = DataBuffer(RunPaths(run).groups_journal)
    taken = [(step, slot.step) for slot, state, step in buffer.groups() if state == "taken"]
    # Each batch but the first was given out a step before it was trained.
    assert sorted(taken) == [(1, 1), (1, 1), (2, 1), (2, 1), (3, 2), (3, 2)]
    assert not buffer.lost
    assert traces(run) == []


def test_several_workers_of_which_one_is_killed_in_mid_step(tmp_path: Path, policy: Path) -> None:
    """No sample is lost or doubled, the run goes on, and nothing of the dead worker is left while it does. By PPO's
    compiled bundle, whose critic shares the actor's process."""
    run = make_run(tmp_path / "run", policy, "quickstart-ppo", fields={"rollout.agent_loop": {"workers": 2}})
    paths, killed = RunPaths(run), list[str]()

    def kill() -> None:
        """Worker 1, as soon as it plays a trial of the first step."""
        journal = paths.path / "journal" / "proxy-000-worker-1.jsonl"
        while not journal.exists() or b".train-" not in journal.read_bytes():
            time.sleep(0.01)
        for pid in marked(run):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            name = next((one.decode() for one in environment if one.startswith(f"{WORKER}=1.".encode())), None)
            if name and b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                killed.append(name.partition("=")[2])

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    process.train(run, overrides=[*SMALL, *CRITIC, "trainer.total_training_steps=2", "trainer.save_freq=2"])
    found = check_steps(run, last=2)
    assert all("critic/vf_loss" in found[step] for step in (1, 2))
    assert killed == ["1.1"]
    assert found[2]["agent_loop/worker_restarts"] == 1
    assert found[1]["agent_loop/handed_over"] >= 1
    buffer = DataBuffer(paths.groups_journal)
    assert [(state, step) for _, state, step in buffer.groups()] == [("taken", 1)] * 2 + [("taken", 2)] * 2
    for step in (1, 2):
        records = [orjson.loads(path.read_bytes()) for path in (paths.trials / str(step)).glob("*/trial.json")]
        slots = {(one["group"], one["index"]) for one in records}
        assert len(slots) == len(records) == PROMPTS * GROUP, "a trial was played to its end twice"
    assert {path.name for path in (paths.path / "journal").glob("proxy-*")} == {
        f"proxy-000-worker-{number}.jsonl" for number in range(2)
    }
    assert traces(run) == []


def test_a_run_whose_agents_all_die_stops_and_says_why(tmp_path: Path, policy: Path) -> None:
    """The last batch too: nobody asks for another one then, and verl itself ends well."""
    run = make_run(tmp_path / "run", policy, "quickstart", agent="DyingAgent")
    with pytest.raises(RunError, match=r"every agent died \(8 of 8 trials\); most often: exit code 7"):
        overrides = ["trainer.total_training_steps=1", "trainer.val_before_train=False", "trainer.save_freq=-1"]
        process.train(run, overrides=[*SMALL, *overrides])
    assert traces(run) == []


def test_remax_rolls_out_a_greedy_baseline_for_every_prompt(tmp_path: Path, policy: Path) -> None:
    """With the loss of GSPO's compiled bundle: advantages and losses know nothing of each other."""
    run = make_run(tmp_path / "run", policy, "quickstart-gspo")
    assert "loss_mode: gspo" in (run / "bundle" / "verl.yaml").read_text()
    estimator = "algorithm.adv_estimator=liverl_remax"
    process.train(run, overrides=[*SMALL, estimator, "trainer.total_training_steps=2", "trainer.save_freq=-1"])
    found = check_steps(run, last=2)
    for step in (1, 2):
        assert found[step]["remax/baselines_missing"] == 0 and 0 <= found[step]["remax/baseline_mean"] <= 1
        # The mean over trajectories of reward minus baseline: every prompt has a group of the same size.
        scores, baseline = found[step]["critic/score/mean"], found[step]["remax/baseline_mean"]
        assert found[step]["critic/advantages/max"] <= 1
        assert abs(scores - baseline) <= 1
        greedy = [path for path in (RunPaths(run).trials / str(step)).iterdir() if "-greedy." in path.name]
        assert len(greedy) == PROMPTS
        for trial in greedy:
            assert orjson.loads((trial / "trial.json").read_bytes())["sampling"]["temperature"] == 0.0
    assert traces(run) == []


def test_a_critic_learns_beside_rollouts_on_hardware_of_their_own(tmp_path: Path, policy: Path) -> None:
    mode = {"type": "separate_async", "warmup_batches": 1, "max_staleness": 2, "sync_every": 1}
    run = make_run(tmp_path / "run", policy, "quickstart-ppo", fields={"mode": mode})
    process.train(run, overrides=[*SMALL, *BRIEF, *CRITIC, "trainer.total_training_steps=3"])
    found = rows(run)
    assert sorted(found) == [1, 2, 3]
    for data in found.values():
        assert data["weights/mismatches"] == 0 and "critic/vf_loss" in data
        assert data["training/off_policy/trajectory_staleness/max"] <= 2, "the bound of the spec"
    assert traces(run) == []
