"""A task in Harbor's format, read natively: ``task.toml``, ``instruction.md``, ``environment/``, ``tests/``,
``solution/``.

LiveRL's own facts live under ``[metadata.liverl]`` of ``task.toml``, where other readers of the format ignore them.
Format reference: Harbor 0.24.0, ``harbor/models/task/config.py`` (schema_version 1.4).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.errors import Termination, TrialError


class _Table(BaseModel):
    """Harbor adds keys between versions; unknown ones are kept out of our way instead of refused."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TaskHeader(_Table):
    name: str = ""
    """Registry name ``org/name``."""
    description: str = ""


class AgentTable(_Table):
    timeout_sec: float = Field(default=600.0, gt=0)


class VerifierTable(_Table):
    timeout_sec: float = Field(default=600.0, gt=0)


class EnvironmentTable(_Table):
    docker_image: str | None = None
    cpus: float = 1
    memory_mb: int = 1024
    workdir: str = "/app"


class LiverlTable(BaseModel):
    """``[metadata.liverl]``: what LiveRL's generators record about a task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = "tasks"
    """Name under which scores are reported (``val-core/<source>/...``)."""
    fail_to_pass: tuple[str, ...] = ()
    """Test ids (``tests/test_x.py::test_y``) that fail before the repair and must pass after it."""
    pass_to_pass: tuple[str, ...] = ()
    """Test ids that pass before and must still pass."""
    test_files: tuple[str, ...] = ()
    """Files below the work directory that belong to the tests: restored from ``tests/files`` before grading, never
    taken from the agent."""
    artifacts: tuple[str, ...] = ()
    """Files or folders, relative to the work directory, that the verifier takes from the agent's sandbox. Empty: every
    file not in ``test_files``."""
    runner: str = "mini"
    """``mini``: the standard-library runner of ``runtime/grading/testkit``; ``pytest``: pytest with the task's
    image."""
    python_path: tuple[str, ...] = ()
    """Folders below the work directory that the tests import from, besides the work directory itself (``src``
    layouts)."""
    source_files: tuple[str, ...] = ()
    """Files below the work directory that an agent with structured repairs may edit: the package's own modules. Empty:
    not recorded."""
    image: str | None = None
    """Name of the prepared runtime image (folder of installed packages) that the tests need."""
    family: str = ""
    """Kind of bug, for reports."""
    split_key: str = ""
    """What train and held-out tasks must never share (function name, repository structure)."""


class TaskConfig(_Table):
    schema_version: str = "1.4"
    task: TaskHeader = TaskHeader()
    agent: AgentTable = AgentTable()
    verifier: VerifierTable = VerifierTable()
    environment: EnvironmentTable = EnvironmentTable()
    metadata: dict[str, Any] = {}


class Task(BaseModel):
    """One task directory, loaded. Immutable; ``id`` is unique within a run and safe as a file name."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    id: str
    path: Path
    instruction: str
    config: TaskConfig
    liverl: LiverlTable

    @property
    def repository(self) -> Path:
        """The pristine work directory that the agent starts from (a folder of plain files; the sandbox's lower
        layer): ``environment/repo``, or what lies loose in ``environment/`` of a task from elsewhere."""
        repository = self.path / "environment" / "repo"
        return repository if repository.is_dir() else self.path / "environment"

    @property
    def tests(self) -> Path:
        return self.path / "tests"

    @property
    def expected_ids(self) -> tuple[str, ...]:
        return self.liverl.fail_to_pass + self.liverl.pass_to_pass


def load_task(path: Path) -> Task:
    """Read one task directory. Raises ``TrialError(TASK_INVALID)`` naming the file and what is wrong with it."""
    toml = path / "task.toml"
    try:
        raw = tomllib.loads(toml.read_text(encoding="utf-8"))
        instruction = (path / "instruction.md").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TrialError(Termination.TASK_INVALID, f"{path}: no {Path(error.filename or '').name}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise TrialError(Termination.TASK_INVALID, f"{toml}: {error}") from error
    if not (path / "tests" / "test.sh").is_file():
        raise TrialError(Termination.TASK_INVALID, f"{path}: no tests/test.sh, so nothing could grade it")
    try:
        config = TaskConfig.model_validate(raw)
        table = LiverlTable.model_validate(config.metadata.get("liverl", {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TrialError(Termination.TASK_INVALID, f"{toml}: {where}: {first['msg']}") from error
    if not (path / "environment").is_dir():
        raise TrialError(Termination.TASK_INVALID, f"{path}: no environment/ folder")
    return Task(id=path.name, path=path, instruction=instruction, config=config, liverl=table)
