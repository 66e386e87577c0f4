"""Grades the artifacts of a trial in fresh sandboxes; the verdict is computed here, on the host.

The agent's own sandbox plays no part: the pristine repository, the declared artifacts and the task's own tests are put
together anew and the tests run. How they are run and read is a subclass's: exact expected test ids
(``id_verifier.py``), or a script that writes a reward (``script_verifier.py``). ``Verdict.defences`` says what was in
force.
"""

from __future__ import annotations

import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.config import Environment
from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import Selection, select
from runtime.grading.base import Verdict
from runtime.grading.canary import Canary
from runtime.grading.once import Once
from runtime.grading.task_scripts import attempt, mounts_of
from runtime.sandboxes.base import Mount, SandboxProvider, SandboxRequest
from runtime.sandboxes.box import GRACE_SEC, TRANSFER_SEC
from runtime.sandboxes.defences import OF_THE_TASK, missing, provider_defences
from runtime.sandboxes.entries import Entry
from runtime.sandboxes.zygote import START_SEC
from runtime.task import Task

_NAMES = itertools.count()


@dataclass(frozen=True)
class Apart:
    """That the code under test lives in another process than its tests. ``trusted``: modules that the tests' process
    may import; ``places``: where its answers may be objects (``testkit/apart.py``; None: anywhere); ``in_two``: in a
    box of its own, where there might have been a second user and was none; ``together``: work must pass in
    one process too, where its tests may look at what happens there, and the known solution does."""

    trusted: tuple[str, ...]
    places: tuple[str, ...] | None
    in_two: bool = False
    together: bool = False


@dataclass(frozen=True)
class Plan:
    """How one verdict is come to, whatever the work. ``apart``: None where tests and code under test share a process;
    ``start``: on the monotonic clock."""

    task: Task
    canary: Canary
    apart: Apart | None
    defences: tuple[str, ...]
    timeout_sec: float
    start: float


TEST_RUNS = 14
"""At most so many for one verdict: five to find out about the task, and three times the real tests and look-alikes,
each of which two verdicts on equal work may wait for."""
_AROUND_SEC = START_SEC + 2 * TRANSFER_SEC + 3 * GRACE_SEC


def longest_sec(config: Environment, task: Task) -> float:
    """A backstop: the sum of all limits that a verdict keeps by itself. Who passes it has met a fault of ours."""
    limit = min(config.verifier_timeout_sec, task.config.verifier.timeout_sec)
    return TEST_RUNS * (limit + _AROUND_SEC)


def of_the_task(error: TrialError | TimeoutError) -> None:
    """For a failure while something is found out about a task with its own solution: raises it again where it was the
    machine's, because what is found out is kept."""
    own = (Termination.VERIFIER_CRASHED, Termination.OUT_OF_MEMORY)
    if isinstance(error, TrialError) and error.termination not in own:
        raise error


