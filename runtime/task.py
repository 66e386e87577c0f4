"""A task in Harbor's format, read natively: ``task.toml``, ``instruction.md``, ``environment/``, ``tests/``,
``solution/``.

LiveRL's own facts live under ``[metadata.liverl]`` of ``task.toml``, where other readers of the format ignore them.
What a task asks for and cannot have is refused here, by name and all at once. Format reference: Harbor 0.25.0,
``harbor/models/task/config.py`` (schema_version 1.4); ``task_format/keys.py`` has every key.
"""

from __future__ import annotations

import os
import posixpath
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from runtime.errors import Termination, TrialError
from runtime.oci.types import Image
from runtime.suites.base import Suite
from runtime.suites.table import PYTHON_RUNNERS, SUITES
from runtime.task_format import keys, packed
from runtime.task_format.published import Published
from runtime.task_format.task_image import ImageSource
from runtime.task_format.work_directory import WorkDirectory, work_directory

PUBLISHED = "/logs/artifacts"
"""Where an agent may put what it hands in besides the work directory."""
LOG = "log"
"""``runner`` of tasks that are judged by the log of their tests."""
_FOREIGN_FILES = {
    "task.yaml": "Terminal-Bench's older format is not read; convert it with `harbor tasks migrate`",
    "trajectory.json": "agents cannot be started in the middle of an earlier conversation",
}


class _Table(BaseModel):
    """Harbor adds keys between versions; unknown ones are kept out of our way instead of refused."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TaskHeader(_Table):
    name: str = ""
    """Registry name ``org/name``."""
    description: str = ""


class AgentTable(_Table):
    timeout_sec: float = 600.0


class _EnvTable(_Table):
    env: dict[str, str] = {}
    """Variables by name; ``${NAME:-default}`` has become its default."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("env"), dict):
            data = {**data, "env": {name: keys.plain_value(str(text)) for name, text in data["env"].items()}}
        return data


class VerifierTable(_EnvTable):
    timeout_sec: float = 600.0
    environment_mode: Literal["shared", "separate"] = "shared"
    """separate: the verifier takes the artifacts alone, not the whole work directory."""


class SolutionTable(_EnvTable):
    pass


