"""Tasks whose first prompt does not fit are found before training, and named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from runtime.config import RuntimeConfig
from runtime.errors import UserError
from runtime.laptop.compact import CHAT_TEMPLATE
from runtime.laptop.policy.tokenizer import END, PAD, ROLES
from runtime.laptop.synth import generate
from runtime.launch import rundir
from runtime.launch.phases import PreparedTasks
from runtime.launch.prompt_length import leave_out_long, refuse_long
from runtime.launch.rundir import RunDirectory
from runtime.task import Task, load_task
from runtime.telemetry.progress import Progress


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    return [load_task(path) for path in generate(3, seed=5, split="train", out=tmp_path / "tasks")]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run whose policy has one token per byte."""
    run = rundir.create(tmp_path / "runs", experiment="x", target="local")
    run.policy.mkdir()
    special = [PAD, END, *ROLES.values()]
    letters = {letter: at for at, letter in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(run.policy / "tokenizer.json"))
    (run.policy / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return run


def progress() -> Progress:
    return Progress("x", console=Console(file=io.StringIO()))


def limited(config: RuntimeConfig, tokens: int) -> RuntimeConfig:
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"prompt_length": tokens})})


def test_a_long_instruction_is_left_out_and_named(
    directory: RunDirectory, tasks: list[Task], quickstart_config: RuntimeConfig
) -> None:
    long = tasks[1].model_copy(update={"instruction": "x" * 500})
    prepared = PreparedTasks({"train": [tasks[0], long]}, {"held-out": [tasks[2]]}, [])
    kept = leave_out_long(directory, limited(quickstart_config, 200), progress(), prepared)
    assert kept.train == {"train": [tasks[0]]}
    assert kept.validation == prepared.validation
    record = directory.read()
    assert record.tasks == {"train": 1, "held-out": 1}
    assert record.left_out == (f"{long.id}: first prompt too long",)


def test_a_set_that_does_not_fit_at_all_says_what_would_do(
    directory: RunDirectory, tasks: list[Task], quickstart_config: RuntimeConfig
) -> None:
    prepared = PreparedTasks({"train": tasks}, {"held-out": tasks}, [])
    with pytest.raises(UserError, match=r"prompt_length: 8 tokens.* every task of 'train' .*would do for all"):
        leave_out_long(directory, limited(quickstart_config, 8), progress(), prepared)


def test_the_tokenizer_alone_tells(
    directory: RunDirectory, tasks: list[Task], quickstart_config: RuntimeConfig
) -> None:
    """Before the warm start there are no weights yet."""
    prepared = PreparedTasks({"train": tasks}, {"held-out": tasks}, [])
    refuse_long(directory.policy, limited(quickstart_config, 200), prepared)
    with pytest.raises(UserError, match=r"prompt_length: 8 tokens.* every task of 'train' .*would do for all"):
        refuse_long(directory.policy, limited(quickstart_config, 8), prepared)
