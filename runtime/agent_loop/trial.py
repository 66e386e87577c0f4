"""One trial from task to graded trajectory: session, sandbox, agent, artifacts, verdict, record.

Composes proxy, sandbox provider, scaffold and verifier through their protocols; knows nothing of groups, trainers or
how any of the four works. Whatever happens, a cancelled or failed trial leaves neither a sandbox nor a session behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.agent_loop.boxes import agent_box
from runtime.agent_loop.records import TrialFiles, write_trial
from runtime.agent_loop.services import Services
from runtime.agent_loop.types import Sampling, Timings, TrialKey, TrialResult
from runtime.config import RuntimeConfig
from runtime.errors import HANDLING, Termination, TrialError
from runtime.grading.base import Verdict
from runtime.grading.difference import collect
from runtime.grading.verifier import longest_sec
from runtime.grading.work import Work, WorkStore
from runtime.proxy.types import Accounting, SessionLimits, Trajectory
from runtime.sandboxes.base import ArtifactsRefused, Sandbox, SandboxRequest
from runtime.sandboxes.entries import Entry
from runtime.sandboxes.waiting import waiting_measured
from runtime.scaffolds.base import AgentFailure, AgentOutcome, ModelEndpoint
from runtime.task import Task

log = logging.getLogger(__name__)

_AROUND_SEC = 600.0
"""For waiting in line, making a box, fetching the work and the end of both: far more than these take."""


def trial_seed(seed: int, key: TrialKey) -> int:
    """A 31-bit sampling seed: the same trial of the same run samples the same, every retry and sibling differently, and
    so does another group of the task in the same step: it would be the first one again, token by token."""
    text = f"{seed}/{key.step}/{key.task_set}/{key.task}/{key.index}/{key.attempt}/{key.validation}"
    text += f"/{key.turn}" if key.turn else ""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def longest_trial_sec(config: RuntimeConfig, task: Task) -> float:
    """Above everything that one trial may take with all its attempts: the backstop for what has no limit of its own."""
    environment = config.environment
    one = environment.agent_timeout_sec + 2 * longest_sec(environment, task) + _AROUND_SEC
    return max(1, config.rollout.attempts) * one


@dataclass
class _Progress:
    """What is known of a running attempt; survives the exception that ends it."""

    started: float
    timings: Timings
    outcome: AgentOutcome | None = None
    logs: Mapping[str, bytes] = field(default_factory=dict)
    trajectory: Trajectory | None = None
    artifacts: Mapping[str, Entry] | None = None
    verdict: Verdict | None = None
    cause: str | None = None

    def clock(self, **parts: float) -> None:
        self.timings = replace(self.timings, **parts)


class TrialRunner:
    """Runs trials on one set of services. Safe for many concurrent calls on one event loop.

    ``trials`` is the folder that trial folders are written below; ``keep`` says which steps are kept whole
    (``Dumps.trials_every``).
    """

    def __init__(self, services: Services, config: RuntimeConfig, *, trials: Path) -> None:
        self._services = services
        self._config = config
        self._trials = trials
        self._work = WorkStore(trials.parent / "artifacts")

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        """One trial, restarted with a fresh session and sandbox as long as its failure's policy says so.

        Returns the last attempt's result and never raises for a trial's own failures; cancellation passes through
        after cleaning up. ``queued``: seconds that the trial waited for its turn, for the record.
        """
        attempts = max(1, self._config.rollout.attempts)
        for attempt in range(key.attempt, key.attempt + attempts):
            result = await self._attempt(task, replace(key, attempt=attempt), temperature=temperature, queued=queued)
            if result.reward is not None or not HANDLING[result.termination].retry:
                break
        return result

    def longest_sec(self, task: Task) -> float:
        """See ``longest_trial_sec``."""
        return longest_trial_sec(self._config, task)

    async def _attempt(self, task: Task, key: TrialKey, *, temperature: float, queued: float) -> TrialResult:
        sampling = Sampling(temperature=temperature, seed=trial_seed(self._config.seed, key))
        progress = _Progress(started=time.monotonic(), timings=Timings(queue=queued))
        error: TrialError | None = None
        try:
            termination = await self._play(task, key, sampling, progress)
        except TrialError as failure:
            error = failure
        except (
            Exception
        ) as bug:  # a bug of ours must cost one trial, not the run; it is counted and shown as internal_error
            error = TrialError(Termination.INTERNAL, f"{type(bug).__name__}: {bug}")
            error.__cause__ = bug
        if error is not None:
            termination = error.termination
        progress.clock(total=time.monotonic() - progress.started)
        result = replace(self._result(key, sampling, progress, termination, error), image=_image_of(task))
        try:
            await self._record(task, result, progress)
        except Exception as failure:
            # A full disk above all. Records are for people: what a trial earned is not taken from it for that, and what
            # the policy can bring about (a name, a character that cannot be written) must be no way out of a grade.
            log.error("%s: its record is not written: %r", key.trial_id, failure)
            result = replace(result, unrecorded=f"{type(failure).__name__}: {failure}")
        return result

    async def _play(self, task: Task, key: TrialKey, sampling: Sampling, progress: _Progress) -> Termination:
        """Agent, then verifier. Raises the failure that forbids a grade."""
        try:
            artifacts, termination = await self._agent(task, key, sampling, progress)
        except Exception as failure:
            if not _own_doing(failure, progress.trajectory):
                raise
            log.warning("%s: %s; graded as if nothing had been done", key.trial_id, failure, exc_info=failure)
            progress.cause = str(failure)
            artifacts, termination = {}, Termination.AGENT_DIED
        progress.artifacts = artifacts
        began = time.monotonic()
        with waiting_measured() as waited:
            try:
                progress.verdict = await self._judged(task, key, artifacts, progress)
            finally:
                spent = time.monotonic() - began
                in_line = min(waited.seconds, spent)  # boxes of one verdict may wait side by side
                progress.clock(verifier=spent - in_line, queue=progress.timings.queue + in_line)
        return termination

    async def _judged(self, task: Task, key: TrialKey, artifacts: Mapping[str, Entry], progress: _Progress) -> Verdict:
        """A verdict on the work; on none of it, where the work itself keeps the verifier from one."""
        try:
            try:
                return await self._verdict(task, artifacts)
            except Exception as failure:
                # A verifier says by a ``TrialError`` that other work could not be judged either.
                if isinstance(failure, TrialError) and failure.termination is not Termination.INTERNAL:
                    raise
                if not artifacts or not _own_doing(failure, progress.trajectory):
                    raise
                log.warning("%s: %s; graded as if nothing had been done", key.trial_id, failure, exc_info=failure)
                return await self._verdict(task, {})
        except TimeoutError as error:
            raise TrialError(Termination.VERIFIER_TIMEOUT, "the verifier gave no answer in time") from error

    async def _verdict(self, task: Task, artifacts: Mapping[str, Entry]) -> Verdict:
        """Raises ``TimeoutError`` where even the backstop is passed."""
        async with asyncio.timeout(longest_sec(self._config.environment, task)):
            return await self._services.verifier.grade(task, artifacts)

    async def _agent(
        self, task: Task, key: TrialKey, sampling: Sampling, progress: _Progress
    ) -> tuple[dict[str, Entry], Termination]:
        """The agent's part: what it left in its box, and how it ended. Session and sandbox are gone afterwards."""
        services, rollout = self._services, self._config.rollout
        limits = SessionLimits(
            temperature=sampling.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            prompt_length=rollout.prompt_length,
            response_length=rollout.response_length,
            max_tokens_per_turn=rollout.max_tokens_per_turn,
            seed=sampling.seed,
        )
        session = services.proxy.open_session(key.trial_id, limits)
        sandbox: Sandbox | None = None
        try:
            began = time.monotonic()
            with waiting_measured() as waited:
                sandbox = await services.provider.start(self._request(task, key))
            progress.clock(setup=time.monotonic() - began - waited.seconds)
            progress.clock(queue=progress.timings.queue + waited.seconds)
            if sandbox.proxy_url is None:
                raise TrialError(Termination.ENV_SETUP_FAILED, "the sandbox forwards no port to the model proxy")
            endpoint = ModelEndpoint(base_url=sandbox.proxy_url + session.base_path, secret=session.secret)
            termination = await self._scaffold(task, key, sandbox, endpoint, progress)
            began = time.monotonic()
            artifacts = await self._artifacts(task, sandbox, died=termination is Termination.AGENT_DIED)
            progress.clock(download=time.monotonic() - began)
        finally:
            began = time.monotonic()
            # Shielded: a cancelled trial must still remove its box and its session.
            await asyncio.shield(self._leave(key, sandbox, progress))
            progress.clock(teardown=time.monotonic() - began)
        return artifacts, termination

    async def _scaffold(
        self, task: Task, key: TrialKey, sandbox: Sandbox, endpoint: ModelEndpoint, progress: _Progress
    ) -> Termination:
        """Run the agent, then close its session. An end that may be graded is a termination, every other one is
        raised."""
        limit = min(self._config.environment.agent_timeout_sec, task.config.agent.timeout_sec)
        began = time.monotonic()
        failure: TrialError | None = None
        try:
            progress.outcome = await self._services.scaffold.run(task, sandbox, endpoint, timeout_sec=limit)
            progress.logs = progress.outcome.logs
            termination = progress.outcome.termination
        except TrialError as error:
            if isinstance(error, AgentFailure):
                progress.logs = error.logs
            failure, termination = error, error.termination
        except TimeoutError:
            termination = Termination.TIMEOUT
        finally:
            progress.clock(agent=time.monotonic() - began)
        trajectory = progress.trajectory = await self._services.proxy.close_session(key.trial_id)
        progress.clock(model=trajectory.model_sec)
        if trajectory.failure is not None:
            # Whatever the agent made of it: its last words came from an engine that had failed.
            raise TrialError(Termination.MODEL_UNAVAILABLE, trajectory.failure, host_fault=True) from failure
        if trajectory.overlong and termination is not Termination.TIMEOUT:
            return Termination.OVERLONG
        if failure is not None and not failure.handling.grade:
            if _own_doing(failure, trajectory):
                progress.cause = str(failure)
                return Termination.AGENT_DIED
            raise failure
        return termination

    async def _leave(self, key: TrialKey, sandbox: Sandbox | None, progress: _Progress) -> None:
        try:
            if sandbox is not None:
                await sandbox.stop()
        finally:
            if progress.trajectory is None:
                # Services that close under a trial close its session; what ends the trial is said already.
                with contextlib.suppress(KeyError):
                    progress.trajectory = await self._services.proxy.close_session(key.trial_id)

    async def _artifacts(self, task: Task, sandbox: Sandbox, *, died: bool) -> dict[str, Entry]:
        """The declared artifacts, or the whole work directory; never the files that belong to the tests.

        died: the agent's end may have taken the box with it; then nothing is left to grade.
        """
        workdir = PurePosixPath(task.config.environment.workdir)
        withheld = {str(workdir / name) for name in task.liverl.test_files}
        try:
            found = await collect(task, sandbox)
        except ArtifactsRefused as refused:
            log.info("%s: %s; graded as if nothing had been done", task.id, refused)
            return {}
        except TrialError as lost:
            if not died and lost.termination is not Termination.OUT_OF_MEMORY:
                raise
            log.info("%s: %s; graded as if nothing had been done", task.id, lost)
            return {}
        return {path: entry for path, entry in found.items() if path not in withheld}

    def _request(self, task: Task, key: TrialKey) -> SandboxRequest:
        return agent_box(
            task,
            self._config.environment,
            name=key.trial_id,
            scaffold=self._services.scaffold,
            settings=self._config.scaffold,
            forward=(self._services.proxy.host, self._services.proxy.port),
        )

    def _result(
        self,
        key: TrialKey,
        sampling: Sampling,
        progress: _Progress,
        termination: Termination,
        error: TrialError | None,
    ) -> TrialResult:
        trajectory, verdict, outcome = progress.trajectory, progress.verdict, progress.outcome
        graded = verdict is not None and error is None
        return TrialResult(
            key=key,
            termination=termination,
            reward=verdict.reward if graded and verdict is not None else None,
            verdict=verdict.status if graded and verdict is not None else "no-grade",
            reused_verdict=graded and verdict is not None and verdict.reused,
            isolation=self._services.provider.capabilities.isolation,
            timings=progress.timings,
            sampling=sampling,
            defences=verdict.defences if verdict is not None else (),
            outcomes=verdict.outcomes if verdict is not None else {},
            samples=trajectory.samples if trajectory is not None else (),
            metrics=outcome.metrics if outcome is not None else {},
            model_calls=trajectory.num_turns if trajectory is not None else 0,
            prompt_tokens=trajectory.prompt_tokens if trajectory is not None else 0,
            aborted=trajectory.aborted if trajectory is not None else 0,
            mismatches=trajectory.mismatches if trajectory is not None else 0,
            unread_calls=trajectory.unread if trajectory is not None else 0,
            accounting=trajectory.accounting if trajectory is not None else Accounting(),
            tool_gaps=_tool_gaps(trajectory),
            error=None if error is None else str(error),
            cause=progress.cause,
            dropped_ends=self._config.trajectory_filter.drop,
            started=time.time() - (time.monotonic() - progress.started),
        )

    async def _record(self, task: Task, result: TrialResult, progress: _Progress) -> None:
        dump, step = self._config.dump, result.key.step
        failed = result.reward is None
        if not failed and not _nth(step, dump.trials_every):
            return
        work: Mapping[str, Any] | None = None
        if progress.artifacts is not None and (failed or _nth(step, dump.work_every)):
            work = await asyncio.to_thread(self._keep, task, progress.artifacts)
        files = TrialFiles(
            turns=progress.trajectory.turns if progress.trajectory is not None else (),
            verifier=progress.verdict.raw if progress.verdict is not None else b"",
            agent=progress.logs,
            work=work,
        )
        await asyncio.to_thread(write_trial, self._trials, result, files)

    def _keep(self, task: Task, artifacts: Mapping[str, Entry]) -> Mapping[str, Any] | None:
        work = Work(task.id, task.path.absolute(), artifacts)
        try:
            return self._work.put(work, max_bytes=self._config.dump.work_max_mib << 20)
        except OSError as error:  # a later verdict is a convenience: a full disk must not cost the trial
            log.warning("%s: its work is not kept: %s", task.id, error)
            return None


def _own_doing(failure: Exception, trajectory: Trajectory | None) -> bool:
    """Whether the policy may have brought a failure about: to try again without a grade would then be a prize.

    After the model's first answer that is so of everything that the host cannot prove to be its own. A program in the
    box that says that the model is not to be had is no proof: the proxy has served the session to its end.
    """
    if trajectory is None or trajectory.num_turns == 0:
        return False
    return not (isinstance(failure, TrialError) and failure.host_fault)


def _image_of(task: Task) -> str | None:
    return task.work.image.reference if task.work.image is not None else None


def _nth(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _tool_gaps(trajectory: Trajectory | None) -> tuple[float, ...]:
    turns = trajectory.turns if trajectory is not None else ()
    return tuple(turn.gap_sec for turn in turns if turn.gap_sec is not None)