class EnvironmentTable(_EnvTable):
    memory_mb: int | None = None
    """None: as the run has it."""
    workdir: str = "/app"
    docker_image: str | None = None
    build_timeout_sec: float = 600.0

    @model_validator(mode="before")
    @classmethod
    def _older_spelling(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("memory") is not None:
            size = keys.size_mb(str(data["memory"]))  # a bare number has no unit, as Harbor sees it too
            if why := keys.NUMBERS["environment.memory_mb"].problem(size):
                raise ValueError(f"memory = {data['memory']!r}: {why}")
            if data.get("memory_mb", size) != size:
                raise ValueError(f"memory = {data['memory']!r} and memory_mb = {data['memory_mb']} differ; keep one")
            data = {**data, "memory_mb": size}
        return data


class ArtifactEntry(_Table):
    """What the agent hands in besides the work directory: a file or folder of its box."""

    source: str

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"source": data} if isinstance(data, str) else data


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
    image; ``log``: a script of the set's own, whose log tells how the tests ended; or a suite of
    ``runtime/suites/table.py``, by its name."""
    test_command: str = ""
    """Shell text that runs a suite's tests in the work directory and leaves the runner's own report in the folder
    ``$REPORT``; the ids are in the file ``$TOOLS/ids``, one a line. Empty: the suite's own."""
    python_path: tuple[str, ...] = ()
    """Folders below the work directory that the tests import from, besides the work directory itself (``src``
    layouts)."""
    source_files: tuple[str, ...] = ()
    """Files below the work directory that an agent with structured repairs may edit: the package's own modules. Empty:
    not recorded."""
    image: str | None = None
    """Name of the prepared runtime image (folder of installed packages) that the tests need."""
    test_timeout_sec: float = 5.0
    """Seconds of the processor that one test may take; on the clock four times as many."""
    family: str = ""
    """Kind of bug, for reports."""
    published: Published | None = None
    """Of a task that was imported from a published set."""
    split_key: str = ""
    """What train and held-out tasks must never share (function name, repository structure)."""

    @field_validator("test_timeout_sec", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        if why := keys.TEST_SECONDS.problem(value):
            raise ValueError(why)
        return value


class TaskConfig(_Table):
    schema_version: str = "1.4"
    task: TaskHeader = TaskHeader()
    agent: AgentTable = AgentTable()
    verifier: VerifierTable = VerifierTable()
    solution: SolutionTable = SolutionTable()
    environment: EnvironmentTable = EnvironmentTable()
    artifacts: tuple[ArtifactEntry, ...] = ()
    metadata: dict[str, Any] = {}


class Task(BaseModel):
    """One task directory, loaded. Immutable; ``id`` is unique within a run and safe as a file name."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    id: str
    path: Path
    instruction: str
    config: TaskConfig
    liverl: LiverlTable
    work: WorkDirectory
    promises: tuple[str, ...] = ()
    """What it asks for that only a run of its own solution can show to be there, or not needed."""

    @property
    def repository(self) -> Path:
        """The pristine work directory that the agent starts from (a folder of plain files; the sandbox's lower
        layer)."""
        return self.work.lower

    @property
    def root(self) -> Image | None:
        """The image that its boxes are made of, by digest; None for the backend's own. Raises ``TrialError`` while it
        is not here."""
        if self.image_missing is not None:
            cure = "verifying the task fetches it, or builds it where building is allowed"
            why = f"{self.path}: the image {self.image_missing} is not here; {cure}"
            raise TrialError(Termination.TASK_INVALID, why)
        return self.work.image

    @property
    def image_missing(self) -> ImageSource | None:
        """The image that must be fetched or built before the task can be played."""
        return self.work.source if self.work.image is None else None

    @property
    def tests(self) -> Path:
        return self.path / "tests"

    @property
    def solve_script(self) -> Path | None:
        """The task's own solution, if it has one."""
        script = self.path / "solution" / "solve.sh"
        return script if script.is_file() else None

    @property
    def by_log(self) -> bool:
        """Whether the log of its set's own test run decides."""
        return self.liverl.runner == LOG

    @property
    def expected_ids(self) -> tuple[str, ...]:
        """Tests that a runner of LiveRL's is asked for by name."""
        if self.by_log:
            return ()
        return self.liverl.fail_to_pass + self.liverl.pass_to_pass

    @property
    def suite(self) -> Suite | None:
        """Who runs its tests, where that is not the test kit."""
        return SUITES.get(self.liverl.runner)

    @property
    def handed_in(self) -> tuple[str, ...]:
        """Files and folders of the agent's box that the verifier takes over, as paths inside."""
        workdir = self.config.environment.workdir
        if self.liverl.artifacts:
            return tuple(posixpath.join(workdir, name) for name in self.liverl.artifacts)
        if self.expected_ids:
            return (workdir,)
        named = (posixpath.normpath(posixpath.join(workdir, entry.source)) for entry in self.config.artifacts)
        whole = () if self.config.verifier.environment_mode == "separate" else (workdir,)
        return tuple(dict.fromkeys([*whole, *named, PUBLISHED]))

    def memory_mib(self, limit: int) -> int:
        """Of the agent's box, where the run gives at most ``limit``."""
        return min(limit, self.config.environment.memory_mb or limit)


def load_task(path: Path, *, image: str | None = None) -> Task:
    """Read one task directory. image: digest of the image that its boxes are made of, whatever the name that it gives
    means in the store by now. Raises ``TrialError(TASK_INVALID)`` naming the files and what is wrong with them."""
    try:
        packed.unpack(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise TrialError(Termination.TASK_INVALID, f"{path}: cannot be taken out of its set: {error}") from error
    toml = reading = path / "task.toml"
    problems = [f"{path / name}: {why}" for name, why in _FOREIGN_FILES.items() if (path / name).is_file()]
    problems += [f"{link}: a link out of its folder, which could show files of this host" for link in _links_out(path)]
    if problems:
        raise TrialError(Termination.TASK_INVALID, "; ".join(problems))
    try:
        raw = tomllib.loads(toml.read_text(encoding="utf-8"))
        problems = [f"{toml}: {problem}" for problem in keys.problems_of(raw)]
        if raw.get("steps"):
            raise TrialError(Termination.TASK_INVALID, "; ".join(problems))
        reading = path / "instruction.md"
        instruction = reading.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TrialError(Termination.TASK_INVALID, f"{path}: no {Path(error.filename or '').name}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise TrialError(Termination.TASK_INVALID, f"{reading}: {error}") from error
    if "\0" in instruction:
        problems.append(f"{reading}: holds a NUL, which no agent can be given as an argument")
    if not (path / "tests" / "test.sh").is_file():
        problems.append(f"{path}: no tests/test.sh, so nothing could grade it")
    if not (path / "environment").is_dir():
        problems.append(f"{path}: no environment/ folder")
    if problems:
        raise TrialError(Termination.TASK_INVALID, "; ".join(problems))
    try:
        config = TaskConfig.model_validate(raw)
        table = LiverlTable.model_validate(config.metadata.get("liverl", {}))
    except ValidationError as error:
        where = "metadata.liverl." if error.title == LiverlTable.__name__ else ""
        wrong = (f"{toml}: {where}{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise TrialError(Termination.TASK_INVALID, "; ".join(wrong)) from error
    given = raw.get("environment", {}).get("workdir")
    try:
        ours = "liverl" in config.metadata
        work = work_directory(
            path,
            path=given,
            ours=ours,
            docker_image=config.environment.docker_image,
            image=image,
            published=table.published,
        )
    except OSError as error:
        raise TrialError(Termination.TASK_INVALID, f"{path}: {error}") from error
    environment = config.environment.model_copy(
        update={"workdir": work.path, "env": {**work.env, **config.environment.env}}
    )
    task = Task(
        id=path.name,
        path=path,
        instruction=instruction,
        config=config.model_copy(update={"environment": environment}),
        liverl=table,
        work=work,
        promises=keys.promises_of(raw),
    )
    problems = [f"{path}/{problem}" for problem in work.problems]
    problems += [f"{toml}: {problem}" for problem in (*_artifact_problems(task), *_runner_problems(task))]
    if problems:
        raise TrialError(Termination.TASK_INVALID, "; ".join(problems))
    return task


def _links_out(path: Path) -> Iterator[Path]:
    """Links of a task that leave the folder below the task's own that they lie in: as a host would follow them, they
    show its files, or the solution."""
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            entry = Path(folder) / name
            if entry.is_symlink():
                top = path.joinpath(*entry.relative_to(path).parts[:1])
                target = entry.readlink()
                if target.is_absolute() or top.is_symlink() or not entry.resolve().is_relative_to(top.resolve()):
                    yield entry


def _artifact_problems(task: Task) -> Iterator[str]:
    workdir = task.config.environment.workdir
    for entry in task.config.artifacts:
        source = posixpath.normpath(posixpath.join(workdir, entry.source))
        if ".." in entry.source.split("/") or not any(
            source == root or source.startswith(f"{root}/") for root in (workdir, PUBLISHED)
        ):
            yield f"artifacts: {entry.source}: only the work directory and {PUBLISHED} are taken to the verifier"


def _runner_problems(task: Task) -> Iterator[str]:
    runner, suite = task.liverl.runner, task.suite
    if suite is None and runner not in (*PYTHON_RUNNERS, LOG):
        known = ", ".join(sorted([*PYTHON_RUNNERS, LOG, *SUITES]))
        yield f"metadata.liverl.runner = {runner!r}: not known; {known} are"
    elif task.by_log and (task.liverl.published is None or not task.liverl.published.log_parser):
        yield "metadata.liverl.published.log_parser: missing; runner = 'log' needs to know how the log is read"
    elif suite is None and task.liverl.test_command:
        yield f"metadata.liverl.test_command: {runner} has none; leave it out"
    elif suite is not None and "test_timeout_sec" in task.liverl.model_fields_set:
        yield f"metadata.liverl.test_timeout_sec: {runner} times no single tests here; set verifier.timeout_sec"
    elif suite is not None and suite.script is None and not task.liverl.test_command:
        yield f"metadata.liverl.test_command: {runner} reads what a command of the task's own writes; give the command"
    elif suite is not None and not task.expected_ids:
        yield f"metadata.liverl.runner = {runner!r}: no fail_to_pass and no pass_to_pass says what it must find passed"
