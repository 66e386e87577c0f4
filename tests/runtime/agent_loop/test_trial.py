"""One trial with a real agent process, sandbox and verifier: its good end, and every way it can end badly."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import orjson
import pytest

from runtime.agent_loop.step_metrics import step_metrics
from runtime.agent_loop.trial import TrialRunner, trial_seed
from runtime.agent_loop.types import TrialResult
from runtime.config import ImportedScaffold, RuntimeConfig
from runtime.errors import Termination, TrialError
from runtime.grading.base import Verdict
from runtime.sandboxes.base import SandboxProvider, SandboxRequest
from runtime.task import Task
from tests.runtime.agent_loop.conftest import TEST_ID, Opened, make_config, make_key


async def play(opened: Opened, task: Task, script: Any, config: RuntimeConfig, trials: Path) -> TrialResult:
    async with opened(script, config) as (services, _):
        runner = TrialRunner(services, config, trials=trials)
        return await runner.run(task, key=make_key(), temperature=1.0)


def test_a_repair_is_graded_recorded_and_trainable(opened: Opened, task: Task, tmp_path: Path) -> None:
    result = asyncio.run(play(opened, task, ["look around", "SOLVE"], make_config(), tmp_path / "trials"))
    assert (result.reward, result.termination, result.isolation) == (1.0, Termination.COMPLETED, "none")
    assert result.trainable and result.model_calls == 2 and result.outcomes == {TEST_ID: "passed"}
    assert "host_verdict" in result.defences and result.timings.agent >= result.timings.model > 0

    folder = tmp_path / "trials" / "3" / "calc.g.0"
    record = orjson.loads((folder / "trial.json").read_bytes())
    assert record["reward"] == 1.0 and record["task"] == "calc" and record["attempt"] == 0
    trajectory = orjson.loads((folder / "trajectory.json").read_bytes())
    assert len(trajectory["turns"]) == 2
    (sample,) = trajectory["samples"]
    assert len({len(sample[k]) for k in sample if k != "prompt_ids"}) == 1
    assert record["completion_tokens"] == sum(sample["response_mask"])
    assert (folder / "agent" / "agent.log").read_bytes() == b"finished\n"
    assert (folder / "verifier" / "output").stat().st_size > 0
    assert not list(folder.parent.glob(".*"))


def test_a_record_that_cannot_be_written_costs_no_grade(opened: Opened, task: Task, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "3").write_text("no folder")
    result = asyncio.run(play(opened, task, ["look", "SOLVE"], make_config(), tmp_path / "trials"))
    assert (result.reward, result.termination, result.trainable) == (1.0, Termination.COMPLETED, True)
    assert result.unrecorded is not None and result.unrecorded.startswith("NotADirectoryError: ")
    assert step_metrics([[result]], group_size=1, seconds=1.0)["agent_loop/unrecorded"] == 1


def test_a_wrong_repair_is_a_graded_zero(opened: Opened, task: Task, tmp_path: Path) -> None:
    result = asyncio.run(play(opened, task, ["hm", "BREAK"], make_config(), tmp_path))
    assert result.reward == 0.0 and result.trainable and result.outcomes == {TEST_ID: "failed"}


def test_equal_work_shares_a_verdict_and_the_record_says_so(opened: Opened, task: Task, tmp_path: Path) -> None:
    config = make_config(environment={"reuse_verdicts": True})

    async def run() -> list[TrialResult]:
        script = ["hm", "SOLVE", "so", "SOLVE", "well", "BREAK"]
        async with opened(script, config) as (services, _):
            runner = TrialRunner(services, config, trials=tmp_path)
            return [await runner.run(task, key=make_key(index=index), temperature=1.0) for index in range(3)]

    results = asyncio.run(run())
    assert [(one.reward, one.reused_verdict) for one in results] == [(1.0, False), (1.0, True), (0.0, False)]
    assert results[1].outcomes == {TEST_ID: "passed"} and results[1].defences == results[0].defences
    records = [orjson.loads((tmp_path / "3" / f"calc.g.{index}" / "trial.json").read_bytes()) for index in range(3)]
    assert [record["reused_verdict"] for record in records] == [False, True, False]


def test_an_agent_that_did_not_start_is_tried_again_in_a_fresh_session(
    opened: Opened, task: Task, tmp_path: Path
) -> None:
    async def run() -> None:
        config = make_config().model_copy(
            update={"scaffold": ImportedScaffold(import_path="tests.runtime.agent_loop.agents:LateAgent")}
        )
        async with opened(["so", "SOLVE"], config) as (services, engine):
            result = await TrialRunner(services, config, trials=tmp_path).run(task, key=make_key(), temperature=1.0)
            assert result.reward == 1.0 and result.key.attempt == 1
            assert [call.session for call in engine.calls] == ["calc.g.0.r1", "calc.g.0.r1"]

    asyncio.run(run())
    first = orjson.loads((tmp_path / "3" / "calc.g.0" / "trial.json").read_bytes())
    assert first["reward"] is None and first["termination"] == "agent_crashed" and not first["trainable"]
    assert (tmp_path / "3" / "calc.g.0.r1" / "trial.json").is_file()


@pytest.mark.parametrize("word", ["CRASH", "LIE", "SWALLOW"])
def test_what_a_policy_can_bring_about_is_its_own_end(opened: Opened, task: Task, tmp_path: Path, word: str) -> None:
    """A second attempt would be a prize: the next two replies, which solve the task, are never asked for."""
    script = ["BREAK", word, "SOLVE", "SOLVE"]
    config = make_config(response_length=512)
    result = asyncio.run(play(opened, task, script, config, tmp_path))
    assert (result.reward, result.termination, result.key.attempt) == (0.0, Termination.AGENT_DIED, 0)
    assert result.trainable and result.model_calls == 2 and result.outcomes == {TEST_ID: "failed"}


def test_work_that_was_done_before_the_agent_died_counts(opened: Opened, task: Task, tmp_path: Path) -> None:
    result = asyncio.run(play(opened, task, ["SOLVE", "CRASH"], make_config(), tmp_path))
    assert (result.reward, result.termination) == (1.0, Termination.AGENT_DIED)


def test_a_dead_engine_is_the_models_failure_not_the_agents(opened: Opened, task: Task, tmp_path: Path) -> None:
    dead = TrialError(Termination.MODEL_UNAVAILABLE, "no replica answers")
    result = asyncio.run(play(opened, task, lambda call: dead, make_config(attempts=1), tmp_path))
    assert (result.reward, result.termination) == (None, Termination.MODEL_UNAVAILABLE)
    assert result.error is not None and "no replica answers" in result.error and not result.trainable


def test_a_spent_token_budget_is_a_valid_end_that_is_graded(opened: Opened, task: Task, tmp_path: Path) -> None:
    config = make_config(response_length=24, max_tokens_per_turn=24)
    result = asyncio.run(play(opened, task, lambda call: "SOLVE and talk " * 9, config, tmp_path))
    assert result.termination is Termination.OVERLONG
    assert result.reward == 1.0 and result.trainable


def test_a_hung_agent_is_graded_and_trained_on(opened: Opened, task: Task, tmp_path: Path) -> None:
    config = make_config(environment={"agent_timeout_sec": 1.0})
    result = asyncio.run(play(opened, task, ["HANG"], config, tmp_path))
    assert (result.reward, result.termination) == (0.0, Termination.TIMEOUT)
    assert result.trainable  # or a policy that sees that it will fail would sleep


def test_an_agent_whose_time_ran_out_for_want_of_a_replica_gets_no_grade(
    opened: Opened, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "no replica takes calls: r0 is open (it answered 500)"
    monkeypatch.setattr("tests.runtime.proxy.scripted_engine.ScriptedEngine.given_up", lambda *_: why, raising=False)
    config = make_config(environment={"agent_timeout_sec": 1.0}, attempts=1)
    result = asyncio.run(play(opened, task, lambda call: asyncio.sleep(60), config, tmp_path))
    assert (result.reward, result.termination, result.error) == (None, Termination.MODEL_UNAVAILABLE, why)


class BrokenVerifier:
    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    async def grade(self, task: Any, artifacts: Any) -> Verdict:
        self.calls += 1
        raise self.error

    async def close(self) -> None:
        return None


@pytest.mark.parametrize(
    ("error", "termination", "calls"),
    [
        (TrialError(Termination.VERIFIER_CRASHED, "no report"), Termination.VERIFIER_CRASHED, 2),
        (ZeroDivisionError("a bug of ours"), Termination.INTERNAL, 2),
    ],
)
def test_without_a_verdict_there_is_no_reward(
    opened: Opened, task: Task, tmp_path: Path, error: Exception, termination: Termination, calls: int
) -> None:
    async def run() -> None:
        config, verifier = make_config(), BrokenVerifier(error)
        async with opened(lambda call: "SOLVE", config) as (services, _):
            broken = dataclasses.replace(services, verifier=verifier)
            result = await TrialRunner(broken, config, trials=tmp_path).run(task, key=make_key(), temperature=1.0)
        assert (result.reward, result.termination, verifier.calls) == (None, termination, calls)
        assert result.samples and not result.trainable

    asyncio.run(run())


class Unreadable:
    """A provider whose boxes fail when their work is fetched."""

    def __init__(self, provider: SandboxProvider, failure: Exception) -> None:
        self._provider, self.failure, self.starts = provider, failure, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def start(self, request: SandboxRequest) -> Any:
        self.starts += 1
        sandbox: Any = await self._provider.start(request)

        async def fail(*arguments: Any, **keywords: Any) -> Any:
            raise self.failure

        sandbox.tree = sandbox.download = fail
        return sandbox


@pytest.mark.parametrize(
    ("failure", "graded"),
    [
        (TrialError(Termination.SANDBOX_LOST, "no answer to download within 135 s"), True),
        (RecursionError("a bug of ours that deep folders bring about"), True),
        (TrialError(Termination.SANDBOX_LOST, "the node was preempted", host_fault=True), False),
    ],
)
def test_after_the_first_answer_only_a_proved_fault_of_ours_is_no_grade(
    opened: Opened, task: Task, tmp_path: Path, failure: Exception, graded: bool
) -> None:
    async def run() -> None:
        config = make_config()
        async with opened(lambda call: "SOLVE", config) as (services, _):
            provider = Unreadable(services.provider, failure)
            runner = TrialRunner(dataclasses.replace(services, provider=provider), config, trials=tmp_path)
            result = await runner.run(task, key=make_key(), temperature=1.0)
        if graded:
            assert (result.reward, result.termination, provider.starts) == (0.0, Termination.AGENT_DIED, 1)
        else:
            assert (result.reward, result.termination, provider.starts) == (None, Termination.SANDBOX_LOST, 2)

    asyncio.run(run())


def test_work_that_breaks_the_verifier_counts_as_nothing_done(opened: Opened, task: Task, tmp_path: Path) -> None:
    class Fragile(BrokenVerifier):
        async def grade(self, task: Any, artifacts: Any) -> Verdict:
            return Verdict(0.0, "unsolved", {}, (), 0.0) if not artifacts else await super().grade(task, artifacts)

    async def run() -> None:
        config, verifier = make_config(), Fragile(RecursionError("folders without end"))
        async with opened(lambda call: "SOLVE", config) as (services, _):
            broken = dataclasses.replace(services, verifier=verifier)
            result = await TrialRunner(broken, config, trials=tmp_path).run(task, key=make_key(), temperature=1.0)
        assert (result.reward, result.verdict, verifier.calls) == (0.0, "unsolved", 1) and result.trainable

    asyncio.run(run())


@pytest.mark.parametrize("services_close", [False, True])
def test_a_cancelled_trial_leaves_no_session_and_no_sandbox(
    opened: Opened, task: Task, tmp_path: Path, services_close: bool
) -> None:
    """Also where its services close under it, and its session with them: it is cancelled, not tried again."""

    async def run() -> None:
        config = make_config()
        async with opened(lambda call: "HANG", config) as (services, engine):
            runner = TrialRunner(services, config, trials=tmp_path)
            trial = asyncio.create_task(runner.run(task, key=make_key(), temperature=1.0))
            while not engine.calls:
                await asyncio.sleep(0.01)
            if services_close:
                await services.proxy.close()
            trial.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trial
            with pytest.raises(KeyError):
                await services.proxy.close_session("calc.g.0")
            boxes = [path for path in (tmp_path / "state").rglob("*") if "calc.g.0" in path.name]
            assert not boxes

    asyncio.run(run())


def test_seeds_differ_by_trial_and_repeat_by_run() -> None:
    keys = [make_key(index=i, attempt=a, step=s) for i in range(4) for a in range(2) for s in range(2)]
    seeds = [trial_seed(7, key) for key in keys]
    assert len(set(seeds)) == len(keys) and seeds == [trial_seed(7, key) for key in keys]
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.sandbox
def test_the_same_in_bubblewrap(opened: Opened, task: Task, tmp_path: Path) -> None:
    config = make_config(environment={"type": "bubblewrap"})
    result = asyncio.run(play(opened, task, ["hm", "SOLVE"], config, tmp_path))
    assert (result.reward, result.isolation) == (1.0, "bubblewrap")
