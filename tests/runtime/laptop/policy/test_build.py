"""A policy is built from nothing: small, but through the real Trainer, and loadable by transformers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.config import Architecture, NewPolicy, ShellScaffold, SynthSource, WarmStart
from runtime.errors import RunError, UserError
from runtime.laptop.policy.build import processes_for

POLICY = NewPolicy(
    architecture=Architecture(
        vocabulary_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_heads=2,
        num_key_value_heads=1,
        max_position=512,
    ),
    warm_start=WarmStart(
        demonstrations=SynthSource(count=60, seed=1, split="demonstrations"),
        steps=30,
        batch_size=8,
        learning_rate=3e-3,
        informed_fraction=0.3,
        observation_loss=0.1,
    ),
)


def nothing(folder: Path) -> None:
    assert (folder / "tokenizer.json").is_file() and not (folder / "model.safetensors").exists()


@pytest.mark.torch
def test_a_built_policy_loads_and_has_learnt_the_format(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from runtime.laptop.policy.build import build_policy

    said: list[str] = []
    out = tmp_path / "policy"
    shell = ShellScaffold(tools="repair", max_turns=20, max_edits=3)
    build_policy(POLICY, [], out, shell=shell, seed=0, on_progress=said.append, on_tokenizer=nothing)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.vocab_size == len(tokenizer)
    losses = [float(text.rsplit(" ", 1)[1]) for text in said if "loss" in text]
    assert losses[-1] < 0.8 * losses[0]
    assert not (out / "warm_start.json").exists()


def test_processes_divide_the_batch() -> None:
    assert 8 % processes_for(8) == 0
    assert processes_for(7) in (1, 7)
    assert processes_for(1) == 1


@pytest.mark.torch
def test_a_vocabulary_without_room_for_the_tools_is_named(tmp_path: Path) -> None:
    from runtime.laptop.policy.build import build_policy

    small = POLICY.model_copy(update={"architecture": POLICY.architecture.model_copy(update={"vocabulary_size": 270})})
    shell = ShellScaffold(tools="repair", max_turns=20, max_edits=3)
    with pytest.raises(UserError, match=r"policy\.architecture\.vocabulary_size: .* 270 is too small"):
        build_policy(
            small, [], tmp_path / "policy", shell=shell, seed=0, on_progress=lambda text: None, on_tokenizer=nothing
        )


@pytest.mark.torch
def test_a_training_process_that_dies_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.laptop.policy import build

    monkeypatch.setattr(build, "processes_for", lambda batch_size: 2)
    real = subprocess.Popen

    def rank_1_fails(command: list[str], **options: Any) -> subprocess.Popen[str]:
        fails = options["env"]["RANK"] == "1"
        return real([sys.executable, "-c", "raise SystemExit(7)"] if fails else command, **options)

    monkeypatch.setattr(build.subprocess, "Popen", rank_1_fails)
    shell = ShellScaffold(tools="repair", max_turns=20, max_edits=3)
    with pytest.raises(RunError, match=r"warm start ended with \[-9, 7\]"):
        build.build_policy(
            POLICY, [], tmp_path / "policy", shell=shell, seed=0, on_progress=lambda text: None, on_tokenizer=nothing
        )


@pytest.mark.torch
def test_a_training_process_that_does_not_end_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.laptop.policy import build

    monkeypatch.setattr(build, "processes_for", lambda batch_size: 2)
    monkeypatch.setattr(build, "LINGER_SEC", 0.2)
    real = subprocess.Popen
    children = []

    def rank_1_lingers(command: list[str], **options: Any) -> subprocess.Popen[str]:
        if options["env"]["RANK"] == "1":
            command = [sys.executable, "-c", "import time; time.sleep(300)"]
        else:
            command = [sys.executable, "-c", "print('progress 1 1 0.5')"]
        children.append(real(command, **options))
        return children[-1]

    monkeypatch.setattr(build.subprocess, "Popen", rank_1_lingers)
    shell = ShellScaffold(tools="repair", max_turns=20, max_edits=3)
    build.build_policy(
        POLICY, [], tmp_path / "policy", shell=shell, seed=0, on_progress=lambda text: None, on_tokenizer=nothing
    )
    assert [child.returncode for child in children] == [0, -9]


@pytest.mark.torch
def test_families_that_no_demonstration_has_are_named(tmp_path: Path) -> None:
    from runtime.laptop.policy.build import build_policy

    warm_start = POLICY.warm_start.model_copy(update={"informed_families": ("spelling",)})
    config = POLICY.model_copy(update={"warm_start": warm_start})
    shell = ShellScaffold(tools="repair", max_turns=20, max_edits=3)
    with pytest.raises(UserError, match=r"informed_families: none of the demonstrations is of spelling.*operator"):
        build_policy(
            config, [], tmp_path / "policy", shell=shell, seed=0, on_progress=lambda text: None, on_tokenizer=nothing
        )


@pytest.mark.torch
def test_the_same_seed_makes_the_same_policy(tmp_path: Path) -> None:
    from runtime.laptop.policy.build import build_policy

    warm = POLICY.warm_start.model_copy(update={"steps": 6})
    short = POLICY.model_copy(update={"warm_start": warm})
    shell = ShellScaffold(tools="repair", max_turns=20, max_edits=3)
    for name in ("one", "two"):
        build_policy(
            short, [], tmp_path / name, shell=shell, seed=0, on_progress=lambda text: None, on_tokenizer=nothing
        )
    for file in ("tokenizer.json", "model.safetensors"):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two, f"{file}: differs on one machine"
