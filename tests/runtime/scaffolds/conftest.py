"""The small task and tokenizer that real agents work with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtime.task import Task
from tests.runtime.agent_loop.conftest import make_task
from tests.runtime.proxy.tiny_model import write_model
from tests.runtime.scaffolds.real_agents import Play, play


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer"), family="chatml")


@pytest.fixture
def calc_task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "tasks")


@pytest.fixture
def played(calc_task: Task, tokenizer: Path, tmp_path: Path) -> Callable[..., Play]:
    """``played(settings, script, ...)``: one trial of a real agent on the task ``calc``."""
    arguments: dict[str, Any] = {"task": calc_task, "tokenizer": tokenizer, "folder": tmp_path}
    return partial(play, **arguments)
