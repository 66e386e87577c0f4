"""A task, a configuration, and services around a scripted engine, with real proxy, sandboxes and verifier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from runtime.agent_loop.services import Services, open_services
from runtime.agent_loop.types import TrialKey
from runtime.config import (
    DirectorySource,
    Environment,
    ImportedScaffold,
    PretrainedPolicy,
    Proxy,
    RuntimeConfig,
    TaskSet,
    TorchRollout,
)
from runtime.proxy.codec import load_codec
from runtime.task import LiverlTable, Task, load_task
from runtime.tasks.write import write_task
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.proxy.tiny_model import write_model

BROKEN = b"def add(a, b):\n    return a - b\n"
REPAIRED = b"def add(a, b):\n    return a + b\n"
TEST = b"from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
TEST_ID = "tests/test_calc.py::test_add"


def make_task(folder: Path, name: str = "calc") -> Task:
    path = write_task(
        folder,
        name=name,
        instruction="Repair calc.add.",
        repository={"calc.py": BROKEN},
        solution={"calc.py": REPAIRED},
        tests={"tests/test_calc.py": TEST},
        liverl=LiverlTable(fail_to_pass=(TEST_ID,), artifacts=("calc.py",)),
        git_history=False,
    )
    return load_task(path)


def make_config(*, environment: dict[str, Any] | None = None, **rollout: Any) -> RuntimeConfig:
    """The loop's settings with plain-process sandboxes; keywords change the rollout."""
    settings: dict[str, Any] = {
        "replicas": 1,
        "slots": 8,
        "prompt_length": 512,
        "response_length": 256,
        "max_tokens_per_turn": 32,
        "temperature": 1.0,
        "tool_parser": "hermes",
        "concurrency": 4,
        **rollout,
    }
    source = DirectorySource(paths=("unused",))
    return RuntimeConfig(
        experiment="test",
        seed=7,
        target="local",
        policy=PretrainedPolicy(path="policy"),
        train=(TaskSet(name="train", source=source),),
        validation=(TaskSet(name="held-out", source=source, temperature=0.0),),
        baselines=False,
        scaffold=ImportedScaffold(import_path="tests.runtime.agent_loop.agents:WordAgent"),
        environment=TypeAdapter(Environment).validate_python({"type": "process", **(environment or {})}),
        rollout=TorchRollout(**settings),
        proxy=Proxy(record_journal=False),
    )


def make_key(**changes: Any) -> TrialKey:
    return TrialKey(**{"task": "calc", "task_set": "train", "step": 3, "group": "g", "index": 0, **changes})


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer"), family="chatml")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "tasks")


Opened = Callable[..., AbstractAsyncContextManager[tuple[Services, ScriptedEngine]]]


@pytest.fixture
def opened(tokenizer_folder: Path, tmp_path: Path) -> Opened:
    """``opened(script, config)``: services around an engine that plays ``script`` (one word per reply)."""

    @asynccontextmanager
    async def open_(script: Any, config: RuntimeConfig) -> AsyncIterator[tuple[Services, ScriptedEngine]]:
        engine = ScriptedEngine(load_codec(tokenizer_folder, "hermes"), script)
        async with open_services(
            config, engine=engine, model_folder=tokenizer_folder, state=tmp_path / "state"
        ) as services:
            yield services, engine

    return open_