class SandboxVerifier(ABC):
    """Implements ``Verifier`` with sandboxes of one provider, which it does not close."""

    OWN_DEFENCES: tuple[str, ...] = ()
    """What this way of grading always has, beside the sandbox's."""
    APART_DEFENCES: tuple[str, ...] = ()
    """What it has besides where the code under test is another user, or in another box."""
    MAY_BE_APART = True
    """Whether that can be at all."""

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        self._config = config
        self._provider = provider
        self._solutions: Once[Path, Mapping[str, Entry]] = Once()

    @abstractmethod
    async def _prepare(self, task: Task, timeout_sec: float) -> tuple[Canary, Apart | None]:
        """The look-alike tests of a verdict on ``task``, and how its code is kept apart from them."""

    @abstractmethod
    async def _run(self, plan: Plan, selection: Selection) -> Verdict:
        """Raises ``TrialError`` and ``TimeoutError``."""

    async def grade(self, task: Task, artifacts: Mapping[str, Entry]) -> Verdict:
        start = time.monotonic()
        timeout_sec = min(self._config.verifier_timeout_sec, task.config.verifier.timeout_sec)
        required = self._config.required_defences
        best = (*self._own_defences(task), *(self._apart_defences(task) if self.MAY_BE_APART else ()), "canary")
        _refuse(task, missing(OF_THE_TASK.intersection(required), best))  # whatever is found out about it in boxes
        with _typed(task):
            canary, apart = await self._prepare(task, timeout_sec)
        defences = self._defences(task, canary, apart)
        _refuse(task, missing(required, defences))
        selection = select(task, artifacts)
        if selection.problem is not None:
            outcomes = dict.fromkeys(task.expected_ids, "missing")
            raw = json.dumps({"problem": selection.problem}).encode()
            return Verdict(0.0, "unsolved", outcomes, defences, time.monotonic() - start, raw)
        plan = Plan(task, canary, apart, defences, timeout_sec, start)
        try:
            return _with_refused(await self._judge(plan, selection), selection)
        except TrialError:
            # Whoever could bring this about by the work that is judged could trade a bad grade for another attempt.
            if not selection.files or not await self._control(plan):
                raise
        try:
            return _with_refused(
                await self._judge(plan, selection), selection
            )  # once may have been the machine's fault; twice is the work's
        except TrialError as error:
            problem = f"{error.termination.value}: {error}; with other work the verifier came to its end"
            outcomes = dict.fromkeys(task.expected_ids, "missing")
            raw = json.dumps({"problem": problem}).encode()
            return Verdict(0.0, "unsolved", outcomes, defences, time.monotonic() - start, raw)

    async def _judge(self, plan: Plan, selection: Selection) -> Verdict:
        with _typed(plan.task):
            return await self._run(plan, selection)

    async def _control(self, plan: Plan) -> bool:
        """Whether a verdict can be had now for other work on the task: for its own solution, or else for none."""
        try:
            await self._judge(plan, select(plan.task, await self._solution(plan.task)))
        except TrialError:
            return False
        return True

    async def _solution(self, task: Task) -> Mapping[str, Entry]:
        """The work of the task's own solution, by path inside; made once per task, empty where there is none. Raises
        ``TrialError`` where its box fails."""

        async def make() -> Mapping[str, Entry]:
            files = solution_files(task)
            if files or task.solve_script is None:
                return files
            made = await attempt(
                task,
                task.solve_script,
                provider=self._provider,
                name=f"solution-{task.id}-{next(_NAMES)}",
                memory_mib=self._config.memory_mib,
                pids=self._config.pids,
            )
            return made.artifacts

        return await self._solutions.get(task.path, make)

    async def close(self) -> None:
        """Every verdict's sandbox is gone when ``grade`` returns; what is found out once per task may still be on its
        way."""
        await self._solutions.close()

    def _request(
        self,
        task: Task,
        *,
        mounts: tuple[Mount, ...] = (),
        second_user: bool = False,
        second_box: bool = False,
        limit_address_space: bool = True,
    ) -> SandboxRequest:
        return SandboxRequest(
            name=f"verify-{task.id}-{next(_NAMES)}",
            lower=task.repository,
            workdir=task.config.environment.workdir,
            mounts=(*mounts_of(task), *mounts),
            env=task.config.environment.env,
            root=task.root,
            memory_mib=self._config.verifier.memory_mib or self._config.memory_mib,
            pids=self._config.verifier.pids or self._config.pids,
            image=task.liverl.image,
            second_user=second_user,
            second_box=second_box,
            limit_address_space=limit_address_space,
        )

    def _own_defences(self, task: Task) -> tuple[str, ...]:
        return self.OWN_DEFENCES

    def _apart_defences(self, task: Task, apart: Apart | None = None) -> tuple[str, ...]:
        """apart: None: the best that can be."""
        return self.APART_DEFENCES

    def _says_canary(self, task: Task, canary: Canary) -> bool:
        return bool(canary.files)

    def _defences(self, task: Task, canary: Canary, apart: Apart | None) -> tuple[str, ...]:
        names = [*provider_defences(self._provider.capabilities), "agent_killed", "declared_artifacts"]
        names += self._own_defences(task)
        if apart is not None:
            names += self._apart_defences(task, apart)
        if self._says_canary(task, canary):
            names.append("canary")
        return (*names, self._provider.capabilities.how)


def _refuse(task: Task, lacking: str) -> None:
    if lacking:
        raise TrialError(Termination.TASK_INVALID, f"{task.id}: required defences not to be had: {lacking}")


@contextmanager
def _typed(task: Task) -> Iterator[None]:
    """A verifier's box that is lost or overruns is the verifier's failure, not the agent's box's."""
    try:
        yield
    except TimeoutError as error:
        raise TrialError(Termination.VERIFIER_TIMEOUT, f"{task.id}: {error}") from error
    except TrialError as error:
        if error.termination is Termination.SANDBOX_LOST:
            raise TrialError(Termination.VERIFIER_CRASHED, f"{task.id}: {error}") from error
        raise


def _with_refused(verdict: Verdict, selection: Selection) -> Verdict:
    """With what was not taken of the work, for who reads why."""
    if not selection.refused:
        return verdict
    return replace(verdict, raw=json.dumps({**json.loads(verdict.raw), "refused": dict(selection.refused)}).encode())


def solution_files(task: Task) -> dict[str, bytes]:
    """What the task's own repair replaces, by path inside; empty where it is a script only or not there."""
    root = task.path / "solution" / "files"
    workdir = task.config.environment.workdir
    files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else []
    return {f"{workdir}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in files}
